//! kill -9 of the daemon, the server and Postgres, in turn, under churn: the policy stays in force, versions never go back, and in
//! the end Postgres has every flow that the kernel counted, once.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{policy, rule},
    machine::{Needs, scenario},
    node::Node,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    traffic::Opening,
    wait::{eventually, pass},
    world::{Pair, Wire, short_path, socket},
};

const PATIENCE: Duration = Duration::from_secs(60);
const LAYER: &str = "policies/web";
const ROUNDS: u32 = 2;
/// How long the rest has to live without the part that was killed.
const ABSENCE: Duration = Duration::from_millis(1_500);
const FIRST_CLAMP: u32 = 20;

fn document(number: u32) -> v1::Policy {
    let set = v1::Parameters { cwnd_clamp_packets: Some(FIRST_CLAMP + number), ..v1::Parameters::default() };
    policy("web", 10, vec![rule("all", v1::Match::default(), set)])
}

/// Makes one more revision and waits until the node has it; what is away is waited for.
fn advance(admin: &Admin, number: &mut u32) -> Result<()> {
    *number += 1;
    let policy = eventually("a change is taken", PATIENCE, || Ok(admin.put_policy(document(*number), everyone())?))?;
    ensure!(policy.revision == u64::from(*number), "revision {} instead of {number}", policy.revision);
    admin.wait_in_force("node", LAYER, policy.revision)
}

#[test]
fn nothing_is_lost_and_nothing_goes_back() {
    scenario(Needs::Kernel, |machine| {
        let mut postgres = Postgres::start(machine, Durability::Process)?;
        let mut server = Server::start(machine, Database::Url(postgres.url()), &[])?;
        let admin = server.admin()?;
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let mut node = Node::start(machine, "node", &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&["node"])?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), Some(&cgroup))?;
        let mut number = 0;
        advance(&admin, &mut number)?;

        let churn = Opening { at_once: 4, pause_ms: 5, ..Opening::new(socket("10.1.0.2", pair.port)?, 0) };
        pair.client.start_opening(&churn)?;
        for _ in 0..ROUNDS {
            node.kill()?;
            pass(ABSENCE)?;
            node.restart()?;
            advance(&admin, &mut number)?;

            server.kill()?;
            pass(ABSENCE)?;
            server.restart()?;
            advance(&admin, &mut number)?;

            postgres.kill()?;
            pass(ABSENCE)?;
            postgres.restart()?;
            advance(&admin, &mut number)?;
        }
        node.kill()?;
        server.kill()?;
        postgres.kill()?;
        pass(ABSENCE)?;
        postgres.restart()?;
        server.restart()?;
        node.restart()?;
        advance(&admin, &mut number)?;
        let flows = pair.client.stop()?;

        // Connections that overlap in time may see versions in either order; those that do not never go back.
        let mut done: Vec<(u64, u32)> = Vec::new();
        for flow in &flows {
            let facts = flow.opened.as_ref().with_context(|| format!("a connection failed: {flow:?}"))?;
            let version = facts.ssthresh.checked_sub(FIRST_CLAMP).filter(|version| (1..=number).contains(version));
            done.push((flow.began_us, version.with_context(|| format!("a connection without its policy: {flow:?}"))?));
        }
        done.sort_unstable();
        let overlap = |flow: u64| flow.saturating_sub(1_000_000);
        let mut greatest = 0;
        let mut earlier = 0;
        for (position, (began, version)) in done.iter().enumerate() {
            while done[earlier].0 < overlap(*began) && earlier < position {
                greatest = greatest.max(done[earlier].1);
                earlier += 1;
            }
            ensure!(*version >= greatest, "version {version} after {greatest}");
        }

        let expected = 2 * flows.len() as u64;
        let stored = || -> Result<u64> { Ok(admin.flows(LAYER)?.values().sum()) };
        eventually("Postgres has every flow", PATIENCE, || {
            let stored = stored()?;
            if stored != expected {
                bail!("{stored} of {expected}");
            }
            Ok(())
        })?;
        let known = admin.nodes()?.remove("node").context("the node is unknown")?;
        ensure!(known.records_dropped == 0 && known.records_total == expected, "the kernel counted: {known:?}");
        println!("{} connections, {number} revisions, nothing lost", flows.len());
        // Reports that come again change nothing.
        node.kill()?;
        node.restart()?;
        eventually("the node is back", PATIENCE, || admin.wait_for_nodes(&["node"]))?;
        pass(Duration::from_secs(3))?;
        ensure!(stored()? == expected, "after another restart there are {}", stored()?);
        Ok(())
    });
}
