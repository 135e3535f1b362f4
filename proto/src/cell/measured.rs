//! What experiments measure.

use std::collections::BTreeMap;

use sockpilot_outcomes::{
    Measured,
    measured::{GROUPS_MAX, GroupSums},
};
use sockpilot_stats::CoMoments;

use super::{CellFault, fault};
use crate::v1;

/// What an experiment measures, as it stands on the wire.
#[must_use]
pub fn measured_to_proto(measured: &Measured) -> v1::Measured {
    let Measured { attempts, established, unfinished, groups } = measured;
    let moments =
        |CoMoments { count, mean, m2 }: &CoMoments| v1::CoMoments { count: *count, mean: mean.clone(), m2: m2.clone() };
    let group = |(group, sums): (&u32, &GroupSums)| {
        let GroupSums { attempts, established, attempt_sums, established_sums } = sums;
        v1::MeasuredGroup {
            group: *group,
            attempts: *attempts,
            established: *established,
            attempt_sums: attempt_sums.clone(),
            established_sums: established_sums.clone(),
        }
    };
    v1::Measured {
        attempts: Some(moments(attempts)),
        established: Some(moments(established)),
        unfinished: *unfinished,
        groups: groups.iter().map(group).collect(),
    }
}

/// Reads and checks what an experiment measures.
///
/// # Errors
/// What is wrong with it.
pub fn measured_from_proto(message: &v1::Measured) -> Result<Measured, String> {
    let v1::Measured { attempts, established, unfinished, groups } = message;
    let moments = |message: &Option<v1::CoMoments>| {
        let v1::CoMoments { count, mean, m2 } = message.clone().unwrap_or_default();
        CoMoments { count, mean, m2 }
    };
    let mut by_group = BTreeMap::new();
    for v1::MeasuredGroup { group, attempts, established, attempt_sums, established_sums } in groups {
        let (attempts, established) = (*attempts, *established);
        let (attempt_sums, established_sums) = (attempt_sums.clone(), established_sums.clone());
        let sums = GroupSums { attempts, established, attempt_sums, established_sums };
        if by_group.insert(*group, sums).is_some() {
            return Err(format!("has the group {group} twice"));
        }
    }
    let (attempts, established) = (moments(attempts), moments(established));
    let measured = Measured { attempts, established, unfinished: *unfinished, groups: by_group };
    measured.checked().map_err(|error| error.to_string())
}

/// Checks what a cell holds of an experiment, and that it holds nothing else.
pub(super) fn checked_measured(cell: &v1::FlowCell, message: &v1::Measured, faults: &mut Vec<CellFault>) -> Measured {
    let v1::FlowCell {
        interval_start_s: _,
        interval_length_s: _,
        layer: _,
        revision: _,
        choice: _,
        direction: _,
        size_class: _,
        measured: _,
        counts,
        connect_time_us,
        srtt_us,
        duration_us,
        established_cwnd,
    } = cell;
    let distributions = [connect_time_us, srtt_us, duration_us, established_cwnd];
    if counts.is_some() || distributions.iter().any(|one| one.is_some()) {
        fault(faults, "measured", "stands beside sums of flows; send it in a cell of its own");
    }
    let measured = measured_from_proto(message).unwrap_or_else(|description| {
        fault(faults, "measured", description);
        Measured::default()
    });
    // Of one interval; an experiment by slots of time has more of them in the end.
    if measured.groups.len() > GROUPS_MAX {
        fault(faults, "measured", format!("has {} groups; a cell has at most {GROUPS_MAX}", measured.groups.len()));
    }
    if measured.attempts.count == 0 {
        fault(faults, "measured", "is of no connection; send no cell without one");
    }
    measured
}
