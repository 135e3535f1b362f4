//! A rollout through its plan: the transitions are those of the server, the measurements are made.

use std::collections::BTreeMap;

use sockpilot_judge::gates::{DEFAULT_GATES, StepVerdict, gates, gates_from_proto, measures_of};
use sockpilot_outcomes::{Measured, measured::GroupSums};
use sockpilot_policy::{fault::Collector, measure::Columns};
use sockpilot_proto::{
    cell::measured_to_proto,
    convert::measure_to_proto,
    v1::{self, rollout_evidence::Comparison, selector},
};
use sockpilot_rollout::{
    advance::{self, advance},
    defaults,
    machine::{Machine, State},
    plan::{ALL_FLOWS_BP, Place, plan_from_proto},
    verb::{Verb, ask},
};

use super::{
    connections::Harm,
    fleet::{Fleet, NODES, Pools},
};

/// From one look to the next.
const LOOK_S: i64 = 10;

/// What rollouts go through: a plan that is there from the start, with default gates.
pub struct Plan {
    plan: sockpilot_rollout::plan::Plan,
    /// Nodes of each wave, with those of the waves before.
    nodes: Vec<usize>,
    gates: Vec<v1::Gate>,
    measures: Vec<v1::Measure>,
    columns: Columns,
}

/// Where it ended, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Completed, going back, or paused.
    pub state: State,
    /// In which step of which wave.
    pub place: Place,
    /// After how many seconds.
    pub after_s: i64,
}

impl Plan {
    pub fn named(name: &str) -> Self {
        let gates = DEFAULT_GATES.map(|name| v1::Gate { metric: name.to_owned(), margin_bp: 0 }).to_vec();
        let plans = defaults::plans(&gates);
        let message = plans.iter().find(|plan| plan.name == format!("rolloutPlans/{name}")).expect("a plan");
        let mut faults = Collector::at("");
        let plan = plan_from_proto(message, &mut faults);
        let measures = measures_of(&gates_from_proto(&gates, &mut faults));
        faults.finish(()).expect("a sound plan");
        let nodes = message.waves.iter().map(|wave| match wave.selector.as_ref().and_then(|one| one.kind.as_ref()) {
            Some(selector::Kind::ShareBp(share_bp)) => NODES * *share_bp as usize / 10_000,
            _ => NODES,
        });
        Self {
            nodes: nodes.collect(),
            plan,
            gates,
            measures: measures.iter().map(measure_to_proto).collect(),
            columns: Columns::of(&measures),
        }
    }

    pub fn pools(&self, harm: Harm) -> Pools {
        Pools::new(&self.columns, harm)
    }

    /// Nodes that a wave adds.
    fn added(&self, place: Place) -> std::ops::Range<usize> {
        let before = if place.wave == 1 { 0 } else { self.nodes[place.wave - 2] };
        before..self.nodes[place.wave - 1]
    }
}

/// What was measured at a step.
enum Seen {
    Split { canary: Box<Measured>, control: Box<Measured> },
    Nodes(BTreeMap<usize, (bool, GroupSums, GroupSums)>),
}

impl Seen {
    /// Of the connections of the canary.
    fn flows(&self) -> u64 {
        match self {
            Self::Split { canary, .. } => canary.attempts.count,
            Self::Nodes(nodes) => nodes.values().filter(|node| node.0).map(|(_, _, after)| after.attempts).sum(),
        }
    }

    fn comparison(&self) -> Comparison {
        let sums = |sums: &GroupSums| {
            let GroupSums { attempts, established, attempt_sums, established_sums } = sums.clone();
            Some(v1::NodeSums { attempts, established, attempt_sums, established_sums })
        };
        match self {
            Self::Split { canary, control } => Comparison::Split(v1::SplitEvidence {
                canary: Some(measured_to_proto(canary)),
                control: Some(measured_to_proto(control)),
            }),
            Self::Nodes(nodes) => {
                let node =
                    |(node, (reached, before, after)): (&usize, &(bool, GroupSums, GroupSums))| v1::NodeEvidence {
                        node: format!("nodes/{node}"),
                        reached: *reached,
                        before: sums(before),
                        after: sums(after),
                    };
                Comparison::Nodes(v1::NodesEvidence { nodes: nodes.iter().map(node).collect() })
            }
        }
    }
}

/// A rollout on its way.
pub struct Walk<'a> {
    plan: &'a Plan,
    good: &'a Pools,
    new: &'a Pools,
    fleet: Fleet,
    machine: Machine,
    /// When the wave began, and the step.
    wave_s: i64,
    step_s: i64,
    seen: Seen,
}

