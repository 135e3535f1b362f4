//! What a node with a sound certificate and bad intent costs the others: changes reach them and calls are answered as before, and the server
//! grows by no more than it allows one node. Rounds with it and without take turns in the same run; it does one thing after the other,
//! with little rest.
//!
//! In further rounds it does the same to another server beside this one: what that costs is the machine's part, whose processors they share. What
//! it costs more against this server is the server's own part.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sockpilot_tests::{
    admin::{Admin, everyone},
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
const CHANGES: usize = 120;
/// Between two of them: so long the nodes take to answer.
const PAUSE: Duration = Duration::from_millis(15);
/// Before a round: until what was under way in the one before is over.
const REST: Duration = Duration::from_secs(1);

/// Whom the hostile node acts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    Nobody,
    This,
    Another,
}

/// In turns.
const TURNS: [Against; 3] = [Against::Nobody, Against::This, Against::Another];

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let postgres = [Postgres::start(machine, Durability::Process)?, Postgres::start(machine, Durability::Process)?];
    let start = |postgres: &Postgres<'_>| {
        let arguments = ["--handshake-timeout", "2", "--report-timeout", "5"];
        Server::start_secured(machine, Database::Url(postgres.url()), &arguments)
    };
    let (mut server, another) = (start(&postgres[0])?, start(&postgres[1])?);
    let admin = server.admin()?;
    admin.put_policy(clamped(10), everyone())?;
    another.admin()?.put_policy(clamped(10), everyone())?;
    let fleet = SimulatedNodes::connect(&server, NODES, "policies/web")?;
    let _victims = SimulatedNodes::connect(&another, 1, "policies/web")?;
    let mut villains =
        [(Against::This, Villain::start(&server, "node-0")?), (Against::Another, Villain::start(&another, "node-0")?)];
    let mut taken_ms = TURNS.map(|_| vec![]);
    let mut rss_kib = TURNS.map(|_| vec![]);
    let mut numbers = 11..;
    // The first of each is for warming up.
    for round in 0..=ROUNDS {
        for (turn, against) in TURNS.into_iter().enumerate() {
            for (of, villain) in &mut villains {
                villain.acts(*of == against)?;
            }
            pass(REST)?;
            let taken = changes(&admin, &fleet, numbers.by_ref().take(CHANGES))?;
            if round > 0 {
                taken_ms[turn].extend(taken);
            }
            rss_kib[turn].push(resident_kib(server.process().id())?);
        }
    }
    for (of, villain) in &mut villains {
        let done = villain.acts(false)?;
        ensure!(done >= Misdeed::ALL.len() as u64, "the hostile node has done {done} things only");
        println!("{done} misdeeds against {of:?}");
    }
    let [alone, this, another] = taken_ms.each_mut().map(|taken_ms| quantile(taken_ms, 0.99));
    note(figures, "hostile_p99_ms", this);
    note(figures, "hostile_p99_ratio", this / alone);
    note(figures, "hostile_elsewhere_p99_ratio", another / alone);
    note(figures, "hostile_own_p99_ratio", this / another);
    // Without it as it was before the first time: what was taken then may be kept.
    let [alone, beside, _] = rss_kib;
    note(figures, "hostile_rss_ratio", beside.into_iter().fold(0.0, f64::max) / alone[0]);
    Ok(())
}

/// How long each of some changes took until the last node had it, in ms.
fn changes(admin: &Admin, fleet: &SimulatedNodes, numbers: impl Iterator<Item = u32>) -> Result<Vec<f64>> {
    let change = |number| {
        let began = Instant::now();
        let made = admin.put_policy(clamped(number), everyone())?;
        let last = fleet.all_have("the change", made.revision)?;
        pass(PAUSE)?;
        Ok(last.duration_since(began).as_secs_f64() * 1e3)
    };
    numbers.map(change).collect()
}
