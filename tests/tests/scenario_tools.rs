//! The tools that people use: `sockpilot`, and `grpcurl` by reflection alone.

use std::{
    io::Write,
    process::{Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sockpilot_programs::{GRPCURL, skipped};
use sockpilot_tests::{
    machine::{Needs, scenario},
    peer::{Peer, hello, layers},
    postgres::Postgres,
    process,
    server::{Served, Server},
};

/// Runs `sockpilot` with something on its standard input.
fn run(server: &Server<'_>, arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = process::own("sockpilot")?;
    command.args(arguments).env("SOCKPILOT_SERVER", server.url()).env("SOCKPILOT_ACTOR", "tester@here");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting sockpilot")?;
    // It may refuse its arguments without reading.
    let _ = child.stdin.take().context("no input")?.write_all(input.as_bytes());
    child.wait_with_output().context("waiting for sockpilot")
}

fn says(server: &Server<'_>, arguments: &[&str], input: &str) -> Result<String> {
    let output = run(server, arguments, input)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What it says when it refuses.
fn refuses(server: &Server<'_>, arguments: &[&str], input: &str) -> Result<String> {
    let output = run(server, arguments, input)?;
    ensure!(!output.status.success(), "{arguments:?} was accepted: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn revisions(postgres: &Postgres<'_>) -> Result<String> {
    postgres.query("SELECT count(*) FROM revision")
}

const POLICY: &str = "
kind: Policy
name: web
priority: 10
rules:
  - name: all
    set: {syn_rto_ms: 200}
";

const EXPERIMENT: &str = "
kind: Experiment
name: window
priority: 20
arms:
  - {name: control, weight_bp: 9000}
  - {name: large, weight_bp: 1000, set: {initial_cwnd_packets: 30}}
";

#[test]
fn the_way_of_a_policy_by_the_command_line() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let admin = world.server.admin()?;
        let peer = Peer::connect(&admin, hello("edge", &[("site", "a")]))?;
        let apply = ["apply", "-f", "-"];
        let dry = says(&world.server, &["apply", "-f", "-", "--dry-run"], POLICY)?;
        ensure!(dry.contains("syn_rto_ms") && revisions(&world.postgres)? == "0", "a dry run stores nothing: {dry}");
        says(&world.server, &apply, POLICY)?;
        says(&world.server, &apply, EXPERIMENT)?;
        let again = says(&world.server, &apply, POLICY)?;
        ensure!(revisions(&world.postgres)? == "2", "the same again makes no revision: {again}");
        let snapshot =
            peer.wait_for("both layers", |snapshot| layers(snapshot).is_ok_and(|layers| layers.len() == 2))?;
        peer.ack(&snapshot);

        let changed = POLICY.replace("200", "300");
        let diff = says(&world.server, &["apply", "-f", "-", "--dry-run"], &changed)?;
        let shows = |sign: char, value: &str| {
            diff.lines().any(|line| line.trim_start().starts_with(sign) && line.contains(value))
        };
        ensure!(shows('-', "200") && shows('+', "300"), "a dry run shows the difference: {diff}");
        says(&world.server, &["apply", "-f", "-", "--nodes", "site=a", "--reason", "try it"], &changed)?;
        let status: Value = serde_json::from_str(&says(&world.server, &["status", "policies/web", "-o", "json"], "")?)?;
        ensure!(status.to_string().contains("try it"), "{status}");
        let untried = refuses(&world.server, &["promote", "policies/web", "--reason", "it works"], "")?;
        ensure!(untried.contains("no node has confirmed it"), "{untried}");
        let canary = peer.wait_for("the canary", |snapshot| {
            layers(snapshot).is_ok_and(|layers| layers.iter().any(|l| l.name == "policies/web" && l.revision == 2))
        })?;
        peer.ack(&canary);
        sockpilot_tests::wait::eventually("it is promoted once confirmed", std::time::Duration::from_secs(20), || {
            says(&world.server, &["promote", "policies/web", "--reason", "it works"], "").map(drop)
        })?;
        says(&world.server, &["rollback", "policies/web"], "")?;
        says(&world.server, &["assign", "policies/web", "--revision", "2", "--share", "10%", "--reason", "more"], "")?;
        for arguments in [
            &["get"][..],
            &["get", "policies/web@1", "-o", "yaml"],
            &["get", "policies/web", "--revisions"],
            &["status"],
            &["nodes"],
            &["nodes", "-l", "site=a", "-o", "json"],
            &["outcomes", "experiments/window"],
            &["samples"],
            &["audit", "policies/web"],
        ] {
            let said = says(&world.server, arguments, "")?;
            ensure!(!said.trim().is_empty(), "{arguments:?} says nothing");
        }
        let audit = says(&world.server, &["audit", "policies/web"], "")?;
        ensure!(audit.contains("tester@here") && audit.contains("try it"), "{audit}");
        says(&world.server, &["delete", "policies/web"], "")?;
        ensure!(refuses(&world.server, &["status", "policies/web"], "")?.starts_with("error: "));
        Ok(())
    });
}

#[test]
fn what_was_written_can_be_applied_again_as_it_is_printed() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        for (document, name) in [(POLICY, "policies/web"), (EXPERIMENT, "experiments/window")] {
            says(&world.server, &["apply", "-f", "-"], document)?;
            let before = revisions(&world.postgres)?;
            let printed = says(&world.server, &["get", name, "-o", "yaml"], "")?;
            says(&world.server, &["apply", "-f", "-"], &printed)?;
            ensure!(revisions(&world.postgres)? == before, "{name} changed by being printed: {printed}");
        }
        Ok(())
    });
}

