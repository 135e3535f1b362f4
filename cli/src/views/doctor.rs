//! What is wrong with a fleet, as its servers see it, and what to do.

use crate::views::fleet::clock_off;
use sockpilot_proto::v1::{self, LayerState, RolloutState};
use sockpilot_settings::checkup::{Check, Checkup};
use std::collections::BTreeMap;

/// Names that are said before "and others".
const NAMES_MAX: usize = 5;
/// What a node cannot find out from afar.
const THERE: &str = "run `sockpilot-node --doctor` there";

/// All that is asked of the servers.
#[derive(Debug, Default)]
pub struct Fleet {
    pub servers: Vec<v1::Server>,
    pub nodes: Vec<v1::Node>,
    /// What is turned off.
    pub off: Vec<v1::KillSwitch>,
    /// Those that are not over, and those that just ended.
    pub rollouts: Vec<v1::Rollout>,
}

/// Looks at everything.
pub fn checkup(fleet: &Fleet) -> Checkup {
    let Fleet { servers, nodes, off, rollouts } = fleet;
    let mut checks = vec![leader(servers), tasks(servers), connected(nodes)];
    if !nodes.is_empty() {
        checks.extend([ids(nodes), versions(nodes), clocks(nodes), states(nodes), layers(nodes), records(nodes)]);
    }
    checks.extend([rollouts_of(rollouts), switches(off)]);
    Checkup(checks)
}

fn leader(servers: &[v1::Server]) -> Check {
    let subject = "servers";
    let found = named(servers.len(), servers.iter().map(|server| format!("{} {}", server.host, server.address)));
    if servers.iter().any(|server| server.leader) {
        return Check::sound(subject, found);
    }
    let found = format!("{found}; none leads, so no rollout goes on and no verdict is drawn");
    Check::doubtful(subject, found, "wait 15 s; then look at `sockpilot server tasks` and at the servers' logs")
}

fn tasks(servers: &[v1::Server]) -> Check {
    let subject = "tasks";
    let all = servers.iter().flat_map(|server| server.tasks.iter().map(move |task| (server, task)));
    let failed: Vec<_> = all
        .filter(|(_, task)| !task.last_error.is_empty())
        .map(|(server, task)| format!("{} on {}: {}", task.name, server.host, task.last_error))
        .collect();
    if failed.is_empty() {
        return Check::sound(subject, "none failed when it ran last");
    }
    let remedy = "run `sockpilot-server --doctor` there, and see `sockpilot server tasks`";
    Check::doubtful(subject, format!("failed: {}", some(failed.into_iter())), remedy)
}

fn connected(nodes: &[v1::Node]) -> Check {
    let subject = "nodes";
    let away: Vec<_> = nodes.iter().filter(|node| !node.connected).collect();
    if nodes.is_empty() {
        return Check::doubtful(subject, "no node has ever come", "start sockpilot-node somewhere, with --server");
    }
    let here = format!("{} of {} are connected", nodes.len() - away.len(), nodes.len());
    if away.is_empty() {
        return Check::sound(subject, here);
    }
    let found = format!("{here}; the others go on with what they had: {}", names(&away));
    Check::doubtful(subject, found, format!("{THERE}, or forget one that is gone: `sockpilot delete nodes/NAME`"))
}

fn ids(nodes: &[v1::Node]) -> Check {
    let subject = "node ids";
    let twice: Vec<_> = nodes.iter().filter(|node| node.conflict.is_some()).collect();
    if twice.is_empty() {
        return Check::sound(subject, "each is used by one daemon");
    }
    let found = format!("two daemons use the id of {}", names(&twice));
    Check::faulty(subject, found, "see `sockpilot nodes`, and give one of the two another --node-id")
}

fn versions(nodes: &[v1::Node]) -> Check {
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.daemon_version.is_empty()) {
        *versions.entry(&node.daemon_version).or_default() += 1;
    }
    let counted: Vec<_> = versions.iter().map(|(version, nodes)| format!("{version} on {nodes}")).collect();
    Check::sound("node versions", counted.join(", "))
}

