//! In which cgroup sockets were made, as the kernel tells `ss --cgroup` (sock_diag, `INET_DIAG_CGROUP_ID`, since Linux 5.8).

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

use crate::kernel::{cgroup_paths, cookie};

const SIOCGSKNS: libc::c_ulong = 0x894c;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const HEADER_BYTES: usize = 16;
/// `struct inet_diag_msg`, and where in it the cookie stands.
const MESSAGE_BYTES: usize = 72;
const COOKIE_AT: usize = 44;

/// The cgroups in which sockets were made, by cookie, for each network namespace that was asked for.
#[derive(Debug)]
pub(super) struct Owners {
    process: String,
    paths: BTreeMap<u64, String>,
    namespaces: BTreeMap<u64, HashMap<u64, u64>>,
}

impl Owners {
    /// To compare with the cgroup of a process.
    pub(super) fn beside(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let process = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
        let paths = cgroup_paths().map_err(io::Error::other)?;
        Ok(Self { process, paths, namespaces: BTreeMap::new() })
    }

    /// Says so if the socket was made in another cgroup than that of the process.
    pub(super) fn other(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<String>> {
        let namespace = namespace_of(socket)?;
        let number = namespace.metadata()?.ino();
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.namespaces.entry(number) {
            // A thread of its own, because one that has entered a namespace is of no other use.
            let asked = thread::spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                let mut owners = HashMap::new();
                for family in [libc::AF_INET, libc::AF_INET6] {
                    ask(family as u8, &mut owners)?;
                }
                Ok::<_, io::Error>(owners)
            });
            vacant.insert(asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        let Some(id) = self.namespaces[&number].get(&cookie(socket)?) else { return Ok(None) };
        let path = self.paths.get(id).cloned().unwrap_or_else(|| format!("one that has gone ({id})"));
        let Self { process, .. } = self;
        let differs =
            format!("its cgroup is {path}, where it or its listening socket was made; the process is in {process}");
        Ok((path != *process).then_some(differs))
    }
}

/// The network namespace of a socket, which need not be that of a process that has it.
fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<File> {
    // SAFETY: no pointers; the result is a new descriptor.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a file descriptor that the kernel has just given.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Asks for all TCP sockets of this thread's network namespace.
fn ask(family: u8, owners: &mut HashMap<u64, u64>) -> io::Result<()> {
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag);
    let mut netlink = File::from(socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?);
    // struct nlmsghdr and struct inet_diag_req_v2: family, protocol, extensions, states.
    let mut request = [0_u8; HEADER_BYTES + 56];
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[HEADER_BYTES..HEADER_BYTES + 2].copy_from_slice(&[family, libc::IPPROTO_TCP as u8]);
    request[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&u32::MAX.to_ne_bytes());
    netlink.write_all(&request)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = netlink.read(&mut buffer)?;
        let mut messages = &buffer[..read];
        while let Some((kind, body, rest)) =
            part(messages, HEADER_BYTES, |header| (u32_at(header, 0), u16_at(header, 4)))
        {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(io::Error::from_raw_os_error(-(u32_at(body, 0) as i32))),
                _ if body.len() >= MESSAGE_BYTES => note(body, owners),
                _ => {}
            }
            messages = rest;
        }
    }
}

fn note(message: &[u8], owners: &mut HashMap<u64, u64>) {
    let mut attributes = &message[MESSAGE_BYTES..];
    while let Some((kind, value, rest)) = part(attributes, 4, |header| (u16_at(header, 0).into(), u16_at(header, 2))) {
        if kind == INET_DIAG_CGROUP_ID && value.len() >= 8 {
            owners.insert(u64_at(message, COOKIE_AT), u64_at(value, 0));
        }
        attributes = rest;
    }
}

/// The first message or attribute: its kind, what it holds, and what follows.
fn part(bytes: &[u8], header: usize, read: impl Fn(&[u8]) -> (u32, u16)) -> Option<(u16, &[u8], &[u8])> {
    let (length, kind) = read(bytes.get(..header)?);
    let body = bytes.get(header..length as usize)?;
    Some((kind, body, bytes.get((length as usize).next_multiple_of(4)..).unwrap_or_default()))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes[at..].first_chunk().copied().map(u16::from_ne_bytes).unwrap_or_default()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map(u32::from_ne_bytes).unwrap_or_default()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().copied().map(u64::from_ne_bytes).unwrap_or_default()
}
