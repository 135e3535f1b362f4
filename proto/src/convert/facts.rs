//! What a node's kernel can do.

use sockpilot_policy::{
    facts::KernelFacts,
    fault::{Collector, Faults},
};

use crate::v1;

/// Reads what a node says of its kernel.
///
/// # Errors
/// All faults.
pub fn kernel_facts_from_proto(message: &v1::KernelFacts) -> Result<KernelFacts, Faults> {
    let v1::KernelFacts { release, hz, congestion_controls, wmem_max, rmem_max, sysctls } = message;
    let mut faults = Collector::at("kernel");
    if !(1..=10_000).contains(hz) {
        faults.add_at("hz", format!("is {hz}; write the timer ticks per second, 1 to 10000"));
    }
    if release.len() > 128 {
        faults.add_at("release", "is longer than 128 bytes; shorten it");
    }
    if congestion_controls.len() > 64 || congestion_controls.iter().any(|name| name.len() > 15) {
        faults.add_at("congestion_controls", "must be at most 64 names of at most 15 bytes");
    }
    if sysctls.len() > 64 || sysctls.keys().any(|name| name.len() > 64) {
        faults.add_at("sysctls", "must be at most 64 names of at most 64 bytes");
    }
    faults.finish(KernelFacts {
        release: release.clone(),
        hz: *hz,
        congestion_controls: congestion_controls.clone(),
        wmem_max: *wmem_max,
        rmem_max: *rmem_max,
        sysctls: sysctls.iter().map(|(name, value)| (name.clone(), *value)).collect(),
    })
}

/// What a node says of its kernel.
#[must_use]
pub fn kernel_facts_to_proto(facts: &KernelFacts) -> v1::KernelFacts {
    let KernelFacts { release, hz, congestion_controls, wmem_max, rmem_max, sysctls } = facts;
    v1::KernelFacts {
        release: release.clone(),
        hz: *hz,
        congestion_controls: congestion_controls.clone(),
        wmem_max: *wmem_max,
        rmem_max: *rmem_max,
        sysctls: sysctls.iter().map(|(name, value)| (name.clone(), *value)).collect(),
    }
}
