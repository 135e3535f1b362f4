//! Reads everything that people have decided, and puts it back as [`crate::backup`] has planned it.

use std::collections::BTreeMap;

use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1::{self, backup_item::Item};
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    Settled, assignment, audit,
    change::{self, Header},
    connection::PgConnection,
    control,
    error::{Error, Operation, Result},
    layer, zone,
};
use crate::{
    backup::{Backup, Layer, Revision, Step, Stored},
    change::Refusal,
    document::Document,
    zones::{NAME, ZoneMap},
};

/// A backup to be put back.
#[derive(Debug, Clone)]
pub struct Order {
    /// What all changes have.
    pub header: Header,
    /// What is to be restored.
    pub backup: Backup,
}

/// Everything, in the order in which it can be put back; refused if its documents have more than so many bytes.
///
/// # Errors
/// If it is too much, or the database fails.
pub async fn export(conn: &mut PgConnection, bytes_max: i64) -> Result<Vec<v1::BackupItem>> {
    let (bytes,): (i64,) = sqlx::query_as("SELECT coalesce(sum(octet_length(document)), 0)::bigint FROM revision")
        .fetch_one(&mut *conn)
        .await
        .during("backup.export")?;
    if bytes > bytes_max {
        let (bytes, most) = (bytes >> 20, bytes_max >> 20);
        let refusal = Refusal::State(format!(
            "all revisions have {bytes} MiB, and {most} MiB can be restored; back up the database"
        ));
        return Err(Error::Refused { name: "the backup".to_owned(), refusal });
    }
    let map = zone::get(&mut *conn).await?;
    let mut items = vec![];
    if !map.zones.is_empty() {
        items.push(Item::ZoneMap(v1::ZoneMap { zones: map.zones, ..v1::ZoneMap::default() }));
    }
    let names: Vec<(String, bool)> =
        sqlx::query_as("SELECT name, deleted_at IS NOT NULL FROM layer_object ORDER BY name")
            .fetch_all(&mut *conn)
            .await
            .during("backup.export")?;
    for (text, deleted) in names {
        let name: LayerName = text.parse().map_err(|error: String| Error::corrupt(&text, error))?;
        let mut revisions = layer::list_revisions(&mut *conn, &name, None, i64::MAX).await?;
        revisions.reverse();
        items.extend(revisions.into_iter().map(Document::into_item));
        let assignments = assignment::history(&mut *conn, &name).await?;
        items.push(Item::History(v1::History { name: text, deleted, assignments }));
    }
    Ok(items.into_iter().map(|item| v1::BackupItem { item: Some(item) }).collect())
}

