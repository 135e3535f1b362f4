//! Backups: put together from their items, and taken apart.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use sockpilot_policy::{
    fault::{Collector, Faults},
    model::{LayerKind, LayerName},
};
use sockpilot_proto::{
    convert::zone_map_from_proto,
    v1::{self, backup_item::Item},
};
use uuid::Uuid;

use super::{change::past_assignment_to_proto, rollout::rollout_name, target::target_from_proto};
use crate::{
    change::{
        backup::{Backup, Exported, ExportedLayer, Layer, PastAssignment, Restored, Revision, Step},
        document::Document,
        names,
        plan::Assignment,
        target::Target,
    },
    rollout::plans,
};

/// Puts a backup together.
///
/// # Errors
/// All faults, with paths that begin at `items[n]`.
pub fn assemble(items: Vec<v1::BackupItem>) -> Result<Backup, Faults> {
    let mut backup = Backup::default();
    // Where each layer was seen first, and whether its history was.
    let mut seen: BTreeMap<LayerName, (usize, bool)> = BTreeMap::new();
    let mut faults = Collector::at("");
    for (index, v1::BackupItem { item }) in items.into_iter().enumerate() {
        faults.field(&format!("items[{index}]"), |faults| match item {
            None => faults.add("says nothing that this version knows"),
            Some(v1::backup_item::Item::ZoneMap(map)) => zone_map(&mut backup, map, faults),
            Some(v1::backup_item::Item::Policy(policy)) => {
                if let Some(name) = revision(&mut backup, Document::Policy(policy), faults) {
                    seen.entry(name).or_insert((index, false));
                }
            }
            Some(v1::backup_item::Item::Experiment(experiment)) => {
                if let Some(name) = revision(&mut backup, Document::Experiment(experiment), faults) {
                    seen.entry(name).or_insert((index, false));
                }
            }
            Some(v1::backup_item::Item::RolloutPlan(plan)) => rollout_plan(&mut backup, plan, faults),
            Some(v1::backup_item::Item::RolloutSettings(settings)) => rollout_settings(&mut backup, settings, faults),
            Some(v1::backup_item::Item::History(history)) => {
                faults.field("history", |faults| {
                    let Some(name) = self::history(&mut backup, history, faults) else { return };
                    let (_, with_history) = seen.entry(name).or_insert((index, false));
                    if std::mem::replace(with_history, true) {
                        faults.add_at("name", "stands here twice; leave one history out");
                    }
                });
            }
        });
    }
    for (name, (index, with_history)) in &seen {
        let at = format!("items[{index}]");
        let layer = &backup.layers[name];
        if layer.revisions.is_empty() {
            faults.add_at(&at, format!("is the history of {name}, of which there is no revision; add its revisions"));
        } else if !with_history {
            faults
                .add_at(&at, format!("there is no history of {name}; a backup has one for each policy and experiment"));
        } else {
            consistent(&at, name, layer, &mut faults);
        }
    }
    faults.finish(backup)
}

fn zone_map(backup: &mut Backup, map: v1::ZoneMap, faults: &mut Collector) {
    let found = zone_map_from_proto(&map, "zone_map").err();
    for fault in found.iter().flat_map(|faults| faults.as_slice()) {
        faults.add_at(&fault.field, fault.description.clone());
    }
    if backup.zones.replace(map.zones).is_some() {
        faults.add_at("zone_map", "stands here twice; there is but one map");
    }
}

fn rollout_plan(backup: &mut Backup, plan: v1::RolloutPlan, faults: &mut Collector) {
    faults.field("rollout_plan", |faults| {
        let name = faults.field("name", |faults| faults.take(plans::plan_name(&plan.name)));
        if plan.revision == 0 || i64::try_from(plan.revision).is_err() {
            faults.add_at("revision", "is missing; a backup has the number of each revision");
        }
        time("create_time", plan.create_time, faults);
        names::text("creator", &plan.creator, faults);
        plans::read(&plan, faults);
        let Some(name) = name else { return };
        if backup.plans.insert(name, plan).is_some() {
            faults.add_at("name", "stands here twice; leave one out");
        }
    });
}

fn rollout_settings(backup: &mut Backup, settings: v1::RolloutSettings, faults: &mut Collector) {
    faults.field("rollout_settings", |faults| plans::read_settings(&settings, faults));
    if backup.settings.replace(plans::plain_settings(settings)).is_some() {
        faults.add_at("rollout_settings", "stand here twice; leave one out");
    }
}

fn revision(backup: &mut Backup, document: Document, faults: &mut Collector) -> Option<LayerName> {
    let (kind, field) = (document.kind(), document.field());
    let (name, number, uid, created_at, creator) = match &document {
        Document::Policy(p) => (&p.name, p.revision, &p.uid, p.create_time, &p.creator),
        Document::Experiment(e) => (&e.name, e.revision, &e.uid, e.create_time, &e.creator),
    };
    let creator = creator.clone();
    let (name, uid, created_at) = faults.field(field, |faults| {
        let name = faults.field("name", |faults| faults.take(names::layer_of(kind, name)));
        if number == 0 || i64::try_from(number).is_err() {
            faults.add_at("revision", "is missing; a backup has the number of each revision");
        }
        let uid = faults.field("uid", |faults| faults.take(uid.parse::<Uuid>().map_err(|_| "is no UUID".to_owned())));
        (name, uid, time("create_time", created_at, faults))
    });
    document.check(faults);
    let name = name?;
    let layer = backup.layers.entry(name.clone()).or_default();
    let document = document.to_be_stored(&name.to_string());
    let revision =
        Revision { document, uid: uid.unwrap_or_default(), created_at: created_at.unwrap_or_default(), creator };
    if layer.revisions.insert(number, revision).is_some() {
        faults.add_at(field, format!("{name}@{number} stands here twice; leave one out"));
    }
    Some(name)
}

