//! A flow record, understood.

use sockpilot_policy::{
    breaker::End,
    layout::{FlowRecord, PASSIVE},
    model::Direction,
};

use crate::SizeClass;

/// What came of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Closed after having been established, in order.
    Established,
    /// Never established: refused, unreachable, or given up by the kernel.
    Failed,
    /// Established, then ended by a reset of either end.
    Reset,
    /// Established, then given up by a timeout.
    TimedOut,
    /// Not at its end yet.
    StillOpen,
    /// Closed by the program itself before it was established.
    Abandoned,
}

/// A record, understood: every quantity is there exactly if the flow has one.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// As the kernel wrote it.
    pub record: &'a FlowRecord,
    /// What came of it.
    pub outcome: Outcome,
    /// Who opened it.
    pub direction: Direction,
    /// How much it sent.
    pub size_class: SizeClass,
    /// Of active flows only: the record of a passive one begins when it is established.
    pub connect_time_us: Option<u64>,
    /// Of established flows.
    pub duration_us: Option<u64>,
}

impl<'a> Flow<'a> {
    /// Understands a record.
    #[must_use]
    pub fn of(record: &'a FlowRecord) -> Self {
        let direction = if record.flow.direction == PASSIVE { Direction::Passive } else { Direction::Active };
        let established = record.established_ns > 0;
        let since_start = |end_ns: u64| end_ns.saturating_sub(record.start_ns) / 1_000;
        Self {
            record,
            outcome: outcome(record),
            direction,
            size_class: SizeClass::of(record.bytes_sent),
            connect_time_us: (established && direction == Direction::Active)
                .then(|| since_start(record.established_ns)),
            duration_us: established.then(|| since_start(record.end_ns)),
        }
    }

    /// Whether the connection has ended: only then it counts as a flow.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.outcome != Outcome::StillOpen
    }

    /// How it ended; of a flow that is still open only what can be said by now: how many timers have expired.
    #[must_use]
    pub fn end(&self) -> End {
        let end = end(self.record);
        if self.ended() { end } else { End { established: true, old_state: 0, error: 0, ..end } }
    }

    /// What the kernel measured, if it did: of established flows, and 0 is no measurement.
    pub(crate) fn measured(&self, value: u32) -> Option<u64> {
        (self.record.established_ns > 0 && value > 0).then_some(u64::from(value))
    }
}

fn outcome(record: &FlowRecord) -> Outcome {
    let end = end(record);
    if record.still_open != 0 {
        Outcome::StillOpen
    } else if end.failed() {
        Outcome::Failed
    } else if !end.established {
        Outcome::Abandoned
    } else if end.timed_out() {
        Outcome::TimedOut
    } else if end.reset() {
        Outcome::Reset
    } else {
        Outcome::Established
    }
}

/// As the circuit breaker sees it in the kernel program.
fn end(record: &FlowRecord) -> End {
    End {
        established: record.established_ns > 0,
        old_state: record.old_state,
        error: record.error,
        segments_out: record.segments_out,
        // The kernel counts them in 16 bits.
        rtos: record.rtos & 0xffff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record;

    #[test]
    fn outcome_follows_from_the_handshake_and_the_error() {
        let with = |established_ns, error: i32| FlowRecord { established_ns, error: error as u32, ..record() };
        let cases = [
            (0, 0, Outcome::Abandoned),
            (0, libc::ECONNREFUSED, Outcome::Failed),
            (0, libc::ETIMEDOUT, Outcome::Failed),
            (0, libc::ECONNRESET, Outcome::Failed),
            (1, 0, Outcome::Established),
            (1, libc::ECONNRESET, Outcome::Reset),
            (1, libc::EPIPE, Outcome::Reset),
            (1, libc::ETIMEDOUT, Outcome::TimedOut),
            (1, i32::MAX, Outcome::Established),
        ];
        for (established_ns, error, expected) in cases {
            assert_eq!(Flow::of(&with(established_ns, error)).outcome, expected, "{established_ns} {error}");
        }
        let unsent = FlowRecord { segments_out: 0, ..with(0, 0) };
        assert_eq!(Flow::of(&unsent).outcome, Outcome::Failed, "no SYN was sent");
    }

    #[test]
    fn who_ends_without_a_fin_resets() {
        let with = |old_state| Flow::of(&FlowRecord { old_state, ..record() }).outcome;
        assert_eq!([1, 8].map(with), [Outcome::Reset; 2]);
        // And not one that ends in FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING.
        assert_eq!([4, 5, 9, 11].map(with), [Outcome::Established; 4]);
    }

    #[test]
    fn size_is_what_was_sent() {
        let sent_little = FlowRecord { bytes_sent: 1, bytes_received: 1 << 40, ..record() };
        assert_eq!(Flow::of(&sent_little).size_class, SizeClass::Small);
    }
}
