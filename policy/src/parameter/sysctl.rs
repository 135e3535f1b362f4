//! The settings of a network namespace that take part in what a parameter does. Each connection meets those of its own.

/// A setting that takes part in what a parameter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl {
    /// As `sysctl` names it. Of several numbers the last counts, which is the greatest.
    pub name: &'static str,
    /// The kernel release that has it first, as (major, minor); `None`: all that sockpilot runs on.
    pub since: Option<(u32, u32)>,
    /// How it takes part.
    pub part: Part,
    /// What it does to the parameter, for the reference.
    pub effect: &'static str,
}

/// How a setting takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It is what a socket has where the parameter is not set.
    Default,
    /// The effective value, or a time that is said with it, is computed from it.
    Computed,
    /// While it has this value its effect is said with the effective value.
    While(u32),
    /// It has a say that does not depend on the parameter's value.
    Beside,
}

const fn sysctl(name: &'static str, since: Option<(u32, u32)>, part: Part, effect: &'static str) -> Sysctl {
    Sysctl { name, since, part, effect }
}

/// Names of settings from which something is computed.
pub mod name {
    /// Retransmissions of a SYN before its timeout doubles.
    pub const SYN_LINEAR_TIMEOUTS: &str = "net.ipv4.tcp_syn_linear_timeouts";
    /// Retransmissions of a SYN after those.
    pub const SYN_RETRIES: &str = "net.ipv4.tcp_syn_retries";
    /// Retransmissions of a SYN-ACK.
    pub const SYNACK_RETRIES: &str = "net.ipv4.tcp_synack_retries";
    /// Upper bound of the retransmission timeout.
    pub const RTO_MAX_MS: &str = "net.ipv4.tcp_rto_max_ms";
    /// How long an established connection retransmits, in doublings.
    pub const RETRIES2: &str = "net.ipv4.tcp_retries2";
    /// Seconds.
    pub const KEEPALIVE_TIME: &str = "net.ipv4.tcp_keepalive_time";
    /// Seconds.
    pub const KEEPALIVE_INTVL: &str = "net.ipv4.tcp_keepalive_intvl";
    /// Probes.
    pub const KEEPALIVE_PROBES: &str = "net.ipv4.tcp_keepalive_probes";
    /// Whether all thin streams have linear timeouts.
    pub const THIN_LINEAR_TIMEOUTS: &str = "net.ipv4.tcp_thin_linear_timeouts";
}

const LINEAR: Sysctl = sysctl(
    name::SYN_LINEAR_TIMEOUTS,
    Some((6, 5)),
    Part::Computed,
    "So many retransmissions of a SYN (4 by default) come at equal distances, before the timeout doubles and beside those that \
     are counted as retries.",
);
const RETRIES: Sysctl = sysctl(
    name::SYN_RETRIES,
    None,
    Part::Computed,
    "Retransmissions of a SYN with doubling timeouts, where the socket has no number of its own. What so many doublings would \
     take bounds the time of all attempts, too.",
);
const RTO_MAX: Sysctl = sysctl(
    name::RTO_MAX_MS,
    Some((6, 15)),
    Part::Computed,
    "Bounds every timeout, that of a SYN too; a socket has what it was when the socket was made. Two minutes before Linux 6.15.",
);
const SCALING: Sysctl = sysctl(
    "net.ipv4.tcp_window_scaling",
    None,
    Part::While(0),
    "Without scaling no window is above 65,535 bytes, at either end.",
);
const REFLECT_TOS: &str = "net.ipv4.tcp_reflect_tos";

