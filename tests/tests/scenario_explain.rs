//! What the server explains from what is stored is what the sockets of both ends really have, and what their records say.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1::{self, zone_service_client::ZoneServiceClient};
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{arm, clamp, experiment, policy, rule},
    machine::{Machine, Needs, scenario},
    node::Node,
    server::{Database, Server},
    traffic::{Facts, Opening},
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than what the rule asks for, as the path is.
const HANDSHAKE_RTT_US: u32 = 10_500;
const NODE: &str = "node";

/// Layers that together use zones, services, ports, arms and the handshake's time.
fn put_documents(admin: &Admin) -> Result<()> {
    let zone = |name: &str, region: &str, prefixes: &[&str]| v1::Zone {
        name: name.to_owned(),
        region: region.to_owned(),
        prefixes: prefixes.iter().map(ToString::to_string).collect(),
    };
    let zones = vec![zone("fra-1", "fra", &["10.1.0.0/16", "fd01::/16"]), zone("sin-1", "sin", &["10.2.0.0/16"])];
    let zone_map = Some(v1::ZoneMap { zones, ..v1::ZoneMap::default() });
    let request = v1::UpdateZoneMapRequest { zone_map, ..v1::UpdateZoneMapRequest::default() };
    admin.call(ZoneServiceClient::new(admin.channel()).update_zone_map(request))?;

    let any = v1::Match::default();
    let arms = vec![arm("small", 5_000, clamp(9)), arm("usual", 5_000, v1::Parameters::default())];
    let ipv4 = v1::Match { family: v1::Family::Ipv4.into(), ..any.clone() };
    admin.put_experiment(experiment("halves", 30, ipv4, arms), everyone())?;
    let zone_relation = v1::ZoneRelation::OtherRegion.into();
    let buffers = v1::Parameters { send_buffer_bytes: Some(50_000), ..clamp(12) };
    let rules = vec![
        rule("other-region", v1::Match { zone_relation, ..any.clone() }, buffers),
        rule("database", v1::Match { services: vec!["/db".to_owned()], ..any.clone() }, clamp(14)),
    ];
    admin.put_policy(policy("zones", 20, rules), everyone())?;
    let far = v1::Match { min_handshake_rtt_us: Some(8_000), ..any.clone() };
    let early = v1::Parameters { send_buffer_bytes: Some(60_000), ..clamp(18) };
    let rules = vec![rule("far", far, clamp(16)), rule("all", any, early)];
    admin.put_policy(policy("distance", 10, rules), everyone())?;
    for layer in ["experiments/halves", "policies/zones", "policies/distance"] {
        admin.wait_in_force(NODE, layer, 1)?;
    }
    Ok(())
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    local: (String, u32),
    remote: (String, u32),
    active: bool,
}

fn explain(admin: &Admin, end: &End) -> Result<v1::ExplainFlowResponse> {
    let direction = if end.active { v1::Direction::Active } else { v1::Direction::Passive };
    let request = v1::ExplainFlowRequest {
        node: format!("nodes/{NODE}"),
        local_address: end.local.0.clone(),
        local_port: end.local.1,
        remote_address: end.remote.0.clone(),
        remote_port: end.remote.1,
        direction: direction.into(),
        service: if end.active { "/web" } else { "/db" }.to_owned(),
        handshake_rtt_us: Some(HANDSHAKE_RTT_US),
        ..v1::ExplainFlowRequest::default()
    };
    Ok(admin.call(admin.fleet().explain_flow(request))?)
}

/// Compares what is explained with the socket; gives the clamp.
fn compare(explained: &v1::ExplainFlowResponse, end: &End, facts: &Facts) -> Result<u32> {
    let effective = |name: &str| -> Result<Option<u32>> {
        let found = explained.parameters.iter().find(|parameter| parameter.parameter == name);
        found.map(|parameter| parameter.effective.parse().context("no number")).transpose()
    };
    let clamp = effective("cwnd_clamp_packets")?.context("every connection has a clamp")?;
    ensure!(facts.ssthresh == clamp, "{end:?}: {facts:?}, but {explained:?}");
    let buffer = effective("send_buffer_bytes")?;
    ensure!(buffer.is_none_or(|bytes| facts.send_buffer == bytes), "{end:?}: {facts:?}, but {explained:?}");
    Ok(clamp)
}

