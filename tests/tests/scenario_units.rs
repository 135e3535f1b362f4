//! What is randomised, on the real kernel: which arm a connection has can be said by anybody, from its addresses, its node and when it
//! began: offline by the functions of `sockpilot_policy`, and by the server that is asked. The sockets of both ends agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::{
    bucket::{bucket, flow_bucket, node_hash, peer_prefix, salt, slot_bucket, unit_hash},
    layout::{FlowKey, PASSIVE},
};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{arm, clamp, experiment},
    link::{End, Link},
    machine::{Needs, scenario},
    netns::Netns,
    node::Node,
    server::{Database, Server},
    traffic::{Agent, Facts, Flow, Opening},
    wait::pass,
    world::{short_path, socket},
};

const SLOT_S: u32 = 3;
/// Networks of peers, with addresses at both ends.
const NETWORKS: usize = 8;
/// In each of a pair of slots, so that both arms are seen.
const ROUNDS: usize = 2;
/// The fleet's time is a little off this clock.
const MARGIN: Duration = Duration::from_millis(100);
/// By the node of each end.
const NODES: [&str; 2] = ["east", "west"];

/// What each experiment sets in its second arm, to be seen in a socket.
fn sets() -> [(&'static str, v1::Unit, v1::Parameters); 4] {
    let none = v1::Parameters::default;
    [
        ("flow", v1::Unit::Flow, clamp(9)),
        ("prefix", v1::Unit::PeerPrefix, v1::Parameters { send_buffer_bytes: Some(50_000), ..none() }),
        ("node", v1::Unit::Node, v1::Parameters { congestion_control: Some("cubic".to_owned()), ..none() }),
        ("slot", v1::Unit::TimeSlot, v1::Parameters { dscp: Some(10), ..none() }),
    ]
}

/// Whether a socket has what the second arm of an experiment sets.
fn has(experiment: &str, facts: &Facts) -> bool {
    match experiment {
        "flow" => facts.ssthresh == 9,
        "prefix" => facts.send_buffer == 100_000,
        "node" => facts.congestion == "cubic",
        _ => facts.traffic_class >> 2 == 10,
    }
}

fn put_experiments(admin: &Admin) -> Result<()> {
    for (position, (id, unit, set)) in sets().into_iter().enumerate() {
        let arms = vec![arm("control", 5_000, v1::Parameters::default()), arm("other", 5_000, set)];
        let time_slot = (unit == v1::Unit::TimeSlot).then_some(v1::TimeSlot { slot_s: SLOT_S, washout_s: 1 });
        let priority = 100 - u32::try_from(position)?;
        let design = experiment(id, priority, v1::Match::default(), arms);
        let design = v1::Experiment { unit: unit.into(), time_slot, horizon_s: 1, ..design };
        let stored = admin.put_experiment(design, everyone())?;
        for node in NODES {
            admin.wait_in_force(node, &stored.name, stored.revision)?;
        }
    }
    Ok(())
}

/// The bucket of one end of a connection, by what is known of it alone.
fn offline(experiment: &str, end: &EndOf) -> u32 {
    let salted = salt(experiment);
    match experiment {
        "flow" => flow_bucket(salted, &end.key),
        "prefix" => bucket(unit_hash(salted, &end.key, &peer_prefix(24, 48))),
        "node" => bucket(node_hash(salted, NODES[end.node])),
        _ => slot_bucket(salted, end.begin_s / u64::from(SLOT_S)),
    }
}

/// One end of a connection.
#[derive(Debug)]
struct EndOf {
    node: usize,
    local: SocketAddr,
    remote: SocketAddr,
    key: FlowKey,
    begin_s: u64,
    facts: Facts,
}

fn explain(admin: &Admin, end: &EndOf) -> Result<BTreeMap<String, (String, Option<u32>)>> {
    let direction = if end.node == 0 { v1::Direction::Active } else { v1::Direction::Passive };
    let begin_time = prost_types::Timestamp { seconds: end.begin_s.try_into()?, nanos: 500_000_000 };
    let request = v1::ExplainFlowRequest {
        node: format!("nodes/{}", NODES[end.node]),
        local_address: end.local.ip().to_string(),
        local_port: end.local.port().into(),
        remote_address: end.remote.ip().to_string(),
        remote_port: end.remote.port().into(),
        direction: direction.into(),
        begin_time: Some(begin_time),
        ..v1::ExplainFlowRequest::default()
    };
    let layers = admin.call(admin.fleet().explain_flow(request))?.layers;
    let id = |name: &str| name.trim_start_matches("experiments/").to_owned();
    Ok(layers.into_iter().map(|layer| (id(&layer.layer), (layer.choice, layer.bucket))).collect())
}

/// The socket, the server and the functions agree on the arms; says which they are.
fn compare(admin: &Admin, end: &EndOf) -> Result<BTreeMap<&'static str, bool>> {
    let explained = explain(admin, end)?;
    let mut arms = BTreeMap::new();
    for (experiment, unit, _) in sets() {
        let expected = offline(experiment, end);
        let other = expected >= 5_000;
        let (choice, bucket) = explained.get(experiment).with_context(|| format!("{explained:?}"))?;
        ensure!(choice == if other { "other" } else { "control" }, "{experiment}: {end:?}, but {explained:?}");
        // On a node that has one arm the bucket of a connection is any of that arm's.
        ensure!(unit == v1::Unit::Node || *bucket == Some(expected), "{experiment}: {end:?}, but {explained:?}");
        ensure!(has(experiment, &end.facts) == other, "{experiment} has bucket {expected}, but {end:?}");
        arms.insert(experiment, other);
    }
    Ok(arms)
}

