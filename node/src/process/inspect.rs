//! Shows the connections of a running process: what their sockets are stamped with, and what they have now.

mod owner;

use std::{
    fmt::Write,
    fs, io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result};
use sockpilot_policy::{
    layout::{ACTIVE, Changes, Stamp},
    parameter::{Action, Encoding, Kind, PARAMETERS, Parameter},
};

use crate::{
    kernel::{self, Stamps},
    records::attribution::{Attributions, Meaning},
};
use owner::Owners;

/// Files of a process that are looked at.
const FILES_MAX: usize = 65_536;
/// Options from here on exist for BPF programs only and cannot be read from outside.
const BPF_OPTIONS: i32 = 1_000;

/// What it takes to say in words what a stamp holds.
#[derive(Debug)]
pub struct Inspector<'a> {
    /// The kernel side.
    pub stamps: Stamps,
    /// Where the daemon keeps what choices mean.
    pub attributions: &'a Path,
    /// Which kernel tables they belong to.
    pub tables: &'a str,
}

impl Inspector<'_> {
    /// All connections of a process that rules are or were for, as text; and all its TCP sockets that are of another cgroup than the
    /// process, for which its service's rules do not hold.
    ///
    /// # Errors
    /// If the process cannot be looked at.
    pub fn process(&self, pid: u32) -> Result<String> {
        let process = kernel::pidfd_open(pid).with_context(|| format!("cannot look at process {pid}"))?;
        let directory = format!("/proc/{pid}/fd");
        let mut text = String::new();
        let mut owners = Owners::beside(pid).with_context(|| format!("cannot find the cgroup of process {pid}"))?;
        let files = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
        for file in files.flatten().take(FILES_MAX) {
            let is_socket = fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            let number = file.file_name().to_string_lossy().parse().ok();
            let (true, Some(number)) = (is_socket, number) else { continue };
            // It may have been closed since.
            let Ok(socket) = kernel::pidfd_getfd(process.as_fd(), number) else { continue };
            let (stamp, changes) = (self.stamps.of(socket.as_fd())?, self.stamps.changes_of(socket.as_fd())?);
            let earlier = self.stamps.served_earlier(socket.as_fd())?;
            // Its connection has ended, and it has not begun another.
            if stamp.is_some_and(|stamp| stamp.attachment == 0) {
                continue;
            }
            let other = if is_tcp(&socket) { owners.other(socket.as_fd()) } else { Ok(None) };
            let other = other.unwrap_or_else(|error| Some(format!("its cgroup cannot be found: {error}")));
            let socket = TcpStream::from(socket);
            if stamp.is_some() || changes.is_some() || other.is_some() || earlier.is_some() {
                ends(&socket, stamp.as_ref(), changes.is_some(), &mut text)?;
            }
            if let Some(layout) = earlier {
                writeln!(
                    text,
                    "  decided by a version before, with layout {layout} of the kernel's tables, which serves it to its end"
                )?;
            }
            if let Some(other) = other {
                writeln!(text, "  {other}")?;
            }
            if let Some(stamp) = stamp {
                self.decision(&socket, &stamp, &mut text)?;
            }
            if let Some(changes) = changes {
                self.changes(&socket, &changes, &mut text)?;
            }
        }
        if text.is_empty() {
            text.push_str("No connection of this process is under a policy or an experiment.\n");
        }
        Ok(text)
    }

    /// What was decided when the connection began.
    fn decision(&self, socket: &TcpStream, stamp: &Stamp, text: &mut String) -> Result<()> {
        let choices = Attributions::read_one(self.attributions, self.tables, stamp.install).ok();
        for id in stamp.choices.iter().take(stamp.choice_count as usize) {
            let meaning = choices.as_ref().and_then(|install| install.get(usize::from(*id).checked_sub(1)?));
            match meaning {
                Some(Meaning { choice, measured_only, measured }) => {
                    let group = measured.as_ref().map(|(group, _)| group).filter(|group| *group != choice);
                    let group = group.map(|group| format!(", {} of {}", group.name, group.layer)).unwrap_or_default();
                    let nothing = if *measured_only { ", sets nothing" } else { "" };
                    writeln!(text, "  {}@{}: {}{nothing}{group}", choice.layer, choice.revision, choice.name)?;
                }
                None => writeln!(text, "  choice {id} of tables that are no longer known")?,
            }
        }
        for (slot, parameter) in PARAMETERS.iter().enumerate().filter(|(slot, _)| stamp.parameters & 1 << slot != 0) {
            let refused = if stamp.refused & 1 << slot == 0 { "" } else { ", refused by the kernel" };
            let decided = self.decided(parameter, stamp.values[slot])?;
            let now = current(socket, parameter).map_or_else(String::new, |now| format!(", now {now}"));
            writeln!(text, "    {:<32} {decided}{now}{refused}", parameter.name)?;
        }
        Ok(())
    }

    /// What rules for open connections have set, and will restore.
    fn changes(&self, socket: &TcpStream, changes: &Changes, text: &mut String) -> Result<()> {
        writeln!(text, "  for as long as the connection is open and its rule holds:")?;
        for (slot, parameter) in PARAMETERS.iter().enumerate().filter(|(slot, _)| changes.asked & 1 << slot != 0) {
            let asked = self.decided(parameter, changes.values[slot])?;
            let before = match parameter.kind {
                Kind::Name => text_of(&changes.name_before),
                Kind::Number { .. } | Kind::On | Kind::Switch => changes.before[slot].to_string(),
            };
            let state = match (changes.set & 1 << slot, changes.left & 1 << slot) {
                (0, 0) => ", not set: the kernel refused".to_owned(),
                (0, _) => ", left alone: the application has changed it".to_owned(),
                _ => format!(", before {before}"),
            };
            let now = current(socket, parameter).map_or_else(String::new, |now| format!(", now {now}"));
            writeln!(text, "    {:<32} {asked}{now}{state}", parameter.name)?;
        }
        Ok(())
    }

    /// The value that was decided, as the kernel got it.
    fn decided(&self, parameter: &Parameter, value: u32) -> Result<String> {
        Ok(match (parameter.kind, parameter.encoding) {
            (Kind::Name, _) => self.stamps.name(value)?,
            (_, Encoding::Ticks) => format!("{value} timer ticks"),
            (_, Encoding::TwoTicks) => format!("{value} us"),
            (Kind::Number { .. } | Kind::On | Kind::Switch, _) => value.to_string(),
        })
    }
}

