//! What a node says of a snapshot to the server that offered it. Pure.

use std::collections::BTreeMap;

use sockpilot_policy::{compile::Effective, fault::Fault};
use sockpilot_proto::v1;

use crate::kernel::Services;

/// A cgroup that a layer needs to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The layer.
    pub layer: String,
    /// Path in the layer: `rules[3].match.services[0]`; empty for the node's own, which every layer needs.
    pub field: String,
    /// The service; `/` is the node's own cgroup.
    pub cgroup: String,
}

/// Needs that are reported in one acknowledgement.
const NEEDS_MAX: usize = 1_000;
/// Of a reason that is reported with them, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Values that an answer reports; how many more there are is said by layer. A status lists as many.
pub const EFFECTIVE_MAX: usize = 1_000;
/// Violations of one layer in one answer; the rest is counted in the last one.
pub const VIOLATIONS_MAX: usize = 100;

/// What is needed and not attached, as it is reported to a server: beside the effective values, because there the rule has no effect.
#[must_use]
pub fn unattached(needs: &[Need], services: &Services) -> Vec<v1::EffectiveValue> {
    let Services { own: _, attached: _, absent, troubled, outlived: _ } = services;
    let values = needs.iter().filter_map(|Need { layer, field, cgroup }| {
        let trouble = troubled.iter().find(|(path, _)| path == cgroup);
        let note = match trouble {
            Some((_, error)) => error.chars().take(REASON_CHARS_MAX).collect(),
            None if absent.contains(cgroup) => {
                "this node has no such cgroup now; it is attached to when it appears".to_owned()
            }
            None => return None,
        };
        let (layer, field, requested) = (layer.clone(), field.clone(), cgroup.clone());
        Some(v1::EffectiveValue {
            layer,
            field,
            requested,
            effective: "not attached".to_owned(),
            note,
            caveats: vec![],
        })
    });
    values.take(NEEDS_MAX).collect()
}

/// A violation that is about the snapshot as a whole.
#[must_use]
pub fn about_all(description: impl Into<String>) -> Vec<v1::RuleViolation> {
    vec![v1::RuleViolation { layer: String::new(), field: String::new(), description: description.into() }]
}

fn effective_to_proto(effective: Effective) -> v1::EffectiveValue {
    let Effective { layer, field, requested, effective, note, caveats } = effective;
    v1::EffectiveValue { layer: layer.to_string(), field, requested, effective, note, caveats }
}

/// What is reported of values: first of those that the kernel changes. Of what is left out the last entry of its layer says how much.
pub(super) fn reported(effective: Vec<Effective>, with_caveats: Vec<Effective>) -> Vec<v1::EffectiveValue> {
    let mut all = effective.into_iter().chain(with_caveats).map(effective_to_proto);
    let mut reported: Vec<_> = all.by_ref().take(EFFECTIVE_MAX).collect();
    let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
    for value in all {
        *left_out.entry(value.layer).or_default() += 1;
    }
    reported.extend(left_out.into_iter().map(|(layer, values)| v1::EffectiveValue {
        layer,
        caveats: vec![format!("{values} more values have notes that are not listed")],
        ..v1::EffectiveValue::default()
    }));
    reported
}

/// What is reported of faults of a layer, or of all together where it has no name.
#[must_use]
pub fn violations(layer: &str, faults: &[Fault]) -> Vec<v1::RuleViolation> {
    let violation = |field: &str, description: String| v1::RuleViolation {
        layer: layer.to_owned(),
        field: field.to_owned(),
        description,
    };
    let mut reported: Vec<_> = faults.iter().map(|fault| violation(&fault.field, fault.description.clone())).collect();
    let more = reported.len().saturating_sub(VIOLATIONS_MAX);
    if more > 0 {
        reported.truncate(VIOLATIONS_MAX);
        reported.push(violation("", format!("{more} more violations are not listed")));
    }
    reported
}
