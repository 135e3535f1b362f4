//! Bad input to every call that takes any: refused with every fault and its path, and nothing is stored.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone, share},
    documents::{arm, experiment, policy, rule, texts},
    machine::{Needs, scenario},
    peer::{Peer, hello},
    postgres::Postgres,
    server::Served,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Every row of every table, counted.
fn rows(postgres: &Postgres<'_>) -> Result<String> {
    postgres.query(
        "SELECT string_agg(relname || ' ' || (xpath('/row/n/text()', query_to_xml('SELECT count(*) AS n FROM ' || quote_ident(relname), \
         false, true, '')))[1]::text, ', ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace",
    )
}

fn create_policy(admin: &Admin, policy: v1::Policy) -> Result<v1::Policy, Status> {
    let request = v1::CreatePolicyRequest { policy: Some(policy), ..v1::CreatePolicyRequest::default() };
    admin.call(admin.policies().create_policy(request))
}

/// The paths that a refusal names.
fn paths<T: std::fmt::Debug>(answer: Result<T, Status>) -> Result<BTreeSet<String>> {
    let status = answer.err().context("it was accepted")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().context("no field violations")?.field_violations;
    ensure!(violations.iter().all(|violation| violation.description.len() > 10), "no explanation: {violations:?}");
    Ok(violations.into_iter().map(|violation| violation.field).collect())
}

fn set() -> v1::Parameters {
    v1::Parameters { syn_rto_ms: Some(200), ..v1::Parameters::default() }
}

fn one_rule(matches: v1::Match, set: v1::Parameters) -> v1::Policy {
    policy("web", 1, vec![rule("only", matches, set)])
}

fn matching(change: impl FnOnce(&mut v1::Match)) -> v1::Policy {
    let mut matches = v1::Match::default();
    change(&mut matches);
    one_rule(matches, set())
}

fn setting(change: impl FnOnce(&mut v1::Parameters)) -> v1::Policy {
    let mut set = v1::Parameters::default();
    change(&mut set);
    one_rule(v1::Match::default(), set)
}

#[test]
fn policies() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let before = rows(&world.postgres)?;
        let rules = |count: usize| (0..count).map(|n| rule(&format!("r{n}"), v1::Match::default(), set())).collect();
        // A document and the beginning of the path of its one fault.
        let cases = [
            (policy("web", 1, vec![]), "policy.rules"),
            (policy("web", 1, rules(1_001)), "policy.rules"),
            (policy("Web", 1, rules(1)), "policy.name"),
            (policy("web", 1_000_001, rules(1)), "policy.priority"),
            (v1::Policy { description: "x".repeat(1_001), ..policy("web", 1, rules(1)) }, "policy.description"),
            (policy("web", 1, [rules(1), rules(1)].concat()), "policy.rules[1].name"),
            (policy("web", 1, vec![rule("No", v1::Match::default(), set())]), "policy.rules[0].name"),
            (matching(|m| m.remote_prefixes = texts(&["10.0.0.1/8"])), "policy.rules[0].match.remote_prefixes[0]"),
            (
                matching(|m| m.remote_prefixes = texts(&["10.0.0.0/8", "east"])),
                "policy.rules[0].match.remote_prefixes[1]",
            ),
            (matching(|m| m.local_prefixes = texts(&["fd00::/129"])), "policy.rules[0].match.local_prefixes[0]"),
            (matching(|m| m.remote_ports = texts(&["443-80"])), "policy.rules[0].match.remote_ports[0]"),
            (matching(|m| m.local_ports = texts(&["65536"])), "policy.rules[0].match.local_ports[0]"),
            (matching(|m| m.services = texts(&["web"])), "policy.rules[0].match.services[0]"),
            (matching(|m| m.services = texts(&["/../etc"])), "policy.rules[0].match.services[0]"),
            (matching(|m| m.same_prefix = Some(129)), "policy.rules[0].match.same_prefix"),
            (matching(|m| m.direction = 7), "policy.rules[0].match.direction"),
            (matching(|m| m.family = 9), "policy.rules[0].match.family"),
            (setting(|s| s.syn_rto_ms = Some(0)), "policy.rules[0].set.syn_rto_ms"),
            (setting(|s| s.synack_rto_ms = Some(120_001)), "policy.rules[0].set.synack_rto_ms"),
            (setting(|s| s.initial_cwnd_packets = Some(0)), "policy.rules[0].set.initial_cwnd_packets"),
            (setting(|s| s.cwnd_clamp_packets = Some(0)), "policy.rules[0].set.cwnd_clamp_packets"),
            (
                setting(|s| s.initial_receive_window_packets = Some(70_000)),
                "policy.rules[0].set.initial_receive_window_packets",
            ),
            (setting(|s| s.send_buffer_bytes = Some(1)), "policy.rules[0].set.send_buffer_bytes"),
            (setting(|s| s.receive_buffer_bytes = Some(u32::MAX)), "policy.rules[0].set.receive_buffer_bytes"),
            (
                setting(|s| s.congestion_control = Some("a name that is too long".into())),
                "policy.rules[0].set.congestion_control",
            ),
            (setting(|s| s.congestion_control = Some(String::new())), "policy.rules[0].set.congestion_control"),
            (setting(|s| s.ecn = Some(false)), "policy.rules[0].set.ecn"),
        ];
        for (document, path) in cases {
            let found = paths(create_policy(&world.admin, document.clone()))?;
            ensure!(found.len() == 1 && found.iter().all(|found| found == path), "{found:?} instead of {path}");
            let found = paths(world.admin.put_policy(document, everyone()))?;
            ensure!(found.iter().all(|found| found == path), "update: {found:?} instead of {path}");
        }
        // Several faults are all told at once.
        let many = policy(
            "web",
            2_000_000,
            vec![rule(
                "BAD",
                v1::Match { same_prefix: Some(200), ..v1::Match::default() },
                v1::Parameters { syn_rto_ms: Some(0), ..v1::Parameters::default() },
            )],
        );
        let found = paths(create_policy(&world.admin, many))?;
        let expected = [
            "policy.priority",
            "policy.rules[0].match.same_prefix",
            "policy.rules[0].name",
            "policy.rules[0].set.syn_rto_ms",
        ];
        ensure!(found == expected.map(str::to_owned).into(), "{found:?}");
        ensure!(
            rows(&world.postgres)? == before,
            "something was stored: {} before, {} now",
            before,
            rows(&world.postgres)?
        );
        Ok(())
    });
}

