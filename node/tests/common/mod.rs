//! What the kernel tests share.
#![allow(dead_code, reason = "not every test uses everything")]

pub mod info;
pub mod options;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use sockpilot_node::kernel::{self, Kernel, Options};
use sockpilot_policy::{facts::KernelFacts, layout::FlowRecord};
use sockpilot_programs::{IP, NFT, Program, SLEEP, skipped};

/// An empty state directory, closed to others as it has to be.
pub fn state_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

/// A cgroup and pins of its own, removed at the end.
pub struct World {
    /// For the kernel side.
    pub options: Options,
}

impl World {
    /// Nothing if this machine or user cannot run it.
    pub fn new(name: &str) -> Option<Self> {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            skipped("it needs root");
            return None;
        }
        let Ok(root) = kernel::cgroup_root() else {
            skipped("it needs cgroup v2");
            return None;
        };
        let name = format!("sockpilot-test-{}-{name}", std::process::id());
        let options =
            Options { cgroup: root.join(&name), pin_dir: PathBuf::from("/sys/fs/bpf/sockpilot-test").join(name) };
        fs::create_dir(&options.cgroup).unwrap();
        Some(Self { options })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Kernel::detach(&self.options);
        let _ = fs::remove_dir(&self.options.cgroup);
        let _ = fs::remove_dir("/sys/fs/bpf/sockpilot-test");
    }
}

/// Of a node with the congestion controls that every test machine has.
pub fn facts() -> KernelFacts {
    let congestion_controls = ["cubic", "reno", "bbr", "nv"].map(str::to_owned).to_vec();
    KernelFacts {
        release: String::new(),
        hz: 250,
        congestion_controls,
        wmem_max: 1 << 22,
        rmem_max: 1 << 22,
        sysctls: std::collections::BTreeMap::new(),
    }
}

/// A process is in one cgroup: tests that move it take turns.
static MOVES: Mutex<()> = Mutex::new(());

/// Puts the process back when it ends, or its cgroups could not be removed.
pub struct Home {
    path: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Home {
    /// Where the process is now.
    pub fn here() -> Self {
        let turn = MOVES.lock().unwrap_or_else(PoisonError::into_inner);
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        Self { path: kernel::cgroup_root().unwrap().join(path.trim_start_matches('/')), _turn: turn }
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        enter(&self.path);
    }
}

/// Moves this process.
pub fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// Takes out the records that come within a bounded time, until there are as many as expected.
pub fn records(kernel: &mut Kernel, expected: usize) -> Vec<FlowRecord> {
    let mut records = Vec::new();
    for _ in 0..200 {
        let end = kernel.peek(1000, &mut |record| records.push(*record));
        kernel.release(end);
        if records.len() >= expected {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(records.len(), expected, "{records:#?}");
    records
}

/// A network namespace of this thread with a process in it, which is what makes it be looked at.
pub struct Net(Child);

impl Net {
    /// Loopback only.
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run(IP, &["link", "set", "lo", "up"]);
        Self(command(SLEEP).arg("600").spawn().unwrap())
    }

    /// Loses what a rule of nftables says, until [`Self::heal`].
    pub fn lose(rule: &str) {
        Self::harm(&format!("{rule} drop"));
    }

    /// Marks what a rule of nftables says as having met congestion, until [`Self::heal`].
    pub fn mark(rule: &str) {
        Self::harm(&format!("{rule} ip ecn set ce"));
    }

    /// Refuses connections of which a rule of nftables says so, until [`Self::heal`].
    pub fn refuse(rule: &str) {
        Self::harm(&format!("{rule} reject with tcp reset"));
    }

    fn harm(rule: &str) {
        run(NFT, &["add table ip harm"]);
        run(NFT, &["add chain ip harm in { type filter hook input priority 0; }"]);
        run(NFT, &[&format!("add rule ip harm in {rule}")]);
    }

    /// Harms nothing any more.
    pub fn heal() {
        run(NFT, &["delete table ip harm"]);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: Program, arguments: &[&str]) {
    let status = command(program).args(arguments).status();
    let name = program.name();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{name} {arguments:?}: {status:?}");
}

fn command(program: Program) -> Command {
    program.command().unwrap_or_else(|missing| panic!("{missing}"))
}

/// Removes a cgroup. What has just left it may still be on its way out.
pub fn remove_cgroup(path: &Path) {
    until("the cgroup is empty", || fs::remove_dir(path).is_ok());
}

/// Asks again and again, within a bounded time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