#[test]
fn faulty_files_are_refused_with_every_fault_and_nothing_is_stored() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let faulty = |document: &str, needles: &[&str]| -> Result<()> {
            let said = refuses(&world.server, &["apply", "-f", "-"], document)?;
            for needle in needles {
                ensure!(said.contains(needle), "{needle} is not in: {said}");
            }
            ensure!(said.starts_with("error: ") && !said.contains("panicked"), "{said}");
            ensure!(revisions(&world.postgres)? == "0", "something was stored by {document}");
            Ok(())
        };
        faulty(&POLICY.replace("syn_rto_ms", "syn_rto"), &["syn_rto"])?;
        faulty(&POLICY.replace("priority", "prioritaet"), &["prioritaet"])?;
        faulty(&POLICY.replace("kind: Policy", "kind: Polity"), &["Polity"])?;
        faulty(&POLICY.replace("200", "0"), &["rules[0].set.syn_rto_ms"])?;
        faulty(&POLICY.replace("200", "a while"), &["syn_rto_ms"])?;
        faulty(
            &POLICY.replace("name: all", "match: {same_prefix: 24, not_same_prefix: 16}\n    name: all"),
            &["rules[0].match"],
        )?;
        faulty(&EXPERIMENT.replace("9000", "9500"), &["arms"])?;
        faulty(
            &EXPERIMENT.replace("9000", "9000, first_bucket: 500").replace("1000,", "1000, first_bucket: 0,"),
            &["arms"],
        )?;
        faulty("kind: Policy\nname: [", &[])?;
        faulty("", &[])?;
        faulty(&format!("kind: Policy\nname: web\ndescription: {}", "x".repeat(8 << 20)), &[])?;
        // Of several documents one with a fault spoils all.
        faulty(&format!("{POLICY}\n---\n{}", EXPERIMENT.replace("9000", "9500")), &["arms"])
    });
}

#[test]
fn an_absent_server_is_said_in_one_sentence() {
    scenario(Needs::Nothing, |machine| {
        let mut world = Served::start(machine)?;
        world.server.kill()?;
        let output = run(&world.server, &["nodes"], "")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(3) && said.starts_with("error: ") && said.lines().count() == 1, "{said}");
        Ok(())
    });
}

#[test]
fn grpcurl_needs_no_files() {
    scenario(Needs::Nothing, |machine| {
        // From another registry than all else, which may be out of reach.
        if let Err(missing) = GRPCURL.find() {
            skipped(missing);
            return Ok(());
        }
        let world = Served::start(machine)?;
        let address = world.server.url().replace("http://", "");
        let call = |arguments: &[&str]| -> Result<(bool, String)> {
            let output = GRPCURL.command()?.arg("-plaintext").args(arguments).output().context("running grpcurl")?;
            let said = [output.stdout, output.stderr].concat();
            Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
        };
        let (_, services) = call(&[&address, "list"])?;
        for service in ["PolicyService", "ExperimentService", "AssignmentService", "FleetService", "NodeService"] {
            ensure!(services.contains(&format!("sockpilot.v1.{service}")), "{services}");
        }
        let (_, health) = call(&[&address, "grpc.health.v1.Health/Check"])?;
        ensure!(health.contains("SERVING"), "{health}");
        let create = "sockpilot.v1.PolicyService/CreatePolicy";
        let document = r#"{"policy": {"name": "policies/web", "rules": [{"name": "all", "set": {"synRtoMs": 200}}]}}"#;
        let (created, said) = call(&["-d", document, &address, create])?;
        ensure!(created && said.contains("\"revision\": \"1\""), "{said}");
        let (accepted, said) =
            call(&["-d", &document.replace("200", "0").replace("policies/web", "policies/db"), &address, create])?;
        ensure!(
            !accepted && said.contains("InvalidArgument") && said.contains("policy.rules[0].set.syn_rto_ms"),
            "{said}"
        );
        let (accepted, said) = call(&["-d", &document.replace("synRtoMs", "synRto"), &address, create])?;
        ensure!(!accepted && said.contains("synRto"), "{said}");
        ensure!(revisions(&world.postgres)? == "1", "one revision");
        Ok(())
    });
}
