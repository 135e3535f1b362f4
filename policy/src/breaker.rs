//! The circuit breaker: whether more connections of a canary end badly than of its control can be chance.
//!
//! Canary and control are equally large shares of the same connections, by a hash. If the change does no harm, a connection that ends badly
//! is therefore in either with probability 1/2, whatever the network does to both. Against that stand three alternatives, in
//! which the canary's connections end badly 1.5, 3 and 10 times as often, so with q = 3/5, 3/4 and 10/11 of the bad ends in the canary. The
//! logarithm of the likelihood ratio grows by ln(q / (1/2)) with a bad end in the canary and by ln((1 - q) / (1/2)) with one in
//! the control. Its exponential is a martingale that begins at 1, so it ever reaches 3/α with probability α/3 at most (Ville's
//! inequality), and one of the three with α at most, however long one looks.
//!
//! Each is a sum of two constants, and so follows from two counts. Rounded down, it is a supermartingale, and the bound holds all the
//! more.

/// In 1/1024 nat: what a bad end in the canary adds, and what one in the control takes away, by alternative.
pub const STEPS: [(u64, u64); 3] = [(186, 229), (415, 710), (612, 1746)];

/// Units of a nat.
pub const NAT: u32 = 1024;

/// More timeouts than this are a bad end.
pub const RTOS_MAX: u32 = 3;

/// Whether so many bad ends in canary and control are enough to end the canary. With a threshold of 0 none are.
#[inline(always)]
#[must_use]
pub fn trips(canary: u64, control: u64, threshold: u32) -> bool {
    let mut trips = false;
    let mut at = 0;
    while at < STEPS.len() {
        let (up, down) = STEPS[at];
        // Beyond 2^53 bad ends this would overflow.
        trips |= canary.wrapping_mul(up) >= control.wrapping_mul(down).wrapping_add(threshold as u64);
        at += 1;
    }
    trips && threshold > 0
}

/// The threshold for a probability of false trips, in millionths; 0: the breaker is not to act.
#[cfg(feature = "std")]
#[must_use]
pub fn threshold(ppm: u32) -> u32 {
    if ppm == 0 {
        return 0;
    }
    ((3e6 / f64::from(ppm)).ln() * f64::from(NAT)).ceil().max(1.0) as u32
}

/// How a connection ended, as far as the kernel says it.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Whether it was established.
    pub established: bool,
    /// The state before CLOSE, as in the kernel's `TCP_*`.
    pub old_state: u32,
    /// `sk_err`.
    pub error: u32,
    /// All segments sent.
    pub segments_out: u32,
    /// Expired retransmission timers.
    pub rtos: u32,
}

const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE_WAIT: u32 = 8;
const EPIPE: u32 = 32;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const EHOSTDOWN: u32 = 112;
const EHOSTUNREACH: u32 = 113;

impl End {
    /// It was never established, and the program did not give it up itself: that leaves no error. Neither does a SYN that could not
    /// be sent, but then nothing was.
    #[inline(always)]
    #[must_use]
    pub fn failed(&self) -> bool {
        !self.established && (self.error != 0 || self.segments_out == 0)
    }

    /// It was established, and given up by a timeout. The error then is the last word of the network, if there was one.
    #[inline(always)]
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.established && matches!(self.error, ETIMEDOUT | EHOSTUNREACH | ENETUNREACH | EHOSTDOWN)
    }

    /// It was established, and ended by a reset of either end. Who goes with data unread, or does not want to linger, sends one
    /// instead of the FIN, and has no error.
    #[inline(always)]
    #[must_use]
    pub fn reset(&self) -> bool {
        let aborted = matches!(self.old_state, TCP_ESTABLISHED | TCP_CLOSE_WAIT) && !self.timed_out();
        self.established && (matches!(self.error, ECONNRESET | EPIPE | ECONNABORTED) || aborted)
    }

    /// Whether the breaker counts it.
    #[inline(always)]
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.failed() || self.timed_out() || self.reset() || self.rtos > RTOS_MAX
    }
}
