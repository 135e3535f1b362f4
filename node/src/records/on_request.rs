//! Flows recorded one by one because somebody asked for it: each that ends, up to a rate and until an end. Pure: time is in the records.

use sockpilot_proto::v1;

/// Flows that wait for the next report; a server takes no more in one.
pub const RECORDED_MAX: usize = 4_096;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Flows that end in a second, at most.
    pub flows_per_s: u32,
    /// By the monotonic clock.
    pub until_ns: u64,
}

/// What was recorded since the last time.
#[derive(Debug, Default, PartialEq)]
pub struct Taken {
    /// The flows.
    pub flows: Vec<v1::FlowSample>,
    /// How many there were beside them, above the rate or the room.
    pub left_out: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct OnRequest {
    wanted: Option<Wanted>,
    /// The newest second in which a flow has ended, and how many of it were taken.
    second: (u64, u32),
    taken: Taken,
}

impl OnRequest {
    /// In the place of what was asked for before.
    pub fn ask(&mut self, wanted: Option<Wanted>) {
        self.wanted = wanted;
    }

    /// Whether anything is asked for now.
    #[must_use]
    pub fn asks(&self, now_ns: u64) -> bool {
        self.wanted.is_some_and(|wanted| now_ns < wanted.until_ns)
    }

    /// Offers a flow that has ended, which is made into a sample only if it is taken. Whether it was.
    pub fn offer(&mut self, end_ns: u64, sample: impl FnOnce() -> v1::FlowSample) -> bool {
        let Some(Wanted { flows_per_s, .. }) = self.wanted.filter(|wanted| end_ns < wanted.until_ns) else {
            return false;
        };
        let second = end_ns / 1_000_000_000;
        if second > self.second.0 {
            self.second = (second, 0);
        }
        if self.second.1 >= flows_per_s || self.taken.flows.len() >= RECORDED_MAX {
            self.taken.left_out += 1;
            return false;
        }
        self.second.1 += 1;
        self.taken.flows.push(sample());
        true
    }

    /// Takes what was recorded, and begins anew.
    pub fn take(&mut self) -> Taken {
        std::mem::take(&mut self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn flow() -> v1::FlowSample {
        v1::FlowSample::default()
    }

    #[test]
    fn takes_what_is_asked_for_until_its_end() {
        let mut recorded = OnRequest::default();
        assert!(!recorded.offer(S, || panic!("nobody asks")));
        recorded.ask(Some(Wanted { flows_per_s: 3, until_ns: 9 * S }));
        assert!(recorded.asks(9 * S - 1) && !recorded.asks(9 * S));
        let taken = (0..5).filter(|at| recorded.offer(7 * S + at, flow)).count();
        assert_eq!(taken, 3, "in one second");
        assert!(recorded.offer(8 * S, flow) && !recorded.offer(9 * S, || panic!("over")));
        assert!(recorded.offer(7 * S, flow), "a record that comes late is of the newest second");
        assert_eq!(recorded.take(), Taken { flows: vec![flow(); 5], left_out: 2 });
        assert_eq!(recorded.take(), Taken::default());
        recorded.ask(None);
        assert!(!recorded.asks(0) && !recorded.offer(8 * S, || panic!("it was ended")));
    }

    #[test]
    fn has_a_bound() {
        let mut recorded = OnRequest::default();
        recorded.ask(Some(Wanted { flows_per_s: 1_000, until_ns: u64::MAX }));
        let taken = (0..10_000).filter(|at| recorded.offer(at * S / 1_000, flow)).count();
        assert_eq!(taken, RECORDED_MAX);
        assert_eq!(recorded.take().left_out, 10_000 - RECORDED_MAX as u64);
        assert!(recorded.offer(10 * S, flow), "there is room again");
    }
}
