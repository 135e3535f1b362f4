//! The table of parameters. To add one, add one entry at the end (positions and field numbers are never reused).

use super::{
    definition::{Action, Encoding, Kind, Parameter, Phase, Question, Times, TooLate},
    sysctl,
};

const IN_TIME: TooLate = TooLate { active: "", passive: "" };

const CONNECT: u8 = Phase::Connect as u8;
const ESTABLISHED: u8 = Phase::ActiveEstablished as u8 | Phase::PassiveEstablished as u8;
const PASSIVE: u8 = Phase::PassiveEstablished as u8;
const LIVE: u8 = Phase::Live as u8;

const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
pub(super) const SOL_TCP: i32 = 6;
const SOL_IPV6: i32 = 41;

const IP_TOS: i32 = 1;
const IPV6_TCLASS: i32 = 67;

const SO_SNDBUF: i32 = 7;
const SO_RCVBUF: i32 = 8;
const SO_KEEPALIVE: i32 = 9;
const SO_PRIORITY: i32 = 12;
const SO_RCVLOWAT: i32 = 18;
const SO_MARK: i32 = 36;
const SO_MAX_PACING_RATE: i32 = 47;
const SO_TXREHASH: i32 = 74;

const TCP_NODELAY: i32 = 1;
const TCP_MAXSEG: i32 = 2;
pub(super) const TCP_KEEPIDLE: i32 = 4;
pub(super) const TCP_KEEPINTVL: i32 = 5;
pub(super) const TCP_KEEPCNT: i32 = 6;
pub(super) const TCP_SYNCNT: i32 = 7;
pub(super) const TCP_WINDOW_CLAMP: i32 = 10;
const TCP_CONGESTION: i32 = 13;
pub(super) const TCP_THIN_LINEAR_TIMEOUTS: i32 = 16;
pub(super) const TCP_USER_TIMEOUT: i32 = 18;
const TCP_NOTSENT_LOWAT: i32 = 25;
pub(super) const TCP_RTO_MAX_MS: i32 = 44;
/// Of bpf_setsockopt alone, which cannot be read back.
pub const TCP_BPF_IW: i32 = 1001;
/// As [`TCP_BPF_IW`].
pub const TCP_BPF_SNDCWND_CLAMP: i32 = 1002;
const TCP_BPF_DELACK_MAX: i32 = 1003;
const TCP_BPF_RTO_MIN: i32 = 1004;

/// Set by the same option on every socket.
const fn option(level: i32, name: i32, phases: u8) -> Action {
    Action::Option { level, name, ipv6: None, none: 0, phases }
}

/// An upper bound whose absence is no value that could be set.
const fn bound(level: i32, name: i32, phases: u8) -> Action {
    Action::Option { level, name, ipv6: None, none: i32::MAX as u32, phases }
}

const fn number(unit: &'static str, min: u32, max: u32) -> Kind {
    Kind::Number { unit, min, max }
}

