//! A real daemon applies rules to connections that were open before them, and puts back what was there: when the rule goes, when
//! another daemon has come since, and when everything is taken out of the kernel.

use std::time::Duration;

use anyhow::{Result, ensure};
use sockpilot_programs::SS;
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{policy_layer, rule},
    machine::{Machine, Needs, scenario},
    node::Node,
    traffic::Opening,
    wait::eventually,
    world::{FAR, Pair, Wire, short_path, socket},
};

const FLOWS: usize = 3;
const SOON: Duration = Duration::from_secs(20);

/// Connections that stay open: some that a rule matches, some that it does not.
struct World<'m> {
    wire: Wire,
    control: Control,
    node: Node<'m>,
    before: String,
    after: &'static str,
    _pairs: [Pair; 2],
    _cgroup: Cgroup,
}

impl<'m> World<'m> {
    fn new(machine: &'m Machine) -> Result<Self> {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let control = Control::start()?;
        let node = Node::start(machine, "node", &control.url(), &cgroup, &[])?;
        let open = |to| {
            let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
            let at = socket(to, pair.port)?;
            pair.client.start_opening(&Opening { hold_ms: 120_000, at_once: FLOWS, ..Opening::new(at, FLOWS) })?;
            anyhow::Ok(pair)
        };
        let pairs = [open(FAR[0])?, open(FAR[1])?];
        let (before, after) = (String::new(), "reno");
        let mut world = Self { wire, control, node, before, after, _pairs: pairs, _cgroup: cgroup };
        eventually("all are open", SOON, || {
            let (matched, others) = (world.names(0)?, world.names(1)?);
            ensure!(matched.len() == FLOWS && matched == others, "open are {matched:?} and {others:?}");
            world.before = matched.into_iter().next().unwrap_or_default();
            Ok(())
        })?;
        world.after = if world.before == "reno" { "cubic" } else { "reno" };
        Ok(world)
    }

    /// The congestion controls of the open connections to an address, as `ss` tells.
    fn names(&self, to: usize) -> Result<Vec<String>> {
        let text = self.wire.near.output(SS, &["-tinH", "state", "established", "dst", FAR[to]])?;
        // The second line of each connection begins with it.
        let lines = text.lines().skip(1).step_by(2);
        Ok(lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    fn rule(&self) -> Vec<v1::Layer> {
        let matches = v1::Match { remote_prefixes: vec![FAR[0].to_owned()], ..v1::Match::default() };
        let set = v1::Parameters { congestion_control: Some(self.after.to_owned()), ..v1::Parameters::default() };
        let apply_to = v1::ApplyTo::NewAndEstablished.into();
        vec![policy_layer("open", 1, 1, vec![v1::Rule { apply_to, ..rule("r", matches, set) }])]
    }

    fn expect(&self, what: &str, name: &str) -> Result<()> {
        eventually(what, SOON, || {
            let (matched, others) = (self.names(0)?, self.names(1)?);
            ensure!(matched == [name; FLOWS], "the matching ones have {matched:?}");
            ensure!(others == [&*self.before; FLOWS], "the others have {others:?}, not {}", self.before);
            Ok(())
        })
    }
}

#[test]
fn follow_their_rule() {
    scenario(Needs::Kernel, |machine| {
        let mut world = World::new(machine)?;
        world.control.enforce(world.rule())?;
        world.expect("the rule applies", world.after)?;
        world.control.enforce(vec![])?;
        world.expect("it is withdrawn", &world.before)?;

        world.control.enforce(world.rule())?;
        world.expect("the rule applies again", world.after)?;
        world.node.kill()?;
        world.expect("it stays without the daemon", world.after)?;
        world.node.restart()?;
        world.control.enforce(vec![])?;
        world.expect("another daemon takes it back", &world.before)?;

        world.control.enforce(world.rule())?;
        world.expect("the rule applies once more", world.after)?;
        world.node.detach()?;
        world.expect("everything is taken out", &world.before)
    });
}
