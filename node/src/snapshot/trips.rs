//! Canaries that the circuit breaker has ended on this node: on disk, so that the machine does not begin with one of them again.

use std::{fs, fs::File, io, path::PathBuf};

use prost::Message;
use prost_types::Timestamp;
use sockpilot_policy::compile::BreakerOf;
use sockpilot_proto::v1;

use crate::{
    disk::{
        StateDir,
        file::{file_at, write_beside},
    },
    kernel::Counted,
};

/// See the [module](self).
#[derive(Debug)]
pub struct Trips {
    path: PathBuf,
    known: Vec<v1::BreakerTrip>,
    /// The file that has them; `None`: none has.
    written: Option<(u64, u64)>,
}

/// The file.
#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(message, repeated, tag = "1")]
    trips: Vec<v1::BreakerTrip>,
}

impl Trips {
    /// Those of a state directory.
    #[must_use]
    pub fn of(state: &StateDir) -> Self {
        let path = state.path().join("trips");
        let kept = fs::read(&path).ok().and_then(|bytes| Kept::decode(bytes.as_slice()).ok());
        let written = kept.as_ref().and_then(|_| file_at(&path));
        Self { path, known: kept.unwrap_or_default().trips, written }
    }

    /// All that are known.
    #[must_use]
    pub fn known(&self) -> &[v1::BreakerTrip] {
        &self.known
    }

    /// Notes what the kernel says. Returns what was not known.
    pub fn note(&mut self, breakers: Vec<Counted>) -> Vec<v1::BreakerTrip> {
        let tripped = breakers.into_iter().filter(|counted| counted.tripped);
        let news = tripped.filter(|trip| !self.known.iter().any(|known| is_of(known, &trip.of)));
        let news: Vec<_> = news.map(to_proto).collect();
        if !news.is_empty() {
            self.known.extend(news.iter().cloned());
            self.written = None;
        }
        news
    }

    /// Forgets all but those of these breakers.
    pub fn keep(&mut self, breakers: &[BreakerOf]) {
        let before = self.known.len();
        self.known.retain(|trip| breakers.iter().any(|of| is_of(trip, of)));
        if self.known.len() != before {
            self.written = None;
        }
    }

    /// Brings them to disk, if they are not there or not there any more. They survive the machine.
    ///
    /// # Errors
    /// If they cannot be written; to be tried again.
    pub fn settle(&mut self) -> io::Result<()> {
        let there = file_at(&self.path);
        if (self.known.is_empty() && there.is_none()) || (self.written.is_some() && self.written == there) {
            return Ok(());
        }
        write_beside(&self.path, &Kept { trips: self.known.clone() }.encode_to_vec())?;
        File::open(&self.path)?.sync_all()?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.written = file_at(&self.path);
        Ok(())
    }
}

fn is_of(trip: &v1::BreakerTrip, of: &BreakerOf) -> bool {
    trip.rollout == of.rollout && trip.revision == of.revision
}

fn to_proto(trip: Counted) -> v1::BreakerTrip {
    let Counted { of, canary_bad_ends, control_bad_ends, tripped: _, trip_ns } = trip;
    let BreakerOf { layer, rollout, revision, share_bp: _, threshold: _ } = of;
    let time = |ns: u64| Timestamp { seconds: (ns / 1_000_000_000).cast_signed(), nanos: (ns % 1_000_000_000) as i32 };
    let trip_time = trip_ns.map(time);
    v1::BreakerTrip { layer: layer.to_string(), revision, rollout, canary_bad_ends, control_bad_ends, trip_time }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rollout: &str, revision: u64) -> BreakerOf {
        let layer = "policies/web".parse().expect("a name");
        BreakerOf { layer, rollout: rollout.to_owned(), revision, share_bp: 100, threshold: 8_000 }
    }

    #[test]
    fn survive_the_daemon_until_their_canary_goes() {
        let home = tempfile::tempdir().expect("a directory");
        let pins = home.path().join("pins");
        let state = StateDir::open(&home.path().join("state"), &pins).expect("free");
        let mut trips = Trips::of(&state);
        trips.settle().expect("nothing to write");
        assert!(!state.path().join("trips").exists());
        let (trip_ns, tripped) = (Some(2_000_000_005), true);
        let trip = Counted { of: of("rollouts/a", 7), canary_bad_ends: 20, control_bad_ends: 1, tripped, trip_ns };
        assert_eq!(trips.note(vec![Counted { tripped: false, ..trip.clone() }]), []);
        let [told] = &trips.note(vec![trip.clone()])[..] else { panic!("one") };
        assert_eq!(told.trip_time.map(|time| (time.seconds, time.nanos)), Some((2, 5)));
        assert_eq!(trips.note(vec![trip]), [], "it is known");
        trips.settle().expect("written");
        let mut again = Trips::of(&state);
        assert_eq!(again.known(), trips.known());
        again.keep(&[of("rollouts/a", 7), of("rollouts/b", 7)]);
        assert_eq!(again.known().len(), 1);
        again.keep(&[of("rollouts/a", 8)]);
        again.settle().expect("written");
        assert_eq!(Trips::of(&state).known(), []);
    }
}
