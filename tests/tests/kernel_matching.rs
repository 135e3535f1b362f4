//! Every condition of a match, and how layers and arms choose, on real sockets of both ends.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::bucket;
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{arm, clamp, experiment_layer, policy_layer, rule, texts},
    machine::{Machine, Needs, scenario},
    node::Node,
    traffic::{Facts, Flow, Opening},
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

/// Both ends are managed: the client as the service `/web`, the server as `/db`.
struct World<'m> {
    pair: Pair,
    control: Control,
    _node: Node<'m>,
    wire: Wire,
    _services: [Cgroup; 2],
    cgroup: Cgroup,
}

impl<'m> World<'m> {
    fn new(machine: &'m Machine) -> Result<Self> {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let services = [cgroup.child("web")?, cgroup.child("db")?];
        let control = Control::start()?;
        let node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
        let pair = Pair::start(machine, &wire, Some(&services[0]), Some(&services[1]))?;
        Ok(Self { pair, control, _node: node, wire, _services: services, cgroup })
    }

    /// Opens connections; gives both ends' sockets of each.
    fn open(&mut self, far: &str, near: &str, count: usize) -> Result<Vec<(Flow, Facts, Facts)>> {
        let opening = Opening { from: Some(near.parse()?), ..Opening::new(socket(far, self.pair.port)?, count) };
        let flows = self.pair.client.open(&opening)?;
        let accepted: BTreeMap<_, _> = self
            .pair
            .server
            .accepted()?
            .into_iter()
            .map(|accepted| (accepted.remote.port(), accepted.opened))
            .collect();
        let both_ends = |flow: Flow| {
            let active = flow.opened.clone().with_context(|| format!("{flow:?}"))?;
            let passive = accepted.get(&flow.local.port()).cloned().context("never accepted")?;
            Ok((flow, active, passive))
        };
        flows.into_iter().map(both_ends).collect()
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
/// Visible at both ends, and no kernel's default.
const CLAMP: u32 = 7;

#[test]
fn every_condition() {
    const SAME: (&str, &str) = ("10.1.0.2", "10.1.0.1");
    const ACROSS: (&str, &str) = ("10.2.0.2", "10.1.0.1");
    const SAME_6: (&str, &str) = ("fd01::2", "fd01::1");
    const ACROSS_6: (&str, &str) = ("fd02::2", "fd01::1");
    const MAPPED: (&str, &str) = ("::ffff:10.1.0.2", "::ffff:10.1.0.1");
    scenario(Needs::Kernel, |machine| {
        let mut world = World::new(machine)?;
        let port = world.pair.port.to_string();
        let range = format!("{}-{}", world.pair.port - 1, world.pair.port);
        let any = v1::Match::default();
        let [active, passive] = [v1::Direction::Active, v1::Direction::Passive].map(i32::from);
        let [ipv4, ipv6] = [v1::Family::Ipv4, v1::Family::Ipv6].map(i32::from);
        // A match; a connection to and from; whether the active, and whether the passive end has the parameter.
        let cases = [
            (any.clone(), SAME, true, true),
            (any.clone(), ACROSS_6, true, true),
            (v1::Match { direction: active, ..any.clone() }, SAME, true, false),
            (v1::Match { direction: passive, ..any.clone() }, SAME_6, false, true),
            (v1::Match { family: ipv4, ..any.clone() }, SAME, true, true),
            (v1::Match { family: ipv4, ..any.clone() }, MAPPED, true, true),
            (v1::Match { family: ipv4, ..any.clone() }, SAME_6, false, false),
            (v1::Match { family: ipv6, ..any.clone() }, SAME_6, true, true),
            (v1::Match { family: ipv6, ..any.clone() }, MAPPED, false, false),
            (v1::Match { remote_prefixes: texts(&["10.1.0.2"]), ..any.clone() }, SAME, true, false),
            (v1::Match { remote_prefixes: texts(&["192.168.0.0/16", "10.1.0.0/24"]), ..any.clone() }, SAME, true, true),
            (v1::Match { remote_prefixes: texts(&["0.0.0.0/0"]), ..any.clone() }, SAME_6, false, false),
            (v1::Match { local_prefixes: texts(&["fd01::2/128"]), ..any.clone() }, SAME_6, false, true),
            (v1::Match { local_prefixes: texts(&["fd00::/8"]), ..any.clone() }, SAME, false, false),
            (v1::Match { remote_ports: texts(&[&port]), ..any.clone() }, SAME, true, false),
            (v1::Match { remote_ports: texts(&["1-79", &range]), ..any.clone() }, SAME_6, true, false),
            (v1::Match { local_ports: texts(&[&port]), ..any.clone() }, MAPPED, false, true),
            (v1::Match { local_ports: texts(&["80", "443"]), ..any.clone() }, SAME, false, false),
            (v1::Match { same_prefix: Some(16), ..any.clone() }, SAME, true, true),
            (v1::Match { same_prefix: Some(16), ..any.clone() }, ACROSS, false, false),
            (v1::Match { same_prefix: Some(14), ..any.clone() }, ACROSS, true, true),
            (v1::Match { same_prefix: Some(44), ..any.clone() }, SAME_6, true, true),
            (v1::Match { same_prefix: Some(44), ..any.clone() }, ACROSS_6, false, false),
            (v1::Match { same_prefix: Some(44), ..any.clone() }, SAME, false, false),
            (v1::Match { not_same_prefix: Some(16), ..any.clone() }, SAME, false, false),
            (v1::Match { not_same_prefix: Some(16), ..any.clone() }, ACROSS, true, true),
            (v1::Match { not_same_prefix: Some(52), ..any.clone() }, ACROSS_6, true, true),
            (v1::Match { services: texts(&["/web"]), ..any.clone() }, SAME, true, false),
            (v1::Match { services: texts(&["/db", "/other"]), ..any.clone() }, SAME_6, false, true),
            (v1::Match { services: texts(&["/web/inner"]), ..any.clone() }, SAME, false, false),
            (v1::Match { services: texts(&["/web"]), remote_ports: texts(&[&port]), ..any }, SAME, true, false),
        ];
        for (revision, (matches, (far, near), has_active, has_passive)) in (1..).zip(cases) {
            let rules = vec![rule("only", matches.clone(), clamp(CLAMP))];
            world.control.enforce(vec![policy_layer("test", revision, 1, rules)])?;
            let (_, active, passive) = world.open(far, near, 1)?.pop().context("no connection")?;
            let found = (active.ssthresh == CLAMP, passive.ssthresh == CLAMP);
            ensure!(found == (has_active, has_passive), "{matches:?}, {near} to {far}: {found:?}");
        }
        Ok(())
    });
}

#[test]
fn a_service_that_begins_after_the_policy_is_found() {
    scenario(Needs::Kernel, |machine| {
        let world = World::new(machine)?;
        let matches = v1::Match { services: texts(&["/late"]), ..v1::Match::default() };
        world.control.enforce(vec![policy_layer("test", 1, 1, vec![rule("only", matches, clamp(CLAMP))])])?;
        let late = world.cgroup.child("late")?;
        let mut pair = Pair::start(machine, &world.wire, Some(&late), None)?;
        eventually("the service is found", PATIENCE, || {
            let facts = pair.one("10.1.0.2")?.opened.context("not established")?;
            ensure!(facts.ssthresh == CLAMP, "{facts:?}");
            Ok(())
        })
    });
}

#[test]
fn the_first_layer_that_sets_a_parameter_wins_and_the_first_rule_in_it() {
    scenario(Needs::Kernel, |machine| {
        let mut world = World::new(machine)?;
        let any = v1::Match::default();
        let never = v1::Match { remote_ports: texts(&["1"]), ..any.clone() };
        let buffers = v1::Parameters { send_buffer_bytes: Some(50_000), ..clamp(99) };
        world.control.enforce(vec![
            policy_layer("top", 1, 30, vec![rule("never", never, clamp(98)), rule("nothing", any.clone(), clamp(11))]),
            policy_layer("middle", 1, 20, vec![rule("first", any.clone(), buffers), rule("second", any, clamp(97))]),
        ])?;
        for (_, active, passive) in world.open("10.1.0.2", "10.1.0.1", 3)? {
            ensure!(active.ssthresh == 11 && active.send_buffer == 100_000, "{active:?}");
            ensure!(passive.ssthresh == 11 && passive.send_buffer == 100_000, "{passive:?}");
        }
        // Two flows of each connection: one for each end, and one for each layer.
        for layer in ["policies/top", "policies/middle"] {
            world.control.wait_for_flows(layer, 6)?;
        }
        ensure!(world.control.flows("policies/top") == [("nothing".to_owned(), 6)].into());
        ensure!(world.control.flows("policies/middle") == [("first".to_owned(), 6)].into());
        Ok(())
    });
}

#[test]
fn both_ends_of_a_connection_fall_into_the_arm_that_the_hash_says() {
    scenario(Needs::Kernel, |machine| {
        const FLOWS: usize = 600;
        let mut world = World::new(machine)?;
        let arms = vec![arm("small", 3_000, clamp(9)), arm("large", 7_000, clamp(12))];
        world.control.enforce(vec![experiment_layer("halves", 1, 1, v1::Match::default(), arms)])?;
        let salt = bucket::salt("halves");
        let mut small = 0;
        for (far, near) in [("10.1.0.2", "10.1.0.1"), ("fd01::2", "fd01::1")] {
            for (flow, active, passive) in world.open(far, near, FLOWS / 2)? {
                let expected = if bucket::flow_bucket(salt, &flow.key()) < 3_000 { 9 } else { 12 };
                ensure!(
                    active.ssthresh == expected && passive.ssthresh == expected,
                    "{flow:?}: {active:?} {passive:?}"
                );
                small += u32::from(expected == 9);
            }
        }
        // 180 expected, standard deviation 11.
        ensure!((120..240).contains(&small), "{small} of {FLOWS} in an arm of 30%");
        world.control.wait_for_flows("experiments/halves", 2 * FLOWS as u64)?;
        ensure!(world.control.flows("experiments/halves")["small"] == 2 * u64::from(small), "attribution");
        Ok(())
    });
}