fn now() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("before 1970")
}

/// Two ends with addresses in several networks each.
fn addresses(end: u8) -> Result<Vec<IpAddr>> {
    // The two ends share no network.
    let address = |network: usize, host: u8| format!("10.{end}.{network}.{host}").parse().context("no address");
    (0..NETWORKS).flat_map(|network| [address(network, 1), address(network, 200)]).collect()
}

/// Opens one connection; `None` if a slot's boundary was so near that its arm cannot be said.
fn one(near: &mut Agent, far: &mut Agent, from: IpAddr, to: SocketAddr) -> Result<Option<[EndOf; 2]>> {
    let before = now()?;
    let flow: Flow =
        near.open(&Opening { from: Some(from), ..Opening::new(to, 1) })?.pop().context("nothing was opened")?;
    let slot = |time: Duration| time.as_secs() / u64::from(SLOT_S);
    let after = now()?;
    let accepted = far.accepted()?.pop().context("nothing was accepted")?;
    ensure!(accepted.remote == flow.local, "{accepted:?} is not {flow:?}");
    if slot(before.saturating_sub(MARGIN)) != slot(after + MARGIN) {
        return Ok(None);
    }
    let (active, begin_s) = (flow.key(), before.as_secs());
    let passive = FlowKey {
        local: active.remote,
        remote: active.local,
        local_port: active.remote_port,
        remote_port: active.local_port,
        direction: PASSIVE,
        ..active
    };
    let opened = flow.opened.clone().with_context(|| format!("not established: {flow:?}"))?;
    let (local, remote) = (flow.local, flow.remote);
    Ok(Some([
        EndOf { node: 0, local, remote, key: active, begin_s, facts: opened },
        EndOf { node: 1, local: remote, remote: local, key: passive, begin_s, facts: accepted.opened },
    ]))
}

#[test]
fn anybody_can_say_which_arm_a_connection_has() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let (near, far) = (Netns::new()?, Netns::new()?);
        let (here, there) = (addresses(1)?, addresses(2)?);
        let ends = (End { netns: &near, addresses: &here }, End { netns: &far, addresses: &there });
        let _link = Link::new(&ends.0, &ends.1, short_path(), 1)?;
        let cgroups = [Cgroup::new(machine, NODES[0])?, Cgroup::new(machine, NODES[1])?];
        let start = |id: usize| Node::start(machine, NODES[id], &server.url(), &cgroups[id], &[]);
        let _nodes = [start(0)?, start(1)?];
        admin.wait_for_nodes(&NODES)?;
        put_experiments(&admin)?;
        let mut client = Agent::start(machine, "client", &near, Some(&cgroups[0]))?;
        let mut listener = Agent::start(machine, "server", &far, Some(&cgroups[1]))?;
        // An IPv6 socket that speaks IPv4 has no code point.
        let port = listener.listen(socket("0.0.0.0", 0)?)?.port();

        // Which arms the connections of each peer's network had, by (node, network), and which there were at all.
        let mut of_networks: BTreeMap<(usize, [u8; 3]), BTreeSet<bool>> = BTreeMap::new();
        let mut seen: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
        let mut compared = 0;
        let first = (now()?.as_secs() / u64::from(SLOT_S)).next_multiple_of(2);
        for round in 0..ROUNDS {
            let begin = Duration::from_secs((first + round as u64) * u64::from(SLOT_S)) + 2 * MARGIN;
            pass(begin.saturating_sub(now()?))?;
            for (index, from) in here.iter().enumerate() {
                let to = SocketAddr::new(there[(index * 5 + round) % there.len()], port);
                let Some(both) = one(&mut client, &mut listener, *from, to)? else { continue };
                for end in both {
                    let arms = compare(&admin, &end)?;
                    let IpAddr::V4(peer) = end.remote.ip() else { continue };
                    let [a, b, c, _] = peer.octets();
                    of_networks.entry((end.node, [a, b, c])).or_default().insert(arms["prefix"]);
                    for (name, arm) in arms {
                        seen.entry(name).or_default().insert(arm);
                    }
                    compared += 1;
                }
            }
        }
        println!("{compared} ends of connections compared; networks: {of_networks:?}");
        ensure!(compared >= NETWORKS * ROUNDS, "only {compared} were compared");
        ensure!(of_networks.len() == 2 * NETWORKS, "{of_networks:?}");
        ensure!(of_networks.values().all(|arms| arms.len() == 1), "a network has two arms: {of_networks:?}");
        ensure!(seen.values().all(|arms| arms.len() == 2), "an arm was never seen: {seen:?}");
        Ok(())
    });
}
