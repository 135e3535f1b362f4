//! A real server and many nodes made of nothing: who gets which revision, what it says about it, and the stream's rules from the
//! server's side.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::bucket;
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone, labelled, share},
    documents::{arm, clamp, experiment, policy, rule},
    machine::{Needs, scenario},
    peer::{Peer, hello, layers},
    rollouts::{create_plan, gate, roll_out, rollout, wave},
    server::Served,
    wait::{eventually, pass},
};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);
const NODES: usize = 40;

fn status(admin: &Admin, name: &str) -> Result<v1::LayerStatus> {
    let request = v1::GetLayerStatusRequest { name: name.to_owned() };
    Ok(admin.call(admin.fleet().get_layer_status(request))?)
}

fn document(packets: u32) -> v1::Policy {
    policy("web", 10, vec![rule("all", v1::Match::default(), clamp(packets))])
}

/// The revision of a layer in the newest snapshot; 0: it is not in it.
fn revision_of(peer: &Peer, name: &str) -> Result<u64> {
    let newest = peer.snapshots().pop().context("no snapshot")?;
    Ok(layers(&newest)?.into_iter().find(|layer| layer.name == name).map_or(0, |layer| layer.revision))
}

struct Fleet(Vec<(String, Peer)>);

impl Fleet {
    fn connect(admin: &Admin) -> Result<Self> {
        let ids = (0..NODES).map(|number| format!("node-{number}"));
        let connect = |id: String| {
            let site = if id.ends_with('7') { "lab" } else { "live" };
            let peer = Peer::connect(admin, hello(&id, &[("site", site)]))?;
            Ok((id, peer))
        };
        Ok(Self(ids.map(connect).collect::<Result<_>>()?))
    }

    /// Waits until exactly the nodes that please have a revision, and the others another; then confirms all.
    fn expect(&self, what: &str, expected: impl Fn(&str) -> u64) -> Result<()> {
        eventually(what, PATIENCE, || {
            for (id, peer) in &self.0 {
                let revision = revision_of(peer, "policies/web")?;
                ensure!(revision == expected(id), "{id} has {revision}");
            }
            Ok(())
        })?;
        for (_, peer) in &self.0 {
            peer.ack(&peer.snapshots().pop().context("no snapshot")?);
        }
        Ok(())
    }
}

