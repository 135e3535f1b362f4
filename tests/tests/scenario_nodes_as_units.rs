//! An experiment by nodes on the real kernel: ten daemons, each with one arm for all of its connections. What the arms differ by is
//! found where the clients measured it, with errors between nodes; what they do not differ by is not found.

use std::{collections::BTreeSet, thread};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::bucket::{bucket, group, node_hash, salt};
use sockpilot_proto::v1::{self, VerdictKind};
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{arm, experiment},
    experiments::{effect, mean_ln, measure, row, settled},
    link::Way,
    machine::{Machine, Needs, scenario},
    node::Node,
    server::{Database, Server},
    shaper::{Character, LossOf},
    traffic::{Agent, Flow, Opening},
    world::{Wire, short_path, socket},
};

const SYN_LOSS: f64 = 0.4;
const SYN_RTO_MS: u32 = 40;
/// Of each node.
const FLOWS: usize = 120;
const HORIZON_S: u32 = 8;
/// Nodes by their arms in both experiments: as many in each arm as it takes to say anything, and about as many of each pair, so that what
/// one experiment does is hardly a difference between the other's arms.
const NODES: [[usize; 2]; 2] = [[3, 2], [2, 3]];
const NODES_OF_ARM: usize = 5;
/// Daemons that start at the same time, of which each has to load programs.
const AT_ONCE: usize = 3;
const ARMS: [&str; 2] = ["control", "quick"];
const TITLE: &str = "ln(handshake_us)";

/// An experiment on the SYN's timeout; without one, both arms do the same.
fn design(id: &str, syn_rto_ms: Option<u32>) -> v1::Experiment {
    let set = v1::Parameters { syn_rto_ms, ..v1::Parameters::default() };
    let arms = vec![arm(ARMS[0], 5_000, v1::Parameters::default()), arm(ARMS[1], 5_000, set)];
    v1::Experiment {
        unit: v1::Unit::Node.into(),
        measures: vec![measure("handshake_us", true, v1::MeasureRole::Success)],
        horizon_s: HORIZON_S,
        ..experiment(id, 50, v1::Match::default(), arms)
    }
}

/// Which arm a node has, by its name alone.
fn arm_of(experiment: &str, node: &str) -> usize {
    usize::from(bucket(node_hash(salt(experiment), node)) >= 5_000)
}

/// Names of nodes, as many of each pair of arms, no two of which are in one group.
fn names() -> Vec<String> {
    let mut groups = [BTreeSet::new(), BTreeSet::new()];
    let mut found = [[0; 2]; 2];
    let mut names = vec![];
    for number in 0.. {
        if names.len() == 2 * NODES_OF_ARM {
            break;
        }
        let name = format!("node-{number}");
        let group_of = |experiment| group(node_hash(salt(experiment), &name));
        let (effect, nothing) = (group_of("effect"), group_of("nothing"));
        let arms = [arm_of("effect", &name), arm_of("nothing", &name)];
        let place = &mut found[arms[0]][arms[1]];
        if *place < NODES[arms[0]][arms[1]] && !groups[0].contains(&effect) && !groups[1].contains(&nothing) {
            *place += 1;
            groups[0].insert(effect);
            groups[1].insert(nothing);
            names.push(name);
        }
    }
    names
}

/// All clients at once.
fn open_all(clients: &mut [Agent], opening: &Opening) -> Result<Vec<Vec<Flow>>> {
    thread::scope(|scope| {
        let running: Vec<_> = clients.iter_mut().map(|client| scope.spawn(move || client.open(opening))).collect();
        running.into_iter().map(|client| client.join().ok().context("a client panicked")?).collect()
    })
}

/// By what the second arm's nodes differ from the first's, each with the same weight, as their clients saw it.
fn of_clients(names: &[String], flows: &[Vec<Flow>], experiment: &str) -> f64 {
    let of_arm = |arm: usize| {
        let own = names.iter().zip(flows).filter(|(name, _)| arm_of(experiment, name) == arm);
        // What took longer than the horizon is not known to the experiment.
        let known = |took_us: &u64| *took_us < u64::from(HORIZON_S) * 1_000_000;
        let mean = |flows: &[Flow]| mean_ln(flows.iter().map(|flow| flow.connect_us).filter(known));
        let means: Vec<f64> = own.map(|(_, flows)| mean(flows)).collect();
        means.iter().sum::<f64>() / means.len() as f64
    };
    of_arm(1) - of_arm(0)
}