/// A number among the options of the socket level.
fn option(socket: &impl AsRawFd, name: i32) -> Option<i32> {
    let (mut value, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the option is an int, and both pointers are to variables that outlive the call.
    let result = unsafe {
        let (value, length) = ((&raw mut value).cast(), &raw mut length);
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, length)
    };
    (result == 0).then_some(value)
}

fn is_tcp(socket: &OwnedFd) -> bool {
    option(socket, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
}

fn ends(socket: &TcpStream, stamp: Option<&Stamp>, changed: bool, text: &mut String) -> Result<()> {
    if option(socket, libc::SO_ACCEPTCONN) == Some(1) {
        let local = socket.local_addr()?;
        return Ok(writeln!(text, "{local} (listening)")?);
    }
    let name = |name: io::Result<SocketAddr>| name.map_or_else(|_| "?".to_owned(), |name| name.to_string());
    let (local, remote) = (name(socket.local_addr()), name(socket.peer_addr()));
    let direction = match stamp.map(|stamp| stamp.direction == u32::from(ACTIVE)) {
        Some(true) => " (active)",
        Some(false) => " (passive)",
        None if changed => " (open before any rule was for it)",
        None => " (under no rule)",
    };
    Ok(writeln!(text, "{local} -> {remote}{direction}")?)
}

/// A name up to its terminating zero.
fn text_of(name: &[u8]) -> String {
    String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

/// What the socket has now, where that can be read.
fn current(socket: &TcpStream, parameter: &Parameter) -> Option<String> {
    let Action::Option { level, name, .. } = parameter.action else { return None };
    if name >= BPF_OPTIONS {
        return None;
    }
    let (mut value, mut length) = ([0_u8; 16], 16);
    // SAFETY: a buffer of the length said.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if result != 0 {
        return None;
    }
    Some(match parameter.kind {
        Kind::Name => text_of(&value),
        Kind::Number { .. } | Kind::On | Kind::Switch => u32::from_ne_bytes(*value.first_chunk()?).to_string(),
    })
}
