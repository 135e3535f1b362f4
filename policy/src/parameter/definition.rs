//! What there is to say of a parameter.

use super::sysctl::Sysctl;

/// A connection parameter. Its position in [`PARAMETERS`](super::PARAMETERS) is its slot in the kernel tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Field name in `sockpilot.v1.Parameters`, in YAML and JSON; ends in its unit.
    pub name: &'static str,
    /// Field number in `sockpilot.v1.Parameters`.
    pub number: u32,
    /// What a value is, and its range.
    pub kind: Kind,
    /// How a value becomes what the kernel wants.
    pub encoding: Encoding,
    /// How the kernel program sets it.
    pub action: Action,
    /// The kernel release that has it first, as (major, minor).
    pub since: (u32, u32),
    /// What it does, for the reference.
    pub summary: &'static str,
    /// What the kernel makes of it, silently or not, for the reference.
    pub kernel_note: &'static str,
    /// The settings of the connection's network namespace that take part.
    pub sysctls: &'static [Sysctl],
    /// Times that follow from it, from other parameters and from those settings.
    pub times: &'static [Times],
    /// What has been decided already when it is set.
    pub too_late: TooLate,
}

/// What has been decided already when a parameter is set, at either end; empty if nothing that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLate {
    /// At a connecting end.
    pub active: &'static str,
    /// At an accepting end.
    pub passive: &'static str,
}

/// Times that follow from several values together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// When an unanswered SYN is sent again, and given up.
    Syn,
    /// When an unanswered SYN-ACK is sent again, and given up.
    SynAck,
    /// When an established connection whose data is not acknowledged is given up.
    Unacknowledged,
    /// When an idle connection whose probes are not answered is given up.
    Idle,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number in a range, both ends included.
    Number {
        /// Unit as written in the reference.
        unit: &'static str,
        /// Smallest value.
        min: u32,
        /// Greatest value.
        max: u32,
    },
    /// Can only be turned on: the field is a boolean that must be `true`.
    On,
    /// Can be turned on and off.
    Switch,
    /// A name of at most 15 characters.
    Name,
}

/// How a value becomes what the kernel wants, and what the kernel makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Plain,
    /// Milliseconds to timer ticks, rounded up.
    Ticks,
    /// Milliseconds, which the kernel rounds up to timer ticks.
    Milliseconds,
    /// Milliseconds, told in microseconds; the kernel rounds up to timer ticks and takes no less than two.
    TwoTicks,
    /// A code point of six bits, which stands above the two bits of ECN.
    CodePoint,
    /// Bytes, which the kernel cuts to `net.core.wmem_max` and doubles.
    SendBuffer,
    /// Bytes, which the kernel cuts to `net.core.rmem_max` and doubles.
    ReceiveBuffer,
    /// The name of a congestion control that the node must have.
    CongestionControl,
    /// As it is, on nodes that have the congestion control `nv`.
    AskedByNv,
}

/// How the kernel program sets a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// As the reply to an op that asks for it.
    Reply(Question),
    /// By `bpf_setsockopt` in the given phases.
    Option {
        /// Level, as `SOL_TCP`.
        level: i32,
        /// Name, as `TCP_CONGESTION`.
        name: i32,
        /// Level and name on IPv6 sockets, where they are others.
        ipv6: Option<(i32, i32)>,
        /// The value that is as good as none, for a kernel that does not tell what was there before, or tells a 0 that
        /// cannot be set again. 0: what was there can be restored.
        none: u32,
        /// Where in the connection's life: a union of [`Phase`] bits.
        phases: u8,
    },
    /// At the accepting end, from the SYN's own field (see `ebpf/src/reflect.rs`).
    ReflectTrafficClass,
}

/// An op whose reply is a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `BPF_SOCK_OPS_TIMEOUT_INIT` of a connecting socket.
    SynTimeout,
    /// `BPF_SOCK_OPS_TIMEOUT_INIT` of a connection request.
    SynAckTimeout,
    /// `BPF_SOCK_OPS_RWND_INIT`.
    ReceiveWindow,
    /// `BPF_SOCK_OPS_NEEDS_ECN`.
    Ecn,
    /// `BPF_SOCK_OPS_BASE_RTT`, which the congestion control `nv` asks.
    BaseRtt,
}

/// The moments at which options are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// `TCP_CONNECT_CB`: before the SYN goes out.
    Connect = 1,
    /// `ACTIVE_ESTABLISHED_CB`: the SYN-ACK has come.
    ActiveEstablished = 2,
    /// `PASSIVE_ESTABLISHED_CB`: the handshake's last ACK has come.
    PassiveEstablished = 4,
    /// While the connection is open, if its rule asks for that. Such an option can also be read and restored.
    Live = 8,
}