/// Compares what is explained with the records of closed connections, as far as they are in the sample.
fn compare_samples(admin: &Admin, explained: &BTreeMap<End, v1::ExplainFlowResponse>) -> Result<()> {
    let request = v1::ListFlowSamplesRequest { page_size: 200, ..v1::ListFlowSamplesRequest::default() };
    let samples = admin.call(admin.fleet().list_flow_samples(request))?.samples;
    ensure!(samples.len() >= 10, "{} samples", samples.len());
    for sample in samples {
        let end = End {
            active: sample.direction() == v1::Direction::Active,
            local: (sample.local_address, sample.local_port),
            remote: (sample.remote_address, sample.remote_port),
        };
        let explained = explained.get(&end).with_context(|| format!("{end:?} was not opened"))?;
        let matched = explained.layers.iter().filter(|layer| layer.matched);
        let expected: Vec<_> = matched.map(|layer| (&layer.layer, layer.revision, &layer.choice)).collect();
        let found: Vec<_> = sample.attributions.iter().map(|a| (&a.layer, a.revision, &a.choice)).collect();
        ensure!(expected == found, "{end:?}: {found:?}, but {expected:?}");
    }
    Ok(())
}

#[test]
fn explanations_are_what_sockets_have() {
    const PATHS: [(&str, &str); 4] =
        [("10.1.0.2", "10.1.0.1"), ("10.2.0.2", "10.1.0.1"), ("fd01::2", "fd01::1"), ("fd02::2", "fd01::1")];
    scenario(Needs::Kernel, |machine: &Machine| {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let (web, db) = (cgroup.child("web")?, cgroup.child("db")?);
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let _node = Node::start(machine, NODE, &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&[NODE])?;
        put_documents(&admin)?;
        let mut pair = Pair::start(machine, &wire, Some(&web), Some(&db))?;

        let mut explained = BTreeMap::new();
        let mut clamps = BTreeMap::<u32, usize>::new();
        for (far, near) in PATHS {
            let opening = Opening { from: Some(near.parse()?), ..Opening::new(socket(far, pair.port)?, 12) };
            let flows = pair.client.open(&opening)?;
            let accepted: BTreeMap<_, _> =
                pair.server.accepted()?.into_iter().map(|accepted| (accepted.remote, accepted.opened)).collect();
            for flow in flows {
                let local = (flow.local.ip().to_string(), u32::from(flow.local.port()));
                let remote = (flow.remote.ip().to_string(), u32::from(flow.remote.port()));
                let active = flow.opened.clone().with_context(|| format!("{flow:?}"))?;
                let passive = accepted.get(&flow.local).cloned().context("never accepted")?;
                let ends = [
                    (End { local: local.clone(), remote: remote.clone(), active: true }, active),
                    (End { local: remote, remote: local, active: false }, passive),
                ];
                for (end, facts) in ends {
                    let answer = explain(&admin, &end)?;
                    ensure!(answer.refusals.is_empty(), "{answer:?}");
                    // An accepted socket is of its listener's cgroup; where that was asked, it is said.
                    for layer in &answer.layers {
                        let said = layer.note.contains("LISTENING");
                        ensure!(!said || !end.active, "{layer:?}");
                        ensure!(said || end.active || layer.choice != "database", "{layer:?}");
                    }
                    *clamps.entry(compare(&answer, &end, &facts)?).or_default() += 1;
                    explained.insert(end, answer);
                }
            }
        }
        // Each rule that can win did: the arm, the zones, the service, the distance.
        ensure!(clamps.keys().copied().collect::<Vec<_>>() == [9, 12, 14, 16], "{clamps:?}");
        eventually("the records agree", PATIENCE, || compare_samples(&admin, &explained))
    });
}
