//! Connection churn: one thread that connects to itself, sends a byte there and one back, and closes, as fast as it can.
//!
//! One thread at both ends means that nothing waits and nothing is scheduled: the thread's CPU time is all that a connection costs.
//! The process is told which cgroup to be in; it keeps a listener in each, for an accepted socket is in its listener's cgroup.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::Signal,
    time::{ClockId, clock_gettime},
};
use sockpilot_tests::{cgroup::Cgroup, machine::Machine, netns::Netns, process};

/// The argument that makes this program the process that churns.
pub const ARGUMENT: &str = "churn";
/// Connections before the measured ones, which warm the caches.
const WARM_UP: Duration = Duration::from_millis(10);
/// On the loopback nothing takes as long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What one turn came to.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Connections opened, the warm-up's not counted.
    pub connections: u64,
    /// All of them.
    pub with_warm_up: u64,
    /// CPU time of the thread.
    pub cpu_ns: u64,
}

impl Turn {
    /// CPU time per connection, which is two ends.
    pub fn us_per_connection(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.connections as f64
    }
}

/// The process that churns; it ends with the guard.
#[derive(Debug)]
pub struct Churner {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Churner {
    /// Starts it in a namespace of its own kind: without TIME-WAIT, which would fill the table of ports.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn start(machine: &Machine, netns: &Netns) -> Result<Self> {
        netns.sysctl("net/ipv4/tcp_max_tw_buckets", "0")?;
        let log = machine.directory().join("churn.log");
        let mut command = process::this()?;
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        command.stderr(File::create(&log).with_context(|| format!("making {log:?}"))?);
        netns.enter(&mut command)?;
        process::end_with_parent(&mut command, Signal::SIGKILL);
        let mut child = command.spawn().context("starting the churn")?;
        let orders = child.stdin.take().context("the churn has no input")?;
        let answers = BufReader::new(child.stdout.take().context("the churn has no output")?);
        Ok(Self { child, orders, answers })
    }

    /// Churns for a while in a cgroup.
    ///
    /// # Errors
    /// If it has ended.
    pub fn turn(&mut self, cgroup: &Cgroup, time: Duration) -> Result<Turn> {
        writeln!(self.orders, "{} {}", time.as_micros(), cgroup.path().display()).context("ordering a turn")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("waiting for a turn")?;
        let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [connections, with_warm_up, cpu_ns] = numbers[..] else {
            anyhow::bail!("the churn said {line:?} and nothing more; its words are in churn.log")
        };
        ensure!(connections > 0, "the churn came to nothing");
        Ok(Turn { connections, with_warm_up, cpu_ns })
    }
}

impl Drop for Churner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The inside of the process.
///
/// # Errors
/// Whatever goes wrong.
pub fn serve() -> Result<()> {
    let mut listeners = HashMap::new();
    let mut here = String::new();
    for line in io::stdin().lock().lines() {
        let line = line.context("reading an order")?;
        let (micros, cgroup) = line.split_once(' ').context("an order has two words")?;
        if here != cgroup {
            std::fs::write(Path::new(cgroup).join("cgroup.procs"), "0").context("entering a cgroup")?;
            cgroup.clone_into(&mut here);
        }
        if !listeners.contains_key(cgroup) {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
            listeners.insert(cgroup.to_owned(), listener);
        }
        let listener = listeners.get(cgroup).context("no listener")?;
        let warm_up = churn(listener, WARM_UP)?;
        let before = thread_cpu_ns()?;
        let connections = churn(listener, Duration::from_micros(micros.parse().context("reading a time")?))?;
        let cpu_ns = thread_cpu_ns()? - before;
        println!("{connections} {} {cpu_ns}", connections + warm_up);
        io::stdout().flush().context("answering")?;
    }
    Ok(())
}

fn churn(listener: &TcpListener, time: Duration) -> Result<u64> {
    let at = listener.local_addr().context("asking for the port")?;
    let end = Instant::now() + time;
    let mut connections = 0;
    while Instant::now() < end {
        let mut near = TcpStream::connect_timeout(&at, TIMEOUT).context("connecting")?;
        let (mut far, _) = listener.accept().context("accepting")?;
        let mut byte = [1];
        near.write_all(&byte).context("asking")?;
        far.read_exact(&mut byte).context("being asked")?;
        far.write_all(&byte).context("answering")?;
        near.read_exact(&mut byte).context("being answered")?;
        // In the order of a well-behaved pair, so that neither end is closed by the other one's reset.
        near.shutdown(Shutdown::Write).context("closing")?;
        drop(far);
        drop(near);
        connections += 1;
    }
    Ok(connections)
}

fn thread_cpu_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading the thread's clock")?;
    u64::try_from(Duration::from(time).as_nanos()).context("more than 500 years")
}