/// The sysctls of `syn_rto_ms` and `syn_retries`.
pub const SYN: &[Sysctl] = &[LINEAR, RETRIES, RTO_MAX];
/// Of `synack_rto_ms`.
pub const SYNACK: &[Sysctl] = &[
    sysctl(name::SYNACK_RETRIES, None, Part::Computed, "Retransmissions of a SYN-ACK before the request is dropped."),
    sysctl(
        "net.ipv4.tcp_syncookies",
        None,
        Part::While(2),
        "A SYN-ACK that carries a cookie (1: while the queue of requests is full, 2: always) is never sent again.",
    ),
];
/// Of `initial_receive_window_packets`.
pub const INITIAL_RECEIVE_WINDOW: &[Sysctl] = &[sysctl(
    "net.ipv4.tcp_rmem",
    None,
    Part::Beside,
    "Its second number is the receive buffer that a socket begins with; about half of it bounds the offer.",
)];
/// Of `initial_cwnd_packets`.
pub const INITIAL_CWND: &[Sysctl] = &[sysctl(
    "net.ipv4.tcp_slow_start_after_idle",
    None,
    Part::While(1),
    "The window is halved for every retransmission timeout that a connection is idle, down to the kernel's own initial window \
     (10 packets or the route's initcwnd); congestion controls that set it themselves (bbr) are not concerned.",
)];
/// Of `send_buffer_bytes`.
pub const SEND_BUFFER: &[Sysctl] = &[sysctl(
    "net.core.wmem_max",
    None,
    Part::Computed,
    "Greater values are cut to it. It is the same in all network namespaces.",
)];
/// Of `receive_buffer_bytes`.
pub const RECEIVE_BUFFER: &[Sysctl] = &[
    sysctl(
        "net.core.rmem_max",
        None,
        Part::Computed,
        "Greater values are cut to it. It is the same in all network namespaces.",
    ),
    SCALING,
];
/// Of `congestion_control`.
pub const CONGESTION_CONTROL: &[Sysctl] = &[
    sysctl("net.ipv4.tcp_congestion_control", None, Part::Default, "Handshakes go by it in any case."),
    sysctl("net.ipv4.tcp_allowed_congestion_control", None, Part::Beside, "Binds applications, not policies."),
];
/// Of `ecn`.
pub const ECN: &[Sysctl] = &[
    sysctl("net.ipv4.tcp_ecn", None, Part::Default, "What it forbids, this allows; what it allows is not taken away."),
    sysctl(
        "net.ipv4.tcp_ecn_fallback",
        None,
        Part::Beside,
        "If on, a SYN that is sent again does not offer ECN any more.",
    ),
];
/// Of `min_rto_ms`.
pub const MIN_RTO: &[Sysctl] = &[sysctl(
    "net.ipv4.tcp_rto_min_us",
    Some((6, 11)),
    Part::Default,
    "Two hundred milliseconds before Linux 6.11. A route's rto_min wins over both.",
)];
/// Of `max_delayed_ack_ms`.
pub const MAX_DELAYED_ACK: &[Sysctl] = &[sysctl(
    "net.ipv4.tcp_rto_min_us",
    Some((6, 11)),
    Part::Beside,
    "No acknowledgement is delayed until this end's own least retransmission timeout (this, min_rto_ms or the route's rto_min): \
     since Linux 6.7 the bound is a tick below that.",
)];
/// Of `max_rto_ms`.
pub const MAX_RTO: &[Sysctl] = &[
    sysctl(RTO_MAX.name, RTO_MAX.since, Part::Default, "A socket has what it was when the socket was made."),
    sysctl(
        name::RETRIES2,
        None,
        Part::Computed,
        "Stands for the time that so many doublings up to the bound take: with a lower bound a connection is given up sooner, \
         unless user_timeout_ms says when.",
    ),
    LINEAR,
    RETRIES,
];
/// Of `max_pacing_rate_bytes_per_s`.
pub const MAX_PACING_RATE: &[Sysctl] = &[
    sysctl(
        "net.ipv4.tcp_pacing_ss_ratio",
        None,
        Part::Beside,
        "In slow start, percent of a window for each round trip that is sent where the bound is above that; not with bbr.",
    ),
    sysctl("net.ipv4.tcp_pacing_ca_ratio", None, Part::Beside, "The same after slow start."),
];
/// Of `mss_bytes`.
pub const MSS: &[Sysctl] = &[
    sysctl(
        "net.ipv4.tcp_mtu_probing",
        None,
        Part::While(2),
        "Sending begins with net.ipv4.tcp_base_mss, if that is less, and probes for more.",
    ),
    sysctl(
        "net.ipv4.tcp_min_snd_mss",
        Some((5, 2)),
        Part::Beside,
        "Segments that are sent do not get smaller than this.",
    ),
    sysctl("net.ipv4.tcp_timestamps", None, Part::Beside, "Takes twelve bytes of every segment."),
];
/// Of `window_clamp_bytes`.
pub const WINDOW_CLAMP: &[Sysctl] = &[SCALING];
/// Of `user_timeout_ms`.
pub const USER_TIMEOUT: &[Sysctl] = &[
    LINEAR,
    RETRIES,
    RTO_MAX,
    sysctl(name::RETRIES2, None, Part::Default, "Overridden."),
    KEEPALIVE_TIME,
    KEEPALIVE_INTVL,
];
const KEEPALIVE_TIME: Sysctl = sysctl(
    name::KEEPALIVE_TIME,
    None,
    Part::Computed,
    "Idle time before the first probe, where the socket has none of its own.",
);
const KEEPALIVE_INTVL: Sysctl =
    sysctl(name::KEEPALIVE_INTVL, None, Part::Computed, "Time between probes, where the socket has none of its own.");
