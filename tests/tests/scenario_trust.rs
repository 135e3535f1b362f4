//! Trust, with everything real: a server with TLS by an authority that `sockpilot pki` made, daemons that join by a token and renew,
//! certificates that are all replaced under load, and who is shut out.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1::{self, fleet_service_client::FleetServiceClient, join_service_client::JoinServiceClient};
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{policy, rule},
    machine::{Machine, Needs, scenario},
    node::{Node, Place},
    pki::{self, DOMAIN, Pki},
    postgres::{Durability, Postgres},
    server::{Database, Server},
    traffic::Opening,
    wait::{eventually, pass},
    world::{Pair, Wire, short_path, socket},
};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(90);
const CUT_MAX: Duration = Duration::from_secs(5);
const LAYER: &str = "policies/web";
/// A daemon looks at its files each second.
const SEEN: Duration = Duration::from_secs(3);

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

fn document(packets: u32) -> v1::Policy {
    let set = v1::Parameters { cwnd_clamp_packets: Some(packets), ..v1::Parameters::default() };
    policy("web", 10, vec![rule("all", v1::Match::default(), set)])
}

/// A token by which a node joins, in a file.
fn join_token(machine: &Machine, server: &Server<'_>, node: &str, label: &str) -> Result<PathBuf> {
    let file = machine.directory().join(machine.unique("token"));
    server.says(&["access", "join-token", node, "--label", label, "--to", text(&file)?])?;
    Ok(file)
}

fn joining<'m>(
    machine: &'m Machine,
    server: &Server<'_>,
    id: &str,
    cgroup: &Cgroup,
    token: &Path,
) -> Result<(Node<'m>, PathBuf)> {
    let (place, ca) = (Place::new(machine, id)?, server.pki()?.file("ca.pem"));
    let state = place.state.clone();
    let more = ["--tls-ca", text(&ca)?, "--join-token-file", text(token)?];
    Ok((Node::start_at(machine, id, &server.node_url(), cgroup, place, &more)?, state))
}

/// A daemon with a certificate that somebody else writes.
fn certified<'m>(machine: &'m Machine, server: &Server<'_>, id: &str, cgroup: &Cgroup) -> Result<Node<'m>> {
    let pki = server.pki()?;
    pki.make(&["node", id])?;
    let (own, ca) = (pki.own(&format!("node-{id}")), pki.file("ca.pem"));
    let more = ["--tls-ca", text(&ca)?, "--tls-cert", text(&own.certificate)?, "--tls-key", text(&own.key)?];
    Node::start(machine, id, &server.node_url(), cgroup, &more)
}

fn says(node: &mut Node<'_>, words: &str) -> usize {
    node.process().log().matches(words).count()
}

#[test]
fn a_node_joins_by_a_token_enforces_reports_and_renews() {
    scenario(Needs::Kernel, |machine| {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let arguments = ["--node-certificate-life", "30s"];
        let server = Server::start_secured(machine, Database::Url(postgres.url()), &arguments)?;
        let admin = server.admin()?;
        let (wire, cgroup) = (Wire::new(short_path())?, Cgroup::new(machine, "managed")?);
        let token = join_token(machine, &server, "node", "role=edge")?;
        let secret = fs::read_to_string(&token)?.trim().to_owned();
        let (mut node, state) = joining(machine, &server, "node", &cgroup, &token)?;
        admin.wait_for_nodes(&["node"])?;
        let labels = admin.nodes()?.remove("node").context("the node is known")?.labels;
        ensure!(labels.get("role").map(String::as_str) == Some("edge"), "{labels:?}");

        admin.put_policy(document(20), everyone())?;
        admin.wait_in_force("node", LAYER, 1)?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        let flow = pair.one("10.1.0.2")?;
        ensure!(flow.error.is_none(), "{flow:?}");
        eventually("the outcome comes back", PATIENCE, || {
            ensure!(admin.flows(LAYER)?.values().sum::<u64>() >= 1, "not yet");
            Ok(())
        })?;

        // Once is enough, whoever has it.
        let (_, request) = sockpilot_identity::authority::request()?;
        let channel =
            admin.with_runtime(|| pki::channel(&server.node_url(), Some(server.pki()?.client(None)?), None))?;
        let again =
            v1::JoinRequest { token: secret.clone(), node_id: "node".to_owned(), signing_request: request.into() };
        let refused = admin.call(JoinServiceClient::new(channel).join(again)).err().context("it joined again")?;
        ensure!(refused.code() == Code::Unauthenticated, "{refused:?}");
        ensure!(server.counted("refused_calls_total{reason=\"join\"}")? == 1);

        // At two thirds of its life, by itself, and nothing ends.
        eventually("the certificate is renewed twice", PATIENCE, || {
            ensure!(says(&mut node, "certificate renewed") >= 2, "not yet");
            Ok(())
        })?;
        pass(SEEN)?;
        ensure!(says(&mut node, "not connected") == 0, "the stream ended");
        ensure!(!node.process().log().contains(&secret), "the token is in the log");
        // It comes again by what it has, without the token.
        fs::remove_file(&token)?;
        let key = fs::read_to_string(state.join("identity/key.pem"))?;
        ensure!(key.contains("PRIVATE KEY"), "its key is its own");
        node.kill()?;
        node.restart()?;
        admin.put_policy(document(21), everyone())?;
        admin.wait_in_force("node", LAYER, 2)
    });
}

