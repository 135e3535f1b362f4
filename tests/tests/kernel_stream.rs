//! How a node obeys, and when it does not: the rules of the stream, leases, crashes of the daemon, an absent server.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_programs::BPFTOOL;
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    cprogram::CongestionControl,
    documents::{arm, clamp, experiment_layer, policy_layer, rule, snapshot},
    machine::{Needs, scenario},
    node::Node,
    traffic::Opening,
    wait::{eventually, pass},
    world::{Pair, Site, socket},
};

const EPOCHS: [&str; 2] = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];
const PATIENCE: Duration = Duration::from_secs(20);

/// The clamp that a new connection gets.
fn clamp_of_new(site: &mut Site<'_>) -> Result<u32> {
    Ok(site.pair.one("10.1.0.2")?.opened.context("not established")?.ssthresh)
}

fn expect_clamp(site: &mut Site<'_>, expected: u32) -> Result<()> {
    let found = clamp_of_new(site)?;
    ensure!(found == expected, "a new connection has {found}, not {expected}");
    Ok(())
}

/// A policy that gives everything a clamp; the clamp is the revision as well.
fn clamping(packets: u32) -> Vec<v1::Layer> {
    vec![policy_layer("test", packets.into(), 1, vec![rule("only", v1::Match::default(), clamp(packets))])]
}

#[test]
fn only_newer_snapshots_of_the_same_database_are_obeyed() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        let first = site.control.send(snapshot(EPOCHS[0], 7, clamping(17)))?;
        site.control.wait_for_ack(&first)?;
        expect_clamp(&mut site, 17)?;

        let older = site.control.send(snapshot(EPOCHS[0], 6, clamping(16)))?;
        site.control.wait_for_nack(&older)?;
        let other_content = site.control.send(snapshot(EPOCHS[0], 7, clamping(18)))?;
        site.control.wait_for_nack(&other_content)?;
        let mut wrong_hash = snapshot(EPOCHS[0], 8, clamping(18));
        wrong_hash.version.as_mut().context("no version")?.content_hash = vec![0; 32].into();
        let wrong_hash = site.control.send(wrong_hash)?;
        site.control.wait_for_nack(&wrong_hash)?;
        expect_clamp(&mut site, 17)?;

        let confirmations = site.control.acks().len();
        site.control.send(snapshot(EPOCHS[0], 7, clamping(17)))?;
        eventually("the same again is confirmed again", PATIENCE, || {
            ensure!(site.control.acks().len() > confirmations);
            Ok(())
        })?;

        let restored = site.control.send(snapshot(EPOCHS[1], 3, clamping(13)))?;
        site.control.wait_for_ack(&restored)?;
        expect_clamp(&mut site, 13)
    });
}

/// What no kernel has.
fn absent() -> v1::Rule {
    let set = v1::Parameters { congestion_control: Some("nosuchcc".to_owned()), ..v1::Parameters::default() };
    rule("absent", v1::Match::default(), set)
}

#[test]
fn what_the_kernel_cannot_do_is_told_rule_by_rule_and_the_last_good_stays() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        let fine = |packets| rule("fine", v1::Match::default(), clamp(packets));
        let layers = |revision, rules: &[v1::Rule]| {
            vec![policy_layer("one", revision, 2, rules.to_vec()), policy_layer("two", revision, 1, rules.to_vec())]
        };
        site.control.enforce(layers(3, &[fine(17)]))?;
        let ack = site.control.enforce(layers(4, &[fine(18), absent()]))?;
        let violations: Vec<_> = ack.held_back.iter().flat_map(|held| held.violations.clone()).collect();
        let named: BTreeSet<_> = violations.iter().map(|v| (v.layer.as_str(), v.field.as_str())).collect();
        let field = "rules[1].set.congestion_control";
        ensure!(named == [("policies/one", field), ("policies/two", field)].into(), "{violations:?}");
        ensure!(violations.iter().all(|v| v.description.contains("nosuchcc")), "{violations:?}");
        ensure!(ack.held_back.iter().all(|held| (held.revision, held.revision_in_force) == (4, 3)), "{ack:?}");
        expect_clamp(&mut site, 17)
    });
}

