//! What nodes send on their stream, checked.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use sockpilot_policy::{
    bucket::share_position,
    fault::{Collector, Faults},
    model::Labels,
    validate,
};
use sockpilot_proto::{
    convert::kernel_facts_from_proto,
    v1::{self, node_event::Event},
};
use uuid::Uuid;

use crate::{
    fleet::node::{NotWritten, Registration, Sign, Version},
    metrics::NodeStages,
};

const DAEMON_VERSION_CHARS_MAX: usize = 64;
const INSTANCE_BYTES_MAX: usize = 128;
/// Things that a node says it could not write.
const NOT_WRITTEN_MAX: usize = 8;
/// Canaries that a circuit breaker has ended.
const BREAKER_TRIPS_MAX: usize = 64;
/// Revisions under which connections are open.
const OPEN_MAX: usize = 256;
/// Effective values or violations in one answer.
const ENTRIES_MAX: usize = 10_000;
const TEXT_BYTES_MAX: usize = 1_024;
/// Caveats of one value.
const CAVEATS_MAX: usize = 16;

/// Reads the first event of a stream.
///
/// # Errors
/// All faults.
pub fn hello(
    event: v1::NodeEvent,
    (server_id, stream_id): (Uuid, Uuid),
    address: String,
    now: DateTime<Utc>,
) -> Result<Registration, Faults> {
    let Some(Event::Hello(hello)) = event.event else {
        return Err(Faults::one("hello", "is missing; it must be the first event of a stream"));
    };
    let v1::Hello { node_id, labels, daemon_version, kernel, in_force, alive, instance, held_back } = hello;
    let labels: Labels = labels.into_iter().collect();
    let mut faults = Collector::at("hello");
    faults.field("node_id", |faults| faults.take(validate::node_id(&node_id)));
    faults.field("labels", |faults| validate::labels(&labels, faults));
    if daemon_version.chars().count() > DAEMON_VERSION_CHARS_MAX || daemon_version.chars().any(char::is_control) {
        faults.add_at("daemon_version", format!("must be at most {DAEMON_VERSION_CHARS_MAX} printable characters"));
    }
    match &kernel {
        Some(kernel) => {
            for fault in kernel_facts_from_proto(kernel).err().iter().flat_map(Faults::as_slice) {
                faults.add_at(&fault.field, fault.description.clone());
            }
        }
        None => faults.add_at("kernel", "is missing; say release, hz and congestion controls"),
    }
    if instance.len() > INSTANCE_BYTES_MAX || !instance.chars().all(|c| c.is_ascii_graphic()) {
        faults.add_at("instance", format!("must be at most {INSTANCE_BYTES_MAX} printable characters of ASCII"));
    }
    let sign = faults.field("alive", |faults| read_sign(alive.unwrap_or_default(), now, faults));
    let in_force = in_force.and_then(|version| faults.field("in_force", |faults| read_version(&version, faults)));
    if in_force.is_none() && !held_back.is_empty() {
        faults.add_at("held_back", "is there without in_force; say of which version it is");
    }
    check_held_back(&held_back, &mut faults);
    faults.finish(Registration {
        share_position: share_position(&node_id),
        node_id,
        labels,
        daemon_version,
        kernel: kernel.unwrap_or_default(),
        in_force,
        held_back,
        server_id,
        stream_id,
        instance: Some(instance).filter(|instance| !instance.is_empty()),
        address,
        sign,
    })
}

/// What a node says of itself with a sign of life.
fn read_sign(alive: v1::Alive, now: DateTime<Utc>, faults: &mut Collector) -> Sign {
    let clock_offset_ms = offset_ms(&alive, now);
    let v1::Alive { node_time: _, heard_server_time: _, heard_before_us: _, not_written, breaker_trips, open } = alive;
    let not_written = not_written.map(|v1::NotWritten { what, reason, for_ms }| {
        let name = |text: &String| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase());
        if what.len() > NOT_WRITTEN_MAX || !what.iter().all(name) {
            faults.add_at("not_written.what", format!("must be at most {NOT_WRITTEN_MAX} words of a-z"));
        }
        if reason.len() > TEXT_BYTES_MAX || reason.chars().any(char::is_control) {
            faults.add_at("not_written.reason", format!("must be at most {TEXT_BYTES_MAX} printable bytes"));
        }
        NotWritten { what, reason, for_ms: i64::try_from(for_ms).unwrap_or(i64::MAX) }
    });
    if breaker_trips.len() > BREAKER_TRIPS_MAX {
        faults.add_at(
            "breaker_trips",
            format!("has {}; at most {BREAKER_TRIPS_MAX} canaries act at once", breaker_trips.len()),
        );
    }
    let named = |trip: &v1::BreakerTrip| trip.rollout.len() <= TEXT_BYTES_MAX && trip.layer.len() <= TEXT_BYTES_MAX;
    if !breaker_trips.iter().all(named) {
        faults.add_at("breaker_trips", format!("names are at most {TEXT_BYTES_MAX} bytes"));
    }
    let rows = open.as_ref().map_or(&[][..], |open| &open.under);
    if rows.len() > OPEN_MAX || rows.iter().any(|under| under.layer.len() > TEXT_BYTES_MAX) {
        faults.add_at(
            "open.under",
            format!("must be at most {OPEN_MAX} revisions with names of at most {TEXT_BYTES_MAX} bytes"),
        );
    }
    Sign { clock_offset_ms, not_written, breaker_trips, open }
}

