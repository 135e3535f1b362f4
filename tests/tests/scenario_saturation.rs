//! Pairs of groups of nodes on the real kernel, each node behind a bottleneck of its own: in one group of a pair few connections have the larger
//! window, in the other most. The arms differ by much in both; what the others' windows cost the control is told apart, and the total
//! effect says what everybody would get: next to nothing.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::bucket::{group, is_saturated, node_hash, salt};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{arm, clamp, experiment, policy, rule},
    experiments::{measure, settled},
    link::Way,
    machine::{Machine, Needs, scenario},
    node::Node,
    server::{Database, Server},
    shaper::Character,
    traffic::{Flow, Opening},
    wait::pass,
    world::{Pair, Wire, socket},
};

/// Of each node; full with the small windows alone.
const RATE_BPS: u64 = 10_000_000;
const AT_ONCE: usize = 8;
const UPLOAD: u32 = 150_000;
/// Packets, by the policy that everybody has, and by the arm.
const NARROW: u32 = 10;
const WIDE: u32 = 24;
const LOW_BP: u32 = 500;
const HIGH_BP: u32 = 9_500;
/// As few as anything is said of.
const PAIRS: usize = 5;
/// Daemons that start at the same time, of which each has to load programs.
const STARTS_AT_ONCE: usize = 3;
const RUN: Duration = Duration::from_secs(25);
const HORIZON_S: u32 = 4;
const ID: &str = "pairs";
const TITLE: &str = "ln(duration_us)";
/// What is left, when all are treated, of a difference between arms that everybody would notice.
const LARGE: f64 = 0.3;
const SMALL: f64 = 0.2;

fn design() -> v1::Experiment {
    v1::Experiment {
        unit: v1::Unit::SaturationPair.into(),
        saturation_pair: Some(v1::SaturationPair { low_bp: LOW_BP, high_bp: HIGH_BP }),
        measures: vec![measure("duration_us", true, v1::MeasureRole::Success)],
        horizon_s: HORIZON_S,
        ..experiment(
            ID,
            50,
            v1::Match::default(),
            vec![arm("usual", 5_000, v1::Parameters::default()), arm("wide", 5_000, clamp(WIDE))],
        )
    }
}

/// Names of two nodes of each pair of groups.
fn names() -> Vec<String> {
    let mut pairs: BTreeMap<u32, [Option<String>; 2]> = BTreeMap::new();
    for number in 0.. {
        let name = format!("node-{number}");
        let own = group(node_hash(salt(ID), &name));
        pairs.entry(own / 2).or_default()[usize::from(is_saturated(salt(ID), own))].get_or_insert(name);
        let whole: Vec<_> = pairs.values().filter(|pair| pair.iter().all(Option::is_some)).collect();
        if whole.len() == PAIRS {
            return whole.into_iter().flatten().flatten().cloned().collect();
        }
    }
    vec![]
}

struct Site<'m> {
    pair: Pair,
    _node: Node<'m>,
    wire: Wire,
    _cgroup: Cgroup,
}

fn start_sites<'m>(
    machine: &'m Machine,
    server: &Server<'_>,
    admin: &Admin,
    names: &[String],
) -> Result<Vec<Site<'m>>> {
    let path = Character { delay: Duration::from_millis(2), queue_bytes: 4 << 20, ..Character::default() };
    let mut sites = vec![];
    for names in names.chunks(STARTS_AT_ONCE) {
        for name in names {
            let wire = Wire::new(path)?;
            wire.link.set(Way::Forth, Character { rate_bps: Some(RATE_BPS), ..path });
            let cgroup = Cgroup::new(machine, name)?;
            let node = Node::start(machine, name, &server.url(), &cgroup, &["--cell-interval-s", "5"])?;
            let pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
            sites.push(Site { pair, _node: node, wire, _cgroup: cgroup });
        }
        admin.wait_for_nodes(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(sites)
}

fn run(sites: &mut [Site<'_>]) -> Result<Vec<Flow>> {
    for site in &mut *sites {
        let to = socket("10.1.0.2", site.pair.port)?;
        let opening = Opening { at_once: AT_ONCE, upload: UPLOAD, until_closed: true, ..Opening::new(to, 0) };
        site.pair.client.start_opening(&opening)?;
    }
    pass(RUN)?;
    let flows = thread::scope(|scope| {
        let stopping: Vec<_> = sites.iter_mut().map(|site| scope.spawn(|| site.pair.client.stop())).collect();
        stopping.into_iter().map(|client| client.join().ok().context("a client panicked")?).collect::<Result<Vec<_>>>()
    })?;
    let flows: Vec<Flow> = flows.into_iter().flatten().collect();
    ensure!(flows.iter().all(|flow| flow.error.is_none()), "a connection failed");
    Ok(flows)
}

#[test]
fn pairs_tell_what_is_won_from_others_from_what_all_would_get() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let names = names();
        let mut sites = start_sites(machine, &server, &admin, &names)?;
        let usual = admin
            .put_policy(policy("usual", 10, vec![rule("all", v1::Match::default(), clamp(NARROW))]), everyone())?;
        let stored = admin.put_experiment(design(), everyone())?;
        for name in &names {
            admin.wait_in_force(name, &usual.name, usual.revision)?;
            admin.wait_in_force(name, &stored.name, stored.revision)?;
        }

        let flows = run(&mut sites)?;
        let found = settled(&admin, &stored.name, flows.len() as u64)?;
        let effect_of = |what: &str| -> Result<v1::Effect> {
            let row = found.measures.iter().find(|row| row.title == TITLE && row.effect_of == what);
            row.and_then(|row| row.absolute).with_context(|| format!("no {what}: {:?}", found.measures))
        };
        let total = effect_of("treating everybody")?;
        let few = effect_of("difference where few are treated")?;
        let most = effect_of("difference where most are treated")?;
        let spillover = effect_of("what the control gets from the others' treatment")?;
        println!("{} connections; total {total:?}\nfew {few:?}\nmost {most:?}\nspillover {spillover:?}", flows.len());
        ensure!(found.estimand.contains("total effect"), "{}", found.estimand);
        ensure!(few.upper < 0.0 && few.effect < -LARGE, "those with larger windows win where they are few: {few:?}");
        ensure!(most.upper < 0.0 && most.effect < -LARGE, "and where they are many: {most:?}");
        ensure!(spillover.lower > 0.0 && spillover.effect > SMALL, "the others pay for it: {spillover:?}");
        ensure!(total.effect.abs() < SMALL, "when most are treated nobody has much of it: {total:?}");
        ensure!(total.lower > few.upper, "{total:?} does not exclude what the arms differ by, {few:?}");
        for site in &sites {
            ensure!(site.wire.link.counts(Way::Forth).overflowed == 0, "a queue was too short");
        }
        Ok(())
    });
}