#[test]
fn a_canary_grows_is_promoted_and_rolled_back() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let fleet = Fleet::connect(&world.admin)?;
        world.admin.put_policy(document(11), everyone())?;
        fleet.expect("everyone has revision 1", |_| 1)?;

        let in_share = |id: &str, basis_points| bucket::share_position(id) < basis_points;
        let chosen = (0..NODES).filter(|number| in_share(&format!("node-{number}"), 2_500)).count();
        ensure!((1..NODES).contains(&chosen), "the share chooses {chosen}");
        world.admin.put_policy(document(12), share(1_000))?;
        fleet.expect("10% have revision 2", |id| if in_share(id, 1_000) { 2 } else { 1 })?;
        let assign = v1::AssignRevisionRequest {
            name: "policies/web".to_owned(),
            revision: 2,
            target: Some(share(2_500)),
            reason: "it looks good".to_owned(),
            ..v1::AssignRevisionRequest::default()
        };
        world.admin.call(world.admin.assignments().assign_revision(assign))?;
        fleet.expect("25% have revision 2", |id| if in_share(id, 2_500) { 2 } else { 1 })?;

        eventually("the status counts them", PATIENCE, || {
            let status = status(&world.admin, "policies/web")?;
            let count = |revision| {
                let of =
                    |count: &&v1::RevisionCount| count.revision == revision && count.state() == v1::LayerState::InForce;
                status.counts.iter().find(of).map_or(0, |count| count.nodes as usize)
            };
            ensure!(count(2) == chosen && count(1) == NODES - chosen, "{status:?}");
            ensure!(status.assignments.len() == 2 && status.assignments[1].reason == "it looks good", "{status:?}");
            Ok(())
        })?;

        let promote = v1::PromoteRevisionRequest {
            reason: "by a test".to_owned(),
            name: "policies/web".to_owned(),
            ..v1::PromoteRevisionRequest::default()
        };
        world.admin.call(world.admin.assignments().promote_revision(promote.clone()))?;
        fleet.expect("everyone has revision 2", |_| 2)?;
        let again = world.admin.call(world.admin.assignments().promote_revision(promote)).err().context("it worked")?;
        ensure!(again.code() == Code::FailedPrecondition, "{again:?}");

        let rollback =
            v1::RollbackRevisionRequest { name: "policies/web".to_owned(), ..v1::RollbackRevisionRequest::default() };
        world.admin.call(world.admin.assignments().rollback_revision(rollback))?;
        fleet.expect("everyone has revision 1 again", |_| 1)?;

        world.admin.put_policy(document(13), labelled("site", "lab"))?;
        fleet.expect("the lab has revision 3", |id| if id.ends_with('7') { 3 } else { 1 })?;
        let delete = v1::DeletePolicyRequest { name: "policies/web".to_owned(), ..v1::DeletePolicyRequest::default() };
        world.admin.call(world.admin.policies().delete_policy(delete))?;
        fleet.expect("nobody has it", |_| 0)?;

        let request =
            v1::ListAuditEntriesRequest { name: "policies/web".to_owned(), ..v1::ListAuditEntriesRequest::default() };
        let entries = world.admin.call(world.admin.fleet().list_audit_entries(request))?.entries;
        ensure!(entries.len() == 7, "every change left a row: {entries:?}");
        ensure!(entries.is_sorted_by(|newer, older| newer.sequence > older.sequence), "newest first");
        Ok(())
    });
}

#[test]
fn no_step_passes_its_gates_before_anything_was_measured() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let peer = Peer::connect(&world.admin, hello("alone", &[]))?;
        let has = |revision| {
            move |snapshot: &v1::Snapshot| {
                layers(snapshot).is_ok_and(|layers| layers.iter().any(|layer| layer.revision == revision))
            }
        };
        world.admin.put_policy(document(11), everyone())?;
        peer.ack(&peer.wait_for("revision 1", has(1))?);
        // Nothing but its gates holds it.
        let hasty = v1::RolloutPlan {
            waves: vec![wave(&[], &[5_000], 0, 0)],
            gates: vec![gate("bad_ends", 0)],
            horizon_s: 1,
            ..v1::RolloutPlan::default()
        };
        create_plan(&world.admin, "hasty", hasty)?;
        let begun = roll_out(&world.admin, document(12), "hasty")?;
        peer.ack(&peer.wait_for("revision 2", has(2))?);
        let is_judged = || {
            let now = rollout(&world.admin, &begun.name)?;
            ensure!((now.phase(), now.step) == (v1::RolloutPhase::Judging, 1), "{now:?}");
            Ok(())
        };
        eventually("it is judged", PATIENCE, is_judged)?;
        pass(Duration::from_secs(3))?;
        is_judged()
    });
}