fn read_version(version: &v1::SnapshotVersion, faults: &mut Collector) -> Option<Version> {
    let v1::SnapshotVersion { database_epoch, generation, content_hash } = version;
    let epoch = database_epoch.parse().ok();
    if epoch.is_none() {
        faults.add_at("database_epoch", "is no UUID; send the version as it came with the snapshot");
    }
    if i64::try_from(*generation).is_err() {
        faults.add_at("generation", "is no generation; send the version as it came with the snapshot");
    }
    let hash = <[u8; 32]>::try_from(&content_hash[..]).ok();
    if hash.is_none() {
        faults.add_at("content_hash", format!("has {} bytes; a SHA-256 has 32", content_hash.len()));
    }
    Some(Version { epoch: epoch?, generation: *generation, hash: hash? })
}

/// A snapshot is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    pub version: Version,
    pub effective: Vec<v1::EffectiveValue>,
    pub held_back: Vec<v1::HeldBack>,
    /// How long it took there; `None`: it does not say.
    pub stages: Option<NodeStages>,
    /// For how long it has not been said.
    pub put_off: Duration,
}

/// What a node says after its hello.
#[derive(Debug, Clone, PartialEq)]
pub enum LaterEvent {
    /// It has a snapshot in force, but for what it holds back.
    Ack(Ack),
    /// It refuses a snapshot.
    Nack(Version, Vec<v1::RuleViolation>),
    /// It is there.
    Alive(Sign),
}

/// Reads a later event of a stream.
///
/// # Errors
/// All faults.
pub fn later_event(event: v1::NodeEvent, now: DateTime<Utc>) -> Result<LaterEvent, Faults> {
    match event.event {
        Some(Event::Ack(v1::Ack { version, effective, apply_us: _, held_back, stages, put_off_us })) => {
            let mut faults = Collector::at("ack");
            let version = answered(version.as_ref(), &mut faults);
            let texts = effective.iter().map(|value| {
                let v1::EffectiveValue { layer, field, requested, effective, note, caveats } = value;
                [layer, field, requested, effective, note]
                    .into_iter()
                    .chain(caveats.iter().take(CAVEATS_MAX + 1))
                    .collect()
            });
            bounded("effective", texts, &mut faults);
            if effective.iter().any(|value| value.caveats.len() > CAVEATS_MAX) {
                faults.add_at("effective", format!("has a value with more than {CAVEATS_MAX} caveats"));
            }
            check_held_back(&held_back, &mut faults);
            let version = faults.finish(version)?.ok_or_else(|| Faults::one("ack.version", "is missing"))?;
            let (stages, put_off) = (stages.map(node_stages), took(put_off_us));
            Ok(LaterEvent::Ack(Ack { version, effective, held_back, stages, put_off }))
        }
        Some(Event::Nack(v1::Nack { version, violations })) => {
            let mut faults = Collector::at("nack");
            let version = answered(version.as_ref(), &mut faults);
            let texts = violations.iter().map(|violation| {
                let v1::RuleViolation { layer, field, description } = violation;
                vec![layer, field, description]
            });
            bounded("violations", texts, &mut faults);
            let version = faults.finish(version)?.ok_or_else(|| Faults::one("nack.version", "is missing"))?;
            Ok(LaterEvent::Nack(version, violations))
        }
        Some(Event::Alive(alive)) => {
            let mut faults = Collector::at("alive");
            let sign = read_sign(alive, now, &mut faults);
            Ok(LaterEvent::Alive(faults.finish(sign)?))
        }
        Some(Event::Hello(_)) => Err(Faults::one("hello", "comes twice; open another stream to say it again")),
        None => Err(Faults::one("event", "is missing or unknown here; send ack, nack or alive")),
    }
}

fn took(us: u32) -> Duration {
    Duration::from_micros(us.into())
}

/// Whether it can be is seen where it is known how long there was time.
fn node_stages(stages: v1::ApplyStages) -> NodeStages {
    let v1::ApplyStages { wait_us, compile_us, write_us, install_us } = stages;
    NodeStages { wait: took(wait_us), compile: took(compile_us), write: took(write_us), install: took(install_us) }
}

