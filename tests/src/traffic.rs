//! Connections of real processes, in a cgroup and a network namespace of the test's choice.
//!
//! An [`Agent`] is such a process (the binary `sockpilot-traffic`): it listens, opens connections, and says of every one what
//! the kernel says about the socket. Orders and answers go as lines of JSON over its standard input and output.

pub mod agent;
pub mod facts;
pub mod kept;
pub mod worker;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use sockpilot_policy::layout::{ACTIVE, FlowKey, IPV4, IPV6};

pub use agent::Agent;
pub use facts::Facts;
pub use kept::Options;

/// What an agent is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Answer connections at an address (port 0: any).
    Listen(SocketAddr),
    /// Say which connections were accepted since the last such order.
    Accepted,
    /// Open connections and say what became of them.
    Open(Opening),
    /// Open connections until [`Order::Stop`]; `count` is no matter.
    Start(Opening),
    /// Say what became of connections that have ended since the last such order.
    Progress,
    /// Stop what [`Order::Start`] began, wait for the last connection, then as [`Order::Progress`].
    Stop,
    /// Connect to itself at this address, and keep both ends open; the connection's number is how many were kept before.
    Keep(IpAddr),
    /// Let one end (0: that connected, 1: that accepted) of a kept connection send no more.
    FinishSending(usize, usize),
    /// Say what options the ends of all kept connections have.
    Look,
}

/// What an agent answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// It listens here.
    Listening(SocketAddr),
    /// Connections accepted.
    Accepted(Vec<Accepted>),
    /// Connections opened.
    Opened(Vec<Flow>),
    /// Of each kept connection the end that connected, and the end that accepted.
    Kept(Vec<[Options; 2]>),
    /// Done, there is nothing to say.
    Done,
    /// It could not.
    Failed(String),
}

/// Connections to open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opening {
    /// The address to connect to.
    pub to: SocketAddr,
    /// From which address; absent: the kernel's choice.
    pub from: Option<IpAddr>,
    /// How many.
    pub count: usize,
    /// How many at the same time.
    pub at_once: usize,
    /// Bytes sent to the other end.
    pub upload: u32,
    /// Bytes the other end sends back.
    pub download: u32,
    /// Milliseconds after which connecting is given up.
    pub patience_ms: u64,
    /// Milliseconds between one connection and the next of the same worker.
    pub pause_ms: u64,
    /// Milliseconds that a connection stays open after its exchange.
    pub hold_ms: u64,
    /// Wait until the other end has closed, too: as long as the kernel has the connection.
    pub until_closed: bool,
}

impl Opening {
    /// One connection at a time, `count` in all, a few bytes each way.
    #[must_use]
    pub fn new(to: SocketAddr, count: usize) -> Self {
        Self {
            to,
            from: None,
            count,
            at_once: 1,
            upload: 100,
            download: 100,
            patience_ms: 10_000,
            pause_ms: 0,
            hold_ms: 0,
            until_closed: false,
        }
    }
}

/// What became of one connection that was opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flow {
    /// This end; port 0 if it was never bound.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// When connect() was called, in microseconds since the agent's first connection.
    pub began_us: u64,
    /// Microseconds that connect() took, also if it failed.
    pub connect_us: u64,
    /// Microseconds from connect() to the end.
    pub duration_us: u64,
    /// The socket when connect() had returned; absent if it failed.
    pub opened: Option<Facts>,
    /// The socket before it was closed.
    pub closed: Option<Facts>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Flow {
    /// As matching and bucketing see this end.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        let bytes = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        FlowKey {
            local: bytes(self.local),
            remote: bytes(self.remote),
            local_port: self.local.port(),
            remote_port: self.remote.port(),
            family: if self.local.is_ipv4() { IPV4 } else { IPV6 },
            direction: ACTIVE,
            reserved: 0,
        }
    }
}

/// A connection that was accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Accepted {
    /// The other end; IPv4 is IPv4, also through an IPv6 socket.
    pub remote: SocketAddr,
    /// The socket when accept() had returned.
    pub opened: Facts,
}
