//! Plans as they are sent and stored.

use sockpilot_judge::gates::{DEFAULT_GATES, gates_from_proto};
use sockpilot_policy::{
    fault::{Collector, Faults},
    model::Id,
};
use sockpilot_proto::v1;
use sockpilot_rollout::{defaults, freeze::Window, freeze::window_from_proto, plan::plan_from_proto};

use super::record::RolloutPlan;
use crate::change::{
    selector::next_wave,
    wave::{Selector, too_many},
};

/// How a plan's name begins.
pub const COLLECTION: &str = "rolloutPlans/";
/// The name of the settings.
pub const SETTINGS: &str = "rolloutSettings";
/// Windows in the settings.
const WINDOWS_MAX: usize = 100;
const LABEL_CHARS_MAX: usize = 63;

/// The plans that are there from the start.
#[must_use]
pub fn built_in() -> Vec<v1::RolloutPlan> {
    let gates: Vec<_> =
        DEFAULT_GATES.iter().map(|metric| v1::Gate { metric: (*metric).to_owned(), margin_bp: 0 }).collect();
    defaults::plans(&gates)
}

/// What a plan says, without its name and what a server says of it.
#[must_use]
pub fn plain(plan: v1::RolloutPlan) -> v1::RolloutPlan {
    let (name, etag, creator) = Default::default();
    v1::RolloutPlan { name, revision: 0, etag, create_time: None, creator, ..plan }
}

/// What settings say, without what a server says of them.
#[must_use]
pub fn plain_settings(settings: v1::RolloutSettings) -> v1::RolloutSettings {
    let (name, etag) = Default::default();
    v1::RolloutSettings { name, etag, ..settings }
}

/// Reads `rolloutPlans/{plan}`.
///
/// # Errors
/// The fault, with a remedy.
pub fn plan_name(text: &str) -> Result<String, String> {
    let id = text.strip_prefix(COLLECTION).ok_or_else(|| format!("\"{text}\" is no plan; write {COLLECTION}NAME"))?;
    id.parse::<Id>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Reads and checks a plan. The walk stands at its field.
pub fn read(message: &v1::RolloutPlan, faults: &mut Collector) -> RolloutPlan {
    let plan = plan_from_proto(message, faults);
    let mut before: Vec<Selector> = vec![];
    let selectors = faults.each("waves", &message.waves, |faults, wave| {
        let Some(selector) = &wave.selector else { return None };
        let selector = faults.field("selector", |faults| next_wave(selector, &before, faults))?;
        before.push(selector.clone());
        Some(selector)
    });
    if let Some((_, why)) = too_many(&before) {
        faults.add_at("waves", why);
    }
    let gates = gates_from_proto(&message.gates, faults);
    RolloutPlan { message: message.clone(), plan, gates, selectors }
}

/// Reads a plan that was checked when it was stored.
///
/// # Errors
/// What is wrong with it.
pub fn read_stored(message: &v1::RolloutPlan) -> Result<RolloutPlan, Faults> {
    let mut faults = Collector::at("plan");
    let plan = read(message, &mut faults);
    faults.finish(plan)
}

/// What holds for all rollouts, understood.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    pub message: v1::RolloutSettings,
    pub windows: Vec<Window>,
}

/// Reads and checks settings. The walk stands at their field.
pub fn read_settings(message: &v1::RolloutSettings, faults: &mut Collector) -> Settings {
    let v1::RolloutSettings {
        name,
        etag: _,
        default_plan,
        freeze_windows,
        max_nodes_bp,
        failure_domain_label,
        max_failure_domain_bp,
        max_flows_bp,
    } = message;
    if !name.is_empty() && name != SETTINGS {
        faults.add_at("name", format!("is {name}; write {SETTINGS}, or nothing"));
    }
    if !default_plan.is_empty() {
        faults.field("default_plan", |faults| faults.take(plan_name(default_plan)));
    }
    for (field, value) in [
        ("max_nodes_bp", max_nodes_bp),
        ("max_failure_domain_bp", max_failure_domain_bp),
        ("max_flows_bp", max_flows_bp),
    ] {
        if *value > 10_000 {
            faults.add_at(field, format!("is {value}; write at most 10000 basis points, or 0 for no limit"));
        }
    }
    if failure_domain_label.is_empty() != (*max_failure_domain_bp == 0) {
        faults.add_at("failure_domain_label", "goes with max_failure_domain_bp; say both, or none");
    }
    if failure_domain_label.chars().count() > LABEL_CHARS_MAX {
        faults.add_at("failure_domain_label", format!("is longer than {LABEL_CHARS_MAX} characters"));
    }
    if freeze_windows.len() > WINDOWS_MAX {
        faults.add_at("freeze_windows", format!("has {}; write at most {WINDOWS_MAX}", freeze_windows.len()));
    }
    let windows = faults.each("freeze_windows", freeze_windows, window_from_proto);
    Settings { message: message.clone(), windows: windows.into_iter().flatten().collect() }
}
