//! A node records all its connections because somebody asked for it, through restarts of daemon and server, and ends by itself; what stands for
//! all connections stays what it is.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use sockpilot_programs::reserved_address;
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{clamp, policy, rule},
    machine::{Needs, scenario},
    node::Node,
    server::{Database, Server, metrics_text},
    traffic::Opening,
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

const NODE: &str = "node";
const POLICY: &str = "policies/web";
const MATCHED: &str = "10.1.0.2";
const UNMATCHED: &str = "10.2.0.2";
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for two restarts.
const RECORDED_FOR: &str = "45s";
/// Of what no policy matches, a daemon shows this by itself, in basis points.
const SHARE: &str = "100";

/// All flows that are kept, of the sample or on request.
fn flows(admin: &Admin, recorded: bool) -> Result<Vec<v1::FlowSample>> {
    let (mut all, mut page_token) = (vec![], String::new());
    loop {
        let node = format!("nodes/{NODE}");
        let request = v1::ListFlowSamplesRequest { name: String::new(), node, page_size: 200, page_token, recorded };
        let page = admin.call(admin.fleet().list_flow_samples(request))?;
        all.extend(page.samples);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// The near ends of connections that were opened.
fn open(pair: &mut Pair, to: &str, count: usize) -> Result<BTreeSet<SocketAddr>> {
    let opening = Opening { at_once: 16, ..Opening::new(socket(to, pair.port)?, count) };
    let flows = pair.client.open(&opening)?;
    ensure!(flows.iter().all(|flow| flow.error.is_none()), "{flows:?}");
    Ok(flows.into_iter().map(|flow| flow.local).collect())
}

/// Opens connections of both kinds, and waits until each of them is recorded.
fn all_recorded(admin: &Admin, pair: &mut Pair, opened: &mut BTreeSet<SocketAddr>) -> Result<()> {
    opened.extend(open(pair, MATCHED, 60)?);
    opened.extend(open(pair, UNMATCHED, 40)?);
    eventually("each connection is recorded", PATIENCE, || {
        let flows = flows(admin, true)?;
        ensure!(flows.iter().all(|flow| flow.weight == 0.0), "they stand for none");
        let end = |flow: &v1::FlowSample| socket(&flow.local_address, flow.local_port.try_into()?);
        let found = flows.iter().map(end).collect::<Result<BTreeSet<_>>>()?;
        let missing = opened.difference(&found).count();
        ensure!(missing == 0, "{missing} of {} are missing", opened.len());
        Ok(())
    })
}

/// Waits until the daemon says that it records, or that it does not.
fn records(at: SocketAddr, records: bool) -> Result<()> {
    eventually(&format!("the daemon records: {records}"), PATIENCE, || {
        let text = metrics_text(at)?;
        let said = text.lines().find_map(|line| line.strip_prefix("sockpilot_node_recording "));
        ensure!(said == Some(if records { "1" } else { "0" }), "{said:?}");
        Ok(())
    })
}

#[test]
fn all_connections_are_recorded_for_a_time() {
    scenario(Needs::Kernel, |machine| {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let mut server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let at = reserved_address()?;
        let listen = at.to_string();
        let more = ["--record-unmatched-bp", SHARE, "--metrics-listen", &listen];
        let mut node = Node::start(machine, NODE, &server.url(), &cgroup, &more)?;
        let first = v1::Match { remote_prefixes: vec![format!("{MATCHED}/32")], ..v1::Match::default() };
        let revision = admin.put_policy(policy("web", 1, vec![rule("all", first, clamp(20))]), everyone())?.revision;
        admin.wait_in_force(NODE, POLICY, revision)?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        open(&mut pair, MATCHED, 60)?;
        records(at, false)?;

        let said = server.says(&["nodes", "record", NODE, "--for", RECORDED_FOR, "--reason", "resets"])?;
        ensure!(said.contains("nodes/node records its connections until"), "{said}");
        records(at, true)?;
        let mut opened = BTreeSet::new();
        all_recorded(&admin, &mut pair, &mut opened)?;
        let shown = server.says(&["nodes"])?;
        ensure!(shown.contains("records its connections until") && shown.contains("resets"), "{shown}");

        node.kill()?;
        node.restart()?;
        records(at, true)?;
        all_recorded(&admin, &mut pair, &mut opened)?;
        server.kill()?;
        server.restart()?;
        admin.wait_for_nodes(&[NODE])?;
        all_recorded(&admin, &mut pair, &mut opened)?;

        records(at, false)?;
        ensure!(admin.nodes()?.get(NODE).is_some_and(|node| node.recording.is_none()), "it is over");
        let before = flows(&admin, true)?.len();
        open(&mut pair, UNMATCHED, 200)?;
        open(&mut pair, MATCHED, 60)?;
        eventually("all outcomes are there", PATIENCE, || {
            let counted = admin.flows(POLICY)?.values().sum::<u64>();
            ensure!(counted == 5 * 60, "{counted}");
            Ok(())
        })?;
        ensure!(flows(&admin, true)?.len() == before, "it went on");
        // The daemon that was killed had a part of its sample in memory, so there may be less; what nobody asked for is not more.
        let sample = flows(&admin, false)?;
        let weight = |matched: bool| {
            let those = sample.iter().filter(|flow| flow.attributions.is_empty() != matched);
            those.map(|flow| flow.weight).sum::<f64>()
        };
        let (matched, unmatched) = (weight(true), weight(false));
        ensure!(matched > 100.0 && matched <= 300.0 + 1e-6, "{matched} matched");
        // Of 320 one in a hundred: 3 are expected, and 15 are not.
        ensure!(unmatched <= 1_500.0, "{unmatched} unmatched: those recorded on request weigh one each at most");
        Ok(())
    });
}
