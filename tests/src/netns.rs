//! Network namespaces without a name: they vanish with the last process, thread or file that holds them.

use std::{
    fs::{self, File},
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use sockpilot_programs::{IP, Program};

/// Settings under which many short connections can follow each other and every one begins without a memory of the last.
/// Reno, because BBR overwrites the slow-start threshold, by which a clamp can be seen.
const SYSCTLS: [(&str, &str); 7] = [
    ("net/ipv4/tcp_congestion_control", "reno"),
    ("net/ipv4/ip_local_port_range", "10240 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
    ("net/ipv4/tcp_max_syn_backlog", "16384"),
    ("net/ipv4/tcp_syncookies", "0"),
    ("net/core/somaxconn", "16384"),
];

/// A network namespace with its loopback up.
#[derive(Debug)]
pub struct Netns {
    handle: OwnedFd,
}

impl Netns {
    /// A new one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net").context("opening the new namespace")?.into())
        });
        let handle = made.join().map_err(|_| anyhow::anyhow!("the thread that makes a namespace panicked"))??;
        let netns = Self { handle };
        netns.ip("link set lo up\n")?;
        for (name, value) in SYSCTLS {
            netns.sysctl(name, value)?;
        }
        Ok(netns)
    }

    /// Runs something inside, on a thread of its own.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or what `work` says.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                work()
            });
            inside.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
        })
    }

    /// Makes the command begin its life inside.
    ///
    /// # Errors
    /// If no more files can be opened.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let handle = self.handle.try_clone().context("copying a handle")?;
        // SAFETY: between fork and exec only setns(2) is called.
        unsafe {
            command.pre_exec(move || setns(handle.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
        Ok(())
    }

    /// Sets `/proc/sys/{name}` inside.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("setting {name} to {value}")))
    }

    /// Runs lines of `ip` commands inside.
    ///
    /// # Errors
    /// If `ip` complains.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = IP.command()?;
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.enter(&mut command)?;
        let mut child = command.spawn().context("starting ip")?;
        child.stdin.take().context("ip has no input")?.write_all(lines.as_bytes()).context("writing to ip")?;
        let output = child.wait_with_output().context("waiting for ip")?;
        if !output.status.success() {
            bail!("ip refused {lines:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// What a program says inside.
    ///
    /// # Errors
    /// If it fails.
    pub fn output(&self, program: Program, arguments: &[&str]) -> Result<String> {
        let (mut command, program) = (program.command()?, program.name());
        command.args(arguments);
        self.enter(&mut command)?;
        let output = command.output().with_context(|| format!("running {program}"))?;
        if !output.status.success() {
            bail!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).with_context(|| format!("reading what {program} says"))
    }
}
