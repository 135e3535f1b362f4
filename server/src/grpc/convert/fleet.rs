//! What is answered about nodes and servers.

use std::time::Duration;

use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;

use crate::{
    change::names,
    clock::timestamp,
    fleet::{
        node::{LayerState, Version},
        recording::{DURATION_MAX, FLOWS_PER_S_MAX, Wanted},
    },
    store::{
        node_view::{LayerOfNode, NodeRow, NodeView},
        recording::Recording,
        server::ServerRow,
    },
};

pub fn version_to_proto(version: &Version) -> v1::SnapshotVersion {
    let Version { epoch, generation, hash } = version;
    v1::SnapshotVersion {
        database_epoch: epoch.to_string(),
        generation: *generation,
        content_hash: hash.to_vec().into(),
    }
}

pub fn layer_state_to_proto(state: LayerState) -> v1::LayerState {
    match state {
        LayerState::Pending => v1::LayerState::Pending,
        LayerState::InForce => v1::LayerState::InForce,
        LayerState::Rejected => v1::LayerState::Rejected,
        LayerState::Unavailable => v1::LayerState::Unavailable,
    }
}

pub fn node_to_proto(NodeView { row, kernel, layers, recording }: NodeView) -> v1::Node {
    let NodeRow {
        node_id,
        labels,
        share_position,
        daemon_version,
        kernel: _,
        connected,
        heard_at,
        in_force_epoch,
        in_force_generation,
        in_force_hash,
        records_total,
        records_dropped,
        address,
        conflict_address,
        conflict_since,
        conflict_at,
        conflict,
        clock_offset_ms,
        not_written,
        not_written_reason,
        not_written_since,
    } = row;
    let in_force = match (in_force_epoch, in_force_generation, in_force_hash) {
        (Some(epoch), Some(generation), Some(hash)) => Some(v1::SnapshotVersion {
            database_epoch: epoch.to_string(),
            generation: generation.cast_unsigned(),
            content_hash: hash.into(),
        }),
        _ => None,
    };
    let conflict = conflict_address.filter(|_| conflict).map(|address| v1::NodeConflict {
        address,
        first_time: conflict_since.map(timestamp),
        last_time: conflict_at.map(timestamp),
    });
    let state_not_written = (!not_written.is_empty()).then(|| v1::StateNotWritten {
        what: not_written.split(' ').map(str::to_owned).collect(),
        reason: not_written_reason,
        since_time: not_written_since.map(timestamp),
    });
    v1::Node {
        name: format!("nodes/{node_id}"),
        labels: labels.into_iter().collect(),
        connected,
        last_seen_time: Some(timestamp(heard_at)),
        daemon_version,
        kernel: Some(kernel),
        share_position: share_position.cast_unsigned(),
        in_force,
        layers: layers.into_iter().map(layer_of_node_to_proto).collect(),
        records_total: records_total.cast_unsigned(),
        records_dropped: records_dropped.cast_unsigned(),
        address,
        conflict,
        clock_offset_ms,
        state_not_written,
        recording: recording.map(recording_to_proto),
    }
}

pub fn recording_to_proto(recording: Recording) -> v1::Recording {
    let Recording { node_id, flows_per_s, started_at, ends_at, actor, reason } = recording;
    v1::Recording {
        node: format!("nodes/{node_id}"),
        start_time: Some(timestamp(started_at)),
        end_time: Some(timestamp(ends_at)),
        flows_per_s: flows_per_s.cast_unsigned(),
        actor,
        reason,
    }
}

/// What a request wants of a node.
pub fn recording_wanted(
    node: &str,
    duration: Option<&prost_types::Duration>,
    flows_per_s: u32,
    faults: &mut Collector,
) -> Wanted {
    let node_id = faults.field("node", |faults| faults.take(names::one_node(node))).unwrap_or_default();
    let duration = match duration.map_or(Ok(Duration::ZERO), |duration| Duration::try_from(*duration)) {
        Ok(duration) if duration <= DURATION_MAX => duration,
        _ => {
            faults.add_at("duration", "must be at most 24 h, or 0 to end it");
            Duration::ZERO
        }
    };
    if flows_per_s > FLOWS_PER_S_MAX {
        faults.add_at("flows_per_s", format!("is {flows_per_s}; it must be at most {FLOWS_PER_S_MAX}, or 0 for that"));
    }
    Wanted { node_id, duration, flows_per_s: if flows_per_s == 0 { FLOWS_PER_S_MAX } else { flows_per_s } }
}

fn layer_of_node_to_proto(layer: LayerOfNode) -> v1::NodeLayer {
    let LayerOfNode { layer, assigned_revision, confirmed_revision, state, effective, confirmed_at } = layer;
    v1::NodeLayer {
        layer,
        assigned_revision,
        confirmed_revision,
        state: layer_state_to_proto(state).into(),
        effective,
        confirm_time: confirmed_at.map(timestamp),
    }
}

pub fn server_to_proto(row: ServerRow) -> v1::Server {
    let ServerRow { server_id, announcement, started_at, seen_at, leads } = row;
    v1::Server {
        name: format!("servers/{server_id}"),
        start_time: Some(timestamp(started_at)),
        last_contact_time: Some(timestamp(seen_at)),
        leader: leads,
        ..announcement
    }
}
