//! What a plan says.

use sockpilot_policy::{bucket::BUCKETS, fault::Collector, validate};
use sockpilot_proto::v1;

/// Waves of a plan.
pub const WAVES_MAX: usize = 32;
/// Gates of a plan.
pub const GATES_MAX: usize = 10;
/// Steps of a wave, without the one with all connections.
pub const STEPS_MAX: usize = 16;
/// The greatest share beside which an equally large control has room.
pub const FLOW_SHARE_BP_MAX: u32 = 5_000;
/// All connections.
pub const ALL_FLOWS_BP: u32 = BUCKETS;
/// Longest of all times in a plan, in seconds: 30 days.
const TIME_S_MAX: i64 = 30 * 86_400;
const HOUR_S: i64 = 3_600;
const DECISION_S: i64 = 7 * 86_400;
/// With what probability the breaker may end what does no harm, in millionths.
const BREAKER_PPM: u32 = 1_000;
/// Of false alarms of a plan that says nothing, in basis points.
const FALSE_ALARM_BP: u32 = 500;

/// A step of a wave, both from 1. Wave 0 is the A/A before the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// From 1; 0: what everyone has, compared with itself on the nodes of the first wave.
    pub wave: usize,
    /// From 1; the last one has all connections.
    pub step: usize,
}

/// A plan, as far as its rollout's transitions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In order; at least one.
    pub waves: Vec<Wave>,
    /// Whether anything is judged.
    pub has_gates: bool,
    /// Whether a step that was not decided in time is rolled back, not paused.
    pub rolls_back_at_deadline: bool,
    /// How long it waits for a person, in seconds.
    pub decision_deadline_s: i64,
    /// Whether it begins with an A/A.
    pub aa_first: bool,
    /// Whether somebody else must approve it.
    pub needs_approval: bool,
    /// As in `LayerRollout`; 0: no breaker.
    pub breaker_ppm: u32,
    /// The probability that a rollout without harm is rolled back by its gates, in basis points.
    pub false_alarm_bp: u32,
    /// Of measurements, in seconds.
    pub horizon_s: u32,
}

/// A wave, as far as its rollout's transitions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// All nodes.
    pub is_everyone: bool,
    /// Of connections, in basis points, one step each; all of them come after.
    pub flow_shares_bp: Vec<u32>,
    /// How long each step is watched, in seconds.
    pub bake_s: i64,
    /// Connections of the canary that are measured in each step.
    pub min_flows: u64,
    /// Nodes that may be away, or silent, in basis points.
    pub max_unavailable_bp: u32,
    /// Nodes that may refuse it, in basis points.
    pub max_refused_bp: u32,
    /// How long a step may take, in seconds.
    pub deadline_s: i64,
}

impl Wave {
    fn steps(&self) -> usize {
        self.flow_shares_bp.len() + 1
    }
}

impl Plan {
    /// Where it begins.
    #[must_use]
    pub fn first(&self) -> Place {
        Place { wave: usize::from(!self.aa_first), step: 1 }
    }

    /// The step after another one; `None`: it was the last.
    #[must_use]
    pub fn next(&self, place: Place) -> Option<Place> {
        if place.wave == 0 {
            return Some(Place { wave: 1, step: 1 });
        }
        if place.step < self.wave(place).steps() {
            return Some(Place { step: place.step + 1, ..place });
        }
        (place.wave < self.waves.len()).then_some(Place { wave: place.wave + 1, step: 1 })
    }

    /// The wave of a place; that of an A/A is the first.
    #[must_use]
    pub fn wave(&self, place: Place) -> &Wave {
        // A plan has at least one wave, and a place is one of its.
        let at = place.wave.max(1).min(self.waves.len()) - 1;
        &self.waves[at]
    }

    /// The share of connections on the nodes of the wave, in basis points.
    #[must_use]
    pub fn flow_share_bp(&self, place: Place) -> u32 {
        let shares = &self.wave(place).flow_shares_bp;
        match place.wave {
            // An A/A without a share would compare nothing.
            0 => shares.first().copied().unwrap_or(FLOW_SHARE_BP_MAX),
            _ => shares.get(place.step - 1).copied().unwrap_or(ALL_FLOWS_BP),
        }
    }

    /// Whether the step is all that there is to it: everyone gets the revision at once, and nothing is judged.
    #[must_use]
    pub fn is_immediate(&self, place: Place) -> bool {
        let wave = self.wave(place);
        let unwatched = wave.bake_s == 0 && wave.min_flows == 0 && !self.has_gates;
        wave.is_everyone && unwatched && self.flow_share_bp(place) == ALL_FLOWS_BP && self.next(place).is_none()
    }

    /// Steps that are judged by gates.
    #[must_use]
    pub fn judged_steps(&self) -> usize {
        if self.has_gates { self.waves.iter().map(Wave::steps).sum::<usize>() + usize::from(self.aa_first) } else { 0 }
    }
}