const KEEPALIVE_PROBES: Sysctl =
    sysctl(name::KEEPALIVE_PROBES, None, Part::Computed, "Probes, where the socket has no number of its own.");
/// Of all parameters of keepalive probes.
pub const KEEPALIVE: &[Sysctl] = &[KEEPALIVE_TIME, KEEPALIVE_INTVL, KEEPALIVE_PROBES];
/// Of `not_sent_low_water_bytes`.
pub const NOT_SENT_LOW_WATER: &[Sysctl] = &[sysctl("net.ipv4.tcp_notsent_lowat", None, Part::Default, "")];
/// Of `nodelay`.
pub const NODELAY: &[Sysctl] = &[sysctl(
    "net.ipv4.tcp_autocorking",
    None,
    Part::Beside,
    "If on, a small segment waits all the same while an earlier one of the connection is still in a queue of this machine.",
)];
/// Of `thin_linear_timeouts`.
pub const THIN_LINEAR_TIMEOUTS: &[Sysctl] = &[sysctl(
    name::THIN_LINEAR_TIMEOUTS,
    None,
    Part::Computed,
    "If on, it is on for every connection: this cannot turn it off.",
)];
/// Of `dscp`.
pub const DSCP: &[Sysctl] = &[sysctl(
    REFLECT_TOS,
    Some((5, 10)),
    Part::Beside,
    "If on, the SYN-ACK and the accepted socket have the SYN's class until this is set.",
)];
/// Of `mark`.
pub const MARK: &[Sysctl] = &[
    sysctl(
        "net.ipv4.tcp_fwmark_accept",
        None,
        Part::Beside,
        "If on, the SYN-ACK and the accepted socket have the SYN's mark until this is set.",
    ),
    sysctl(
        "net.ipv4.conf.all.rp_filter",
        None,
        Part::Beside,
        "If 1, answers to a source address of another interface are dropped, unless net.ipv4.conf.all.src_valid_mark is on and \
         the answers are marked too.",
    ),
];
/// Of `tx_rehash`.
pub const TX_REHASH: &[Sysctl] = &[
    sysctl("net.core.txrehash", Some((5, 18)), Part::Default, ""),
    sysctl(
        "net.ipv6.auto_flowlabels",
        None,
        Part::While(0),
        "Packets have no flow label made of the hash, so the network does not see another flow.",
    ),
];
/// Of `receive_low_water_bytes`.
pub const RECEIVE_LOW_WATER: &[Sysctl] = &[sysctl(
    "net.ipv4.tcp_rmem",
    None,
    Part::Beside,
    "Half of its third number is the greatest value where the receive buffer is not set.",
)];
/// Of `reflect_traffic_class`.
pub const REFLECT_TRAFFIC_CLASS: &[Sysctl] = &[sysctl(
    REFLECT_TOS,
    Some((5, 10)),
    Part::While(1),
    "The kernel answers with the SYN's class by itself, from the SYN-ACK on.",
)];
/// Where none takes part.
pub const NONE: &[Sysctl] = &[];
