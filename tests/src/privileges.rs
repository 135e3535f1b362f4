//! What a process may: given as systemd gives it, and read as the kernel says it, of every thread.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capability_is_in_bounding_set, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    },
};

/// The units of this workspace.
#[must_use]
pub fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

/// What a process is started with.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// The bounding set, and for another user than root the ambient set, too.
    pub capabilities: CapabilitySet,
    /// Whom it runs as.
    pub user: u32,
}

impl Granted {
    /// What a unit gives: its `CapabilityBoundingSet=`, as root.
    ///
    /// # Errors
    /// If it does not say.
    pub fn by_unit(unit: &str) -> Result<Self> {
        let text = fs::read_to_string(units().join(unit)).with_context(|| format!("reading {unit}"))?;
        let said = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let said = said.with_context(|| format!("{unit} has no bounding set"))?;
        let names = said.split_whitespace().map(|name| {
            let flag = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
            flag.with_context(|| format!("{name} is no capability"))
        });
        Ok(Self { capabilities: names.collect::<Result<_>>()?, user: 0 })
    }

    /// Has a command begin so, and without a limit for core dumps.
    pub fn to(self, command: &mut Command) {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || self.take());
        }
    }

    fn take(self) -> io::Result<()> {
        let Self { capabilities, user } = self;
        setrlimit(Resource::Core, Rlimit { current: None, maximum: None })?;
        for bit in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match capability_is_in_bounding_set(capability) {
                Ok(true) if !capabilities.contains(capability) => remove_capability_from_bounding_set(capability)?,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let mut inheritable = CapabilitySet::empty();
        if user != 0 {
            set_keep_capabilities(true)?;
            setgroups(&[])?;
            setgid(Gid::from_raw(user))?;
            setuid(Uid::from_raw(user))?;
            inheritable = capabilities;
        }
        set_capabilities(None, CapabilitySets { effective: capabilities, permitted: capabilities, inheritable })?;
        for capability in inheritable.iter() {
            configure_capability_in_ambient_set(capability, true)?;
        }
        Ok(set_no_new_privs(true)?)
    }
}

/// What one thread may, as `/proc/PID/task/TID/status` has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct May {
    /// Its effective user.
    pub user: u32,
    /// Effective, permitted, inheritable and ambient together.
    pub capabilities: u64,
    /// What it could ever get.
    pub bounding: u64,
    /// Whether executing can give it something.
    pub no_new_privs: bool,
}

/// What the threads of a process may, and how many there are.
///
/// # Errors
/// If it has ended.
pub fn of_threads(pid: u32) -> Result<(usize, BTreeSet<May>)> {
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).context("listing threads")?.flatten().collect();
    let mut found = BTreeSet::new();
    let mut seen = 0;
    for task in tasks {
        // A thread may have ended meanwhile.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else { continue };
        let field = |name: &str| -> Result<&str> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.with_context(|| format!("no {name} in {status}"))
        };
        let mask = |name| -> Result<u64> { Ok(u64::from_str_radix(field(name)?.trim(), 16)?) };
        let sets = [mask("CapEff:")?, mask("CapPrm:")?, mask("CapInh:")?, mask("CapAmb:")?];
        found.insert(May {
            user: field("Uid:")?.split_whitespace().nth(1).context("no user")?.parse()?,
            capabilities: sets.into_iter().fold(0, |all, set| all | set),
            bounding: mask("CapBnd:")?,
            no_new_privs: field("NoNewPrivs:")?.trim() == "1",
        });
        seen += 1;
    }
    ensure!(seen > 0, "process {pid} has ended");
    Ok((seen, found))
}

/// The permissions of a file and all beneath it that others than the owner have something of.
#[must_use]
pub fn open_to_others(path: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = path.symlink_metadata() else { return vec![format!("{} is not there", path.display())] };
    let mut open = vec![];
    if found.mode() & 0o077 != 0 {
        open.push(format!("{} {:o}", path.display(), found.mode() & 0o7777));
    }
    if found.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        open.extend(entries.flat_map(|entry| open_to_others(&entry.path())));
    }
    open
}
