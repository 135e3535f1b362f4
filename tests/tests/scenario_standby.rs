//! A Postgres with a standby, and two servers that follow whichever takes changes: the primary dies or hangs under load, the standby is
//! promoted, and a checker of histories says what is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    history::{Violation, check},
    machine::{Machine, Needs, scenario},
    postgres::{Durability, Postgres},
    server::{Database, Server},
    trial::{Ended, Trial},
    wait::{eventually, pass},
};

const NODES: usize = 12;
const SEED: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(30);
/// Until all nodes have the newest, after a promotion.
const SETTLED_MAX: Duration = Duration::from_secs(20);
/// Changes before and after.
const SOME: u64 = 12;
/// What the audit log says of a promotion.
const PROMOTED: &str = "the database was promoted";

fn pair(machine: &Machine) -> Result<(Postgres<'_>, Postgres<'_>)> {
    let primary = Postgres::start(machine, Durability::Process)?;
    let standby = primary.standby()?;
    Ok((primary, standby))
}

/// Every commit waits for the standby from here on.
fn synchronous(primary: &Postgres<'_>) -> Result<()> {
    primary.set("synchronous_standby_names", "*")?;
    eventually("the standby is synchronous", PATIENCE, || {
        let state = primary.query("SELECT sync_state FROM pg_stat_replication")?;
        ensure!(state == "sync", "it is {state:?}");
        Ok(())
    })
}

/// The standby hears nothing more; the primary goes on acknowledging.
fn cut_off(primary: &Postgres<'_>, standby: &Postgres<'_>) -> Result<()> {
    standby.set("primary_conninfo", "")?;
    eventually("the standby is cut off", PATIENCE, || {
        let followers = primary.query("SELECT count(*) FROM pg_stat_replication")?;
        ensure!(followers == "0", "{followers} follow");
        Ok(())
    })
}

fn trial<'m>(machine: &'m Machine, hosts: &[&Postgres<'_>]) -> Result<Trial<'m>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let start = || Server::start(machine, Database::Url(Postgres::url_of(hosts)), &[]);
    Trial::start(runtime, [start()?, start()?], NODES, SEED)
}

/// The entry of the one epoch that was begun.
fn change_of_epoch(ended: &Ended<'_>, why: &str) -> Result<v1::AuditEntry> {
    let entries: Vec<_> = ended.audit()?.into_iter().filter(|entry| entry.method == "ChangeEpoch").collect();
    let [entry] = entries.as_slice() else {
        anyhow::bail!("the epoch was changed {} times: {entries:?}", entries.len())
    };
    ensure!(entry.actor == "controllers/refresh" && entry.reason.contains(why), "{entry:?}");
    Ok(entry.clone())
}

fn nothing_wrong(ended: &Ended<'_>) -> Result<()> {
    let violations = check(&ended.history);
    ensure!(violations.is_empty(), "{violations:#?}");
    let epochs = |sights: &[sockpilot_tests::history::Sight]| {
        let mut epochs: Vec<_> = sights.iter().map(|sight| sight.epoch.clone()).collect();
        epochs.dedup();
        epochs.len()
    };
    ensure!(
        ended.history.sights.values().all(|sights| epochs(sights) == 2),
        "every node has gone from one epoch to the next"
    );
    let acknowledged = ended.history.writes.len();
    println!("{acknowledged} changes, {} nodes, {:?}", ended.history.sights.len(), ended.newest);
    Ok(())
}

#[test]
fn a_synchronous_standby_that_is_promoted_has_lost_nothing() {
    scenario(Needs::Nothing, |machine| {
        let (mut primary, standby) = pair(machine)?;
        synchronous(&primary)?;
        let trial = trial(machine, &[&primary, &standby])?;
        trial.writers.go_on(SOME)?;
        primary.kill()?;
        standby.promote()?;
        trial.writers.go_on(SOME)?;
        let ended = trial.finish(&standby, SETTLED_MAX)?;
        change_of_epoch(&ended, PROMOTED)?;
        nothing_wrong(&ended)
    });
}

/// As when a machine loses its power or its network: nobody says that connections have ended.
#[test]
fn a_primary_that_hangs_for_ever_is_left() {
    scenario(Needs::Nothing, |machine| {
        let (mut primary, standby) = pair(machine)?;
        synchronous(&primary)?;
        let trial = trial(machine, &[&primary, &standby])?;
        trial.writers.go_on(SOME)?;
        primary.stall(true)?;
        standby.promote()?;
        trial.writers.go_on(SOME)?;
        let ended = trial.finish(&standby, SETTLED_MAX)?;
        primary.kill()?;
        change_of_epoch(&ended, PROMOTED)?;
        nothing_wrong(&ended)
    });
}

#[test]
fn what_an_asynchronous_standby_has_lost_is_declared() {
    scenario(Needs::Nothing, |machine| {
        let (mut primary, standby) = pair(machine)?;
        let trial = trial(machine, &[&primary, &standby])?;
        trial.writers.go_on(SOME)?;
        cut_off(&primary, &standby)?;
        trial.writers.go_on(SOME)?;
        pass(Duration::from_millis(500))?;
        primary.kill()?;
        standby.promote()?;
        trial.writers.go_on(SOME)?;
        let ended = trial.finish(&standby, SETTLED_MAX)?;

        declared(&ended, PROMOTED)
    });
}

/// A copy of the files is put in the primary's place, on the same timeline.
#[test]
fn what_a_copy_of_the_files_has_lost_is_declared() {
    scenario(Needs::Nothing, |machine| {
        let (mut primary, mut copy) = pair(machine)?;
        let trial = trial(machine, &[&primary, &copy])?;
        trial.writers.go_on(SOME)?;
        cut_off(&primary, &copy)?;
        trial.writers.go_on(SOME)?;
        pass(Duration::from_millis(500))?;
        primary.kill()?;
        copy.make_primary()?;
        trial.writers.go_on(SOME)?;
        let ended = trial.finish(&copy, SETTLED_MAX)?;
        declared(&ended, "the database has lost changes")
    });
}

/// Something acknowledged is lost, the audit log says so, and nodes have followed.
fn declared(ended: &Ended<'_>, why: &str) -> Result<()> {
    let violations = check(&ended.history);
    let lost = violations.iter().filter(|violation| matches!(violation, Violation::Lost { .. })).count();
    ensure!(lost > 0, "it was cut off, so something is lost");
    let others: Vec<_> = violations.iter().filter(|violation| !violation.is_of_loss()).collect();
    ensure!(others.is_empty(), "{others:#?}");
    let entry = change_of_epoch(ended, why)?;
    let newest =
        ended.history.sights.values().map(|sights| sights.last().context("a sight").map(|last| last.epoch.clone()));
    for epoch in newest {
        let epoch = epoch?;
        ensure!(entry.difference_json.contains(&epoch), "nodes have {epoch}: {entry:?}");
    }
    println!("{lost} acknowledged changes lost, and said so: {}", entry.reason);
    Ok(())
}