/// Both arms have half of the nodes, and errors are of nodes.
fn check_arms(results: &v1::ExperimentResults) -> Result<()> {
    for arm in &results.arms {
        ensure!((arm.groups, arm.attempts) == (NODES_OF_ARM as u64, (NODES_OF_ARM * FLOWS) as u64), "{arm:?}");
    }
    ensure!(results.estimand.contains("between nodes"), "{}", results.estimand);
    ensure!(results.share_checks.iter().all(|check| !check.mismatch), "{:?}", results.share_checks);
    Ok(())
}

fn start_nodes<'m>(
    machine: &'m Machine,
    server: &Server<'_>,
    admin: &Admin,
    names: &[String],
) -> Result<Vec<(Cgroup, Node<'m>)>> {
    let mut nodes = vec![];
    for names in names.chunks(AT_ONCE) {
        for name in names {
            let cgroup = Cgroup::new(machine, name)?;
            let node = Node::start(machine, name, &server.url(), &cgroup, &["--cell-interval-s", "5"])?;
            nodes.push((cgroup, node));
        }
        let ids: Vec<_> = names.iter().map(String::as_str).collect();
        admin.wait_for_nodes(&ids)?;
    }
    Ok(nodes)
}

#[test]
fn nodes_are_compared_with_nodes() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let wire = Wire::new(short_path())?;
        wire.link.set(Way::Forth, Character { loss: SYN_LOSS, loss_of: LossOf::Syn, ..short_path() });
        let names = names();
        let nodes = start_nodes(machine, &server, &admin, &names)?;
        for (id, syn_rto_ms) in [("effect", Some(SYN_RTO_MS)), ("nothing", None)] {
            let stored = admin.put_experiment(design(id, syn_rto_ms), everyone())?;
            for name in &names {
                admin.wait_in_force(name, &stored.name, stored.revision)?;
            }
        }
        let mut far = Agent::start(machine, "server", &wire.far, None)?;
        let port = far.listen(socket("::", 0)?)?.port();
        let mut clients = vec![];
        for (name, (cgroup, _)) in names.iter().zip(&nodes) {
            clients.push(Agent::start(machine, name, &wire.near, Some(cgroup))?);
        }

        let opening = Opening { at_once: 16, patience_ms: 30_000, ..Opening::new(socket("10.1.0.2", port)?, FLOWS) };
        let flows = open_all(&mut clients, &opening)?;
        ensure!(flows.iter().flatten().all(|flow| flow.error.is_none()), "a connection failed");
        let total = (names.len() * FLOWS) as u64;

        let measured = of_clients(&names, &flows, "effect");
        let found = settled(&admin, "experiments/effect", total)?;
        check_arms(&found)?;
        let absolute = effect(&found, TITLE)?;
        println!("measured by the clients: {measured:.3}, by the experiment: {absolute:?}");
        ensure!(measured < -0.6, "a quick retry must show: {measured}");
        ensure!(absolute.lower <= measured && measured <= absolute.upper, "{absolute:?} does not hold {measured}");
        ensure!((absolute.effect - measured).abs() < 0.1, "{absolute:?} is not near {measured}");
        ensure!(row(&found, TITLE)?.standing() == v1::Standing::Better, "{found:?}");
        let verdict = found.verdict.clone().context("no verdict")?;
        ensure!((verdict.kind(), verdict.arm.as_str()) == (VerdictKind::Ship, ARMS[1]), "{verdict:?}");

        let nothing = settled(&admin, "experiments/nothing", total)?;
        check_arms(&nothing)?;
        let absolute = effect(&nothing, TITLE)?;
        let measured = of_clients(&names, &flows, "nothing");
        println!("an A/A: measured by the clients: {measured:.3}, by the experiment: {absolute:?}");
        ensure!(absolute.lower < 0.0 && 0.0 < absolute.upper, "{absolute:?}");
        let verdict = nothing.verdict.clone().context("no verdict")?;
        ensure!(verdict.kind() == VerdictKind::KeepRunning, "an A/A: {verdict:?}");
        Ok(())
    });
}