fn clocks(nodes: &[v1::Node]) -> Check {
    let subject = "clocks";
    let off: Vec<_> = nodes.iter().filter(|node| clock_off(node).is_some()).collect();
    if off.is_empty() {
        return Check::sound(subject, "none is off by more than 2 s");
    }
    let found = format!("off by more than 2 s, and so left out of experiments by slots of time: {}", names(&off));
    Check::doubtful(subject, found, "run chrony or systemd-timesyncd there")
}

fn states(nodes: &[v1::Node]) -> Check {
    let subject = "state directories";
    let unwritten: Vec<_> = nodes.iter().filter(|node| node.state_not_written.is_some()).collect();
    if unwritten.is_empty() {
        return Check::sound(subject, "all is written that should be");
    }
    let found = format!("what must outlive a restart is not written at {}", names(&unwritten));
    Check::faulty(subject, found, format!("{THERE}; most often a disk is full"))
}

fn layers(nodes: &[v1::Node]) -> Check {
    let subject = "policies";
    let having = |state: LayerState| -> Vec<&v1::Node> {
        let has = |node: &&v1::Node| node.connected && node.layers.iter().any(|layer| layer.state() == state);
        nodes.iter().filter(has).collect()
    };
    let (rejected, pending) = (having(LayerState::Rejected), having(LayerState::Pending));
    match (rejected.is_empty(), pending.is_empty()) {
        (true, true) => Check::sound(subject, "every connected node has what it should"),
        (false, _) => Check::doubtful(
            subject,
            format!("some are refused by {}", names(&rejected)),
            "see `sockpilot status` for the reasons: most often a congestion control or a kernel's feature is not there",
        ),
        (true, false) => Check::doubtful(
            subject,
            format!("not yet confirmed by {}", names(&pending)),
            format!("look again in a few seconds; if it stays so, {THERE}"),
        ),
    }
}

fn records(nodes: &[v1::Node]) -> Check {
    let subject = "records";
    let sum = |of: fn(&v1::Node) -> u64| nodes.iter().map(of).sum::<u64>();
    let (total, dropped) = (sum(|node| node.records_total), sum(|node| node.records_dropped));
    if dropped == 0 {
        return Check::sound(subject, format!("{total} connections recorded, none lost"));
    }
    let lossy: Vec<_> = nodes.iter().filter(|node| node.records_dropped > 0).collect();
    let found = format!("{dropped} of {} connections were not recorded, at {}", total + dropped, names(&lossy));
    Check::doubtful(subject, found, "give the daemon more of the processor there (CPUWeight= in its unit)")
}

fn rollouts_of(rollouts: &[v1::Rollout]) -> Check {
    let subject = "rollouts";
    let having = |state: RolloutState| -> Vec<String> {
        let of = rollouts.iter().filter(|rollout| rollout.state() == state);
        of.map(|rollout| rollout.name.clone()).collect()
    };
    let (failed, paused) = (having(RolloutState::RollbackFailed), having(RolloutState::Paused));
    if !failed.is_empty() {
        let found = format!("nodes have not gone back in {}", some(failed.into_iter()));
        return Check::faulty(subject, found, "see `sockpilot rollout show NAME`, and look at the nodes it names");
    }
    if !paused.is_empty() {
        let found = format!("paused: {}", some(paused.into_iter()));
        return Check::doubtful(subject, found, "see `sockpilot rollout show NAME` for what it waits for");
    }
    Check::sound(subject, format!("{} under way", having(RolloutState::Running).len()))
}

fn switches(off: &[v1::KillSwitch]) -> Check {
    let subject = "kill switches";
    if off.is_empty() {
        return Check::sound(subject, "nothing is turned off");
    }
    let named = |switch: &v1::KillSwitch| format!("{} ({})", crate::views::switches::named(switch), switch.reason);
    let found = format!("off: {}", some(off.iter().map(named)));
    Check::doubtful(subject, found, "if that is over, `sockpilot on NAME`")
}

fn names(nodes: &[&v1::Node]) -> String {
    some(nodes.iter().map(|node| node.name.clone()))
}

fn named(number: usize, all: impl ExactSizeIterator<Item = String>) -> String {
    format!("{number}: {}", some(all))
}

