//! What a change would do to real connections: their true share is where the answer says, and the tool says the same without a server.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sockpilot_proto::{
    convert::layer_of_experiment,
    v1::{self, simulate_change_request::Change},
};
use sockpilot_simulate::simulate_alone;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{arm, clamp, experiment, policy, rule},
    machine::{Machine, Needs, scenario},
    node::Node,
    process,
    server::{Database, Server},
    traffic::Opening,
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: &str = "node";
/// Connections that a layer matches, and those that none does. More than a report has room for.
const MATCHED: usize = 150;
const UNMATCHED: usize = 450;

fn to(address: &str) -> v1::Match {
    v1::Match { remote_prefixes: vec![address.to_owned()], ..v1::Match::default() }
}

fn ask(admin: &Admin, change: Change) -> Result<v1::Simulation> {
    let request = v1::SimulateChangeRequest { change: Some(change), ..v1::SimulateChangeRequest::default() };
    let answer = admin.call(admin.fleet().simulate_change(request))?;
    ensure!(!answer.cut && answer.warnings.is_empty(), "{answer:?}");
    answer.simulation.context("no simulation")
}

/// Opens connections; gives each as if it had been recorded as a whole.
fn open(pair: &mut Pair, address: &str, count: usize) -> Result<Vec<v1::FlowSample>> {
    let opening = Opening { at_once: 16, ..Opening::new(socket(address, pair.port)?, count) };
    let flows = pair.client.open(&opening)?;
    ensure!(flows.iter().all(|flow| flow.error.is_none()), "{flows:?}");
    let sample = |flow: sockpilot_tests::traffic::Flow| v1::FlowSample {
        node: format!("nodes/{NODE}"),
        close_time: Some(prost_types::Timestamp::default()),
        local_address: flow.local.ip().to_string(),
        local_port: flow.local.port().into(),
        remote_address: flow.remote.ip().to_string(),
        remote_port: flow.remote.port().into(),
        direction: v1::Direction::Active.into(),
        outcome: v1::Outcome::Established.into(),
        weight: 1.0,
        ..v1::FlowSample::default()
    };
    Ok(flows.into_iter().map(sample).collect())
}

/// One in three of those that go to the second address, by their buckets.
fn third() -> v1::Experiment {
    let arms = vec![arm("control", 6_667, v1::Parameters::default()), arm("small", 3_333, clamp(9))];
    experiment("third", 30, to("10.2.0.2/32"), arms)
}

fn total(simulation: &v1::Simulation) -> v1::TouchedShare {
    simulation.total.unwrap_or_default()
}

/// Runs the tool.
fn tool(server: &Server<'_>, arguments: &[&str]) -> Result<String> {
    let output = process::own("sockpilot")?.args(arguments).env("SOCKPILOT_SERVER", server.url()).output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What a server says through the tool, and what the tool says of a file of recorded flows.
fn said_without_server(machine: &Machine, server: &Server<'_>) -> Result<()> {
    let folder = machine.folder("files")?;
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let flows = write("flows.jsonl", &tool(server, &["samples", "-o", "jsonl", "--limit", "100000"])?)?;
    let old = write("old.yaml", &tool(server, &["get", "policies/first", "-o", "yaml"])?)?;
    let text = "kind: Policy\nname: both\npriority: 20\nrules:\n- name: all\n  match: {remote_prefixes: [10.0.0.0/8]}\n  \
                set: {cwnd_clamp_packets: 12}\n";
    let new = write("new.yaml", text)?;
    let by_server: Value = serde_json::from_str(&tool(server, &["simulate", "-f", &new, "-o", "json"])?)?;
    let alone = tool(server, &["simulate", "-f", &new, "--flows", &flows, "--against", &old, "-o", "json"])?;
    let alone: Value = serde_json::from_str(&alone)?;
    ensure!(alone == by_server["simulation"], "{alone} but {by_server}");
    ensure!(alone["total"]["share"] == 1.0 && alone["total"]["lower"] != alone["total"]["upper"], "{alone}");
    let shown = tool(server, &["simulate", "-f", &new])?;
    println!("{shown}");
    ensure!(shown.starts_with("policies/both would touch 100.00% of connections"), "{shown}");
    Ok(())
}

#[test]
fn the_true_share_is_where_the_answer_says() {
    scenario(Needs::Kernel, |machine: &Machine| {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let _node = Node::start(machine, NODE, &server.url(), &cgroup, &["--record-unmatched-bp", "10000"])?;
        admin.wait_for_nodes(&[NODE])?;
        let observed = policy("first", 10, vec![rule("observed", to("10.1.0.2/32"), v1::Parameters::default())]);
        admin.put_policy(observed, everyone())?;
        admin.wait_in_force(NODE, "policies/first", 1)?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        let mut real = open(&mut pair, "10.1.0.2", MATCHED)?;
        real.extend(open(&mut pair, "10.2.0.2", UNMATCHED)?);

        let of_second = Change::Policy(policy("new", 20, vec![rule("all", to("10.2.0.2/32"), clamp(12))]));
        let found = eventually("all connections are accounted for", PATIENCE, || {
            let found = ask(&admin, of_second.clone())?;
            let connections = total(&found).connections;
            // One in 2^32 has a hash that is never below the bound.
            ensure!((connections - (MATCHED + UNMATCHED) as f64).abs() < 1e-3, "{connections} connections");
            Ok(found)
        })?;
        // Where all of those are touched that were recorded alike, their number is known.
        let share = total(&found);
        ensure!(share.recorded < (MATCHED + UNMATCHED) as u64, "all were recorded, so there is nothing to estimate");
        let truth = UNMATCHED as f64 / (MATCHED + UNMATCHED) as f64;
        ensure!((share.share - truth).abs() < 1e-6 && share.lower < truth && truth < share.upper, "{share:?}");
        let [change] = found.changes.as_slice() else { panic!("{found:?}") };
        ensure!((change.before.as_deref(), change.after.as_deref()) == (None, Some("12")), "{change:?}");

        // By buckets, only those that were recorded are known.
        let name = "experiments/third".parse().map_err(anyhow::Error::msg)?;
        let layer = layer_of_experiment(third(), &name, 0);
        let truth = simulate_alone(&real, vec![], vec![layer], &v1::ZoneMap::default());
        let truth = total(&truth.map_err(|faults| anyhow::anyhow!("{faults}"))?).share;
        let share = total(&ask(&admin, Change::Experiment(third()))?);
        println!("{} of {} recorded: {truth:.4} is {share:?}", share.recorded, MATCHED + UNMATCHED);
        ensure!((0.1..0.4).contains(&truth) && share.upper - share.lower > 0.01, "{share:?}");
        // The interval has one run in twenty beside it; twice as wide, one in ten thousand.
        let (below, above) = (share.share - share.lower, share.upper - share.share);
        let wide = share.share - 2.0 * below..=share.share + 2.0 * above;
        ensure!(wide.contains(&truth), "{truth} is not in {wide:?}: {share:?}");
        said_without_server(machine, &server)
    });
}
