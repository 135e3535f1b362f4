//! The outside of an agent: the guard of its process.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Accepted, Answer, Flow, Opening, Options, Order};
use crate::{cgroup::Cgroup, machine::Machine, netns::Netns, process, wait::check_interrupted};

/// An order that takes longer than this will never be answered.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that makes traffic; it ends with the guard.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Agent {
    /// Starts one, in a cgroup if one is given.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(machine: &Machine, name: &str, netns: &Netns, cgroup: Option<&Cgroup>) -> Result<Self> {
        let log = machine.directory().join(format!("{}.log", machine.unique(name)));
        let mut command = process::own("sockpilot-traffic")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        command.stderr(File::create(&log).with_context(|| format!("making {log:?}"))?);
        netns.enter(&mut command)?;
        if let Some(cgroup) = cgroup {
            cgroup.enter(&mut command)?;
        }
        process::end_with_parent(&mut command, Signal::SIGKILL);
        let mut child = command.spawn().context("starting an agent")?;
        let orders = child.stdin.take().context("an agent has no input")?;
        let output = BufReader::new(child.stdout.take().context("an agent has no output")?);
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, orders, answers })
    }

    /// Answers connections at an address; says which, for port 0.
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn listen(&mut self, at: SocketAddr) -> Result<SocketAddr> {
        match self.order(&Order::Listen(at))? {
            Answer::Listening(at) => Ok(at),
            other => unexpected(&other),
        }
    }

    /// Connections accepted since the last call.
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn accepted(&mut self) -> Result<Vec<Accepted>> {
        match self.order(&Order::Accepted)? {
            Answer::Accepted(list) => Ok(list),
            other => unexpected(&other),
        }
    }

    /// Opens connections and waits for their ends.
    ///
    /// # Errors
    /// If the agent cannot; connections that fail are no error.
    pub fn open(&mut self, opening: &Opening) -> Result<Vec<Flow>> {
        self.flows(&Order::Open(opening.clone()))
    }

    /// Opens connections until [`Self::stop`].
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn start_opening(&mut self, opening: &Opening) -> Result<()> {
        self.done(&Order::Start(opening.clone()))
    }

    /// Connections that have ended since the last call.
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn progress(&mut self) -> Result<Vec<Flow>> {
        self.flows(&Order::Progress)
    }

    /// Stops opening, waits for the last ends, and says those not yet told.
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn stop(&mut self) -> Result<Vec<Flow>> {
        self.flows(&Order::Stop)
    }

    /// Connects to itself at an address and keeps both ends open.
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn keep(&mut self, at: IpAddr) -> Result<()> {
        self.done(&Order::Keep(at))
    }

    /// Lets one end (0: that connected) of a kept connection send no more, and waits until the other end knows.
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn finish_sending(&mut self, which: usize, end: usize) -> Result<()> {
        self.done(&Order::FinishSending(which, end))
    }

    /// Options of all kept connections: of the end that connected, and of the end that accepted.
    ///
    /// # Errors
    /// If the agent cannot.
    pub fn look(&mut self) -> Result<Vec<[Options; 2]>> {
        match self.order(&Order::Look)? {
            Answer::Kept(options) => Ok(options),
            other => unexpected(&other),
        }
    }

    fn done(&mut self, order: &Order) -> Result<()> {
        match self.order(order)? {
            Answer::Done => Ok(()),
            other => unexpected(&other),
        }
    }

    fn flows(&mut self, order: &Order) -> Result<Vec<Flow>> {
        match self.order(order)? {
            Answer::Opened(flows) => Ok(flows),
            other => unexpected(&other),
        }
    }

    fn order(&mut self, order: &Order) -> Result<Answer> {
        let mut line = serde_json::to_string(order).context("writing an order")?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).context("giving an order to an agent")?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            check_interrupted()?;
            match self.answers.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return serde_json::from_str(&line).context("reading an agent's answer"),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("an agent has ended"),
            }
        }
        bail!("an agent gave no answer in {PATIENCE:?} to {order:?}")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected<T>(answer: &Answer) -> Result<T> {
    bail!("an agent answered: {answer:?}")
}