/// The first ones, and how many there are more.
fn some(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMES_MAX);
    let mut text = all.take(NAMES_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockpilot_settings::checkup::Finding;

    fn node(name: &str) -> v1::Node {
        v1::Node { name: format!("nodes/{name}"), connected: true, records_total: 10, ..v1::Node::default() }
    }

    fn well() -> Fleet {
        let server = v1::Server { host: "a".to_owned(), leader: true, ..v1::Server::default() };
        Fleet { servers: vec![server], nodes: vec![node("x"), node("y")], ..Fleet::default() }
    }

    /// Subjects of what is not sound; what does not work with an exclamation mark.
    fn wrong(fleet: &Fleet) -> Vec<String> {
        let wrong = checkup(fleet).0.into_iter().filter_map(|check| match check.finding {
            Finding::Sound(_) => None,
            Finding::Doubtful { .. } => Some(check.subject.to_owned()),
            Finding::Faulty { .. } => Some(format!("{}!", check.subject)),
        });
        wrong.collect()
    }

    fn with(change: impl FnOnce(&mut v1::Node)) -> Fleet {
        let mut fleet = well();
        change(&mut fleet.nodes[1]);
        fleet
    }

    fn layer(state: LayerState) -> v1::NodeLayer {
        v1::NodeLayer { state: state.into(), ..v1::NodeLayer::default() }
    }

    #[test]
    fn a_fleet_that_is_well_has_no_faults() {
        assert!(wrong(&well()).is_empty(), "{}", checkup(&well()));
        assert_eq!(wrong(&Fleet { nodes: vec![], ..well() }), ["nodes"]);
        assert_eq!(wrong(&Fleet { servers: vec![], ..well() }), ["servers"]);
    }

    #[test]
    fn what_is_wrong_with_nodes_is_said() {
        assert_eq!(wrong(&with(|node| node.connected = false)), ["nodes"]);
        assert_eq!(wrong(&with(|node| node.conflict = Some(v1::NodeConflict::default()))), ["node ids!"]);
        assert_eq!(wrong(&with(|node| node.clock_offset_ms = Some(-2_001))), ["clocks"]);
        assert!(wrong(&with(|node| node.clock_offset_ms = Some(2_000))).is_empty());
        let unwritten = |node: &mut v1::Node| node.state_not_written = Some(v1::StateNotWritten::default());
        assert_eq!(wrong(&with(unwritten)), ["state directories!"]);
        assert_eq!(wrong(&with(|node| node.layers.push(layer(LayerState::Rejected)))), ["policies"]);
        assert_eq!(wrong(&with(|node| node.layers.push(layer(LayerState::Pending)))), ["policies"]);
        assert!(wrong(&with(|node| node.layers.push(layer(LayerState::InForce)))).is_empty());
        let lost = with(|node| node.records_dropped = 3);
        assert_eq!(wrong(&lost), ["records"]);
        assert!(checkup(&lost).to_string().contains("3 of 23 connections were not recorded, at nodes/y"));
    }

    #[test]
    fn what_is_wrong_with_servers_and_rollouts_is_said() {
        let mut fleet = well();
        let task = v1::Task { name: "roll-up".to_owned(), last_error: "away".to_owned(), ..v1::Task::default() };
        fleet.servers[0].tasks.push(task);
        assert_eq!(wrong(&fleet), ["tasks"]);
        assert!(checkup(&fleet).to_string().contains("roll-up on a: away"));
        let rollout = |state: RolloutState| v1::Rollout { state: state.into(), ..v1::Rollout::default() };
        let having = |state| Fleet { rollouts: vec![rollout(RolloutState::Running), rollout(state)], ..well() };
        assert!(wrong(&having(RolloutState::Completed)).is_empty());
        assert_eq!(wrong(&having(RolloutState::Paused)), ["rollouts"]);
        assert_eq!(wrong(&having(RolloutState::RollbackFailed)), ["rollouts!"]);
        let off = v1::KillSwitch { target: "-".to_owned(), off: true, ..v1::KillSwitch::default() };
        let off = Fleet { off: vec![off], ..well() };
        assert_eq!(wrong(&off), ["kill switches"]);
        assert!(checkup(&off).to_string().contains("everything"));
    }

    #[test]
    fn of_many_some_are_named() {
        let mut fleet = well();
        fleet.nodes = (0..8).map(|number| v1::Node { connected: false, ..node(&number.to_string()) }).collect();
        let text = checkup(&fleet).to_string();
        assert!(text.contains("0 of 8 are connected") && text.contains("nodes/4 and 3 more"), "{text}");
    }
}