#[test]
fn matches_that_nothing_can_satisfy() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let ipv4 = v1::Family::Ipv4.into();
        for document in [
            matching(|m| (m.same_prefix, m.not_same_prefix) = (Some(24), Some(16))),
            matching(|m| (m.family, m.remote_prefixes) = (ipv4, texts(&["fd00::/8"]))),
            matching(|m| (m.family, m.same_prefix) = (ipv4, Some(44))),
            matching(|m| (m.local_prefixes, m.remote_prefixes) = (texts(&["10.0.0.0/8"]), texts(&["fd00::/8"]))),
        ] {
            let found = paths(create_policy(&world.admin, document))?;
            ensure!(found.iter().all(|path| path.starts_with("policy.rules[0].match")), "{found:?}");
        }
        ensure!(
            world
                .admin
                .call(world.admin.policies().list_policies(v1::ListPoliciesRequest::default()))?
                .policies
                .is_empty()
        );
        Ok(())
    });
}

#[test]
fn experiments() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let before = rows(&world.postgres)?;
        let with = |arms| experiment("e", 1, v1::Match::default(), arms);
        let at = |arm: v1::Arm, first| v1::Arm { first_bucket: Some(first), ..arm };
        let many = (0..9).map(|n| arm(&format!("a{n}"), if n == 0 { 2_000 } else { 1_000 }, set())).collect();
        let cases = [
            (
                v1::Experiment { owner: "o".repeat(201), ..with(vec![arm("a", 500, set()), arm("b", 500, set())]) },
                "experiment.owner",
            ),
            (with(vec![arm("a", 9_000, set()), arm("b", 1_001, set())]), "experiment.arms"),
            (with(vec![arm("a", 10_000, set())]), "experiment.arms"),
            (with(many), "experiment.arms"),
            (with(vec![arm("a", 10_000, set()), arm("b", 0, set())]), "experiment.arms[1].weight_bp"),
            (with(vec![arm("a", 5_000, set()), arm("a", 5_000, set())]), "experiment.arms[1].name"),
            (with(vec![at(arm("a", 6_000, set()), 0), at(arm("b", 4_000, set()), 5_000)]), "experiment.arms"),
            (with(vec![at(arm("a", 6_000, set()), 0), arm("b", 4_000, set())]), "experiment.arms"),
            (
                v1::Experiment { salt: "s".repeat(65), ..with(vec![arm("a", 5_000, set()), arm("b", 5_000, set())]) },
                "experiment.salt",
            ),
            (
                v1::Experiment { unit: 99, ..with(vec![arm("a", 5_000, set()), arm("b", 5_000, set())]) },
                "experiment.unit",
            ),
        ];
        for (document, path) in cases {
            let request = v1::CreateExperimentRequest {
                experiment: Some(document.clone()),
                ..v1::CreateExperimentRequest::default()
            };
            let found = paths(world.admin.call(world.admin.experiments().create_experiment(request)))?;
            ensure!(
                !found.is_empty() && found.iter().all(|found| found.starts_with(path)),
                "{found:?} instead of {path}"
            );
            let found = paths(world.admin.put_experiment(document, everyone()))?;
            ensure!(found.iter().all(|found| found.starts_with(path)), "update: {found:?} instead of {path}");
        }
        ensure!(rows(&world.postgres)? == before, "something was stored");
        Ok(())
    });
}

