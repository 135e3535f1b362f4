//! What the daemon's CPU time per record is, against `tcplife`, which prints a line per connection end: both on the very same churn.

use std::{fs, os::unix::process::CommandExt, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use sockpilot_programs::TCPLIFE;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    machine::Machine,
    netns::Netns,
    node::Node,
    process::Process,
    wait::{eventually, pass},
};

use crate::{Figures, churn::Churner, note, variant::layers};

const CHURN: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(20);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let netns = Netns::new()?;
    let cgroup = Cgroup::new(machine, "managed")?;
    let control = Control::start()?;
    let mut node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
    control.enforce(layers(1_000, 10_000).layers)?;
    let mut churner = Churner::start(machine, &netns)?;
    // That it is missing is a fault; that it does not know this kernel is not.
    TCPLIFE.find()?;
    let mut tcplife = match tcplife(machine) {
        Ok(tcplife) => Some(tcplife),
        Err(error) => {
            println!("the daemon is not compared with tcplife: {error:#}");
            None
        }
    };

    let node_before = cpu_ticks(node.process().id())?;
    let tcplife_before = tcplife.as_ref().map(|process| cpu_ticks(process.id())).transpose()?;
    let turn = churner.turn(&cgroup, CHURN)?;
    let records = 2 * turn.with_warm_up;
    eventually("all records are reported", PATIENCE, || {
        let flows: u64 = control.flows("policies/bench").values().sum();
        ensure!(flows == records, "{flows} of {records} are");
        Ok(())
    })?;
    let us = |ticks: u64| ticks as f64 * 1e6 / ticks_per_second() / records as f64;
    let node_us = us(cpu_ticks(node.process().id())? - node_before);
    note(figures, "consumer_records", records as f64);
    note(figures, "consumer_records_lost", 0.0);
    note(figures, "node_cpu_us_per_record", node_us);
    if let (Some(process), Some(before)) = (&mut tcplife, tcplife_before) {
        // It writes in blocks: the last ones come when it ends.
        pass(Duration::from_millis(500))?;
        let tcplife_us = us(cpu_ticks(process.id())? - before);
        process.end_by(Signal::SIGINT)?;
        let lines = process.log().lines().count().saturating_sub(1) as f64;
        note(figures, "tcplife_cpu_us_per_record", tcplife_us);
        note(figures, "tcplife_lines_per_record", lines / records as f64);
        note(figures, "node_vs_tcplife", node_us / tcplife_us);
    }
    Ok(())
}

/// Starts it, and waits until it listens.
fn tcplife(machine: &Machine) -> Result<Process> {
    let mut command = TCPLIFE.command()?;
    // SAFETY: between fork and exec only unshare(2) and mount(2) are called.
    unsafe {
        command.pre_exec(|| with_tracefs().map_err(Into::into));
    }
    let mut process = Process::start(machine, "tcplife", command)?;
    // It says nothing before the first connection ends; by then it has a BPF program.
    eventually("tcplife has loaded its program", Duration::from_secs(5), || {
        process.check_alive()?;
        let files = fs::read_dir(format!("/proc/{}/fd", process.id())).context("looking at its files")?;
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if links.filter(|link| link.to_string_lossy().contains("perf_event")).count() == 0 {
            bail!("not yet");
        }
        Ok(())
    })?;
    Ok(process)
}

/// tracefs, which `tcplife` asks for, mounted where nobody else sees it.
fn with_tracefs() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none)?;
    mount(Some("nodev"), "/sys/kernel/tracing", Some("tracefs"), MsFlags::empty(), none)
}

/// CPU time of a process so far, in user and kernel.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a process's times")?;
    // The name, in parentheses, may hold anything; times are the 14th and 15th field of the line.
    let (_, rest) = text.rsplit_once(')').context("a process without a name")?;
    let times = rest.split_whitespace().skip(11).take(2);
    times.map(|field| field.parse::<u64>().context("a time is no number")).sum()
}

fn ticks_per_second() -> f64 {
    // SAFETY: a question without side effects.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}