impl<'a> Walk<'a> {
    pub fn new(plan: &'a Plan, good: &'a Pools, new: &'a Pools, seed: u64) -> Self {
        let fleet = Fleet::new(seed);
        let draft = Machine::draft(&plan.plan, fleet.now_s);
        let started = ask(&plan.plan, &draft, Verb::Start, fleet.now_s, true).expect("it can be started");
        let machine = started.expect("a move").to;
        let seen = Seen::Split { canary: Box::default(), control: Box::default() };
        let (wave_s, step_s) = (fleet.now_s, fleet.now_s);
        let mut walk = Self { plan, good, new, fleet, machine, wave_s, step_s, seen };
        walk.begin_step();
        walk
    }

    pub fn end(mut self) -> Ended {
        let begin_s = self.fleet.now_s;
        while self.machine.state == State::Running {
            self.fleet.now_s += LOOK_S;
            self.measure();
            let mut gates = self.judge();
            while let Some(next) = advance(&self.plan.plan, &self.machine, &self.look(&gates)) {
                let before = std::mem::replace(&mut self.machine, next.to);
                if self.machine.state != State::Running {
                    break;
                }
                if self.machine.place != before.place {
                    if self.machine.place.wave != before.place.wave {
                        self.wave_s = self.fleet.now_s;
                    }
                    self.begin_step();
                    gates = advance::Gates::Wait(String::new());
                }
            }
        }
        let Machine { state, place, .. } = self.machine;
        Ended { state, place, after_s: self.fleet.now_s - begin_s }
    }

    fn look(&self, gates: &advance::Gates) -> advance::Seen {
        let total = self.plan.nodes[self.machine.place.wave - 1] as u64;
        advance::Seen {
            now_s: self.fleet.now_s,
            nodes: advance::Nodes { total, in_force: total, ..advance::Nodes::default() },
            flows: self.seen.flows(),
            gates: gates.clone(),
            ..advance::Seen::default()
        }
    }

    fn begin_step(&mut self) {
        let place = self.machine.place;
        self.step_s = self.fleet.now_s;
        self.seen = if self.plan.plan.flow_share_bp(place) == ALL_FLOWS_BP {
            // Before is the time of the wave's shares: the rest of its nodes' connections have had what everyone has.
            let reached = self.plan.added(place);
            let mut nodes = BTreeMap::new();
            for node in reached.start..NODES {
                let before = self.fleet.sums_from(self.good, node, self.wave_s, &self.plan.columns);
                nodes.insert(node, (reached.contains(&node), before, GroupSums::default()));
            }
            Seen::Nodes(nodes)
        } else {
            Seen::Split { canary: Box::default(), control: Box::default() }
        };
    }

    /// What has come past its horizon since the last look.
    fn measure(&mut self) {
        let Self { plan, good, new, fleet, machine, seen, step_s, .. } = self;
        if fleet.now_s - *step_s <= i64::from(plan.plan.horizon_s) {
            return;
        }
        match seen {
            Seen::Split { canary, control } => {
                let share = f64::from(plan.plan.flow_share_bp(machine.place)) / 10_000.0;
                for node in plan.added(machine.place) {
                    fleet.add(new, node, LOOK_S as f64 * share, canary);
                    fleet.add(good, node, LOOK_S as f64 * share, control);
                }
            }
            Seen::Nodes(nodes) => {
                for (node, (reached, _, after)) in nodes {
                    let pools = if *reached { *new } else { *good };
                    after.merge(&fleet.sums(pools, *node, LOOK_S as f64, &plan.columns));
                }
            }
        }
    }

    fn judge(&self) -> advance::Gates {
        let Place { wave, step } = self.machine.place;
        let evidence = v1::RolloutEvidence {
            wave: wave as u32,
            step: step as u32,
            gates: self.plan.gates.clone(),
            false_alarm_bp: self.plan.plan.false_alarm_bp,
            steps: self.plan.plan.judged_steps() as u32,
            measures: self.plan.measures.clone(),
            horizon_s: self.plan.plan.horizon_s,
            duration_s: (self.fleet.now_s - self.step_s) as u32,
            comparison: Some(self.seen.comparison()),
            ..v1::RolloutEvidence::default()
        };
        match gates(&evidence).expect("sound evidence").step {
            StepVerdict::GoOn => advance::Gates::Pass,
            StepVerdict::Wait => advance::Gates::Wait(String::new()),
            StepVerdict::RollBack => advance::Gates::Fail(String::new()),
        }
    }
}