/// Calls on a connection that stays and on new ones, until it is over; and how many failed.
struct Load {
    calls: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(admin: &Admin, server: &Server<'_>) -> Result<Self> {
        let (tls, url) = (server.pki()?.client(Some(&server.pki()?.own("person-root")))?, server.url());
        let load = Self { calls: Arc::default(), failed: Arc::default(), over: Arc::default() };
        let (calls, failed, over) = (load.calls.clone(), load.failed.clone(), load.over.clone());
        admin.spawn(async move {
            let Ok(kept) = pki::channel(&url, Some(tls.clone()), None) else { return };
            while !over.load(Ordering::Relaxed) {
                let fresh = pki::channel(&url, Some(tls.clone()), None);
                for channel in [Some(kept.clone()), fresh.ok()].into_iter().flatten() {
                    let asked = FleetServiceClient::new(channel).list_nodes(v1::ListNodesRequest::default()).await;
                    if let Err(status) = asked {
                        eprintln!("a call failed: {status:?}");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Ok(load)
    }

    /// A dozen calls more.
    fn goes_on(&self) -> Result<()> {
        let now = self.calls.load(Ordering::Relaxed);
        eventually("calls go on", PATIENCE, || {
            ensure!(self.calls.load(Ordering::Relaxed) > now + 12, "not yet");
            Ok(())
        })
    }
}

/// What another authority has signed takes the place of what is there, file by file.
fn take_over(pki: &Pki, next: &Pki, name: &str) -> Result<()> {
    let own = next.own(name);
    pki.replace(&format!("{name}-key.pem"), &fs::read_to_string(own.key)?)?;
    pki.replace(&format!("{name}.pem"), &fs::read_to_string(own.certificate)?)
}

#[test]
fn every_certificate_is_replaced_under_load_and_nothing_is_dropped() {
    scenario(Needs::Kernel, |machine| {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let arguments = ["--node-certificate-life", "30s", "--person-limit", "10000,10000,64"];
        let server = Server::start_secured(machine, Database::Url(postgres.url()), &arguments)?;
        let (admin, pki) = (server.admin()?, server.pki()?);
        let wire = Wire::new(short_path())?;
        let [of_joined, of_other] = [Cgroup::new(machine, "joined")?, Cgroup::new(machine, "other")?];
        let token = join_token(machine, &server, "joined", "role=edge")?;
        let (mut joined, _) = joining(machine, &server, "joined", &of_joined, &token)?;
        let mut other = certified(machine, &server, "other", &of_other)?;
        admin.wait_for_nodes(&["joined", "other"])?;
        let mut revision = 1;
        admin.put_policy(document(20), everyone())?;
        let mut change = || -> Result<()> {
            revision += 1;
            let made = admin.put_policy(document(20 + revision), everyone())?;
            admin.wait_in_force("joined", LAYER, made.revision)?;
            admin.wait_in_force("other", LAYER, made.revision)
        };
        let mut pair = Pair::start(machine, &wire, Some(&of_joined), Some(&of_other))?;
        let churn = Opening { at_once: 2, pause_ms: 20, ..Opening::new(socket("10.1.0.2", pair.port)?, 0) };
        pair.client.start_opening(&churn)?;
        let load = Load::start(&admin, &server)?;
        load.goes_on()?;

        // An authority of the same fleet, and what it signs.
        let next = Pki::new(machine, None)?;
        next.make(&["node", "other"])?;
        let both = fs::read_to_string(pki.file("ca.pem"))? + &fs::read_to_string(next.file("ca.pem"))?;
        let old = [pki.own("person-root"), pki.own("node-other")]
            .map(|own| (fs::read_to_string(own.certificate), fs::read_to_string(own.key)));
        let renewals = |node: &mut Node<'_>, more: usize| -> Result<()> {
            let before = says(node, "certificate renewed");
            eventually("the joined node renews", PATIENCE, || {
                ensure!(says(node, "certificate renewed") >= before + more, "not yet");
                Ok(())
            })
        };

        // First all believe both. The joined node gets the bundle with its next certificate.
        pki.replace("ca.pem", &both)?;
        pass(SEEN)?;
        renewals(&mut joined, 1)?;
        change()?;
        // Then everybody has something new to show, and the server signs by the new key.
        for name in ["server", "node-other", "person-root"] {
            take_over(pki, &next, name)?;
            pass(SEEN)?;
            load.goes_on()?;
            change()?;
        }
        pki.replace("ca-key.pem", &fs::read_to_string(next.file("ca-key.pem"))?)?;
        renewals(&mut joined, 2)?;
        // Then the old one is believed no more.
        pki.replace("ca.pem", &fs::read_to_string(next.file("ca.pem"))?)?;
        pass(SEEN)?;
        load.goes_on()?;
        change()?;
        renewals(&mut joined, 1)?;
        change()?;

        load.over.store(true, Ordering::Relaxed);
        let (calls, failed) = (load.calls.load(Ordering::Relaxed), load.failed.load(Ordering::Relaxed));
        ensure!(failed == 0, "{failed} of {calls} calls failed");
        for node in [&mut joined, &mut other] {
            let id = node.id().to_owned();
            ensure!(says(node, "not connected") == 0, "{id} lost its stream");
            ensure!(says(node, "stream moves to a new connection") >= 1, "{id} shows what it had before");
        }
        let flows = pair.client.stop()?;
        ensure!(flows.iter().all(|flow| flow.error.is_none()), "a connection failed");
        println!("rotation: {calls} calls, none failed; no stream dropped");

        // What the old one has signed lets nobody in.
        let [Ok(certificate), Ok(key)] = <[_; 2]>::from(old.into_iter().next().context("one")?) else {
            anyhow::bail!("the old files were not read")
        };
        pki.replace("old.pem", &certificate)?;
        pki.replace("old-key.pem", &key)?;
        let tls = pki.client(Some(&pki.own("old")))?;
        let channel = admin.with_runtime(|| pki::channel(&server.url(), Some(tls), None))?;
        let asked = admin.call(FleetServiceClient::new(channel).list_nodes(v1::ListNodesRequest::default()));
        ensure!(asked.is_err(), "a certificate of {DOMAIN}'s old authority is believed");
        Ok(())
    });
}

/// How long it takes until a node is not connected any more.
fn goes(admin: &Admin, node: &str) -> Result<Duration> {
    let began = Instant::now();
    eventually(&format!("{node} is cut off"), PATIENCE, || {
        ensure!(admin.nodes()?.get(node).is_none_or(|node| !node.connected), "it is not");
        Ok(())
    })?;
    Ok(began.elapsed())
}

#[test]
fn who_is_shut_out_or_removed_is_cut_off_and_stays_out() {
    scenario(Needs::Kernel, |machine| {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let mut server = Server::start_secured(machine, Database::Url(postgres.url()), &[])?;
        let admin = server.admin()?;
        let [of_stolen, of_gone] = [Cgroup::new(machine, "stolen")?, Cgroup::new(machine, "gone")?];
        let of_good = Cgroup::new(machine, "good")?;
        // One after the other: each loads programs, which takes a busy machine long.
        let start = |id, cgroup| -> Result<Node<'_>> {
            let node = certified(machine, &server, id, cgroup)?;
            admin.wait_for_nodes(&[id])?;
            Ok(node)
        };
        let (mut stolen, mut gone) = (start("stolen", &of_stolen)?, start("gone", &of_gone)?);
        let mut good = start("good", &of_good)?;
        admin.put_policy(document(20), everyone())?;
        for id in ["stolen", "gone", "good"] {
            admin.wait_in_force(id, LAYER, 1)?;
        }
        server.says(&["access", "revoke", "nodes/stolen", "--reason", "stolen"])?;
        let took = goes(&admin, "stolen")?;
        ensure!(took < CUT_MAX, "the revoked node was cut off after {took:?}");
        server.says(&["delete", "nodes/gone"])?;
        let took = goes(&admin, "gone")?;
        ensure!(took < CUT_MAX, "the removed node was cut off after {took:?}");
        // Neither they nor the server find another answer by beginning anew.
        for restart_server in [false, true] {
            if restart_server {
                server.kill()?;
                server.restart()?;
            }
            for node in [&mut stolen, &mut gone] {
                node.kill()?;
                node.restart()?;
                let id = node.id().to_owned();
                eventually(&format!("{id} is refused"), PATIENCE, || {
                    ensure!(says(node, "server refuses this node") > 0, "not yet");
                    Ok(())
                })?;
            }
            admin.wait_for_nodes(&["good"])?;
            let nodes = admin.nodes()?;
            ensure!(!nodes.contains_key("gone") && nodes.get("stolen").is_none_or(|node| !node.connected), "{nodes:?}");
        }
        // Who is in stays in.
        ensure!(says(&mut good, "server refuses") == 0);
        admin.put_policy(document(21), everyone())?;
        admin.wait_in_force("good", LAYER, 2)
    });
}