#[test]
fn the_rest_of_the_admin_api() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let admin = &world.admin;
        admin.put_policy(one_rule(v1::Match::default(), set()), everyone())?;
        let before = rows(&world.postgres)?;
        let web = || "policies/web".to_owned();
        for target in [share(0), share(10_000), v1::Target { kind: None }] {
            let request = v1::AssignRevisionRequest {
                reason: "by a test".to_owned(),
                name: web(),
                revision: 1,
                target: Some(target),
                ..Default::default()
            };
            paths(admin.call(admin.assignments().assign_revision(request)))?;
        }
        let nobody = v1::Target { kind: Some(v1::target::Kind::Nobody(v1::target::Nobody {})) };
        let request = v1::AssignRevisionRequest {
            reason: "by a test".to_owned(),
            name: web(),
            revision: 1,
            target: Some(nobody),
            ..Default::default()
        };
        paths(admin.call(admin.assignments().assign_revision(request)))?;
        let request = v1::AssignRevisionRequest {
            reason: "by a test".to_owned(),
            name: web(),
            revision: 9,
            target: Some(everyone()),
            ..Default::default()
        };
        let status =
            admin.call(admin.assignments().assign_revision(request)).err().context("revision 9 was assigned")?;
        ensure!(status.code() == Code::NotFound && status.get_details_resource_info().is_some(), "{status:?}");

        for name in ["", "web", "policies/", "policies/Web", "nodes/web", "policies/web@x", "policies/web/x"] {
            paths(admin.call(admin.policies().get_policy(v1::GetPolicyRequest { name: name.to_owned() })))?;
            paths(admin.call(
                admin.policies().delete_policy(v1::DeletePolicyRequest { name: name.to_owned(), ..Default::default() }),
            ))?;
            paths(admin.call(admin.assignments().promote_revision(v1::PromoteRevisionRequest {
                reason: "by a test".to_owned(),
                name: name.to_owned(),
                ..Default::default()
            })))?;
            paths(
                admin.call(
                    admin
                        .assignments()
                        .rollback_revision(v1::RollbackRevisionRequest { name: name.to_owned(), ..Default::default() }),
                ),
            )?;
            paths(admin.call(admin.fleet().get_layer_status(v1::GetLayerStatusRequest { name: name.to_owned() })))?;
            paths(admin.outcomes(name))?;
        }
        paths(admin.call(admin.fleet().simulate_change(v1::SimulateChangeRequest::default())))?;
        let change = Some(v1::simulate_change_request::Change::Policy(one_rule(v1::Match::default(), set())));
        let request =
            v1::SimulateChangeRequest { change, target: Some(share(0)), max_flows: 1 << 20, ..Default::default() };
        let found = paths(admin.call(admin.fleet().simulate_change(request)))?;
        ensure!(found == ["max_flows", "target.share_bp"].map(str::to_owned).into(), "{found:?}");
        let request = v1::ListPoliciesRequest { page_token: "nonsense".to_owned(), ..Default::default() };
        paths(admin.call(admin.policies().list_policies(request)))?;
        let request = v1::ListNodesRequest { page_token: "nonsense".to_owned(), ..Default::default() };
        paths(admin.call(admin.fleet().list_nodes(request)))?;
        let request = v1::CreatePolicyRequest {
            policy: Some(policy("other", 1, vec![rule("only", v1::Match::default(), set())])),
            request_id: "not a UUID".to_owned(),
            ..Default::default()
        };
        paths(admin.call(admin.policies().create_policy(request)))?;
        paths(admin.call(admin.policies().create_policy(v1::CreatePolicyRequest::default())))?;

        let huge = v1::Policy { description: "x".repeat(8 << 20), ..one_rule(v1::Match::default(), set()) };
        let status = admin.put_policy(huge, everyone()).err().context("8 MB were accepted")?;
        let refusals = [Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted];
        ensure!(refusals.contains(&status.code()), "{status:?}");
        let exists =
            create_policy(&world.admin, one_rule(v1::Match::default(), set())).err().context("created twice")?;
        ensure!(exists.code() == Code::AlreadyExists && exists.get_details_resource_info().is_some(), "{exists:?}");
        ensure!(rows(&world.postgres)? == before, "something was stored");
        Ok(())
    });
}

