//! What it takes to look at thousands of open connections, and to change them, against `ss`, which walks over the same sockets
//! and prints them.

use std::{
    io::{self, BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sockpilot_node::kernel::{Kernel, Options, Walker};
use sockpilot_policy::{compile::compile, layout::Counter};
use sockpilot_programs::SS;
use sockpilot_proto::{convert::snapshot_from_proto, v1};
use sockpilot_tests::{
    cgroup::Cgroup,
    documents::{policy_layer, rule},
    machine::Machine,
    netns::Netns,
    process,
};

use crate::{Figures, note, quantile};

/// The argument that makes this program the process that holds connections.
pub const ARGUMENT: &str = "hold";
/// Connections, both of whose ends are looked at. A process may have 20,000 files.
const CONNECTIONS: usize = 8_000;
const ENDS: f64 = 2.0 * CONNECTIONS as f64;
const ROUNDS: u64 = 7;

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let (netns, cgroup) = (Netns::new()?, Cgroup::new(machine, "open")?);
    let options = Options { cgroup: cgroup.path().to_owned(), pin_dir: machine.pin_root().join("open") };
    let (mut kernel, _) = Kernel::open(&options).context("opening the kernel side")?;
    let walker = Walker::adjuster(&options).context("opening the walker")?;
    let walker = walker.context("this kernel's sockets look unfamiliar")?;
    let _holder = Holder::start(&netns, &cgroup)?;
    let (mut set, mut look, mut back, mut ss) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        enforce(&mut kernel, 2 * round + 1, vec![pacing()])?;
        set.push(us_per_end(|| Ok(walker.walk_all().map(drop)?))?);
        look.push(us_per_end(|| Ok(walker.walk_all().map(drop)?))?);
        ss.push(us_per_end(|| netns.output(SS, &["-tinH"]).map(drop))?);
        enforce(&mut kernel, 2 * round + 2, vec![])?;
        back.push(us_per_end(|| Ok(walker.walk_all().map(drop)?))?);
    }
    let counters = kernel.counters().context("reading the counters")?;
    for counter in [Counter::LiveSet, Counter::LiveRestored] {
        let found = counters[counter as usize];
        ensure!(found == ROUNDS * 2 * CONNECTIONS as u64, "{counter:?} is {found}");
    }
    let look = quantile(&mut look, 0.5);
    note(figures, "open_look_us_per_connection_end", look);
    note(figures, "open_set_us_per_connection_end", quantile(&mut set, 0.5));
    note(figures, "open_put_back_us_per_connection_end", quantile(&mut back, 0.5));
    note(figures, "open_look_vs_ss", look / quantile(&mut ss, 0.5));
    Ok(())
}

fn us_per_end(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1e6 / ENDS)
}

fn pacing() -> v1::Layer {
    let set = v1::Parameters { max_pacing_rate_bytes_per_s: Some(1_250_000_000), ..v1::Parameters::default() };
    let apply_to = v1::ApplyTo::NewAndEstablished.into();
    policy_layer("open", 1, 1, vec![v1::Rule { apply_to, ..rule("all", v1::Match::default(), set) }])
}

fn enforce(kernel: &mut Kernel, generation: u64, layers: Vec<v1::Layer>) -> Result<()> {
    let snapshot = snapshot_from_proto(&v1::Layers { layers, zones: vec![] }).context("reading the layers")?;
    let facts = sockpilot_node::facts::read().context("reading this kernel's facts")?;
    let compiled = compile(&snapshot, &facts, generation, generation);
    let compiled = compiled.map_err(|refusals| anyhow::anyhow!("refused: {refusals:?}"))?;
    kernel.install(&compiled.tables).context("installing the tables")
}

/// The process that holds the connections; it ends with the guard.
struct Holder(Child);

impl Holder {
    fn start(netns: &Netns, cgroup: &Cgroup) -> Result<Self> {
        let mut command = process::this()?;
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        netns.enter(&mut command)?;
        cgroup.enter(&mut command)?;
        process::end_with_parent(&mut command, Signal::SIGKILL);
        let mut holder = Self(command.spawn().context("starting the holder")?);
        let output = holder.0.stdout.take().context("the holder has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("waiting for the holder")?;
        ensure!(line == "open\n", "the holder said {line:?}");
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The inside of the process: opens the connections, and holds them until its input ends.
///
/// # Errors
/// If one cannot be opened.
pub fn hold() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
    let to = listener.local_addr().context("asking for the port")?;
    let pair = |number| {
        let client = TcpStream::connect(to).with_context(|| format!("connection {number}"))?;
        Ok((client, listener.accept().context("accepting")?.0))
    };
    let _pairs: Vec<_> = (0..CONNECTIONS).map(pair).collect::<Result<_>>()?;
    println!("open");
    io::stdin().read_to_end(&mut vec![]).context("waiting for the end")?;
    Ok(())
}