#[test]
fn a_refused_snapshot_is_not_sent_again_and_stands_in_the_status() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let peer = Peer::connect(&world.admin, hello("picky", &[]))?;
        world.admin.put_policy(document(11), everyone())?;
        let has = |revision| {
            move |snapshot: &v1::Snapshot| {
                layers(snapshot).is_ok_and(|layers| layers.iter().any(|layer| layer.revision == revision))
            }
        };
        peer.ack(&peer.wait_for("revision 1", has(1))?);
        world.admin.put_policy(document(12), everyone())?;
        let refused = peer.wait_for("revision 2", has(2))?;
        peer.nack(&refused, "policies/web", "rules[0].set.cwnd_clamp_packets", "not today");
        eventually("the refusal stands in the status", PATIENCE, || {
            let status = status(&world.admin, "policies/web")?;
            let rejection = status.rejections.first().context("no rejection")?;
            ensure!(rejection.node == "nodes/picky" && rejection.revision == 2, "{rejection:?}");
            ensure!(rejection.violations[0].description == "not today", "{rejection:?}");
            Ok(())
        })?;
        // Another change of the database, which does not change this node's content, and some polls of the server.
        let elsewhere =
            v1::Policy { node_labels: [("site".into(), "moon".into())].into(), ..policy("moon", 1, document(1).rules) };
        world.admin.put_policy(elsewhere, everyone())?;
        let before = peer.snapshots().len();
        pass(Duration::from_secs(5))?;
        ensure!(peer.snapshots().len() == before, "it was sent again");
        // A new revision is new content.
        world.admin.put_policy(document(13), everyone())?;
        peer.wait_for("revision 3", has(3)).map(drop)
    });
}

#[test]
fn a_second_stream_of_a_node_ends_the_first() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let first = Peer::connect(&world.admin, hello("twin", &[]))?;
        world.admin.wait_for_nodes(&["twin"])?;
        let second = Peer::connect(&world.admin, hello("twin", &[]))?;
        ensure!(first.wait_for_end()?.code() == Code::Aborted, "{:?}", first.wait_for_end()?);
        world.admin.put_policy(document(11), everyone())?;
        second.wait_for("a snapshot", |snapshot| !snapshot.layers.is_empty())?;
        world.admin.wait_for_nodes(&["twin"])
    });
}

#[test]
fn only_the_newest_waits_for_a_slow_node() {
    scenario(Needs::Nothing, |machine| {
        const CHANGES: u32 = 24;
        let world = Served::start(machine)?;
        let slow = Peer::connect(&world.admin, hello("slow", &[]))?;
        let large = |packets| {
            // Far more than fits into the buffers between server and node.
            let prefixes = |rule: u32| (0..250).map(|n| format!("10.{rule}.{n}.0/24")).collect();
            let set = document(packets).rules[0].set.clone().unwrap_or_default();
            let matches = |rule| v1::Match { remote_prefixes: prefixes(rule), ..v1::Match::default() };
            let rules = (0..120).map(|number| rule(&format!("rule-{number}"), matches(number), set.clone()));
            policy("web", 10, rules.collect())
        };
        world.admin.put_policy(large(10), everyone())?;
        slow.wait_for("the first", |snapshot| layers(snapshot).is_ok_and(|layers| !layers.is_empty()))?;
        slow.sleep(true);
        for packets in 1..=CHANGES {
            world.admin.put_policy(large(10 + packets), everyone())?;
        }
        slow.sleep(false);
        let newest = u64::from(CHANGES) + 1;
        eventually("the newest arrives", PATIENCE, || {
            ensure!(revision_of(&slow, "policies/web")? == newest);
            Ok(())
        })?;
        let received = slow.snapshots().len();
        ensure!(received < CHANGES as usize / 2, "{received} of {CHANGES} snapshots were kept for a node that slept");
        let generations: Vec<_> =
            slow.snapshots().iter().filter_map(|s| s.version.as_ref()).map(|v| v.generation).collect();
        ensure!(generations.is_sorted(), "{generations:?}");
        Ok(())
    });
}

