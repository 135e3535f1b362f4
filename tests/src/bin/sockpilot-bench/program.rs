//! What the kernel program costs per call, on real connections, with 1,000 rules loaded: the kernel's own account.

use std::{fs, os::fd::AsRawFd, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{policy_layer, rule},
    machine::Machine,
    netns::Netns,
    node::Node,
    traffic::{Agent, Opening},
    wait::pass,
    world::socket,
};

use crate::{Figures, note};

const CHURN: Duration = Duration::from_secs(6);
const RULES: u32 = 1_000;

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let netns = Netns::new()?;
    let cgroup = Cgroup::new(machine, "managed")?;
    let control = Control::start()?;
    let node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
    control.enforce(vec![policy_layer("thousand", 1, 1, rules())])?;
    let mut agent = Agent::start(machine, "agent", &netns, Some(&cgroup))?;
    let at = agent.listen(socket("127.0.0.1", 0)?)?;

    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).context("turning on the kernel's account")?;
    agent.start_opening(&Opening { at_once: 2, ..Opening::new(at, 0) })?;
    pass(Duration::from_secs(1))?;
    agent.progress()?;
    let before = Account::of(&node)?;
    pass(CHURN)?;
    let after = Account::of(&node)?;
    let flows = agent.progress()?;
    agent.stop()?;
    ensure!(flows.iter().all(|flow| flow.error.is_none()) && flows.len() > 100, "the churn failed");
    let (calls, time) = (after.calls - before.calls, after.time_ns - before.time_ns);
    ensure!(calls > 1_000, "the kernel counted only {calls} calls; are its statistics on?");
    note(figures, "kernel_ns_per_call", time as f64 / calls as f64);
    note(figures, "kernel_ns_per_connection_end", time as f64 / (2 * flows.len()) as f64);
    note(figures, "kernel_calls_per_connection_end", calls as f64 / (2 * flows.len()) as f64);
    note(figures, "churn_connections_per_second", flows.len() as f64 / CHURN.as_secs_f64());
    Ok(())
}

struct Account {
    calls: u64,
    time_ns: u64,
}

impl Account {
    fn of(node: &Node<'_>) -> Result<Self> {
        let layouts = fs::read_dir(node.pins()).context("looking for the pins")?;
        let layout = layouts.flatten().next().context("nothing is pinned")?.path();
        let program = aya::programs::ProgramInfo::from_pin(layout.join("program")).context("opening the program")?;
        let program = program.fd().context("opening the program")?;
        let fd = std::os::fd::AsFd::as_fd(&program).as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).context("reading the account")?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            line.trim_start_matches(':').trim().parse().with_context(|| format!("{name} is no number"))
        };
        Ok(Self { calls: field("run_cnt")?, time_ns: field("run_time_ns")? })
    }
}

/// All but the last are about other networks.
fn rules() -> Vec<v1::Rule> {
    let set = v1::Parameters {
        initial_cwnd_packets: Some(20),
        send_buffer_bytes: Some(200_000),
        ..v1::Parameters::default()
    };
    let other = |number: u32| v1::Match {
        remote_prefixes: vec![format!("10.{}.{}.0/24", number / 250, number % 250)],
        ..v1::Match::default()
    };
    let others = (0..RULES - 1).map(|number| rule(&format!("r{number}"), other(number), set.clone()));
    others.chain([rule("last", v1::Match::default(), set.clone())]).collect()
}
