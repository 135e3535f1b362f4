//! What a connected node costs the server: the growth of its resident memory when a thousand nodes come, each with a connection,
//! a stream, a snapshot in force and a report, without TLS and with it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sockpilot_identity::{files::Watched, tls::ClientTls};
use sockpilot_proto::v1::{self, node_service_client::NodeServiceClient, server_event};
use sockpilot_tests::{
    admin::{Admin, everyone},
    documents::{policy, rule},
    light,
    machine::Machine,
    peer::hello,
    pki,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    wait::eventually,
};
use tokio::{sync::Semaphore, time::interval};

use crate::{Figures, note};

/// Come before, so that what the server makes once is there.
const WARM_UP: u32 = 200;
const NODES: u32 = 1_000;
/// Of the policy that they all get.
const RULES: u32 = 1_000;
/// After everything else, 5 s each: the server gives back what the burst has left every 15 s.
const HEARTBEATS: u32 = 4;
/// Signs of life of almost an hour, in less time: buffers have then been used to their ends.
const ALIVE: usize = 600;
const ALIVE_EVERY: Duration = Duration::from_millis(40);
/// From then on, as often as real nodes: the server lets those go that it has not heard of for 30 s.
const ALIVE_ON: Duration = Duration::from_secs(10);
/// Reports on their way at the same time; the server admits a few more. Real nodes report at times of their own.
const REPORTS_AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    for (secured, name) in [(false, "server_memory_kib_per_node"), (true, "server_memory_kib_per_node_tls")] {
        note(figures, name, kib_per_node(machine, secured)?);
    }
    Ok(())
}

fn kib_per_node(machine: &Machine, secured: bool) -> Result<f64> {
    let postgres = Postgres::start(machine, Durability::Process)?;
    let start = if secured { Server::start_secured } else { Server::start };
    let mut server = start(machine, Database::Url(postgres.url()), &[])?;
    let admin = server.admin()?;
    let set = v1::Parameters { initial_cwnd_packets: Some(20), ..v1::Parameters::default() };
    let rules = (0..RULES).map(|number| rule(&format!("r{number}"), v1::Match::default(), set.clone())).collect();
    admin.put_policy(policy("web", 1, rules), everyone())?;

    let shared = Arc::new(Shared {
        url: server.node_url(),
        settled: AtomicU32::new(0),
        reports: Semaphore::new(REPORTS_AT_ONCE),
    });
    connect(&admin, &server, 0..WARM_UP, &shared)?;
    let before = resident_kib(server.process().id())?;
    connect(&admin, &server, WARM_UP..WARM_UP + NODES, &shared)?;
    let after = resident_kib(server.process().id())?;
    Ok((after - before) / f64::from(NODES))
}

/// What all nodes have.
struct Shared {
    url: String,
    /// Nodes that have done everything.
    settled: AtomicU32,
    reports: Semaphore,
}

/// Connects nodes and waits until each has confirmed its snapshot, has reported, and has heard of the server since.
fn connect(admin: &Admin, server: &Server<'_>, numbers: std::ops::Range<u32>, shared: &Arc<Shared>) -> Result<()> {
    let end = numbers.end;
    for number in numbers {
        let (shared, id) = (shared.clone(), format!("node-{number}"));
        let tls = server.node_tls(&id)?;
        admin.spawn(async move {
            if let Err(error) = live(&id, tls, &shared).await {
                eprintln!("node {number}: {error:#}");
            }
        });
    }
    eventually("all nodes have what they must enforce", PATIENCE, || {
        let settled = shared.settled.load(Ordering::Relaxed);
        ensure!(settled == end, "only {settled} have");
        Ok(())
    })
}

/// One node, until the runtime ends.
async fn live(id: &str, tls: Option<Arc<Watched<ClientTls>>>, shared: &Shared) -> Result<()> {
    let mut client = NodeServiceClient::new(pki::channel(&shared.url, tls, None)?);
    let mut stream = light::Stream::open(&mut client, hello(id, &[("zone", "a"), ("rack", "7")])).await?;
    let (mut alive, mut alive_on) = (interval(ALIVE_EVERY), interval(ALIVE_ON));
    let (mut confirmed, mut told_alive, mut heartbeats) = (false, 0, 0);
    loop {
        let event = tokio::select! {
            event = stream.next() => event?,
            _ = alive.tick(), if confirmed && told_alive < ALIVE => {
                stream.alive().await?;
                told_alive += 1;
                continue;
            }
            _ = alive_on.tick(), if told_alive == ALIVE => {
                stream.alive().await?;
                continue;
            }
        };
        match event {
            Some(server_event::Event::Snapshot(v1::Snapshot { version, .. })) => {
                stream.ack(version).await?;
                let report = v1::FlowReport {
                    node_id: id.to_owned(),
                    boot_id: format!("boot-of-{id}"),
                    sequence: 1,
                    ..v1::FlowReport::default()
                };
                let _turn = shared.reports.acquire().await?;
                client.report_flows(report).await?;
                confirmed = true;
            }
            Some(server_event::Event::Heartbeat(_)) if told_alive == ALIVE => {
                heartbeats += 1;
                if heartbeats == HEARTBEATS {
                    shared.settled.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }
}

pub fn resident_kib(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("looking at the server's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident memory")?;
    line.trim().trim_end_matches(" kB").parse().context("reading the resident memory")
}
