//! Trying out values before they are set on connections.
//!
//! The daemon opens a TCP socket of its own that listens on the loopback address and is never connected to, and has the kernel
//! program set values on it and read them back, with the helpers that set them on connections. So nothing is on any wire,
//! it takes no rights but those that the daemon needs anyway, and the options that only programs can set are tried as well.
//! The kernel's walk over sockets begins with those that listen, and ends with ours.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
};

use sockpilot_policy::{
    layout::{NAME_BYTES, TRIALS_MAX, TrialEntry, TrialRun},
    readings::{Encoded, Errno, Reading},
};

use super::{
    KernelError, Map, Options,
    object::{iterator, load_with},
    plain::Plain,
    sides, sys,
};

const NAME: &str = "try_values";
const MAP: &str = "TRIALS";

/// The family of a socket to try values on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    Ipv4,
    /// `AF_INET6`.
    Ipv6,
}

/// The program that tries values, loaded beside a kernel side that was made before.
#[derive(Debug)]
pub struct TrialSocket {
    link: OwnedFd,
    runs: Map<TrialRun>,
}

impl TrialSocket {
    /// Opens it. Nothing if this kernel's structures are not known.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn open(options: &Options) -> Result<Option<Self>, KernelError> {
        let (mut object, able) = load_with(&sides::own(&options.pin_dir)?, &[], None)?;
        if !able {
            return Ok(None);
        }
        let Some(aya::maps::Map::Array(map)) = object.take_map(MAP) else {
            return Err(KernelError::Load("the object lacks the array TRIALS".into()));
        };
        let duplicate = |source| KernelError::Call { call: "fcntl", subject: MAP.to_owned(), source };
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(duplicate)?;
        let link = iterator(&mut object, NAME)?;
        Ok(Some(Self { link, runs: Map { name: MAP, fd, value: std::marker::PhantomData } }))
    }

    /// Sets one value after the other of the parameter in a slot, on a fresh socket, and reads each back. `None` stands for what
    /// the kernel set but did not give back.
    ///
    /// # Errors
    /// If there can be no such socket, or the kernel does not walk to it.
    pub fn try_values(
        &self,
        family: Family,
        slot: usize,
        values: &[Encoded],
    ) -> Result<Vec<Option<Reading>>, KernelError> {
        let mut readings = Vec::with_capacity(values.len());
        for values in values.chunks(TRIALS_MAX) {
            let mut run = *TrialRun::zeroed();
            for (entry, value) in run.entries.iter_mut().zip(values) {
                *entry = entry_of(slot, value);
            }
            run.count = values.len() as u32;
            let run = self.run(family, run)?;
            readings.extend(run.entries.iter().zip(values).map(|(entry, value)| reading(entry, value)));
        }
        Ok(readings)
    }

    fn run(&self, family: Family, mut run: TrialRun) -> Result<Box<TrialRun>, KernelError> {
        let (_socket, cookie) = scratch_socket(family).map_err(|source| KernelError::Call {
            call: "listen",
            subject: "a socket to try values on".to_owned(),
            source,
        })?;
        run.cookie = cookie;
        self.runs.set(0, &run)?;
        sys::iterate(self.link.as_fd(), NAME)?;
        let tried = self.runs.get_at(0_u32.bytes())?;
        if tried.done == tried.count { Ok(tried) } else { Err(KernelError::ReadBack(MAP)) }
    }
}

fn entry_of(slot: usize, value: &Encoded) -> TrialEntry {
    let mut entry = TrialEntry { slot: slot as u32, ..TrialEntry::default() };
    match value {
        Encoded::Number(number) => entry.value = *number,
        Encoded::Name(name) => {
            let length = name.len().min(NAME_BYTES - 1);
            entry.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        }
    }
    entry
}

fn reading(entry: &TrialEntry, value: &Encoded) -> Option<Reading> {
    match entry {
        TrialEntry { set_errno: 0, read_errno: 0, .. } => Some(Reading::Read(match value {
            Encoded::Number(_) => Encoded::Number(entry.read),
            Encoded::Name(_) => {
                let name = entry.name_read.split(|&byte| byte == 0).next().unwrap_or_default();
                Encoded::Name(String::from_utf8_lossy(name).into_owned())
            }
        })),
        TrialEntry { set_errno: 0, .. } => None,
        _ => Some(Reading::Refused(Errno(entry.set_errno as i32))),
    }
}

/// A listening socket that nobody knows of, and its cookie.
fn scratch_socket(family: Family) -> io::Result<(TcpListener, u64)> {
    let address = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = TcpListener::bind(SocketAddr::new(address, 0))?;
    let cookie = sys::cookie(socket.as_fd())?;
    Ok((socket, cookie))
}
