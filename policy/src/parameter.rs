//! The one table of connection parameters.
//!
//! Everything about a parameter follows from its entry in [`PARAMETERS`]: the field of the wire message, its
//! validation, the conversion to what a kernel wants, the place in the connection's life where the kernel program sets it,
//! and the reference page. To add one, add one entry at the end (positions and field numbers are never reused).

/// A connection parameter. Its position in [`PARAMETERS`] is its slot in the kernel tables.
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
    /// What it does, for the reference.
    pub summary: &'static str,
    /// What the kernel makes of it, silently or not, for the reference.
    pub kernel_note: &'static str,
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
    /// Bytes, which the kernel cuts to `net.core.wmem_max` and doubles.
    SendBuffer,
    /// Bytes, which the kernel cuts to `net.core.rmem_max` and doubles.
    ReceiveBuffer,
    /// The name of a congestion control that the node must have.
    CongestionControl,
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
        /// Where in the connection's life: a union of [`Phase`] bits.
        phases: u8,
    },
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
}

const CONNECT: u8 = Phase::Connect as u8;
const ESTABLISHED: u8 = Phase::ActiveEstablished as u8 | Phase::PassiveEstablished as u8;
const PASSIVE: u8 = Phase::PassiveEstablished as u8;

const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const TCP_CONGESTION: i32 = 13;
const TCP_BPF_IW: i32 = 1001;
const TCP_BPF_SNDCWND_CLAMP: i32 = 1002;

/// All parameters.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "syn_rto_ms",
        number: 1,
        kind: Kind::Number { unit: "milliseconds", min: 1, max: 120_000 },
        encoding: Encoding::Ticks,
        action: Action::Reply(Question::SynTimeout),
        summary: "Time until an unanswered SYN is sent again; doubles with every further SYN.",
        kernel_note: "Kept in timer ticks: rounded up to 1000/HZ ms. The kernel's default is 1,000 ms.",
    },
    Parameter {
        name: "synack_rto_ms",
        number: 2,
        kind: Kind::Number { unit: "milliseconds", min: 1, max: 120_000 },
        encoding: Encoding::Ticks,
        action: Action::Reply(Question::SynAckTimeout),
        summary: "Time until an unanswered SYN-ACK is sent again; doubles with every further SYN-ACK.",
        kernel_note: "Kept in timer ticks: rounded up to 1000/HZ ms. The kernel's default is 1,000 ms.",
    },
    Parameter {
        name: "initial_receive_window_packets",
        number: 3,
        kind: Kind::Number { unit: "packets", min: 1, max: 65_535 },
        encoding: Encoding::Plain,
        action: Action::Reply(Question::ReceiveWindow),
        summary: "Receive window offered in the handshake.",
        kernel_note: "In packets of the MSS. The offer is also bounded by the receive buffer and net.ipv4.tcp_rmem.",
    },
    Parameter {
        name: "initial_cwnd_packets",
        number: 4,
        kind: Kind::Number { unit: "packets", min: 1, max: 65_535 },
        encoding: Encoding::Plain,
        action: Action::Option { level: SOL_TCP, name: TCP_BPF_IW, phases: ESTABLISHED },
        summary: "Congestion window with which sending begins.",
        kernel_note: "Taken only before data was sent. The kernel's default is 10.",
    },
    Parameter {
        name: "cwnd_clamp_packets",
        number: 5,
        kind: Kind::Number { unit: "packets", min: 1, max: 1_000_000 },
        encoding: Encoding::Plain,
        action: Action::Option { level: SOL_TCP, name: TCP_BPF_SNDCWND_CLAMP, phases: ESTABLISHED },
        summary: "Upper bound of the congestion window.",
        kernel_note: "Sets the slow-start threshold to the same value too.",
    },
    Parameter {
        name: "send_buffer_bytes",
        number: 6,
        kind: Kind::Number { unit: "bytes", min: 4_096, max: 1_073_741_823 },
        encoding: Encoding::SendBuffer,
        action: Action::Option { level: SOL_SOCKET, name: SO_SNDBUF, phases: CONNECT | PASSIVE },
        summary: "Send buffer.",
        kernel_note: "Cut to net.core.wmem_max, then doubled; turns automatic tuning of the send buffer off.",
    },
    Parameter {
        name: "receive_buffer_bytes",
        number: 7,
        kind: Kind::Number { unit: "bytes", min: 4_096, max: 1_073_741_823 },
        encoding: Encoding::ReceiveBuffer,
        action: Action::Option { level: SOL_SOCKET, name: SO_RCVBUF, phases: CONNECT | PASSIVE },
        summary: "Receive buffer.",
        kernel_note: "Cut to net.core.rmem_max, then doubled; turns automatic tuning of the receive buffer off.",
    },
    Parameter {
        name: "congestion_control",
        number: 8,
        kind: Kind::Name,
        encoding: Encoding::CongestionControl,
        action: Action::Option { level: SOL_TCP, name: TCP_CONGESTION, phases: ESTABLISHED },
        summary: "Congestion control, by the kernel's name: cubic, reno, bbr …",
        kernel_note: "Must be among net.ipv4.tcp_available_congestion_control of the node.",
    },
    Parameter {
        name: "ecn",
        number: 9,
        kind: Kind::On,
        encoding: Encoding::Plain,
        action: Action::Reply(Question::Ecn),
        summary: "Offers (active) or accepts (passive) explicit congestion notification, whatever net.ipv4.tcp_ecn says.",
        kernel_note: "Can be turned on only.",
    },
];

/// The options to set in a phase, as a mask over the slots.
#[must_use]
pub const fn phase_mask(phase: Phase) -> u64 {
    let mut mask = 0;
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::Option { phases, .. } = PARAMETERS[slot].action
            && phases & phase as u8 != 0
        {
            mask |= 1 << slot;
        }
        slot += 1;
    }
    mask
}

/// The slot of the parameter that answers a question.
///
/// # Panics
/// When compiling, if no parameter does.
#[must_use]
pub const fn reply_slot(question: Question) -> usize {
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::Reply(asked) = PARAMETERS[slot].action
            && asked as u8 == question as u8
        {
            return slot;
        }
        slot += 1;
    }
    panic!("no parameter answers this question")
}

/// The parameters that are decided while a passive connection is but a request, as a mask over the slots.
pub const REQUEST_MASK: u64 = 1 << reply_slot(Question::SynAckTimeout)
    | 1 << reply_slot(Question::ReceiveWindow)
    | 1 << reply_slot(Question::Ecn);

/// The slot of a parameter by its field name.
#[must_use]
pub fn slot_by_name(name: &str) -> Option<usize> {
    PARAMETERS.iter().position(|parameter| parameter.name == name)
}
