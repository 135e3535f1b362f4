//! Plans of rollouts, and what holds for all rollouts, as tables.

use super::{Lines, shorten};
use crate::format::{self, NONE};
use crate::table::Table;
use crate::views::amount;
use sockpilot_proto::v1::{self, OnDeadline};

/// What a plan is that does not say otherwise; as in the contract.
const DECISION_DEADLINE_S: u64 = 7 * 86_400;
const FALSE_ALARM_BP: u32 = 500;
const BREAKER_PPM: u32 = 1_000;
const HORIZON_S: u32 = 60;
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A line for each plan.
pub fn list<'a>(plans: impl Iterator<Item = &'a v1::RolloutPlan>) -> String {
    let mut table = Table::new(&["NAME", ">REVISION", "WAVES", "GATES", "ON DEADLINE", "CREATED", "BY", "DESCRIPTION"]);
    for plan in plans {
        table.row(vec![
            plan.name.clone(),
            plan.revision.to_string(),
            plan.waves.iter().map(whom).collect::<Vec<_>>().join(", then "),
            format::or_none(&plan.gates.iter().map(|gate| gate.metric.as_str()).collect::<Vec<_>>().join(",")),
            on_deadline(plan.on_deadline()).to_owned(),
            format::time(plan.create_time.as_ref()),
            format::or_none(&plan.creator),
            shorten(&plan.description),
        ]);
    }
    table.render()
}

/// Everything about one.
pub fn one(plan: &v1::RolloutPlan) -> String {
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let yes = |flag: bool, text: &str| if flag { text.to_owned() } else { String::new() };
    let decision = plan.decision_deadline.as_ref();
    let decision = decision.map_or_else(|| format::duration_s(DECISION_DEADLINE_S), |d| format::duration(Some(d)));
    let breaker = format!("{} in a million", or(plan.breaker_ppm, BREAKER_PPM));
    let mut lines = Lines::default();
    lines.add("name", &plan.name);
    lines.add("revision", &plan.revision.to_string());
    lines.add("description", &plan.description);
    lines
        .add("false alarm", &format!("at most {} of rollouts", format::share(or(plan.false_alarm_bp, FALSE_ALARM_BP))));
    lines.add("on deadline", on_deadline(plan.on_deadline()));
    lines.add("decision", &format!("within {decision}, then it is rolled back"));
    lines.add("first", &yes(plan.aa_first, "an A/A"));
    lines.add("approval", &yes(plan.needs_approval, "by somebody else"));
    lines.add("breaker", if plan.no_breaker { "none" } else { &breaker });
    lines.add("horizon", &format::duration_s(or(plan.horizon_s, HORIZON_S).into()));
    lines.add("created", &format!("{} by {}", format::time(plan.create_time.as_ref()), format::or_none(&plan.creator)));
    let mut text = format!("{}\n{}", lines.0, waves(&plan.waves));
    if !plan.gates.is_empty() {
        let mut table = Table::new(&["GATE", ">MARGIN"]);
        for gate in &plan.gates {
            table.row(vec![gate.metric.clone(), margin(gate)]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    text
}

fn waves(waves: &[v1::RolloutWave]) -> String {
    let mut table = Table::new(&[
        ">WAVE",
        "FOR",
        "CONNECTIONS",
        ">BAKE TIME",
        ">MIN FLOWS",
        ">MAX UNAVAILABLE",
        ">MAX REFUSED",
        ">DEADLINE",
    ]);
    for (number, wave) in (1_u32..).zip(waves) {
        table.row(vec![
            number.to_string(),
            whom(wave),
            steps(wave).join(", then "),
            format::duration(wave.bake_time.as_ref()),
            wave.min_flows.to_string(),
            format::share(wave.max_unavailable_bp),
            format::share(wave.max_refused_bp),
            format::duration(wave.deadline.as_ref()),
        ]);
    }
    table.render()
}

/// The nodes of a wave.
pub fn whom(wave: &v1::RolloutWave) -> String {
    wave.selector.as_ref().map_or_else(|| "all nodes".to_owned(), format::selector)
}

/// The shares of its connections, step by step.
pub fn steps(wave: &v1::RolloutWave) -> Vec<String> {
    wave.flow_shares_bp.iter().map(|share_bp| format::share(*share_bp)).chain(["all".to_owned()]).collect()
}

/// `0.5%`, or that it is the metric's own.
fn margin(gate: &v1::Gate) -> String {
    if gate.margin_bp == 0 { "default".to_owned() } else { format::share(gate.margin_bp) }
}

fn on_deadline(what: OnDeadline) -> &'static str {
    match what {
        OnDeadline::Unspecified | OnDeadline::Pause => "pause",
        OnDeadline::RollBack => "roll back",
    }
}

/// What holds for all rollouts.
pub fn settings(settings: &v1::RolloutSettings) -> String {
    let limit =
        |bp: u32, of: &str| if bp == 0 { "no limit".to_owned() } else { format!("{} of {of}", format::share(bp)) };
    let default = if settings.default_plan.is_empty() { "rolloutPlans/one-node" } else { &settings.default_plan };
    let mut lines = Lines::default();
    lines.add("default plan", default);
    lines.add("nodes", &limit(settings.max_nodes_bp, "all nodes"));
    lines.add("domain", &settings.failure_domain_label);
    if !settings.failure_domain_label.is_empty() {
        lines.add("of a domain", &limit(settings.max_failure_domain_bp, "its nodes"));
    }
    lines.add("connections", &limit(settings.max_flows_bp, "those that were recorded lately, in a first wave"));
    if settings.freeze_windows.is_empty() {
        return lines.0;
    }
    let mut table = Table::new(&["FREEZE WINDOW", "BEGINS", "ENDS", "TIME ZONE"]);
    for window in &settings.freeze_windows {
        let (begins, ends) = window_times(window);
        let zone = if window.time_zone.is_empty() { "UTC" } else { &window.time_zone };
        table.row(vec![format::or_none(&window.description), begins, ends, zone.to_owned()]);
    }
    format!("{}\n{}", lines.0, table.render())
}

fn window_times(window: &v1::FreezeWindow) -> (String, String) {
    if window.weekdays.is_empty() {
        return (format::time(window.start_time.as_ref()), format::time(window.end_time.as_ref()));
    }
    let day = |number: &u32| WEEKDAYS.get((*number as usize).wrapping_sub(1)).copied().unwrap_or(NONE);
    let days: Vec<&str> = window.weekdays.iter().map(day).collect();
    let length = window.duration.as_ref().map_or(0.0, |length| length.seconds as f64);
    (format!("{} {}", days.join(","), window.start_time_of_day), format!("after {}", amount::seconds(length)))
}