fn history(backup: &mut Backup, history: v1::History, faults: &mut Collector) -> Option<LayerName> {
    let v1::History { name, deleted, assignments, rollout } = history;
    let name: LayerName = faults.field("name", |faults| faults.take(name.parse()))?;
    let rollout = Some(rollout).filter(|rollout| !rollout.is_empty());
    let rollout = rollout.and_then(|text| faults.field("rollout", |faults| faults.take(rollout_name(&text))));
    let decisions = faults.each("assignments", assignments, |faults, assignment| {
        let v1::Assignment { revision, target, reason, actor, start_time, end_time } = assignment;
        let target = faults.field("target", |faults| {
            let read = target_from_proto(target.as_ref(), faults);
            if target.is_none() || read == Target::Nobody {
                faults.add("is missing; write everyone, share_bp, node_labels or waves");
            }
            read
        });
        names::text("reason", &reason, faults);
        let ended_at = end_time.and_then(|end_time| time("end_time", Some(end_time), faults));
        let started_at = time("start_time", start_time, faults)?;
        Some(PastAssignment { held: Assignment { revision, target }, reason, actor, started_at, ended_at })
    });
    let layer = backup.layers.entry(name.clone()).or_default();
    layer.deleted = deleted;
    layer.rollout = rollout;
    layer.decisions.extend(decisions.into_iter().flatten());
    layer.without_rollout();
    Some(name)
}

/// What only the whole of a layer shows.
fn consistent(at: &str, name: &LayerName, layer: &Layer, faults: &mut Collector) {
    if let Some(decision) = layer.decisions.iter().find(|one| !layer.revisions.contains_key(&one.held.revision)) {
        faults.add_at(at, format!("{name}@{} is assigned and not in the backup; add it", decision.held.revision));
    }
    let (canaries, everyone): (Vec<_>, Vec<_>) =
        layer.in_force().partition(|decision| matches!(decision.held.target, Target::Canary(_)));
    if canaries.len() > 1 || everyone.len() > 1 {
        faults.add_at(
            at,
            format!("{name} has several assignments in force for one target; give all but one an end_time"),
        );
    }
    if name.kind == LayerKind::Experiment && !canaries.is_empty() {
        faults.add_at(
            at,
            format!("{name} is assigned to a part of the nodes, and experiments have no canary; give that assignment an end_time"),
        );
    }
    if layer.deleted && layer.in_force().next().is_some() {
        faults.add_at(at, format!("{name} is deleted and assigned; leave out one of the two"));
    }
}

fn time(field: &str, time: Option<Timestamp>, faults: &mut Collector) -> Option<DateTime<Utc>> {
    let read =
        time.and_then(|Timestamp { seconds, nanos }| DateTime::from_timestamp(seconds, u32::try_from(nanos).ok()?));
    if read.is_none() {
        faults.add_at(field, "is missing, or no time; write it like 2026-01-31T12:00:00Z");
    }
    read
}

/// As items, in the order in which they can be restored.
pub fn items(exported: Exported) -> Vec<v1::BackupItem> {
    let Exported { zones, plans, settings, layers } = exported;
    let mut items = vec![];
    if !zones.is_empty() {
        items.push(Item::ZoneMap(v1::ZoneMap { zones, ..v1::ZoneMap::default() }));
    }
    // Etags are of this server.
    items.extend(plans.into_iter().map(|plan| Item::RolloutPlan(v1::RolloutPlan { etag: String::new(), ..plan })));
    items.extend(settings.map(Item::RolloutSettings));
    for ExportedLayer { name, deleted, revisions, assignments, rollout } in layers {
        items.extend(revisions.into_iter().map(item));
        let assignments = assignments.into_iter().map(past_assignment_to_proto).collect();
        items.push(Item::History(v1::History {
            name: name.to_string(),
            deleted,
            assignments,
            rollout: rollout.unwrap_or_default(),
        }));
    }
    items.into_iter().map(|item| v1::BackupItem { item: Some(item) }).collect()
}

/// Without its etag, which is of this server, and its state, which its history says.
fn item(document: Document) -> Item {
    let (etag, state) = (String::new(), 0);
    match document {
        Document::Policy(policy) => Item::Policy(v1::Policy { etag, ..policy }),
        Document::Experiment(experiment) => Item::Experiment(v1::Experiment { etag, state, ..experiment }),
    }
}

pub fn restored_to_proto(restored: Restored) -> v1::Restored {
    let Restored { name, revision, step, note } = restored;
    let result = match step {
        Step::Create => v1::RestoreResult::Created,
        Step::Revive => v1::RestoreResult::Revived,
        Step::Nothing => v1::RestoreResult::Unchanged,
    };
    v1::Restored { name, revision, result: result.into(), note }
}
