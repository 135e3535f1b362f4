//! When the kernel sends again what is not answered, and when it gives up: `net/ipv4/tcp_timer.c` and
//! `inet_connection_sock.c` in numbers. All times are timer ticks from the first transmission; a timer may fire a tick or two
//! late, which adds up.

/// `TCP_RTO_MIN` is a fifth of a second, whatever the socket's own lower bound is.
const RTO_MINS_PER_S: u64 = 5;

/// What an unanswered SYN meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// Until the first retransmission.
    pub rto_ticks: u64,
    /// `TCP_SYNCNT` or `net.ipv4.tcp_syn_retries`.
    pub retries: u64,
    /// `net.ipv4.tcp_syn_linear_timeouts`; 0 before Linux 6.5.
    pub linear_timeouts: u64,
    /// `TCP_RTO_MAX_MS`, `net.ipv4.tcp_rto_max_ms`, or two minutes before Linux 6.15.
    pub rto_max_ticks: u64,
    /// `TCP_USER_TIMEOUT`, if there is one.
    pub user_timeout_ticks: Option<u64>,
}

/// What an unanswered SYN-ACK meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynAck {
    /// Until the first retransmission.
    pub rto_ticks: u64,
    /// `TCP_SYNCNT` of the listening socket or `net.ipv4.tcp_synack_retries`.
    pub retries: u64,
    /// Two minutes: no setting bounds it.
    pub rto_max_ticks: u64,
}

/// When something is sent again, and given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Retransmissions.
    pub again_ticks: Vec<u64>,
    /// The end.
    pub given_up_ticks: u64,
}

impl Syn {
    /// The retransmissions of the SYN, and when connect() fails.
    ///
    /// Attempts are counted, and the time is measured too: against the user timeout, or against what `retries` doublings would
    /// have taken. So the linear timeouts, which `retries` does not count, can still end it earlier.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let Self { rto_ticks, retries, linear_timeouts, rto_max_ticks, user_timeout_ticks } = *self;
        let limit_ticks =
            user_timeout_ticks.unwrap_or_else(|| doublings_ticks(retries, rto_ticks, rto_max_ticks)).max(1);
        let (mut again_ticks, mut rto_ticks) = (vec![], rto_ticks);
        let mut now_ticks = rto_ticks.min(rto_max_ticks).max(1);
        loop {
            let sent = again_ticks.len() as u64;
            if sent >= retries + linear_timeouts || (sent > 0 && now_ticks >= limit_ticks) {
                return Schedule { again_ticks, given_up_ticks: now_ticks };
            }
            again_ticks.push(now_ticks);
            if sent + 1 > linear_timeouts {
                rto_ticks = (rto_ticks * 2).min(rto_max_ticks);
            }
            let left_ticks = user_timeout_ticks.map_or(u64::MAX, |timeout| timeout.saturating_sub(now_ticks));
            now_ticks += rto_ticks.min(rto_max_ticks).min(left_ticks).max(1);
        }
    }
}

impl SynAck {
    /// The retransmissions of the SYN-ACK, and when the request is dropped.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let Self { rto_ticks, retries, rto_max_ticks } = *self;
        let (mut again_ticks, mut rto_ticks) = (vec![], rto_ticks);
        let mut now_ticks = rto_ticks.min(rto_max_ticks).max(1);
        while (again_ticks.len() as u64) < retries {
            again_ticks.push(now_ticks);
            rto_ticks = (rto_ticks * 2).min(rto_max_ticks);
            now_ticks += rto_ticks.max(1);
        }
        Schedule { again_ticks, given_up_ticks: now_ticks }
    }
}

/// How long data may go unacknowledged, from its first retransmission on, before an established connection is given up where
/// no user timeout says so: `net.ipv4.tcp_retries2` is no count but stands for the time that so many doublings take.
#[must_use]
pub fn unacknowledged_ticks(retries2: u64, rto_max_ticks: u64, hz: u32) -> u64 {
    doublings_ticks(retries2, (u64::from(hz) / RTO_MINS_PER_S).max(1), rto_max_ticks)
}

/// How long an idle connection whose probes are not answered lasts, from the last packet that came.
#[must_use]
pub fn idle_s(idle_s: u64, interval_s: u64, probes: u64, user_timeout_ms: Option<u64>) -> u64 {
    let probes = match user_timeout_ms {
        // Looked at whenever a probe is due, once one was sent.
        Some(timeout_ms) => timeout_ms.div_ceil(1000).saturating_sub(idle_s).div_ceil(interval_s.max(1)).max(1),
        None => probes.max(1),
    };
    idle_s + interval_s * probes
}

/// `tcp_model_timeout()`: how long a first transmission and `retries` more take, each wait twice the last, up to the greatest.
fn doublings_ticks(retries: u64, rto_ticks: u64, rto_max_ticks: u64) -> u64 {
    let rto_ticks = rto_ticks.max(1);
    // The kernel's logarithm of 0 is -1, without a sign.
    let bounded_from = (rto_max_ticks / rto_ticks).checked_ilog2().map_or(retries, u64::from);
    let doublings = retries.min(bounded_from).min(40);
    ((2_u64 << doublings) - 1).saturating_mul(rto_ticks) + retries.saturating_sub(bounded_from) * rto_max_ticks
}