/// Puts a backup back, all or nothing.
///
/// # Errors
/// If something is here otherwise, or the database fails.
pub async fn restore(conn: &mut PgConnection, order: &Order) -> Result<Settled<v1::RestoreBackupResponse>> {
    let Order { header, backup } = order;
    control::lock(&mut *conn).await?;
    let before = zone::get(&mut *conn).await?;
    let (zones, zones_step) = plan_zones(&before, backup);
    let mut conflicts: Vec<(String, String)> = zones_step.as_ref().err().cloned().into_iter().collect();
    let mut steps = BTreeMap::new();
    for (name, layer) in &backup.layers {
        let stored = stored(&mut *conn, name).await?;
        match layer.plan(stored.as_ref()) {
            Ok(step) => {
                steps.insert(name, step);
            }
            Err(why) => conflicts.push((name.to_string(), why)),
        }
        for (number, document) in layer.documents_in_force() {
            let lacking = zones.lacks(document);
            if !lacking.is_empty() {
                let why =
                    format!("revision {number} names what is in no zone map: {}; add it there", lacking.join(", "));
                conflicts.push((name.to_string(), why));
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(Error::Conflicts { conflicts });
    }
    let restored = execute(&mut *conn, header, backup, zones_step.unwrap_or(Step::Nothing), &steps).await?;
    change::check_size(conn, "the backup").await?;
    let response = v1::RestoreBackupResponse { restored };
    Ok(if header.validate_only { Settled::Discard(response) } else { Settled::Commit(response) })
}

/// The map that will be in force, and what becomes of the one of the backup.
fn plan_zones(before: &ZoneMap, backup: &Backup) -> (ZoneMap, std::result::Result<Step, (String, String)>) {
    let Some(zones) = &backup.zones else { return (before.clone(), Ok(Step::Nothing)) };
    let after = ZoneMap { version: before.version + 1, zones: zones.clone() };
    if zone::same(before, &after) {
        return (before.clone(), Ok(Step::Nothing));
    }
    if before.zones.is_empty() {
        return (after, Ok(Step::Create));
    }
    let why = "is another one here; apply the one of the backup first, or leave it out".to_owned();
    (before.clone(), Err((NAME.to_owned(), why)))
}

async fn execute(
    conn: &mut PgConnection,
    header: &Header,
    backup: &Backup,
    zones: Step,
    steps: &BTreeMap<&LayerName, Step>,
) -> Result<Vec<v1::Restored>> {
    let changes = zones != Step::Nothing || steps.values().any(|step| *step != Step::Nothing);
    let generation = if changes { control::bump(&mut *conn).await? } else { 0 };
    let mut restored = vec![];
    if let Some(map) = &backup.zones {
        if zones != Step::Nothing {
            let version = zone::put(&mut *conn, map).await?;
            note(&mut *conn, header, NAME, version, generation).await?;
        }
        restored.push(v1::Restored { name: NAME.to_owned(), revision: 0, result: result(zones).into() });
    }
    for (name, layer) in &backup.layers {
        let step = steps.get(name).copied().unwrap_or(Step::Nothing);
        match step {
            Step::Create => create(&mut *conn, name, layer).await?,
            Step::Revive => revive(&mut *conn, header, name, layer).await?,
            Step::Nothing => {}
        }
        if step != Step::Nothing {
            note(&mut *conn, header, &name.to_string(), layer.latest().cast_signed(), generation).await?;
        }
        let (name, revision) = (name.to_string(), layer.latest());
        restored.push(v1::Restored { name, revision, result: result(step).into() });
    }
    Ok(restored)
}

fn result(step: Step) -> v1::RestoreResult {
    match step {
        Step::Create => v1::RestoreResult::Created,
        Step::Revive => v1::RestoreResult::Revived,
        Step::Nothing => v1::RestoreResult::Unchanged,
    }
}

async fn note(conn: &mut PgConnection, header: &Header, name: &str, revision: i64, generation: i64) -> Result<()> {
    let Header { method, actor, reason, request_json, .. } = header;
    audit::add(conn, &audit::Entry { actor, method, name, revision, reason, request_json, generation }).await
}

/// What is here under a name, deleted or not.
async fn stored(conn: &mut PgConnection, name: &LayerName) -> Result<Option<Stored>> {
    let Some(object) = layer::object(&mut *conn, name).await? else { return Ok(None) };
    let revisions = layer::list_revisions(&mut *conn, name, None, i64::MAX).await?;
    Ok(Some(Stored {
        deleted: object.deleted,
        revisions: revisions.into_iter().map(|document| (document.revision(), document)).collect(),
        in_force: assignment::in_force(conn, name).await?,
    }))
}

/// Makes the object with all its revisions and decisions. Its uid is a new one, so that no etag of another server is one of this.
async fn create(conn: &mut PgConnection, name: &LayerName, layer: &Layer) -> Result<()> {
    layer::create(&mut *conn, name, layer.latest().cast_signed()).await?;
    if layer.deleted {
        layer::touch(&mut *conn, name, layer.latest().cast_signed(), true).await?;
    }
    let missing = || Error::corrupt(name.to_string(), "it was made and is not there");
    let uid = layer::object(&mut *conn, name).await?.ok_or_else(missing)?.uid;
    let of_now = layer.revisions.values().next_back().map(|newest| newest.uid);
    for (number, revision) in &layer.revisions {
        // Earlier lives of the name keep theirs.
        let uid = if Some(revision.uid) == of_now { uid } else { revision.uid };
        insert(&mut *conn, name, *number, revision, uid).await?;
    }
    for decision in &layer.decisions {
        assignment::put(&mut *conn, name, decision).await?;
    }
    Ok(())
}

/// Brings a deleted object back, with the revisions that are missing; what is in force in the backup is decided anew.
async fn revive(conn: &mut PgConnection, header: &Header, name: &LayerName, layer: &Layer) -> Result<()> {
    let here = stored(&mut *conn, name).await?.unwrap_or_default();
    let latest = here.revisions.keys().next_back().copied().unwrap_or_default().max(layer.latest());
    layer::touch(&mut *conn, name, latest.cast_signed(), false).await?;
    let newest = layer.revisions.values().next_back();
    let uid = match here.revisions.get(&layer.latest()) {
        // Rolling back goes through the revisions of one life, so it must be that of the newest again.
        Some(document) => document.uid().parse().ok(),
        None => newest.map(|newest| newest.uid),
    };
    let uid = uid.ok_or_else(|| Error::corrupt(name.to_string(), "its uid is none"))?;
    layer::set_uid(&mut *conn, name, uid).await?;
    for (number, revision) in &layer.revisions {
        if !here.revisions.contains_key(number) {
            let of_now = newest.is_some_and(|newest| newest.uid == revision.uid);
            insert(&mut *conn, name, *number, revision, if of_now { uid } else { revision.uid }).await?;
        }
    }
    for decision in layer.in_force() {
        let reason = if header.reason.is_empty() { &decision.reason } else { &header.reason };
        assignment::start(&mut *conn, name, &decision.held, reason, &header.actor).await?;
    }
    Ok(())
}

async fn insert(conn: &mut PgConnection, name: &LayerName, number: u64, revision: &Revision, uid: Uuid) -> Result<()> {
    let Revision { document, uid: _, created_at, creator } = revision;
    sqlx::query(
        "INSERT INTO revision (name, revision, uid, document, node_labels, created_at, creator)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(name.to_string())
    .bind(number.cast_signed())
    .bind(uid)
    .bind(document.encode())
    .bind(Json(document.node_labels()))
    .bind(created_at)
    .bind(creator)
    .execute(conn)
    .await
    .during("backup.insert")?;
    Ok(())
}
