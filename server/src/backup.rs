//! A backup, put together from its items, and what restoring it does. Pure; `store::backup` does it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use sockpilot_policy::{
    fault::{Collector, Faults},
    model::{LayerKind, LayerName},
};
use sockpilot_proto::{convert::zone_map_from_proto, v1};
use uuid::Uuid;

use crate::{
    change::Held,
    document::{Difference, Document},
    names,
    target::Target,
};

/// Everything that people have decided.
#[derive(Debug, Clone, Default)]
pub struct Backup {
    /// Where addresses are; `None` if the backup says nothing of it.
    pub zones: Option<Vec<v1::Zone>>,
    /// Policies and experiments.
    pub layers: BTreeMap<LayerName, Layer>,
}

/// One policy or experiment with all its revisions.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// By number; at least one.
    pub revisions: BTreeMap<u64, Revision>,
    /// It exists no more.
    pub deleted: bool,
    /// In the order in which they were made.
    pub decisions: Vec<Decision>,
}

/// One revision.
#[derive(Debug, Clone)]
pub struct Revision {
    /// What it says.
    pub document: Document,
    /// Of the object, when it was made: another one after delete and create.
    pub uid: Uuid,
    /// When.
    pub created_at: DateTime<Utc>,
    /// By whom.
    pub creator: String,
}

/// A decision about who runs what.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Which revision, and whose.
    pub held: Held,
    /// The reason that was given.
    pub reason: String,
    /// Who decided.
    pub actor: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended; `None`: in force.
    pub ended_at: Option<DateTime<Utc>>,
}

/// What is stored under the name of a layer.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// It exists no more.
    pub deleted: bool,
    /// All of it.
    pub revisions: BTreeMap<u64, Document>,
    /// In force.
    pub in_force: Vec<Held>,
}

/// What restoring one thing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing was there.
    Create,
    /// It was deleted, and comes back with the revisions that are missing.
    Revive,
    /// It is there already.
    Nothing,
}

impl Layer {
    /// The number of the newest revision.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.revisions.keys().next_back().copied().unwrap_or_default()
    }

    /// The decisions in force.
    pub fn in_force(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().filter(|decision| decision.ended_at.is_none())
    }

    /// The documents in force, by number.
    pub fn documents_in_force(&self) -> impl Iterator<Item = (u64, &Document)> {
        let of = |decision: &Decision| (decision.held.revision, self.revisions.get(&decision.held.revision));
        self.in_force().map(of).filter_map(|(number, revision)| Some((number, &revision?.document)))
    }

    /// What restoring it does.
    ///
    /// # Errors
    /// Why it cannot be, in words: what is there is otherwise.
    pub fn plan(&self, stored: Option<&Stored>) -> Result<Step, String> {
        let Some(stored) = stored else { return Ok(Step::Create) };
        if let Some((number, _)) = self.revisions.iter().find(|(number, revision)| {
            stored
                .revisions
                .get(number)
                .is_some_and(|document| document.difference(&revision.document) != Difference::Nothing)
        }) {
            return Err(format!("is here with another revision {number}; apply what you want of the backup by hand"));
        }
        let newest = stored.revisions.keys().next_back().copied().unwrap_or_default();
        let same = stored.revisions.len() == self.revisions.len() && newest == self.latest();
        match (stored.deleted, self.deleted) {
            (true, false) => Ok(Step::Revive),
            (true, true) if same => Ok(Step::Nothing),
            (true, true) => Err("is deleted here and in the backup, with other revisions; leave it out".to_owned()),
            (false, true) => Err("exists here and is deleted in the backup; delete it here or leave it out".to_owned()),
            (false, false) if !same => Err(format!(
                "is here with {newest} as its newest revision, and with {} in the backup; leave it out, or delete it here first",
                self.latest()
            )),
            (false, false) => {
                let of = |held: &Held| format!("revision {} for {}", held.revision, held.target);
                let of_backup = || self.in_force().map(|decision| &decision.held);
                let same = of_backup().count() == stored.in_force.len();
                if same && of_backup().all(|held| stored.in_force.contains(held)) {
                    return Ok(Step::Nothing);
                }
                let here: BTreeSet<_> = stored.in_force.iter().map(of).collect();
                let there: BTreeSet<_> = of_backup().map(of).collect();
                let say = |set: &BTreeSet<String>| {
                    if set.is_empty() {
                        "nobody".to_owned()
                    } else {
                        set.iter().cloned().collect::<Vec<_>>().join(" and ")
                    }
                };
                Err(format!(
                    "is assigned otherwise here ({}) than in the backup ({}); assign it by hand, or leave it out",
                    say(&here),
                    say(&there)
                ))
            }
        }
    }
}

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
    let v1::History { name, deleted, assignments } = history;
    let name: LayerName = faults.field("name", |faults| faults.take(name.parse()))?;
    let decisions = faults.each("assignments", assignments, |faults, assignment| {
        let v1::Assignment { revision, target, reason, actor, start_time, end_time } = assignment;
        let target = faults.field("target", |faults| {
            let read = Target::from_proto(target.as_ref(), faults);
            if target.is_none() || read == Target::Nobody {
                faults.add("is missing; write everyone, share_bp, node_labels or waves");
            }
            read
        });
        names::text("reason", &reason, faults);
        let ended_at = end_time.and_then(|end_time| time("end_time", Some(end_time), faults));
        let started_at = time("start_time", start_time, faults)?;
        Some(Decision { held: Held { revision, target }, reason, actor, started_at, ended_at })
    });
    let layer = backup.layers.entry(name.clone()).or_default();
    layer.deleted = deleted;
    layer.decisions.extend(decisions.into_iter().flatten());
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
