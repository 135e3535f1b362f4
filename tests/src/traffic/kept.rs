//! Connections that an agent keeps: both ends are its own, so that all their options can be read, again and again.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use sockpilot_policy::parameter::{Action, PARAMETERS, TCP_BPF_IW, TCP_BPF_SNDCWND_CLAMP};

use super::worker::EXCHANGE_MAX;

/// What `getsockopt` says, by the parameter that sets the option; negative: its error. Of a name the first four letters, the
/// first of them the lowest byte.
pub type Options = BTreeMap<String, i64>;

/// What BPF programs set and applications can read (since 6.15), as (the former's name, the latter's).
const READ_AS: [(&str, i32); 2] = [("min_rto_ms", 45), ("max_delayed_ack_ms", 46)];
const MESSAGE: [u8; 100] = [7; 100];

/// A connection over the loopback.
#[derive(Debug)]
pub struct Pair {
    /// The end that connected, the end that accepted.
    ends: [TcpStream; 2],
}

impl Pair {
    /// Listens, connects and accepts, and sends something both ways.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn open(at: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((at, 0))?;
        let mut connected = TcpStream::connect(listener.local_addr()?)?;
        let mut accepted = listener.accept()?.0;
        let mut buffer = MESSAGE;
        for stream in [&connected, &accepted] {
            stream.set_read_timeout(Some(EXCHANGE_MAX))?;
        }
        connected.write_all(&MESSAGE)?;
        accepted.read_exact(&mut buffer)?;
        accepted.write_all(&MESSAGE)?;
        connected.read_exact(&mut buffer)?;
        Ok(Self { ends: [connected, accepted] })
    }

    /// One end (0: that connected) has no more to send, so the other one waits to be closed; returns when it knows.
    ///
    /// # Errors
    /// If there is no such end, or it has sent something.
    pub fn finish_sending(&self, end: usize) -> io::Result<()> {
        let [connected, accepted] = &self.ends;
        let (from, mut to) = if end == 0 { (connected, accepted) } else { (accepted, connected) };
        from.shutdown(Shutdown::Write)?;
        if to.read(&mut [0])? == 0 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Of the end that connected, and of the end that accepted.
    ///
    /// # Errors
    /// If a socket has no address.
    pub fn options(&self) -> io::Result<[Options; 2]> {
        let [connected, accepted] = &self.ends;
        Ok([options(connected)?, options(accepted)?])
    }
}

/// All options of the table that applications can read.
fn options(stream: &TcpStream) -> io::Result<Options> {
    let is_ipv6 = matches!(stream.local_addr()?, SocketAddr::V6(_));
    let mut options = Options::new();
    for parameter in PARAMETERS {
        let Action::Option { level, name, ipv6, .. } = parameter.action else { continue };
        let (level, name) = ipv6.filter(|_| is_ipv6).unwrap_or((level, name));
        if level == libc::SOL_TCP && [TCP_BPF_IW, TCP_BPF_SNDCWND_CLAMP].contains(&name) {
            continue;
        }
        let name = READ_AS.iter().find(|(own, _)| *own == parameter.name).map_or(name, |(_, readable)| *readable);
        options.insert(parameter.name.to_owned(), read(stream, level, name));
    }
    Ok(options)
}

fn read(stream: &TcpStream, level: i32, name: i32) -> i64 {
    let (mut value, mut length) = (0_u32, 4);
    // SAFETY: a buffer of the length said.
    let result = unsafe { libc::getsockopt(stream.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { value.into() } else { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}