/// All parameters.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "syn_rto_ms",
        number: 1,
        kind: number("milliseconds", 1, 120_000),
        encoding: Encoding::Ticks,
        action: Action::Reply(Question::SynTimeout),
        since: (4, 13),
        summary: "Time until an unanswered SYN is sent again; doubles with every further SYN, after `net.ipv4.tcp_syn_linear_timeouts` of them.",
        kernel_note: "Kept in timer ticks: rounded up to 1000/HZ ms. The kernel's default is 1,000 ms.",
        sysctls: sysctl::SYN,
        times: &[Times::Syn],
        too_late: IN_TIME,
    },
    Parameter {
        name: "synack_rto_ms",
        number: 2,
        kind: number("milliseconds", 1, 120_000),
        encoding: Encoding::Ticks,
        action: Action::Reply(Question::SynAckTimeout),
        since: (4, 13),
        summary: "Time until an unanswered SYN-ACK is sent again; doubles with every further SYN-ACK.",
        kernel_note: "Kept in timer ticks: rounded up to 1000/HZ ms. The kernel's default is 1,000 ms.",
        sysctls: sysctl::SYNACK,
        times: &[Times::SynAck],
        too_late: IN_TIME,
    },
    Parameter {
        name: "initial_receive_window_packets",
        number: 3,
        kind: number("packets", 1, 65_535),
        encoding: Encoding::Plain,
        action: Action::Reply(Question::ReceiveWindow),
        since: (4, 13),
        summary: "Receive window offered in the handshake.",
        kernel_note: "In packets of the MSS. Can only lower the offer, which is bounded by the receive buffer and by 65,535 bytes: windows are not scaled in the handshake.",
        sysctls: sysctl::INITIAL_RECEIVE_WINDOW,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "initial_cwnd_packets",
        number: 4,
        kind: number("packets", 1, 65_535),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_BPF_IW, ESTABLISHED),
        since: (4, 13),
        summary: "Congestion window with which sending begins.",
        kernel_note: "Taken only before data was sent. The kernel's default is 10.",
        sysctls: sysctl::INITIAL_CWND,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "cwnd_clamp_packets",
        number: 5,
        kind: number("packets", 1, 1_000_000),
        encoding: Encoding::Plain,
        action: bound(SOL_TCP, TCP_BPF_SNDCWND_CLAMP, ESTABLISHED | LIVE),
        since: (4, 13),
        summary: "Upper bound of the congestion window.",
        kernel_note: "Sets the slow-start threshold to the same value too; taken away from an open connection, it starts slowly again.",
        sysctls: sysctl::NONE,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "send_buffer_bytes",
        number: 6,
        kind: number("bytes", 4_096, 1_073_741_823),
        encoding: Encoding::SendBuffer,
        action: option(SOL_SOCKET, SO_SNDBUF, CONNECT | PASSIVE),
        since: (4, 13),
        summary: "Send buffer.",
        kernel_note: "Cut to net.core.wmem_max, then doubled; turns automatic tuning of the send buffer off.",
        sysctls: sysctl::SEND_BUFFER,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "receive_buffer_bytes",
        number: 7,
        kind: number("bytes", 4_096, 1_073_741_823),
        encoding: Encoding::ReceiveBuffer,
        action: option(SOL_SOCKET, SO_RCVBUF, CONNECT | PASSIVE),
        since: (4, 13),
        summary: "Receive buffer.",
        kernel_note: "Cut to net.core.rmem_max, then doubled; turns automatic tuning of the receive buffer off.",
        sysctls: sysctl::RECEIVE_BUFFER,
        times: &[],
        too_late: TooLate {
            active: "",
            passive: "The SYN-ACK has offered the window and the window scale of the listening socket.",
        },
    },
    Parameter {
        name: "congestion_control",
        number: 8,
        kind: Kind::Name,
        encoding: Encoding::CongestionControl,
        action: option(SOL_TCP, TCP_CONGESTION, ESTABLISHED | LIVE),
        since: (4, 13),
        summary: "Congestion control, by the kernel's name: cubic, reno, bbr …",
        kernel_note: "Must be among net.ipv4.tcp_available_congestion_control of the node.",
        sysctls: sysctl::CONGESTION_CONTROL,
        times: &[],
        too_late: TooLate {
            active: "The SYN goes out under the default one: a congestion control that needs ECN has it only if `ecn` is set too, or `net.ipv4.tcp_ecn` offers it.",
            passive: "The SYN-ACK has gone out under the listening socket's: a congestion control that needs ECN has it only if `ecn` is set too, or `net.ipv4.tcp_ecn` accepts it.",
        },
    },
    Parameter {
        name: "ecn",
        number: 9,
        kind: Kind::On,
        encoding: Encoding::Plain,
        action: Action::Reply(Question::Ecn),
        since: (4, 13),
        summary: "Offers (active) or accepts (passive) explicit congestion notification, whatever net.ipv4.tcp_ecn says.",
        kernel_note: "Can be turned on only. Agreed on where the other end accepts it too, by this parameter or its own settings.",
        sysctls: sysctl::ECN,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "min_rto_ms",
        number: 10,
        kind: number("milliseconds", 1, 200),
        encoding: Encoding::TwoTicks,
        action: option(SOL_TCP, TCP_BPF_RTO_MIN, CONNECT | ESTABLISHED | LIVE),
        since: (5, 10),
        summary: "Lower bound of the retransmission timeout.",
        kernel_note: "Kept in timer ticks, no less than two: at HZ 250 at least 8 ms. The kernel's default is 200 ms.",
        sysctls: sysctl::MIN_RTO,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "max_delayed_ack_ms",
        number: 11,
        kind: number("milliseconds", 1, 200),
        encoding: Encoding::TwoTicks,
        action: option(SOL_TCP, TCP_BPF_DELACK_MAX, CONNECT | ESTABLISHED | LIVE),
        since: (5, 10),
        summary: "Upper bound of the delay of an acknowledgement.",
        kernel_note: "Kept in timer ticks, no less than two: at HZ 250 at least 8 ms. The kernel's default is 200 ms.",
        sysctls: sysctl::MAX_DELAYED_ACK,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "max_rto_ms",
        number: 12,
        kind: number("milliseconds", 1_000, 120_000),
        encoding: Encoding::Milliseconds,
        action: option(SOL_TCP, TCP_RTO_MAX_MS, CONNECT | PASSIVE | LIVE),
        since: (6, 15),
        summary: "Upper bound of the retransmission timeout.",
        kernel_note: "Kept in timer ticks: rounded up to 1000/HZ ms. The kernel's default is net.ipv4.tcp_rto_max_ms, 120,000. Bounds the timeouts of the SYN too, not those of a SYN-ACK.",
        sysctls: sysctl::MAX_RTO,
        times: &[Times::Unacknowledged, Times::Syn],
        too_late: IN_TIME,
    },
    Parameter {
        name: "max_pacing_rate_bytes_per_s",
        number: 13,
        kind: number("bytes per second", 1_000, 4_294_967_294),
        encoding: Encoding::Plain,
        action: option(SOL_SOCKET, SO_MAX_PACING_RATE, CONNECT | PASSIVE | LIVE),
        since: (4, 13),
        summary: "Upper bound of the pacing rate.",
        kernel_note: "Turns pacing on if it was off, and it stays on.",
        sysctls: sysctl::MAX_PACING_RATE,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "mss_bytes",
        number: 14,
        kind: number("bytes", 88, 32_767),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_MAXSEG, CONNECT),
        since: (6, 1),
        summary: "Maximum segment size offered and used.",
        kernel_note: "Acts before the SYN only, so on connecting sockets. Cut to what the path's MTU allows.",
        sysctls: sysctl::MSS,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "window_clamp_bytes",
        number: 15,
        kind: number("bytes", 1_024, 1_073_741_823),
        encoding: Encoding::Plain,
        action: bound(SOL_TCP, TCP_WINDOW_CLAMP, CONNECT | ESTABLISHED | LIVE),
        since: (5, 8),
        summary: "Upper bound of the receive window that is offered.",
        kernel_note: "Raised to half of the least receive buffer if smaller.",
        sysctls: sysctl::WINDOW_CLAMP,
        times: &[],
        too_late: TooLate {
            active: "",
            passive: "The SYN-ACK has offered the window and the window scale of the listening socket.",
        },
    },
    Parameter {
        name: "user_timeout_ms",
        number: 16,
        kind: number("milliseconds", 1, 2_147_483_647),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_USER_TIMEOUT, CONNECT | PASSIVE | LIVE),
        since: (5, 8),
        summary: "Time that sent data may stay unacknowledged, or a SYN unanswered, before the connection is given up.",
        kernel_note: "Overrides the number of retransmissions, of SYNs too, and of keepalive probes; after the first retransmission only.",
        sysctls: sysctl::USER_TIMEOUT,
        times: &[Times::Syn, Times::Idle],
        too_late: TooLate {
            active: "",
            passive: "It does not end a handshake: a SYN-ACK is sent again `net.ipv4.tcp_synack_retries` times.",
        },
    },
    Parameter {
        name: "syn_retries",
        number: 17,
        kind: number("retransmissions", 1, 127),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_SYNCNT, CONNECT),
        since: (5, 8),
        summary: "Number of times an unanswered SYN is sent again with a doubled timeout; those of `net.ipv4.tcp_syn_linear_timeouts` come before.",
        kernel_note: "The kernel's default is net.ipv4.tcp_syn_retries, 6. The connection is also given up when the time is over that so many doublings take.",
        sysctls: sysctl::SYN,
        times: &[Times::Syn],
        too_late: IN_TIME,
    },
    Parameter {
        name: "keepalive",
        number: 18,
        kind: Kind::Switch,
        encoding: Encoding::Plain,
        action: option(SOL_SOCKET, SO_KEEPALIVE, CONNECT | PASSIVE | LIVE),
        since: (5, 8),
        summary: "Probes of idle connections.",
        kernel_note: "",
        sysctls: sysctl::KEEPALIVE,
        times: &[Times::Idle],
        too_late: IN_TIME,
    },
    Parameter {
        name: "keepalive_idle_s",
        number: 19,
        kind: number("seconds", 1, 32_767),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_KEEPIDLE, CONNECT | PASSIVE | LIVE),
        since: (5, 8),
        summary: "Idle time before the first probe.",
        kernel_note: "Acts if keepalive is on. The kernel's default is 7,200 s.",
        sysctls: sysctl::KEEPALIVE,
        times: &[Times::Idle],
        too_late: IN_TIME,
    },
    Parameter {
        name: "keepalive_interval_s",
        number: 20,
        kind: number("seconds", 1, 32_767),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_KEEPINTVL, CONNECT | PASSIVE | LIVE),
        since: (5, 8),
        summary: "Time between probes.",
        kernel_note: "Acts if keepalive is on. The kernel's default is 75 s.",
        sysctls: sysctl::KEEPALIVE,
        times: &[Times::Idle],
        too_late: IN_TIME,
    },
    Parameter {
        name: "keepalive_probes",
        number: 21,
        kind: number("probes", 1, 127),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_KEEPCNT, CONNECT | PASSIVE | LIVE),
        since: (5, 8),
        summary: "Number of unanswered probes after which the connection is given up.",
        kernel_note: "Acts if keepalive is on. The kernel's default is 9.",
        sysctls: sysctl::KEEPALIVE,
        times: &[Times::Idle],
        too_late: IN_TIME,
    },
    Parameter {
        name: "not_sent_low_water_bytes",
        number: 22,
        kind: number("bytes", 1, 2_147_483_647),
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_NOTSENT_LOWAT, CONNECT | PASSIVE | LIVE),
        since: (5, 8),
        summary: "Unsent data in the send buffer below which the socket is writable.",
        kernel_note: "The kernel's default is net.ipv4.tcp_notsent_lowat, without bound.",
        sysctls: sysctl::NOT_SENT_LOW_WATER,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "nodelay",
        number: 23,
        kind: Kind::Switch,
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_NODELAY, CONNECT | PASSIVE | LIVE),
        since: (6, 1),
        summary: "Sends small segments at once, without waiting for acknowledgements (no Nagle).",
        kernel_note: "An application that sets it later wins.",
        sysctls: sysctl::NODELAY,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "thin_linear_timeouts",
        number: 24,
        kind: Kind::Switch,
        encoding: Encoding::Plain,
        action: option(SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, CONNECT | PASSIVE | LIVE),
        since: (6, 1),
        summary: "Retransmission timeouts of thin streams grow linearly at first.",
        kernel_note: "",
        sysctls: sysctl::THIN_LINEAR_TIMEOUTS,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "dscp",
        number: 25,
        kind: number("(code point)", 0, 63),
        encoding: Encoding::CodePoint,
        action: Action::Option {
            level: SOL_IP,
            name: IP_TOS,
            ipv6: Some((SOL_IPV6, IPV6_TCLASS)),
            none: 0,
            phases: CONNECT | PASSIVE | LIVE,
        },
        since: (5, 8),
        summary: "Differentiated services code point of the packets sent.",
        kernel_note: "The two bits of ECN stay the kernel's; sets the priority too. On an IPv6 socket that speaks IPv4 it does not act.",
        sysctls: sysctl::DSCP,
        times: &[],
        too_late: TooLate {
            active: "Rules of routing for a class do not choose the source address: connect() has done that before. The packets, the SYN too, carry the class and are routed by it.",
            passive: "The SYN-ACK has gone out with the class of the listening socket.",
        },
    },
    Parameter {
        name: "priority",
        number: 26,
        kind: number("(class)", 0, 6),
        encoding: Encoding::Plain,
        action: option(SOL_SOCKET, SO_PRIORITY, CONNECT | PASSIVE | LIVE),
        since: (4, 13),
        summary: "Priority of the packets in queueing disciplines.",
        kernel_note: "",
        sysctls: sysctl::NONE,
        times: &[],
        too_late: TooLate {
            active: "",
            passive: "The SYN-ACK has gone out with the priority of the listening socket.",
        },
    },
    Parameter {
        name: "mark",
        number: 27,
        kind: number("(mark)", 0, 4_294_967_295),
        encoding: Encoding::Plain,
        action: option(SOL_SOCKET, SO_MARK, CONNECT | PASSIVE | LIVE),
        since: (4, 13),
        summary: "Firewall mark of the packets, for routing rules and filters.",
        kernel_note: "",
        sysctls: sysctl::MARK,
        times: &[],
        too_late: TooLate {
            active: "Rules of routing for a mark do not choose the source address: connect() has done that before, by the route without the mark. The packets, the SYN too, carry the mark and are routed by it, so they may leave an interface with the address of another, and be dropped (`rp_filter`). Where the address matters the program itself must set the mark, or bind.",
            passive: "The SYN-ACK has gone out with the mark of the listening socket, and was routed by that.",
        },
    },
    Parameter {
        name: "tx_rehash",
        number: 28,
        kind: Kind::Switch,
        encoding: Encoding::Plain,
        action: option(SOL_SOCKET, SO_TXREHASH, CONNECT | PASSIVE | LIVE),
        since: (6, 2),
        summary: "Chooses another path (flow label, hash) after retransmission timeouts.",
        kernel_note: "The kernel's default is net.core.txrehash, on.",
        sysctls: sysctl::TX_REHASH,
        times: &[],
        too_late: TooLate { active: "", passive: "SYN-ACKs that are sent again go by the listening socket's." },
    },
    Parameter {
        name: "receive_low_water_bytes",
        number: 29,
        kind: number("bytes", 1, 1_073_741_823),
        encoding: Encoding::Plain,
        action: option(SOL_SOCKET, SO_RCVLOWAT, CONNECT | PASSIVE | LIVE),
        since: (4, 13),
        summary: "Received data from which on the socket is readable.",
        kernel_note: "Cut to half of the receive buffer; may raise the receive buffer.",
        sysctls: sysctl::RECEIVE_LOW_WATER,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "base_rtt_us",
        number: 30,
        kind: number("microseconds", 1, 10_000_000),
        encoding: Encoding::AskedByNv,
        action: Action::Reply(Question::BaseRtt),
        since: (4, 15),
        summary: "Round-trip time of the empty path, from which congestion is judged.",
        kernel_note: "Only the congestion control nv asks for it; a node without nv cannot honour it.",
        sysctls: sysctl::NONE,
        times: &[],
        too_late: IN_TIME,
    },
    Parameter {
        name: "reflect_traffic_class",
        number: 31,
        kind: Kind::On,
        encoding: Encoding::Plain,
        action: Action::ReflectTrafficClass,
        since: (5, 10),
        summary: "Answers with the traffic class (DSCP) that the SYN came with, if it was not zero.",
        kernel_note: "Needs the SYN kept, so it acts for sockets that begin to listen while the policy is in force.",
        sysctls: sysctl::REFLECT_TRAFFIC_CLASS,
        times: &[],
        too_late: TooLate { active: "", passive: "The SYN-ACK has gone out with the class of the listening socket." },
    },
];