#[test]
fn what_is_held_back_comes_into_force_when_the_kernel_can_do_it() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        site.control.enforce(clamping(17))?;
        let name = Some(CongestionControl::NAME.to_owned());
        let set = v1::Parameters { congestion_control: name, ..clamp(18) };
        let layers = || vec![policy_layer("test", 18, 1, vec![rule("only", v1::Match::default(), set.clone())])];
        let first = site.control.enforce(layers())?;
        ensure!(first.held_back.iter().all(|held| (held.revision, held.revision_in_force) == (18, 17)), "{first:?}");
        ensure!(first.held_back.len() == 1, "{first:?}");
        expect_clamp(&mut site, 17)?;
        let control = CongestionControl::register(machine)?;
        eventually("it comes into force", PATIENCE, || expect_clamp(&mut site, 18))?;
        eventually("it is acknowledged once more", PATIENCE, || {
            let last = site.control.acks().pop().context("no confirmation")?;
            ensure!(last.version == first.version && last.held_back.is_empty(), "{last:?}");
            Ok(())
        })?;
        // Gone again: with the next change what was in force cannot be any more, whatever its revision.
        drop(control);
        let more = policy_layer("more", 1, 0, vec![rule("only", v1::Match::default(), clamp(25))]);
        let ack = site.control.enforce([layers(), vec![more]].concat())?;
        ensure!(ack.held_back.iter().all(|held| (held.revision, held.revision_in_force) == (18, 0)), "{ack:?}");
        ensure!(ack.held_back.len() == 1, "{ack:?}");
        expect_clamp(&mut site, 25)
    });
}

#[test]
fn where_a_canary_cannot_be_honoured_everyones_revision_acts_and_stays() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        let revision = |number: u32, more: Vec<v1::Rule>| {
            let fine = rule("fine", v1::Match::default(), clamp(number));
            policy_layer("one", number.into(), 1, [vec![fine], more].concat())
        };
        site.control.enforce(vec![revision(17, vec![])])?;
        let canary = v1::Layer { lease_ms: 3_000, ..revision(19, vec![absent()]) };
        let standby = v1::Layer { lease_ms: 3_000, standby: true, ..revision(18, vec![]) };
        let ack = site.control.enforce(vec![canary, standby])?;
        ensure!(ack.held_back.iter().all(|held| (held.revision, held.revision_in_force) == (19, 18)), "{ack:?}");
        expect_clamp(&mut site, 18)?;
        site.control.cut_off(true);
        pass(Duration::from_millis(4_000))?;
        expect_clamp(&mut site, 18)
    });
}

#[test]
fn what_is_leased_ends_by_itself_and_what_is_not_stays() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        let arms = vec![arm("all", 9_999, clamp(9)), arm("rest", 1, clamp(9))];
        let mut experiment = experiment_layer("leased", 1, 5, v1::Match::default(), arms);
        experiment.lease_ms = 3_000;
        site.control.enforce([vec![experiment], clamping(17)].concat())?;
        expect_clamp(&mut site, 9)?;
        // Heartbeats keep it.
        pass(Duration::from_millis(4_000))?;
        expect_clamp(&mut site, 9)?;
        site.control.cut_off(true);
        eventually("the lease runs out", PATIENCE, || expect_clamp(&mut site, 17))?;
        // A dead daemon changes nothing about it: the kernel program itself looks at the clock.
        site.control.cut_off(false);
        eventually("the server is back", PATIENCE, || expect_clamp(&mut site, 9))?;
        site.node.kill()?;
        expect_clamp(&mut site, 9)?;
        eventually("the lease runs out", PATIENCE, || expect_clamp(&mut site, 17))
    });
}