/// Reads a plan. Selectors and metrics of gates are checked by who knows them.
pub fn plan_from_proto(message: &v1::RolloutPlan, faults: &mut Collector) -> Plan {
    let v1::RolloutPlan {
        name: _,
        revision: _,
        etag: _,
        description,
        waves,
        gates,
        false_alarm_bp,
        on_deadline,
        decision_deadline,
        aa_first,
        needs_approval,
        breaker_ppm,
        no_breaker,
        horizon_s,
        create_time: _,
        creator: _,
    } = message;
    faults.field("description", |faults| validate::description(description, faults));
    if waves.is_empty() || waves.len() > WAVES_MAX {
        faults.add_at("waves", format!("has {}; write 1 to {WAVES_MAX}", waves.len()));
    }
    if gates.len() > GATES_MAX {
        faults.add_at("gates", format!("has {}; write at most {GATES_MAX}", gates.len()));
    }
    let on_deadline = v1::OnDeadline::try_from(*on_deadline).unwrap_or_else(|_| {
        faults.add_at("on_deadline", "is unknown; write ON_DEADLINE_PAUSE or ON_DEADLINE_ROLL_BACK");
        v1::OnDeadline::Pause
    });
    at_most("false_alarm_bp", *false_alarm_bp, 5_000, faults);
    at_most("breaker_ppm", *breaker_ppm, 100_000, faults);
    at_most("horizon_s", *horizon_s, sockpilot_policy::model::HORIZON_S_MAX, faults);
    if *no_breaker && *breaker_ppm > 0 {
        faults.add_at("breaker_ppm", "is set although no_breaker is; leave one of them out");
    }
    let waves = faults.each("waves", waves, wave_from_proto);
    check_order(&waves, faults);
    Plan {
        waves,
        has_gates: !gates.is_empty(),
        rolls_back_at_deadline: on_deadline == v1::OnDeadline::RollBack,
        decision_deadline_s: seconds("decision_deadline", decision_deadline.as_ref(), DECISION_S, faults),
        aa_first: *aa_first,
        needs_approval: *needs_approval,
        breaker_ppm: if *no_breaker { 0 } else { or_default(*breaker_ppm, BREAKER_PPM) },
        false_alarm_bp: or_default(*false_alarm_bp, FALSE_ALARM_BP),
        horizon_s: or_default(*horizon_s, sockpilot_policy::model::HORIZON_S),
    }
}

/// After a wave of all nodes no wave has any.
fn check_order(waves: &[Wave], faults: &mut Collector) {
    let Some(at) = waves.iter().position(|wave| wave.is_everyone) else { return };
    if at + 1 < waves.len() {
        let field = format!("waves[{}]", at + 1);
        faults.add_at(&field, format!("has no nodes, because wave {} is of all nodes; leave it out", at + 1));
    }
}

fn wave_from_proto(faults: &mut Collector, message: &v1::RolloutWave) -> Wave {
    let v1::RolloutWave {
        selector,
        flow_shares_bp,
        bake_time,
        min_flows,
        max_unavailable_bp,
        max_refused_bp,
        deadline,
    } = message;
    if flow_shares_bp.len() > STEPS_MAX {
        faults.add_at("flow_shares_bp", format!("has {}; write at most {STEPS_MAX}", flow_shares_bp.len()));
    }
    let mut before = 0;
    for (index, &share_bp) in flow_shares_bp.iter().enumerate() {
        if share_bp <= before || share_bp > FLOW_SHARE_BP_MAX {
            let why = format!(
                "is {share_bp}; write shares from 1 to {FLOW_SHARE_BP_MAX} basis points, each greater than the one before, so that an equally \
                 large control has room beside it. All connections follow by themselves"
            );
            faults.add_at(&format!("flow_shares_bp[{index}]"), why);
        }
        before = share_bp;
    }
    at_most("max_unavailable_bp", *max_unavailable_bp, 10_000, faults);
    at_most("max_refused_bp", *max_refused_bp, 10_000, faults);
    let bake_s = seconds("bake_time", bake_time.as_ref(), 0, faults);
    let deadline_s = seconds("deadline", deadline.as_ref(), bake_s + HOUR_S, faults);
    if deadline_s <= bake_s {
        faults.add_at("deadline", format!("is {deadline_s} s, and the bake time alone is {bake_s} s; write more"));
    }
    Wave {
        is_everyone: selector.is_none(),
        flow_shares_bp: flow_shares_bp.clone(),
        bake_s,
        min_flows: *min_flows,
        max_unavailable_bp: *max_unavailable_bp,
        max_refused_bp: *max_refused_bp,
        deadline_s,
    }
}

fn or_default(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

fn at_most(field: &str, value: u32, most: u32, faults: &mut Collector) {
    if value > most {
        faults.add_at(field, format!("is {value}; write at most {most}"));
    }
}

/// A time in whole seconds; rounded up, so that what is short is not nothing.
pub fn seconds(field: &str, duration: Option<&prost_types::Duration>, default_s: i64, faults: &mut Collector) -> i64 {
    let Some(duration) = duration else { return default_s };
    let seconds = duration.seconds.saturating_add(i64::from(duration.nanos > 0));
    if !(0..=TIME_S_MAX).contains(&seconds) || duration.nanos < 0 {
        faults.add_at(field, format!("is {seconds} s; write 0 to {TIME_S_MAX} s (30 days)"));
        return default_s;
    }
    seconds
}
