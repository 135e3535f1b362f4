//! What gates are judged on, understood.

use std::collections::BTreeMap;

use sockpilot_outcomes::{Measured, measured::GroupSums};
use sockpilot_policy::{
    fault::Collector,
    measure::{Columns, Estimator, Measure},
};
use sockpilot_proto::{
    convert::measure_from_proto,
    v1::{self, rollout_evidence::Comparison},
};
use sockpilot_stats::QUANTITY_MAX;

use super::metric::{Gate, gates_from_proto};
use crate::evidence::{EvidenceError, measured};

/// Of a plan that says nothing, in basis points.
const FALSE_ALARM_BP: u32 = 500;

/// Evidence of a step, read.
#[derive(Debug, Clone)]
pub struct GateEvidence {
    /// With what each is made of.
    pub gates: Vec<(Gate, Estimator)>,
    /// What was summed up.
    pub columns: Columns,
    /// With which probability any one gate at this step may fail though there is no harm.
    pub alpha: f64,
    /// Of how many seconds' connections it is.
    pub duration_s: u32,
    /// A/A.
    pub unchanged: bool,
    /// The handshake's time is an outcome.
    pub handshake_differs: bool,
    /// What is compared.
    pub seen: Seen,
}

/// What is compared.
#[derive(Debug, Clone)]
pub enum Seen {
    /// Connections of the same nodes.
    Split {
        /// With the revision that is rolled out.
        canary: Box<Measured>,
        /// As many beside them, with what everyone has.
        control: Box<Measured>,
    },
    /// Nodes, by name.
    Nodes(BTreeMap<String, Node>),
}

/// What is compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Connections of the same nodes.
    Connections,
    /// Nodes, by how much they have changed.
    Nodes,
}

impl Compared {
    /// As results say it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Connections => "canary against control",
            Self::Nodes => "difference in differences by node",
        }
    }
}

impl Seen {
    /// What is compared with what.
    #[must_use]
    pub fn compared(&self) -> Compared {
        match self {
            Self::Split { .. } => Compared::Connections,
            Self::Nodes(_) => Compared::Nodes,
        }
    }
}

/// A node before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Whether it has the revision after.
    pub reached: bool,
    /// Connections before.
    pub before: GroupSums,
    /// Connections after.
    pub after: GroupSums,
}

impl GateEvidence {
    /// Reads it.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub fn read(message: &v1::RolloutEvidence) -> Result<Self, EvidenceError> {
        let v1::RolloutEvidence {
            rollout: _,
            wave: _,
            step: _,
            gates,
            false_alarm_bp,
            steps,
            measures,
            horizon_s: _,
            duration_s,
            unchanged,
            handshake_differs,
            comparison,
        } = message;
        let mut faults = Collector::at("");
        let gates = gates_from_proto(gates, &mut faults);
        let measures: Vec<Measure> =
            faults.each("measures", measures, measure_from_proto).into_iter().flatten().collect();
        faults.finish(()).map_err(|faults| EvidenceError(faults.to_string()))?;
        let columns = Columns::of(&measures);
        let false_alarm_bp = if *false_alarm_bp == 0 { FALSE_ALARM_BP } else { *false_alarm_bp };
        if false_alarm_bp >= 5_000 {
            return Err(EvidenceError(format!("false_alarm_bp is {false_alarm_bp}; it must be below 5,000")));
        }
        let shares = gates.len().max(1) as f64 * f64::from((*steps).max(1));
        Ok(Self {
            gates: gates.into_iter().map(|gate| estimated(gate, &measures, &columns)).collect::<Result<_, _>>()?,
            seen: match comparison {
                None => return Err(EvidenceError("it compares nothing".to_owned())),
                Some(Comparison::Split(v1::SplitEvidence { canary, control })) => Seen::Split {
                    canary: Box::new(measured("the canary", canary.as_ref(), &columns)?),
                    control: Box::new(measured("the control", control.as_ref(), &columns)?),
                },
                Some(Comparison::Nodes(v1::NodesEvidence { nodes })) => Seen::Nodes(by_name(nodes, &columns)?),
            },
            columns,
            alpha: f64::from(false_alarm_bp) / 10_000.0 / shares,
            duration_s: *duration_s,
            unchanged: *unchanged,
            handshake_differs: *handshake_differs,
        })
    }
}

fn estimated(gate: Gate, measures: &[Measure], columns: &Columns) -> Result<(Gate, Estimator), EvidenceError> {
    let Measure { quantity, per, transform, role: _ } = gate.metric.measure();
    let is_it = |measure: &Measure| (measure.quantity, measure.per, measure.transform) == (quantity, per, transform);
    let at = measures.iter().position(is_it).and_then(|at| columns.estimators.get(at));
    let missing = || EvidenceError(format!("nothing was measured for the gate {}", gate.metric));
    Ok((gate, *at.ok_or_else(missing)?))
}

fn by_name(nodes: &[v1::NodeEvidence], columns: &Columns) -> Result<BTreeMap<String, Node>, EvidenceError> {
    let mut read = BTreeMap::new();
    for v1::NodeEvidence { node, reached, before, after } in nodes {
        let sums = |message: &Option<v1::NodeSums>| {
            sums(message.as_ref(), columns).map_err(|why| EvidenceError(format!("of {node}: it {why}")))
        };
        let entry = Node { reached: *reached, before: sums(before)?, after: sums(after)? };
        if read.insert(node.clone(), entry).is_some() {
            return Err(EvidenceError(format!("{node} is in it twice")));
        }
    }
    Ok(read)
}

fn sums(message: Option<&v1::NodeSums>, columns: &Columns) -> Result<GroupSums, &'static str> {
    let Some(message) = message else { return Ok(GroupSums::default()) };
    let v1::NodeSums { attempts, established, attempt_sums, established_sums } = message.clone();
    let sums = GroupSums { attempts, established, attempt_sums, established_sums };
    if sums == GroupSums::default() {
        return Ok(sums);
    }
    if (sums.attempt_sums.len(), sums.established_sums.len()) != (columns.attempts.len(), columns.established.len()) {
        return Err("has other columns than the gates");
    }
    if established > attempts {
        return Err("has more connections established than begun");
    }
    let bound = QUANTITY_MAX * 1e6;
    if !sums.attempt_sums.iter().chain(&sums.established_sums).all(|sum| sum.abs() <= bound) {
        return Err("has a sum that is no number, or beyond all bounds");
    }
    Ok(sums)
}