#[test]
fn validate_only_stores_nothing_and_answers_as_if() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let before = rows(&world.postgres)?;
        let request = v1::CreatePolicyRequest {
            policy: Some(one_rule(v1::Match::default(), set())),
            validate_only: true,
            ..v1::CreatePolicyRequest::default()
        };
        let answer = world.admin.call(world.admin.policies().create_policy(request))?;
        ensure!(answer.revision == 1 && answer.name == "policies/web", "{answer:?}");
        ensure!(rows(&world.postgres)? == before, "something was stored");
        Ok(())
    });
}

#[test]
fn nodes() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let admin = &world.admin;
        let refused = |hello: v1::Hello| -> Result<()> {
            let status = match Peer::connect(admin, hello) {
                Ok(peer) => peer.wait_for_end()?,
                Err(status) => status,
            };
            ensure!(status.code() == Code::InvalidArgument, "{status:?}");
            Ok(())
        };
        for id in ["", "Node", "-node", "a/b", &"x".repeat(64)] {
            refused(hello(id, &[]))?;
        }
        let labels: HashMap<_, _> = (0..65).map(|n| (format!("k{n}"), "v".to_owned())).collect();
        refused(v1::Hello { labels: labels.into_iter().collect(), ..hello("many", &[]) })?;
        refused(hello("long", &[("key", &"v".repeat(64))]))?;
        ensure!(admin.nodes()?.is_empty(), "a node was stored: {:?}", admin.nodes()?);

        let _peer = Peer::connect(admin, hello("good", &[]))?;
        admin.wait_for_nodes(&["good"])?;
        let cell = v1::FlowCell {
            interval_start_s: 1_790_000_000,
            interval_length_s: 10,
            layer: "policies/web".to_owned(),
            revision: 1,
            choice: "all".to_owned(),
            direction: v1::Direction::Active.into(),
            size_class: v1::SizeClass::Small.into(),
            counts: Some(v1::FlowCounts { flows: 1, established: 1, ..v1::FlowCounts::default() }),
            ..v1::FlowCell::default()
        };
        let report = |change: &dyn Fn(&mut v1::FlowReport)| {
            let mut report = v1::FlowReport {
                node_id: "good".to_owned(),
                boot_id: "3e3a1b1c-0000-4000-8000-00000000b007".to_owned(),
                sequence: 1,
                cells: vec![cell.clone()],
                ..v1::FlowReport::default()
            };
            change(&mut report);
            let mut client = v1::node_service_client::NodeServiceClient::new(admin.channel());
            admin.call(client.report_flows(report))
        };
        let garbage = || v1::Distribution { count: 1, sketch: vec![0xff; 7].into(), ..v1::Distribution::default() };
        let changes: [&dyn Fn(&mut v1::FlowReport); 8] = [
            &|r| r.boot_id = "no UUID".to_owned(),
            &|r| r.node_id = "NOT".to_owned(),
            &|r| r.cells[0].layer = "web".to_owned(),
            &|r| r.cells[0].interval_start_s += 1,
            &|r| r.cells[0].interval_length_s = 0,
            &|r| r.cells[0].direction = 0,
            &|r| r.cells[0].counts = None,
            &|r| r.cells[0].srtt_us = Some(garbage()),
        ];
        for (number, change) in changes.iter().enumerate() {
            let status = report(change).err().with_context(|| format!("report {number} was accepted"))?;
            ensure!(status.code() == Code::InvalidArgument, "report {number}: {status:?}");
        }
        Ok(())
    });
}
