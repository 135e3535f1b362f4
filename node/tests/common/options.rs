//! Socket options as the process that owns the socket sees them.

use std::{
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
};

const SOL_SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;
/// The kernel keeps these two for reading only since 6.15 (include/uapi/linux/tcp.h).
const TCP_RTO_MIN_US: i32 = 45;
const TCP_DELACK_MAX_US: i32 = 46;
const TCP_RTO_MAX_MS: i32 = 44;
const SO_TXREHASH: i32 = 74;

/// A parameter, the value that is asked for, where to read it, and what is there then.
pub struct Case {
    pub name: &'static str,
    pub value: u32,
    pub level: i32,
    pub option: i32,
    pub expected: u32,
}

const fn case(name: &'static str, value: u32, level: i32, option: i32, expected: u32) -> Case {
    Case { name, value, level, option, expected }
}

/// Values that are no default. What needs `TCP_INFO` or the wire is tested elsewhere.
pub const CASES: &[Case] = &[
    case("send_buffer_bytes", 81_230, SOL_SOCKET, libc::SO_SNDBUF, 162_460),
    case("receive_buffer_bytes", 81_240, SOL_SOCKET, libc::SO_RCVBUF, 162_480),
    case("min_rto_ms", 20, TCP, TCP_RTO_MIN_US, 20_000),
    case("max_delayed_ack_ms", 12, TCP, TCP_DELACK_MAX_US, 12_000),
    case("max_rto_ms", 5_000, TCP, TCP_RTO_MAX_MS, 5_000),
    case("max_pacing_rate_bytes_per_s", 123_456_789, SOL_SOCKET, libc::SO_MAX_PACING_RATE, 123_456_789),
    // Read without the 12 bytes of the timestamp option.
    case("mss_bytes", 1_314, TCP, libc::TCP_MAXSEG, 1_302),
    case("window_clamp_bytes", 40_000, TCP, libc::TCP_WINDOW_CLAMP, 40_000),
    case("user_timeout_ms", 123_400, TCP, libc::TCP_USER_TIMEOUT, 123_400),
    case("syn_retries", 4, TCP, libc::TCP_SYNCNT, 4),
    case("keepalive", 1, SOL_SOCKET, libc::SO_KEEPALIVE, 1),
    case("keepalive_idle_s", 123, TCP, libc::TCP_KEEPIDLE, 123),
    case("keepalive_interval_s", 124, TCP, libc::TCP_KEEPINTVL, 124),
    case("keepalive_probes", 5, TCP, libc::TCP_KEEPCNT, 5),
    case("not_sent_low_water_bytes", 1_314, TCP, libc::TCP_NOTSENT_LOWAT, 1_314),
    case("nodelay", 1, TCP, libc::TCP_NODELAY, 1),
    case("thin_linear_timeouts", 1, TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, 1),
    case("priority", 5, SOL_SOCKET, libc::SO_PRIORITY, 5),
    case("mark", 60_319, SOL_SOCKET, libc::SO_MARK, 60_319),
    case("tx_rehash", 0, SOL_SOCKET, SO_TXREHASH, 0),
    case("receive_low_water_bytes", 8_123, SOL_SOCKET, libc::SO_RCVLOWAT, 8_123),
];

/// Reads a number.
pub fn read(stream: &TcpStream, level: i32, option: i32) -> u32 {
    let (mut value, mut length) = (0_u32, 4);
    // SAFETY: a buffer of the length said.
    let result =
        unsafe { libc::getsockopt(stream.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    assert_eq!(result, 0, "getsockopt({level}, {option}): {}", std::io::Error::last_os_error());
    value
}

/// Sets a number.
pub fn set_number(stream: &TcpStream, (level, option): (i32, i32), value: u32) {
    // SAFETY: a buffer of the length said.
    let result = unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// The congestion control.
pub fn congestion_control(stream: &TcpStream) -> String {
    let (mut name, mut length) = ([0_u8; 16], 16);
    // SAFETY: a buffer of the length said.
    let result = unsafe {
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION);
        libc::getsockopt(stream.as_raw_fd(), level, option, name.as_mut_ptr().cast(), &raw mut length)
    };
    assert_eq!(result, 0);
    name.split(|&byte| byte == 0).next().map(|name| String::from_utf8_lossy(name).into_owned()).unwrap()
}

/// The option of the traffic class, which an IPv6 socket has for itself.
pub fn traffic_class(stream: &TcpStream) -> (i32, i32) {
    match stream.local_addr().unwrap() {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    }
}

/// `SO_COOKIE`.
pub fn cookie(stream: &TcpStream) -> u64 {
    let (mut cookie, mut length) = (0_u64, 8);
    // SAFETY: a buffer of the length said.
    let result = unsafe {
        let name = libc::SO_COOKIE;
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut cookie).cast(), &raw mut length)
    };
    assert_eq!(result, 0);
    cookie
}
