//! What several tests need.

use std::sync::Arc;

use sockpilot_outcomes::Choice;
use sockpilot_policy::facts::KernelFacts;

/// A choice of a policy.
pub fn choice(name: &str, revision: u64) -> Arc<Choice> {
    Arc::new(Choice { layer: "policies/web".into(), revision, name: name.into() })
}

/// A kernel with 250 ticks a second, cubic and reno.
pub fn facts() -> KernelFacts {
    KernelFacts {
        release: "6.18.0".into(),
        hz: 250,
        congestion_controls: vec!["cubic".into(), "reno".into()],
        wmem_max: 4_194_304,
        rmem_max: 4_194_304,
        sysctls: std::collections::BTreeMap::new(),
    }
}