#[test]
fn a_repeated_request_and_a_repeated_report_change_nothing() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let request = v1::CreatePolicyRequest {
            policy: Some(document(11)),
            request_id: "3e3a1b1c-0000-4000-8000-0123456789ab".to_owned(),
            ..v1::CreatePolicyRequest::default()
        };
        let first = world.admin.call(world.admin.policies().create_policy(request.clone()))?;
        let second = world.admin.call(world.admin.policies().create_policy(request.clone()))?;
        ensure!(first == second, "the same answer");
        let other = v1::CreatePolicyRequest { policy: Some(document(12)), ..request };
        let error = world.admin.call(world.admin.policies().create_policy(other)).err().context("it worked")?;
        ensure!(error.code() == Code::InvalidArgument, "{error:?}");

        let _peer = Peer::connect(&world.admin, hello("reporter", &[]))?;
        world.admin.wait_for_nodes(&["reporter"])?;
        let mut client = sockpilot_proto::v1::node_service_client::NodeServiceClient::new(world.admin.channel());
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut report = |sequence, flows| {
            let cell = v1::FlowCell {
                interval_start_s: now_s / 10 * 10,
                interval_length_s: 10,
                layer: "policies/web".to_owned(),
                revision: 1,
                choice: "all".to_owned(),
                direction: v1::Direction::Active.into(),
                size_class: v1::SizeClass::Small.into(),
                counts: Some(v1::FlowCounts { flows, established: flows, ..v1::FlowCounts::default() }),
                ..v1::FlowCell::default()
            };
            let report = v1::FlowReport {
                node_id: "reporter".to_owned(),
                boot_id: "3e3a1b1c-0000-4000-8000-00000000b007".to_owned(),
                sequence,
                records_total: flows,
                cells: vec![cell],
                ..v1::FlowReport::default()
            };
            world.admin.call(client.report_flows(report))
        };
        for (sequence, flows) in [(1, 10), (1, 10), (2, 25), (1, 10), (2, 25)] {
            ensure!(report(sequence, flows)?.sequence >= sequence, "the receipt");
        }
        let flows = world.admin.flows("policies/web")?;
        ensure!(flows == [((1, "all".to_owned()), 25)].into(), "{flows:?}");
        Ok(())
    });
}

#[test]
fn an_outdated_etag_is_refused() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let first = world.admin.put_policy(document(11), everyone())?;
        let second = world.admin.put_policy(v1::Policy { etag: first.etag.clone(), ..document(12) }, everyone())?;
        ensure!(second.revision == 2 && second.etag != first.etag, "{second:?}");
        let late = world.admin.put_policy(v1::Policy { etag: first.etag, ..document(13) }, everyone());
        ensure!(late.as_ref().is_err_and(|error| error.code() == Code::Aborted), "{late:?}");
        let same = world.admin.put_policy(document(12), everyone())?;
        ensure!(same.revision == 2, "an equal document makes no new revision: {same:?}");
        Ok(())
    });
}

#[test]
fn an_experiment_goes_to_the_nodes_it_is_for_with_a_lease() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let fleet = Fleet::connect(&world.admin)?;
        let arms = vec![
            arm("control", 9_000, v1::Parameters::default()),
            arm("quick", 1_000, document(11).rules[0].set.clone().unwrap_or_default()),
        ];
        let mut document = experiment("rto", 20, v1::Match::default(), arms);
        document.node_labels = [("site".to_owned(), "lab".to_owned())].into();
        world.admin.put_experiment(document, everyone())?;
        eventually("the lab takes part and nobody else", PATIENCE, || {
            for (id, peer) in &fleet.0 {
                let takes_part = revision_of(peer, "experiments/rto").unwrap_or(0) == 1;
                ensure!(takes_part == id.ends_with('7'), "{id}");
            }
            Ok(())
        })?;
        let (_, member) = fleet.0.iter().find(|(id, _)| id.ends_with('7')).context("nobody")?;
        let layer = layers(&member.snapshots().pop().context("no snapshot")?)?.pop().context("no layer")?;
        ensure!(layer.lease_ms == 600_000, "the default lease: {layer:?}");
        let equal: BTreeSet<_> =
            fleet.0.iter().filter_map(|(_, peer)| peer.snapshots().pop()).map(|s| s.layers).collect();
        ensure!(equal.len() == 2, "two groups of nodes, two contents");
        let assigned = world.postgres.query("SELECT count(*) FROM assignment WHERE ended_at IS NULL")?;
        ensure!(assigned == "1", "one assignment: {assigned}");
        Ok(())
    });
}
