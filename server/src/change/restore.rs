//! Takes a backup of everything that people have decided, and restores it as [`super::backup`] has planned it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;

use super::{
    apply::check_size,
    author::Author,
    backup::{Backup, Exported, ExportedLayer, Layer, Restored, Step, Stored, plan_one},
    difference::Difference,
    json,
    plan::ChangeRefusal,
    zones::{NAME, ZoneMap},
};
use crate::{
    rollout::{
        plans::{self, SETTINGS},
        record::Rollout,
    },
    store::{
        Error, Result, assignment, audit,
        backup::{self, insert},
        connection::PgConnection,
        control, layer, rollout, rollout_plan, zone,
    },
};

/// What the audit log calls it.
const METHOD: &str = "RestoreBackup";

/// Everything, in the order in which it can be restored; refused if its documents have more than so many bytes.
///
/// # Errors
/// If it is too much, or the database fails.
pub async fn export(conn: &mut PgConnection, bytes_max: i64) -> Result<Exported> {
    let bytes = backup::bytes(&mut *conn).await?;
    if bytes > bytes_max {
        let (bytes, most) = (bytes >> 20, bytes_max >> 20);
        let refusal = ChangeRefusal::State(format!(
            "all revisions have {bytes} MiB, and {most} MiB can be restored; back up the database"
        ));
        return Err(Error::Refused { name: "the backup".to_owned(), refusal });
    }
    let settings = rollout_plan::settings(&mut *conn).await?.message;
    let mut exported = Exported {
        zones: zone::get(&mut *conn).await?.zones,
        plans: rollout_plan::stored(&mut *conn).await?,
        settings: Some(plans::plain_settings(settings)).filter(|settings| *settings != v1::RolloutSettings::default()),
        layers: vec![],
    };
    for (name, deleted) in backup::names(&mut *conn).await? {
        let mut revisions = layer::list_revisions(&mut *conn, &name, None, i64::MAX).await?;
        revisions.reverse();
        let assignments = assignment::history(&mut *conn, &name).await?;
        let running = rollout::running(&mut *conn, &name).await?.filter(Rollout::is_on_nodes);
        let rollout = running.map(|running| running.name);
        exported.layers.push(ExportedLayer { name, deleted, revisions, assignments, rollout });
    }
    Ok(exported)
}

/// Restores a backup, all or nothing.
///
/// # Errors
/// If something is here otherwise, or the database fails.
pub async fn restore(conn: &mut PgConnection, author: &Author, backup: &Backup) -> Result<Vec<Restored>> {
    control::lock(&mut *conn).await?;
    let before = zone::get(&mut *conn).await?;
    let (zones, zones_step) = plan_zones(&before, backup);
    let mut conflicts: Vec<(String, String)> = zones_step.as_ref().err().cloned().into_iter().collect();
    let plans = plan_rollouts(&mut *conn, backup, &mut conflicts).await?;
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
    let zones_step = zones_step.unwrap_or(Step::Nothing);
    let restored = execute(&mut *conn, author, backup, (zones_step, &before, plans), &steps).await?;
    check_size(conn, "the backup").await?;
    Ok(restored)
}

/// What becomes of the plans and the settings of rollouts, in this order; and why something cannot be.
async fn plan_rollouts(
    conn: &mut PgConnection,
    backup: &Backup,
    conflicts: &mut Vec<(String, String)>,
) -> Result<Vec<Restored>> {
    let here: BTreeMap<_, _> = rollout_plan::stored(&mut *conn)
        .await?
        .into_iter()
        .map(|plan| (plan.name.clone(), plans::plain(plan)))
        .collect();
    let mut planned = vec![];
    let mut note = |name: &str, revision, step: std::result::Result<Step, String>| match step {
        Ok(step) => planned.push(Restored { name: name.to_owned(), revision, step, note: String::new() }),
        Err(why) => conflicts.push((name.to_owned(), why)),
    };
    for (name, plan) in &backup.plans {
        note(name, plan.revision, plan_one(&plans::plain(plan.clone()), here.get(name)));
    }
    if let Some(settings) = &backup.settings {
        let now = plans::plain_settings(rollout_plan::settings(&mut *conn).await?.message);
        let now = Some(now).filter(|now| *now != v1::RolloutSettings::default());
        let default = &settings.default_plan;
        let there =
            default.is_empty() || backup.plans.contains_key(default) || rollout_plan::exists(conn, default).await?;
        let missing = || Err(format!("names {default}, which is neither here nor in the backup; add it"));
        note(SETTINGS, 0, if there { plan_one(settings, now.as_ref()) } else { missing() });
    }
    Ok(planned)
}

