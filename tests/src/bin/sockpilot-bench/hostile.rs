//! What a node with a sound certificate and bad intent costs the others: changes reach them and calls are answered as before, and the server
//! grows by no more than it allows one node. Rounds with it and without take turns in the same run; it does one thing after the other,
//! with little rest.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sockpilot_tests::{
    admin::everyone,
    documents::clamped,
    hostile::Misdeed,
    machine::Machine,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    simulated::SimulatedNodes,
    wait::pass,
};

use crate::{Figures, memory::resident_kib, misdeeds::Villain, note, quantile};

const NODES: usize = 100;
const ROUNDS: u32 = 12;
/// Of each round.
const CHANGES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let postgres = Postgres::start(machine, Durability::Process)?;
    let arguments = ["--handshake-timeout", "2", "--report-timeout", "5"];
    let mut server = Server::start_secured(machine, Database::Url(postgres.url()), &arguments)?;
    let admin = server.admin()?;
    admin.put_policy(clamped(10), everyone())?;
    let fleet = SimulatedNodes::connect(&server, NODES, "policies/web")?;
    let mut villain = Villain::start(&server, "node-0")?;
    let (mut beside, mut without) = (vec![], vec![]);
    let (mut rss_beside, mut rss_without) = (0.0_f64, 0.0_f64);
    let mut number = 10;
    // The first rounds are for warming up.
    for round in 0..2 * ROUNDS + 2 {
        let with = round % 2 == 1;
        villain.acts(with)?;
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
    let done = villain.acts(false)?;
    ensure!(done >= Misdeed::ALL.len() as u64, "the hostile node has done {done} things only");
    println!("{done} misdeeds");
    let (with, alone) = (quantile(&mut beside, 0.99), quantile(&mut without, 0.99));
    note(figures, "hostile_p99_ms", with);
    note(figures, "hostile_p99_ratio", with / alone);
    note(figures, "hostile_rss_ratio", rss_beside / rss_without);
    Ok(())
}
