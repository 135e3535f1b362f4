//! What a rollout asks of a node.

use super::{LABEL_CHARS_MAX, experiment::measures};
use crate::{
    bucket::BUCKETS,
    fault::Collector,
    model::{HORIZON_S_MAX, Rollout, Term},
};

/// The greatest share of a canary that has a control as large beside it.
pub const CONTROLLED_SHARE_BP_MAX: u32 = BUCKETS / 2;
/// The greatest probability of false trips.
const BREAKER_PPM_MAX: u32 = 500_000;

/// Checks what a rollout asks of a layer with this term; the collector stands at it.
pub fn rollout(rollout: &Rollout, term: Term, faults: &mut Collector) {
    let Rollout { name: _, salt, revision, share_bp, horizon_s, breaker_ppm, unchanged, .. } = rollout;
    if salt.chars().count() > LABEL_CHARS_MAX + 1 {
        faults.add_at("salt", format!("is longer than {} characters; shorten it", LABEL_CHARS_MAX + 1));
    }
    if *revision == 0 {
        faults.add_at("revision", "is missing; write that of the canary");
    }
    let share =
        |why: &str| format!("is {share_bp}{why}; write 1 to {CONTROLLED_SHARE_BP_MAX} basis points, or {BUCKETS}");
    let has_canary = term != Term::Always;
    if *share_bp > CONTROLLED_SHARE_BP_MAX && *share_bp != BUCKETS {
        faults.add_at("flow_share_bp", share(""));
    } else if has_canary && *share_bp == 0 {
        faults.add_at("flow_share_bp", share(", though the node has the canary"));
    }
    if salt.is_empty() && (1..BUCKETS).contains(share_bp) {
        faults.add_at("salt", "is empty, though the canary has a share; write some text of the rollout's own");
    }
    if has_canary && *unchanged {
        faults.add_at("unchanged", "is true, though the policy has a canary; leave one of them out");
    }
    measures(&rollout.measures, faults);
    if !(1..=HORIZON_S_MAX).contains(horizon_s) {
        faults.add_at("horizon_s", format!("is {horizon_s}; write 1 to {HORIZON_S_MAX} seconds"));
    }
    if *breaker_ppm > BREAKER_PPM_MAX {
        faults.add_at("breaker_ppm", format!("is {breaker_ppm}; write at most {BREAKER_PPM_MAX}, or 0 for no breaker"));
    }
}
