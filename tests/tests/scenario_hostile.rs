//! A node with a sound certificate and bad intent, and a caller who reads nothing: each misdeed is refused and counted by its own metric,
//! what it holds is bounded, and nobody else notices.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1::{self, node_service_client::NodeServiceClient};
use sockpilot_tests::{
    admin::everyone,
    documents::{policy, rule},
    hostile::{Hostile, Misdeed, take_nothing},
    machine::{Needs, scenario},
    peer::{Peer, hello},
    pki,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    wait::eventually,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Of one hostile node: two reports at once, with what they take when decoded, and what allocators keep.
const GROWTH_MIB_MAX: u64 = 256;
/// Small, so that each is reached soon.
const BOUNDS: [&str; 12] = [
    "--handshakes-max=16",
    "--handshake-timeout=2",
    "--write-timeout=1",
    "--report-timeout=3",
    "--connections-of-one-max=32",
    "--streams-max=64",
    "--resets-max=16",
    "--node-limit=1000,1000,16",
    "--report-limit=20,100,2",
    "--unknown-limit=1000,1000,64",
    "--person-limit=1000,1000,64",
    "--node-certificate-life=1h",
];

/// The most that there was so far.
fn resident_mib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("looking at the server's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no resident memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().context("reading the resident memory")? >> 10)
}

/// All that was refused so far.
fn refusals(server: &Server<'_>) -> Result<String> {
    let text = server.metrics_text()?;
    let lines =
        text.lines().filter(|line| line.contains("refused_calls_total{") || line.contains("turned_away_total{"));
    Ok(lines.collect::<Vec<_>>().join("; "))
}

#[test]
fn each_misdeed_is_refused_and_counted_and_nobody_else_notices() {
    scenario(Needs::Nothing, |machine| {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let mut server = Server::start_secured(machine, Database::Url(postgres.url()), &BOUNDS)?;
        let admin = server.admin()?;
        let set = v1::Parameters { initial_cwnd_packets: Some(20), ..v1::Parameters::default() };
        let document = |name: &str| policy(name, 1, vec![rule("all", v1::Match::default(), set.clone())]);
        admin.put_policy(document("hostile"), everyone())?;

        let tls = server.pki()?.node("victim")?;
        let channel = admin.with_runtime(|| pki::channel(&server.node_url(), Some(tls), None))?;
        let victim = Peer::connect_by(&admin, channel.clone(), hello("victim", &[]))?;
        victim.ack(&victim.wait_for("what it must enforce", |_| true)?);
        let hostile = Hostile {
            id: "hostile".to_owned(),
            victim: "victim".to_owned(),
            url: server.node_url(),
            tls: server.pki()?.node("hostile")?,
        };
        let reports = NodeServiceClient::new(channel);
        let report = |sequence| {
            let report = hostile.report_of("victim", "boot-of-victim", sequence);
            admin.call(reports.clone().report_flows(report)).map(|receipt| receipt.sequence)
        };
        ensure!(report(1)? == 1);

        let before = resident_mib(server.process().id())?;
        for misdeed in Misdeed::ALL {
            let counted =
                || misdeed.counters().iter().map(|counter| server.counted(counter)).collect::<Result<Vec<_>>>();
            let then = counted()?;
            victim.alive();
            admin.block_on(hostile.act(misdeed)).with_context(|| format!("{misdeed:?}"))?;
            eventually(&format!("{misdeed:?} is counted by {:?}", misdeed.counters()), PATIENCE, || {
                let now = counted()?;
                ensure!(now.iter().zip(&then).all(|(now, then)| now > then), "not yet: {}", refusals(&server)?);
                Ok(())
            })?;
        }
        let grown = resident_mib(server.process().id())?.saturating_sub(before);
        println!("resident memory has grown by {grown} MiB");
        ensure!(grown < GROWTH_MIB_MAX, "by {grown} MiB");

        // What it has said of another's boot changes nothing there, and what it said again counts once.
        ensure!(report(2)? == 2);
        let flows: u64 = admin.flows("policies/hostile")?.values().sum();
        ensure!(flows == 2 + 2, "{flows} flows: two of the victim, one of each boot of the other");
        // The other's stream is the one that it was.
        let before = victim.snapshots().len();
        admin.put_policy(document("more"), everyone())?;
        eventually("the victim gets what is new", PATIENCE, || {
            ensure!(victim.snapshots().len() > before, "not yet");
            Ok(())
        })?;
        server.process().check_alive()
    });
}

#[test]
fn who_takes_nothing_is_cut_off() {
    scenario(Needs::Nothing, |machine| {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let server = Server::start_secured(machine, Database::Url(postgres.url()), &BOUNDS)?;
        let admin = server.admin()?;
        let set = v1::Parameters { initial_cwnd_packets: Some(20), ..v1::Parameters::default() };
        let long = "x".repeat(50);
        for number in 0..10 {
            let rules: Vec<_> =
                (0..1_000).map(|at| rule(&format!("r{at}-{long}"), v1::Match::default(), set.clone())).collect();
            admin.put_policy(policy(&format!("large-{number}"), number + 1, rules), everyone())?;
        }
        server.pki()?.make(&["person", "vi", "--role", "viewer"])?;
        let tls = server.pki()?.client(Some(&server.pki()?.own("person-vi")))?;
        let (address, path) = (server.url().replace("https://", ""), "/sockpilot.v1.PolicyService/ListPolicies");
        admin.block_on(take_nothing(&address, &tls.get(), path, Duration::from_secs(15)))?;
        let counter = "turned_away_total{door=\"people\",reason=\"takes_nothing\"}";
        eventually("it is counted", PATIENCE, || {
            ensure!(server.counted(counter)? > 0, "not yet: {}", refusals(&server)?);
            Ok(())
        })
    });
}