#[test]
fn a_killed_daemon_leaves_the_policy_in_force_and_its_successor_loses_no_flow() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        site.control.enforce(clamping(17))?;
        let port = site.pair.port;
        let open = |site: &mut Site<'_>, count| -> Result<()> {
            for flow in
                site.pair.client.open(&Opening { at_once: 4, ..Opening::new(socket("10.1.0.2", port)?, count) })?
            {
                let facts = flow.opened.with_context(|| format!("failed: {:?}", flow.error))?;
                ensure!(facts.ssthresh == 17, "{facts:?}");
            }
            Ok(())
        };
        open(&mut site, 100)?;
        for round in 1..=3_u64 {
            site.node.kill()?;
            open(&mut site, 100)?;
            site.node.restart()?;
            open(&mut site, 100)?;
            site.control.wait_for_flows("policies/test", 100 + 200 * round)?;
        }
        let boots: BTreeSet<_> = site.control.reports().into_iter().map(|report| report.boot_id).collect();
        ensure!(boots.len() == 1, "the successor goes on counting: {boots:?}");
        let last = site.control.hellos().pop().context("no hello")?;
        let known = last.in_force.context("the successor knows what is in force")?;
        ensure!(known == site.control.acks()[0].version.clone().context("no version")?, "{known:?}");
        ensure!(site.control.reports().iter().all(|report| report.records_dropped == 0), "records were dropped");
        Ok(())
    });
}

#[test]
fn reports_wait_for_an_absent_server_and_repeating_them_changes_nothing() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        site.control.enforce(clamping(17))?;
        site.control.refuse_reports(true);
        for _ in 0..30 {
            site.pair.one("10.1.0.2")?;
        }
        site.node.kill()?;
        site.node.restart()?;
        site.control.lose_receipts(true);
        site.control.refuse_reports(false);
        eventually("a report comes twice", PATIENCE, || {
            ensure!(site.control.reports().len() >= 2);
            Ok(())
        })?;
        site.control.lose_receipts(false);
        for _ in 0..30 {
            site.pair.one("10.1.0.2")?;
        }
        site.control.wait_for_flows("policies/test", 60)?;
        let sequences: Vec<_> = site.control.reports().iter().map(|report| report.sequence).collect();
        ensure!(sequences.is_sorted(), "{sequences:?}");
        Ok(())
    });
}

#[test]
fn sigterm_leaves_the_policy_and_detach_leaves_nothing() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        let before = clamp_of_new(&mut site)?;
        site.control.enforce(clamping(17))?;
        let status = site.node.process().terminate()?;
        ensure!(status.success(), "SIGTERM ends it cleanly: {status}");
        expect_clamp(&mut site, 17)?;
        site.node.restart()?;
        site.node.detach()?;
        expect_clamp(&mut site, before)?;
        ensure!(attached(&site.cgroup)?.is_empty(), "still attached: {}", attached(&site.cgroup)?);
        Ok(())
    });
}

#[test]
fn several_daemons_live_side_by_side() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine, &[])?;
        let neighbour_group = Cgroup::new(machine, "neighbour")?;
        let neighbour_control = Control::start()?;
        let _neighbour = Node::start(machine, "neighbour", &neighbour_control.url(), &neighbour_group, &[])?;
        let mut neighbour = Pair::start(machine, &site.wire, Some(&neighbour_group), None)?;
        site.control.enforce(clamping(17))?;
        neighbour_control.enforce(clamping(23))?;
        for _ in 0..5 {
            expect_clamp(&mut site, 17)?;
            ensure!(neighbour.one("10.1.0.2")?.opened.context("not established")?.ssthresh == 23);
        }
        site.control.wait_for_flows("policies/test", 5)?;
        neighbour_control.wait_for_flows("policies/test", 5)
    });
}

/// What `bpftool` says is attached to a cgroup.
fn attached(cgroup: &Cgroup) -> Result<String> {
    let output = BPFTOOL.command()?.args(["cgroup", "show"]).arg(cgroup.path()).output()?;
    ensure!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
