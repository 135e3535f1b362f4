//! What a node with a sound certificate and bad intent costs the others: changes reach them and calls are answered as before, and the server
//! grows by no more than it allows one node. Rounds with it and without take turns in the same run; it does one thing after the other,
//! with little rest. It would have a machine of its own, so that here its own work is done with what time the others leave; what it makes
//! the server do is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::setpriority_process;
use sockpilot_tests::{
    admin::everyone,
    documents::clamped,
    hostile::{Hostile, Misdeed},
    machine::Machine,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    simulated::SimulatedNodes,
    wait::pass,
};
use tokio::{runtime::Runtime, time::sleep};

use crate::{Figures, memory::resident_kib, note, quantile};

const NODES: usize = 100;
const ROUNDS: u32 = 12;
/// Of each round.
const CHANGES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);
/// Of the hostile node's thread.
const NICENESS: i32 = 19;
/// Between two misdeeds.
const REST: Duration = Duration::from_millis(100);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let postgres = Postgres::start(machine, Durability::Process)?;
    let arguments = ["--handshake-timeout", "2", "--report-timeout", "5"];
    let mut server = Server::start_secured(machine, Database::Url(postgres.url()), &arguments)?;
    let admin = server.admin()?;
    admin.put_policy(clamped(10), everyone())?;
    let fleet = SimulatedNodes::connect(&server, NODES, "policies/web")?;
    let hostile = Hostile {
        id: "hostile".to_owned(),
        victim: "node-0".to_owned(),
        url: server.node_url(),
        tls: server.pki()?.node("hostile")?,
    };
    let elsewhere = elsewhere()?;
    let (acts, deeds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (mut beside, mut without) = (vec![], vec![]);
    let (mut rss_beside, mut rss_without) = (0.0_f64, 0.0_f64);
    let mut number = 10;
    // The first rounds are for warming up.
    for round in 0..2 * ROUNDS + 2 {
        let with = round % 2 == 1;
        acts.store(with, Ordering::Relaxed);
        if round == 1 {
            keep_at_it(&elsewhere, &hostile, &acts, &deeds);
        }
        pass(20 * PAUSE)?;
        for _ in 0..CHANGES {
            number = if number > 60_000 { 11 } else { number + 1 };
            let began = Instant::now();
            let made = admin.put_policy(clamped(number), everyone())?;
            let last = fleet.all_have("the change", made.revision)?;
            let took_ms = last.duration_since(began).as_secs_f64() * 1e3;
            if round >= 2 {
                if with { &mut beside } else { &mut without }.push(took_ms);
            }
            pass(PAUSE)?;
        }
        let rss = resident_kib(server.process().id())?;
        match (round, with) {
            (0, _) => rss_without = rss,
            (_, true) => rss_beside = rss_beside.max(rss),
            _ => {}
        }
    }
    let done = deeds.load(Ordering::Relaxed);
    ensure!(done >= Misdeed::ALL.len() as u64, "the hostile node has done {done} things only");
    println!("{done} misdeeds");
    let (with, alone) = (quantile(&mut beside, 0.99), quantile(&mut without, 0.99));
    note(figures, "hostile_p99_ms", with);
    note(figures, "hostile_p99_ratio", with / alone);
    note(figures, "hostile_rss_ratio", rss_beside / rss_without);
    Ok(())
}

/// A runtime of its own: the others' nodes are not to wait for it here.
fn elsewhere() -> Result<Runtime> {
    let yield_to_others = || {
        if let Err(error) = setpriority_process(None, NICENESS) {
            eprintln!("the hostile node has the priority of the others: {error}");
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(yield_to_others)
        .enable_all()
        .build();
    runtime.context("a runtime for the hostile node")
}

fn keep_at_it(elsewhere: &Runtime, hostile: &Hostile, acts: &Arc<AtomicBool>, deeds: &Arc<AtomicU64>) {
    // What waits for the server's patience does not keep the rest waiting.
    let waits = |misdeed: &Misdeed| {
        matches!(misdeed, Misdeed::SlowReports | Misdeed::HalfOpen | Misdeed::Silence | Misdeed::Connections)
    };
    let (patient, quick): (Vec<_>, Vec<_>) = Misdeed::ALL.into_iter().partition(waits);
    for misdeeds in patient.into_iter().map(|misdeed| vec![misdeed]).chain([quick]) {
        let (hostile, acts, deeds) = (hostile.clone(), acts.clone(), deeds.clone());
        drop(elsewhere.spawn(async move {
            for misdeed in misdeeds.iter().cycle() {
                while !acts.load(Ordering::Relaxed) {
                    sleep(REST).await;
                }
                // One that is refused for another reason than by itself has come to nothing as well.
                let _ = hostile.act(*misdeed).await;
                deeds.fetch_add(1, Ordering::Relaxed);
                sleep(REST).await;
            }
        }));
    }
}
