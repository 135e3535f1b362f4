//! Everything that is assigned, at one generation.

use std::{collections::HashMap, sync::Arc, time::Instant};

use chrono::{DateTime, Utc};
use sockpilot_policy::model::LayerName;
use uuid::Uuid;

use super::{
    assignment::{self, Read, Row},
    connection::PgConnection,
    control::{self, Control},
    error::{Error, Operation, Result},
    experiment,
    kill_switch::{self, EVERYTHING},
    node, rollout, zone,
};
use crate::{
    change::{document::Document, target::Target, zones::ZoneMap},
    fleet::explain_flow::{Question, State},
    fleet::resolve::{Assigned, Fleet, Off, Revision, RolloutTerms},
};

/// Revisions and the zone map, as read before. Revisions never change within a database epoch.
#[derive(Debug, Clone, Default)]
pub struct Revisions {
    epoch: Uuid,
    known: HashMap<(LayerName, u64), Arc<Revision>>,
    zones: Arc<ZoneMap>,
}

/// What is assigned, how old it is, and the revisions for the next time.
#[derive(Debug)]
pub struct Loaded {
    /// What is assigned.
    pub fleet: Fleet,
    /// How long ago the generation was made.
    pub age_s: f64,
    /// When the database's clock was read, and what it said.
    pub clock: (Instant, DateTime<Utc>),
    /// Those in use.
    pub revisions: Revisions,
}

/// Reads what is assigned; documents only of revisions not read before. The transaction sees one state of the database.
pub async fn load(conn: &mut PgConnection, mut revisions: Revisions) -> Result<Loaded> {
    let Control { database_epoch: epoch, generation, lease_ms, age_s, now } = control::get(&mut *conn).await?;
    let clock = (Instant::now(), now);
    if revisions.epoch != epoch {
        revisions = Revisions { epoch, ..Revisions::default() };
    }
    if let Some(map) = zone::newer(&mut *conn, revisions.zones.version).await? {
        revisions.zones = Arc::new(map);
    }
    let rows = assignment::rows_in_force(&mut *conn, "").await?;
    let off = kill_switch::list(&mut *conn).await?;
    let (everything, names): (Vec<_>, Vec<_>) =
        off.into_iter().map(|off| off.target).partition(|target| target == EVERYTHING);
    let off = Off { everything: !everything.is_empty(), names: names.into_iter().collect() };
    let is_off = |name: &str| off.everything || off.names.contains(name);
    let rows: Vec<_> = rows.into_iter().filter(|read| !is_off(&read.row.name)).collect();
    let rollouts = rollout::on_nodes(&mut *conn).await?;
    let mut terms: HashMap<String, Arc<RolloutTerms>> =
        rollouts.iter().map(|rollout| (rollout.policy.to_string(), Arc::new(rollout.terms()))).collect();
    let mut ends_s = HashMap::new();
    for (name, end_s) in experiment::ends(&mut *conn).await? {
        ends_s.insert(layer_name(&name)?, u64::try_from(end_s).unwrap_or_default());
    }
    read_missing(conn, &mut revisions, &rows).await?;

    let mut assigned: Vec<(String, Assigned)> = vec![];
    let mut used = Revisions { epoch, known: HashMap::new(), zones: revisions.zones.clone() };
    for Read { row: Row { name, revision, .. }, target } in rows {
        let key = (layer_name(&name)?, revision.cast_unsigned());
        let missing = || Error::corrupt(format!("{name}@{revision}"), "it is assigned but not stored");
        let revision = revisions.known.get(&key).cloned().ok_or_else(missing)?;
        used.known.insert(key, revision.clone());
        if assigned.last().is_none_or(|(last, _)| *last != name) {
            let rollout = terms.remove(&name);
            assigned.push((name, Assigned { rollout, ..Assigned::default() }));
        }
        let Some((_, of_name)) = assigned.last_mut() else { continue };
        match target {
            Target::Everyone | Target::Nobody => of_name.everyone = Some(revision),
            Target::Canary(canary) => of_name.canary = Some((canary, revision)),
        }
    }
    let fleet = Fleet {
        epoch,
        generation: generation.cast_unsigned(),
        lease_ms: u32::try_from(lease_ms).unwrap_or(u32::MAX),
        assigned: assigned.into_iter().map(|(_, assigned)| assigned).collect(),
        zones: revisions.zones,
        ends_s,
        off,
    };
    Ok(Loaded { fleet, age_s, clock, revisions: used })
}

fn layer_name(name: &str) -> Result<LayerName> {
    name.parse().map_err(|error: String| Error::corrupt(name, error))
}

async fn read_missing(conn: &mut PgConnection, revisions: &mut Revisions, rows: &[Read]) -> Result<()> {
    let mut missing = vec![];
    for Read { row, target: _ } in rows {
        let key = (layer_name(&row.name)?, row.revision.cast_unsigned());
        if !revisions.known.contains_key(&key) {
            missing.push(key);
        }
    }
    if !missing.is_empty() {
        let read = read(conn, &missing).await?;
        revisions.known.extend(read.into_iter().map(|revision| ((revision.name.clone(), revision.revision), revision)));
    }
    Ok(())
}

/// Reads revisions, also of what was deleted; those that never were are left out.
pub async fn read(conn: &mut PgConnection, wanted: &[(LayerName, u64)]) -> Result<Vec<Arc<Revision>>> {
    let names: Vec<_> = wanted.iter().map(|(name, _)| name.to_string()).collect();
    let numbers: Vec<_> = wanted.iter().map(|(_, number)| i64::try_from(*number).unwrap_or(i64::MAX)).collect();
    let found: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT name, revision, document FROM revision
         WHERE (name, revision) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))",
    )
    .bind(&names)
    .bind(&numbers)
    .fetch_all(conn)
    .await
    .during("fleet.documents")?;
    let mut revisions = vec![];
    for (text, number, bytes) in found {
        let name = layer_name(&text)?;
        let number = number.cast_unsigned();
        let document = Document::decode(name.kind, &bytes)
            .map_err(|error| Error::corrupt(format!("document of {text}@{number}"), error))?;
        revisions.push(Arc::new(Revision::of(name, number, document)));
    }
    Ok(revisions)
}

/// Reads what is assigned, the node and the revisions that the question names.
///
/// # Errors
/// If there is no such node or revision, or the database fails.
pub async fn explained(conn: &mut PgConnection, question: &Question) -> Result<State> {
    let node = match &question.node_id {
        Some(node_id) => Some(node::get(&mut *conn, node_id).await?),
        None => None,
    };
    let overrides = read(&mut *conn, &question.overrides).await?;
    for (name, revision) in &question.overrides {
        if !overrides.iter().any(|found| found.name == *name && found.revision == *revision) {
            return Err(Error::NotFound { name: format!("{name}@{revision}") });
        }
    }
    let fleet = load(conn, Revisions::default()).await?.fleet;
    Ok(State { fleet, node, overrides })
}

/// What the view `node_assignment` says of one node: layer, revision, and of a canary the wave, from 1. For the test that
/// holds view and [`crate::fleet::resolve`] together.
#[cfg(any(test, feature = "test-support"))]
pub async fn of_node(conn: &mut PgConnection, node_id: &str) -> Result<Vec<(String, i64, Option<i16>)>> {
    sqlx::query_as("SELECT layer, revision, wave FROM node_assignment WHERE node_id = $1 ORDER BY layer")
        .bind(node_id)
        .fetch_all(conn)
        .await
        .during("fleet.of_node")
}
