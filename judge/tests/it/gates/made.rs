//! Evidence of steps that is made up.

use sockpilot_judge::gates::{Judgement, gates, gates_from_proto, measures_of};
use sockpilot_policy::{
    fault::Collector,
    measure::{Column, Columns, Quantity},
};
use sockpilot_proto::{
    convert::measure_to_proto,
    v1::{self, GateVerdict, rollout_evidence::Comparison},
};

pub fn gate(metric: &str) -> v1::Gate {
    v1::Gate { metric: metric.to_owned(), margin_bp: 0 }
}

/// What is measured of connections that are alike but for chance.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    pub begun: u64,
    pub failed: u64,
    pub reset: u64,
    pub srtt_us: f64,
    /// Of 20 segments of each.
    pub retransmitted: f64,
}

pub const SOUND: Made = Made { begun: 100_000, failed: 300, reset: 1_000, srtt_us: 20_000.0, retransmitted: 0.01 };

/// Mean and variance of a column.
fn moments(made: &Made, column: &Column) -> (f64, f64) {
    let established = (made.begun - made.failed).max(1) as f64;
    let share = |events: u64, of: f64| {
        let share = events as f64 / of;
        (share, share * (1.0 - share))
    };
    match column {
        Column::Known(_) => (1.0, 0.0),
        Column::Value(quantity, transform) => match quantity {
            Quantity::Failed => share(made.failed, made.begun.max(1) as f64),
            Quantity::BadEnd => share(made.failed + made.reset, made.begun.max(1) as f64),
            Quantity::Reset => share(made.reset, established),
            Quantity::Retransmits => (20.0 * made.retransmitted, 2.0 * made.retransmitted),
            Quantity::SegmentsOut => (20.0, 400.0),
            Quantity::SrttUs => (transform.of(made.srtt_us), 0.25),
            _ => (8.0, 1.0),
        },
    }
}

fn comoments(made: &Made, columns: &[Column], count: u64) -> v1::CoMoments {
    let all: Vec<_> = columns.iter().map(|column| moments(made, column)).collect();
    let mean = all.iter().map(|(mean, _)| if count == 0 { 0.0 } else { *mean }).collect();
    let product = |i: usize, j: usize| if i == j && count > 1 { all[i].1 * count as f64 } else { 0.0 };
    let m2 = (0..all.len()).flat_map(|i| (0..=i).map(move |j| (i, j))).map(|(i, j)| product(i, j)).collect();
    v1::CoMoments { count, mean, m2 }
}

impl Made {
    pub fn measured(&self, columns: &Columns) -> v1::Measured {
        v1::Measured {
            attempts: Some(comoments(self, &columns.attempts, self.begun)),
            established: Some(comoments(self, &columns.established, self.begun - self.failed)),
            unfinished: 0,
            groups: vec![],
        }
    }

    pub fn sums(&self, columns: &Columns) -> v1::NodeSums {
        let established = self.begun - self.failed;
        let of = |columns: &[Column], count: u64| {
            columns.iter().map(|column| moments(self, column).0 * count as f64).collect()
        };
        v1::NodeSums {
            attempts: self.begun,
            established,
            attempt_sums: of(&columns.attempts, self.begun),
            established_sums: of(&columns.established, established),
        }
    }
}

pub fn columns(gates: &[v1::Gate]) -> Columns {
    Columns::of(&measures_of(&gates_from_proto(gates, &mut Collector::at(""))))
}

/// Of a plan with twelve steps, after ten minutes.
pub fn evidence(gates: &[&str], comparison: impl FnOnce(&Columns) -> Comparison) -> v1::RolloutEvidence {
    let gates: Vec<_> = gates.iter().map(|name| gate(name)).collect();
    let measures = measures_of(&gates_from_proto(&gates, &mut Collector::at("")));
    v1::RolloutEvidence {
        rollout: "rollouts/r".to_owned(),
        wave: 1,
        step: 1,
        comparison: Some(comparison(&columns(&gates))),
        gates,
        false_alarm_bp: 0,
        steps: 12,
        measures: measures.iter().map(measure_to_proto).collect(),
        horizon_s: 60,
        duration_s: 600,
        ..v1::RolloutEvidence::default()
    }
}

pub fn split(gates: &[&str], control: Made, canary: Made) -> v1::RolloutEvidence {
    evidence(gates, |columns| {
        let of = |made: Made| Some(made.measured(columns));
        Comparison::Split(v1::SplitEvidence { canary: of(canary), control: of(control) })
    })
}

/// Nodes before and after, each a little different from the others: those without the revision, and those with it.
pub fn nodes(gates: &[&str], counts: (usize, usize), others: [Made; 2], reached: [Made; 2]) -> v1::RolloutEvidence {
    evidence(gates, |columns| {
        let node = |at: usize, [before, after]: [Made; 2], reached| {
            let level = 0.8 + 0.1 * (at * 7 % 5) as f64;
            let drift = 1.0 + 0.01 * ((at * 3 % 7) as f64 - 3.0);
            let of = |made: Made, by: f64| Some(Made { srtt_us: made.srtt_us * by, ..made }.sums(columns));
            let (before, after) = (of(before, level), of(after, level * drift));
            v1::NodeEvidence { node: format!("nodes/{reached}{at}"), reached, before, after }
        };
        let all = (0..counts.0).map(|at| node(at, others, false));
        let nodes = all.chain((0..counts.1).map(|at| node(at, reached, true))).collect();
        Comparison::Nodes(v1::NodesEvidence { nodes })
    })
}

pub fn judged(evidence: &v1::RolloutEvidence) -> Judgement {
    gates(evidence).expect("sound evidence")
}

/// Of evidence with one gate.
pub fn only(evidence: &v1::RolloutEvidence) -> (GateVerdict, v1::GateResult) {
    let result = judged(evidence).results.remove(0);
    (result.verdict(), result)
}
