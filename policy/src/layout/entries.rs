//! What tests and the daemon ask the kernel program besides connections.

#[cfg(doc)]
use super::{Attachment, ChoiceEntry};
use super::{FlowKey, Name};

/// Input of the test entry of the kernel program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct ProbeInput {
    /// The flow to decide.
    pub flow: FlowKey,
    /// As [`Attachment::service`], for the slot in force.
    pub service: u32,
    /// How long the handshake took; 0: not known.
    pub handshake_rtt_us: u32,
}

/// Values that one run of the trial program can try. A power of two.
pub const TRIALS_MAX: usize = 128;

/// A value to be set on a socket of the daemon's own, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TrialEntry {
    /// The parameter's slot.
    pub slot: u32,
    /// As in [`ChoiceEntry`], if it is no name.
    pub value: u32,
    /// The error number with which the kernel did not set it; 0: it did.
    pub set_errno: u32,
    /// The error number with which the kernel did not give it back; 0: it did.
    pub read_errno: u32,
    /// What the kernel gave back, if it is no name.
    pub read: u32,
    /// The value, if it is a name.
    pub name: Name,
    /// What the kernel gave back, if it is a name.
    pub name_read: Name,
}

/// What the trial program is to try on which socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct TrialRun {
    /// The socket's cookie.
    pub cookie: u64,
    /// Entries in use.
    pub count: u32,
    /// Entries that were tried: 0 if the program has not met the socket.
    pub done: u32,
    /// One after the other.
    pub entries: [TrialEntry; TRIALS_MAX],
}