/// The map that will be in force, and what becomes of the one of the backup.
fn plan_zones(before: &ZoneMap, backup: &Backup) -> (ZoneMap, std::result::Result<Step, (String, String)>) {
    let Some(zones) = &backup.zones else { return (before.clone(), Ok(Step::Nothing)) };
    let after = ZoneMap { version: before.version + 1, zones: zones.clone() };
    if before.means_the_same(&after) {
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
    author: &Author,
    backup: &Backup,
    (zones, zones_before, plans): (Step, &ZoneMap, Vec<Restored>),
    steps: &BTreeMap<&LayerName, Step>,
) -> Result<Vec<Restored>> {
    let changes = zones != Step::Nothing || steps.values().any(|step| *step != Step::Nothing);
    let generation = if changes { control::bump(&mut *conn).await? } else { 0 };
    let mut restored = vec![];
    if let Some(map) = &backup.zones {
        if zones != Step::Nothing {
            let version = zone::put(&mut *conn, map).await?;
            let after = ZoneMap { version, zones: map.clone() };
            let difference = Difference::between(&zones_before.shown(), &after.shown());
            note(&mut *conn, author, (NAME, version), generation, difference).await?;
        }
        restored.push(Restored { name: NAME.to_owned(), revision: 0, step: zones, note: String::new() });
    }
    for planned in plans {
        if planned.step != Step::Nothing {
            let difference = put_plan(&mut *conn, backup, &planned.name).await?;
            let about = (planned.name.as_str(), planned.revision.cast_signed());
            audit::note(&mut *conn, author, METHOD, about, difference).await?;
        }
        restored.push(planned);
    }
    for (name, layer) in &backup.layers {
        let step = steps.get(name).copied().unwrap_or(Step::Nothing);
        match step {
            Step::Create => create(&mut *conn, name, layer).await?,
            Step::Revive => revive(&mut *conn, author, name, layer).await?,
            Step::Nothing => {}
        }
        if step != Step::Nothing {
            let in_force: Vec<u64> = layer.documents_in_force().map(|(number, _)| number).collect();
            let after = json!({ "newestRevision": layer.latest(), "inForce": in_force });
            let difference = Difference::between(&Value::Null, &after);
            note(&mut *conn, author, (&name.to_string(), layer.latest()), generation, difference).await?;
        }
        let (name, revision, note) = (name.to_string(), layer.latest(), layer.note());
        restored.push(Restored { name, revision, step, note });
    }
    Ok(restored)
}

/// Puts back a plan, or else the settings.
async fn put_plan(conn: &mut PgConnection, backup: &Backup, name: &str) -> Result<Difference> {
    let of_settings =
        |settings: &v1::RolloutSettings| json::shown("RolloutSettings", &plans::plain_settings(settings.clone()));
    Ok(match (backup.plans.get(name), &backup.settings) {
        (Some(plan), _) => {
            rollout_plan::put(&mut *conn, plan).await?;
            Difference::between(&Value::Null, &json::shown("RolloutPlan", &plans::plain(plan.clone())))
        }
        (None, Some(settings)) => {
            let before = rollout_plan::settings(&mut *conn).await?;
            rollout_plan::put_settings(&mut *conn, settings).await?;
            Difference::between(&of_settings(&before.message), &of_settings(settings))
        }
        (None, None) => Difference::between(&Value::Null, &Value::Null),
    })
}

async fn note(
    conn: &mut PgConnection,
    author: &Author,
    (name, revision): (&str, u64),
    generation: i64,
    difference: Difference,
) -> Result<()> {
    let revision = revision.cast_signed();
    audit::add(conn, author, &audit::Subject { method: METHOD, name, revision, generation, difference }).await
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
async fn revive(conn: &mut PgConnection, author: &Author, name: &LayerName, layer: &Layer) -> Result<()> {
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
        let reason = if author.reason().is_empty() { &decision.reason } else { author.reason() };
        assignment::start(&mut *conn, name, &decision.held, reason, &author.actor()).await?;
    }
    Ok(())
}
