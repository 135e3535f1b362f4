//! What is answered about changes, and about the state that they have led to.

use sockpilot_proto::v1;

use super::{fleet::layer_state_to_proto, target::target_to_proto};
use crate::{
    change::{
        backup::PastAssignment,
        notes::{Notes, Warning},
        plan::Assignment,
        reach::Reach,
        zones::{NAME, ZoneMap},
    },
    clock::timestamp,
    store::{
        audit::AuditRow,
        member::Member,
        status::{LayerStatus, Rejection},
    },
};

pub fn warning_to_proto(Warning { field, description }: Warning) -> v1::Warning {
    v1::Warning { field, description }
}

pub fn warnings_to_proto(warnings: Vec<Warning>) -> Vec<v1::Warning> {
    warnings.into_iter().map(warning_to_proto).collect()
}

/// Nothing if there is nothing to say.
pub fn notes_to_proto(notes: Notes) -> Option<v1::ChangeNotes> {
    if notes == Notes::default() {
        return None;
    }
    let Notes { reach, warnings } = notes;
    let reach =
        reach.map(|Reach { nodes, connected_nodes, total_nodes }| v1::Reach { nodes, connected_nodes, total_nodes });
    Some(v1::ChangeNotes { reach, warnings: warnings_to_proto(warnings), rollout: String::new() })
}

pub fn zone_map_to_proto(map: ZoneMap, notes: Notes) -> v1::ZoneMap {
    let etag = map.etag();
    let ZoneMap { version: _, zones } = map;
    v1::ZoneMap { name: NAME.to_owned(), etag, zones, notes: notes_to_proto(notes) }
}

pub fn past_assignment_to_proto(assignment: PastAssignment) -> v1::Assignment {
    let PastAssignment { held: Assignment { revision, target }, reason, actor, started_at, ended_at } = assignment;
    v1::Assignment {
        revision,
        target: Some(target_to_proto(&target)),
        reason,
        actor,
        start_time: Some(timestamp(started_at)),
        end_time: ended_at.map(timestamp),
    }
}

pub fn audit_entry_to_proto(row: AuditRow) -> v1::AuditEntry {
    let AuditRow {
        sequence,
        at,
        actor,
        proof,
        role,
        method,
        name,
        revision,
        generation,
        reason,
        request_id,
        request_json,
        difference_json,
        previous_hash,
        hash,
    } = row;
    v1::AuditEntry {
        sequence: sequence.cast_unsigned(),
        time: Some(timestamp(at)),
        actor,
        method,
        name,
        revision: revision.cast_unsigned(),
        reason,
        request_json,
        generation: generation.cast_unsigned(),
        proof,
        role,
        request_id,
        difference_json,
        previous_hash,
        hash,
    }
}

pub fn status_to_proto(status: LayerStatus, notes: Notes) -> v1::LayerStatus {
    let LayerStatus { name, etag, latest_revision, assignments, counts, rejections, wave_counts, effective } = status;
    let count = |(revision, state, nodes)| {
        let state = layer_state_to_proto(state).into();
        v1::RevisionCount { revision, state, nodes }
    };
    let wave_count = |(wave, state, nodes)| {
        let state = layer_state_to_proto(state).into();
        v1::WaveCount { wave, state, nodes }
    };
    let of_nodes = |(revision, value, nodes)| v1::EffectiveOnNodes { revision, value: Some(value), nodes };
    v1::LayerStatus {
        name: name.to_string(),
        etag,
        latest_revision,
        assignments: assignments.into_iter().map(past_assignment_to_proto).collect(),
        counts: counts.into_iter().map(count).collect(),
        rejections: rejections.into_iter().map(rejection_to_proto).collect(),
        wave_counts: wave_counts.into_iter().map(wave_count).collect(),
        effective: effective.into_iter().map(of_nodes).collect(),
        notes: notes_to_proto(notes),
    }
}

fn rejection_to_proto(rejection: Rejection) -> v1::Rejection {
    let Rejection { node_id, revision, violations, rejected_at, revision_in_force } = rejection;
    v1::Rejection {
        node: format!("nodes/{node_id}"),
        revision,
        violations,
        time: rejected_at.map(timestamp),
        revision_in_force,
    }
}

pub fn member_to_proto(member: Member) -> v1::Member {
    let Member { node_id, wave, revision, state } = member;
    v1::Member { node: format!("nodes/{node_id}"), wave, revision, state: layer_state_to_proto(state).into() }
}