fn answered(version: Option<&v1::SnapshotVersion>, faults: &mut Collector) -> Option<Version> {
    let Some(version) = version else {
        faults.add_at("version", "is missing; send the version of the snapshot that this answers");
        return None;
    };
    faults.field("version", |faults| read_version(version, faults))
}

/// As far as it can be without the snapshot; [`crate::fleet::session`] compares the two.
fn check_held_back(held_back: &[v1::HeldBack], faults: &mut Collector) {
    let texts = held_back.iter().map(|v1::HeldBack { layer, revision: _, revision_in_force: _, violations }| {
        let texts =
            violations.iter().flat_map(|v1::RuleViolation { layer, field, description }| [layer, field, description]);
        texts.chain([layer]).collect()
    });
    bounded("held_back", texts, faults);
    if held_back.len() > ENTRIES_MAX {
        return;
    }
    let mut seen = HashSet::new();
    for (index, held) in held_back.iter().enumerate() {
        let at = |field: &str| format!("held_back[{index}].{field}");
        if !seen.insert(&held.layer) {
            faults.add_at(&at("layer"), "is held back twice; say each layer once");
        }
        for (field, revision) in [("revision", held.revision), ("revision_in_force", held.revision_in_force)] {
            if i64::try_from(revision).is_err() {
                faults.add_at(&at(field), "is no revision; send it as it came with the snapshot");
            }
        }
        let violations = &held.violations;
        if violations.is_empty()
            || violations.len() > ENTRIES_MAX
            || violations.iter().any(|one| one.layer != held.layer)
        {
            faults
                .add_at(&at("violations"), format!("must say why, in 1 to {ENTRIES_MAX} entries that name the layer"));
        }
    }
}

fn bounded<'a>(name: &str, entries: impl ExactSizeIterator<Item = Vec<&'a String>>, faults: &mut Collector) {
    if entries.len() > ENTRIES_MAX {
        faults.add_at(name, format!("has {} entries; send at most {ENTRIES_MAX}", entries.len()));
        return;
    }
    for (index, texts) in entries.enumerate() {
        if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
            faults.add_at(&format!("{name}[{index}]"), format!("has a text longer than {TEXT_BYTES_MAX} bytes"));
        }
    }
}

/// How far a node's clock was ahead of ours when it gave this sign of life; negative: behind. In ms; `None` if it does not say.
#[must_use]
pub fn offset_ms(sign: &v1::Alive, now: DateTime<Utc>) -> Option<i64> {
    let now_ms = now.timestamp_millis();
    let sent_ms = millis(sign.node_time.as_ref()?)?;
    // It was half a round trip on its way; a first sign, which answers nothing, is taken as it comes.
    let round_trip_ms = sign.heard_server_time.as_ref().and_then(millis).map_or(0, |heard_ms| {
        let held_ms = i64::try_from(sign.heard_before_us / 1_000).unwrap_or(i64::MAX);
        now_ms.saturating_sub(heard_ms).saturating_sub(held_ms).max(0)
    });
    Some(sent_ms.saturating_add(round_trip_ms / 2).saturating_sub(now_ms))
}

/// Since 1970; `None` for what is no time.
fn millis(time: &Timestamp) -> Option<i64> {
    let sound = (0..1_000_000_000).contains(&time.nanos);
    sound.then(|| time.seconds.checked_mul(1_000)?.checked_add(i64::from(time.nanos) / 1_000_000)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds: ms.div_euclid(1_000), nanos: (ms.rem_euclid(1_000) * 1_000_000) as i32 })
    }

    #[test]
    fn an_offset_is_what_the_way_does_not_explain() {
        let now = DateTime::from_timestamp_millis(1_000_000).expect("a time");
        let first = |node_ms| v1::Alive { node_time: at(node_ms), ..v1::Alive::default() };
        assert_eq!(offset_ms(&v1::Alive::default(), now), None);
        assert_eq!(offset_ms(&first(1_000_000), now), Some(0));
        assert_eq!(offset_ms(&first(-9_000_000), now), Some(-10_000_000));
        // Our heartbeat of 997 s took 1 s, lay there for 1 s, and the answer took 1 s.
        let sign = |node_ms| v1::Alive { heard_server_time: at(997_000), heard_before_us: 1_000_000, ..first(node_ms) };
        assert_eq!(offset_ms(&sign(999_000), now), Some(0));
        assert_eq!(offset_ms(&sign(8_199_000), now), Some(7_200_000));
        for nonsense in [
            v1::Alive { heard_server_time: at(2_000_000), ..first(1_000_000) },
            v1::Alive { heard_server_time: at(1), heard_before_us: u64::MAX, ..first(1_000_000) },
        ] {
            assert_eq!(offset_ms(&nonsense, now), Some(0));
        }
        let no_time = v1::Alive { node_time: Some(Timestamp { seconds: i64::MAX, nanos: -1 }), ..v1::Alive::default() };
        assert_eq!(offset_ms(&no_time, now), None);
    }
}
