//! Nodes that record their flows one by one, because somebody asked for it: what may be asked, and what nodes are told. Pure: clocks are
//! arguments.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use sockpilot_proto::v1;

/// Nobody looks at single flows for longer.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Flows in a second.
pub const FLOWS_PER_S_MAX: u32 = 1_000;

/// What is asked of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub node_id: String,
    /// From now on; zero: it ends now.
    pub duration: Duration,
    /// At most.
    pub flows_per_s: u32,
}

/// What a node is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub flows_per_s: u32,
    pub ends: Instant,
}

/// What all nodes are told, as this server has read it last.
#[derive(Debug, Default)]
pub struct Recordings(RwLock<HashMap<String, Told>>);

impl Recordings {
    /// In the place of what was known.
    pub fn learn(&self, told: HashMap<String, Told>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// What a node is told now, if it is anything.
    #[must_use]
    pub fn of(&self, node_id: &str, now: Instant) -> Option<v1::RecordingWanted> {
        let Told { flows_per_s, ends } = *self.0.read().unwrap_or_else(PoisonError::into_inner).get(node_id)?;
        let left_ms = u64::try_from(ends.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX);
        (left_ms > 0).then_some(v1::RecordingWanted { flows_per_s, left_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_what_is_left() {
        let (recordings, now) = (Recordings::default(), Instant::now());
        assert_eq!(recordings.of("a", now), None);
        recordings.learn([("a".to_owned(), Told { flows_per_s: 9, ends: now + Duration::from_secs(60) })].into());
        let at = |s| recordings.of("a", now + Duration::from_secs(s));
        assert_eq!(at(15), Some(v1::RecordingWanted { flows_per_s: 9, left_ms: 45_000 }));
        assert_eq!((at(60), at(99), recordings.of("b", now)), (None, None, None));
        recordings.learn(HashMap::new());
        assert_eq!(at(15), None);
    }
}
