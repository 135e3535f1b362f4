//! Makes a change of a policy or an experiment as [`super::plan`] has planned it, with its audit entry. People's requests and
//! controllers come through here alike.

use sockpilot_policy::{
    fault::Collector,
    model::{LayerKind, LayerName},
};
use sockpilot_proto::v1;

use super::{
    author::Author,
    bounds,
    document::Document,
    groups,
    notes::Notes,
    plan::{Action, Assignment, CanaryTally, ChangeRefusal, Current, Plan, plan},
    reach,
    target::Target,
    zones::ZoneMap,
};
use crate::store::{
    Error, Result, assignment, audit, confirmation, connection::PgConnection, control, experiment, layer, node, status,
    zone,
};

/// All assigned documents together; below the 16 MiB of a message to a node.
const ASSIGNED_BYTES_MAX: i64 = 12 << 20;

/// A change of a policy or an experiment that somebody asks for, checked.
#[derive(Debug, Clone)]
pub struct Change {
    pub name: LayerName,
    pub action: Action,
    /// Of what was read; empty: not compared.
    pub etag: String,
    /// The document, if the action has one.
    pub sent: Option<Sent>,
}

/// The document of a change.
#[derive(Debug, Clone)]
pub struct Sent {
    /// What is to be stored.
    pub document: Document,
    /// What is to be stored as well.
    pub beside: Beside,
}

/// Documents that are to be stored in the same go, if it is only checked now.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// In the place of the stored map.
    pub zones: Option<Vec<v1::Zone>>,
    /// In the place of, or in addition to, the stored ones.
    pub experiments: Vec<v1::Experiment>,
}

/// Makes the change, or nothing if all is as it asks already. Says what is to be known of it.
///
/// # Errors
/// If the state forbids it, or the database fails.
pub async fn apply(conn: &mut PgConnection, author: &Author, change: &Change) -> Result<Notes> {
    let Change { name, action, etag, sent } = change;
    control::lock(&mut *conn).await?;
    bounds::check(&mut *conn, author, name, sent.as_ref().map(|sent| &sent.document), []).await?;
    let (current, before) = current(&mut *conn, change).await?;
    let plan = plan(name.kind, action, etag, current.as_ref())
        .map_err(|refusal| Error::Refused { name: name.to_string(), refusal })?;
    let zones = match sent.as_ref().and_then(|sent| sent.beside.zones.clone()) {
        Some(zones) => ZoneMap { version: 0, zones },
        None => zone::get(&mut *conn).await?,
    };
    if let Some(sent) = sent {
        let mut faults = Collector::at("");
        zones.check(&sent.document, &mut faults);
        check_withheld(&mut *conn, &sent.document, &mut faults).await?;
        faults.finish(()).map_err(|faults| Error::Invalid { faults })?;
    }
    bounds::check(&mut *conn, author, name, None, plan.start.as_ref().map(|start| start.revision)).await?;
    if plan != Plan::default() {
        execute(&mut *conn, author, change, (&plan, current.as_ref(), before.as_ref())).await?;
        check_size(&mut *conn, &name.to_string()).await?;
        check_zones(&mut *conn, name, &plan, &zones).await?;
        check_group(&mut *conn, change, &plan).await?;
    }
    notes(conn, change, &plan, current.as_ref()).await
}

/// A policy can be withheld only by what is asked before it.
async fn check_withheld(conn: &mut PgConnection, document: &Document, faults: &mut Collector) -> Result<()> {
    let Document::Experiment(v1::Experiment { withholds, priority, .. }) = document else { return Ok(()) };
    let Ok(policy) = withholds.parse::<LayerName>() else { return Ok(()) };
    match layer::document(conn, &policy, None).await {
        Ok(Document::Policy(policy)) if policy.priority > *priority => faults.add_at(
            "experiment.priority",
            format!(
                "is {priority}, below that of {withholds}; write at least {}, so that it is asked before it",
                policy.priority
            ),
        ),
        Ok(_) => {}
        Err(Error::NotFound { .. }) => {
            faults.add_at(
                "experiment.withholds",
                format!("there is no {withholds}; write the name of a policy that exists"),
            );
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The call by which a person makes such a change: the audit log calls it so, whoever made it.
fn method(kind: LayerKind, action: &Action) -> &'static str {
    match (action, kind) {
        (Action::Create { .. }, LayerKind::Policy) => "CreatePolicy",
        (Action::Create { .. }, LayerKind::Experiment) => "CreateExperiment",
        (Action::Update { .. }, LayerKind::Policy) => "UpdatePolicy",
        (Action::Update { .. }, LayerKind::Experiment) => "UpdateExperiment",
        (Action::Delete, LayerKind::Policy) => "DeletePolicy",
        (Action::Delete, LayerKind::Experiment) => "DeleteExperiment",
        (Action::Assign { .. } | Action::Stage { .. }, _) => "AssignRevision",
        (Action::Promote { .. }, _) => "PromoteRevision",
        (Action::Rollback { .. } | Action::Withdraw { .. }, _) => "RollbackRevision",
    }
}

/// Also the newest document, if another one is sent.
async fn current(conn: &mut PgConnection, change: &Change) -> Result<(Option<Current>, Option<Document>)> {
    let name = &change.name;
    let Some(object) = layer::object(&mut *conn, name).await? else { return Ok((None, None)) };
    let mut current = Current {
        deleted: object.deleted,
        etag: object.etag(),
        latest_revision: object.latest_revision.cast_unsigned(),
        ..Current::default()
    };
    if object.deleted {
        return Ok((Some(current), None));
    }
    for held in assignment::in_force(&mut *conn, name).await? {
        match held.target {
            Target::Everyone => current.everyone = Some(held.revision),
            Target::Canary(_) | Target::Nobody => current.canary = Some(held),
        }
    }
    current.had_before = assignment::had_before(&mut *conn, name).await?;
    current.confirmed = confirmation::confirmed(&mut *conn, name).await?;
    if let (Some(canary), true) = (&current.canary, for_everyone(&change.action)) {
        current.tally = canary_tally(&mut *conn, name, canary).await?;
    }
    let Some(sent) = &change.sent else { return Ok((Some(current), None)) };
    let before = layer::document(conn, name, None).await?;
    current.difference = before.difference(&sent.document);
    Ok((Some(current), Some(before)))
}

/// Whether everyone may get a revision that some have.
fn for_everyone(action: &Action) -> bool {
    match action {
        Action::Assign { target, .. } | Action::Update { target, .. } => *target == Target::Everyone,
        Action::Promote { .. } => true,
        Action::Create { .. }
        | Action::Delete
        | Action::Rollback { .. }
        | Action::Stage { .. }
        | Action::Withdraw { .. } => false,
    }
}

async fn canary_tally(conn: &mut PgConnection, name: &LayerName, canary: &Assignment) -> Result<CanaryTally> {
    let tally = status::canary_tally(&mut *conn, name, canary.revision).await?;
    let document = layer::document(&mut *conn, name, Some(canary.revision)).await?;
    let nodes = node::seen(conn).await?;
    let nobody = reach::for_none(document.field(), &canary.target, &document.node_labels(), &nodes);
    Ok(CanaryTally { nobody: nobody.map(|(_, why)| why), ..tally })
}

/// A node's snapshot travels in one message; nobody shall be able to make one that no node can take.
/// # Errors
/// If it is too much, or the database fails.
pub async fn check_size(conn: &mut PgConnection, name: &str) -> Result<()> {
    let bytes = assignment::bytes_in_force(conn).await?;
    if bytes <= ASSIGNED_BYTES_MAX {
        return Ok(());
    }
    let (bytes, most) = (bytes >> 10, ASSIGNED_BYTES_MAX >> 10);
    let refusal = ChangeRefusal::State(format!(
        "with it, all assigned policies and experiments together have {bytes} KiB, and {most} KiB is the most that a node \
         can be sent; delete or shorten some first"
    ));
    Err(Error::Refused { name: name.to_owned(), refusal })
}

/// A revision may be older than the zone map; a zone that is not there any more would hold for nothing, silently.
async fn check_zones(conn: &mut PgConnection, name: &LayerName, plan: &Plan, zones: &ZoneMap) -> Result<()> {
    let Some(Assignment { revision, target: _ }) = plan.start else { return Ok(()) };
    let document = layer::document(conn, name, Some(revision)).await?;
    let lacking = zones.lacks(&document);
    if lacking.is_empty() {
        return Ok(());
    }
    let refusal = ChangeRefusal::State(format!(
        "revision {revision} names what is not in the zone map: {}; add it there first",
        lacking.join(", ")
    ));
    Err(Error::Refused { name: name.to_string(), refusal })
}

/// What is to run may have to keep its hands off buckets of what runs.
async fn check_group(conn: &mut PgConnection, change: &Change, plan: &Plan) -> Result<()> {
    let Some(Assignment { revision, target: _ }) = plan.start else { return Ok(()) };
    let Document::Experiment(experiment) = layer::document(&mut *conn, &change.name, Some(revision)).await? else {
        return Ok(());
    };
    let coming = change.sent.as_ref().map(|sent| sent.beside.experiments.as_slice()).unwrap_or_default();
    let mut running = layer::running_experiments(conn).await?;
    running.retain(|other| coming.iter().all(|coming| coming.name != other.name));
    running.extend_from_slice(coming);
    let mut faults = Collector::at("");
    groups::check(&experiment, &running, change.sent.as_ref().map(|sent| sent.document.field()), &mut faults);
    faults.finish(()).map_err(|faults| Error::Invalid { faults })
}

async fn execute(
    conn: &mut PgConnection,
    author: &Author,
    change: &Change,
    (plan, current, document): (&Plan, Option<&Current>, Option<&Document>),
) -> Result<()> {
    let Plan { create, store, mend, end_everyone, end_canary, start, delete } = plan;
    let before = current.map_or(0, |current| current.latest_revision);
    let latest = store.unwrap_or(before);
    if *create {
        layer::create(&mut *conn, &change.name, latest.cast_signed()).await?;
    } else {
        layer::touch(&mut *conn, &change.name, latest.cast_signed(), *delete).await?;
    }
    if let (Some(revision), Some(sent)) = (store, &change.sent) {
        layer::store(&mut *conn, &change.name, revision.cast_signed(), &sent.document, &author.actor()).await?;
    }
    if let (true, Some(sent)) = (mend, &change.sent) {
        layer::mend(&mut *conn, &change.name, latest.cast_signed(), &sent.document).await?;
    }
    for (everyone, ends) in [(true, *end_everyone), (false, *end_canary)] {
        if ends {
            assignment::end(&mut *conn, &change.name, everyone).await?;
        }
    }
    if let Some(held) = start {
        assignment::start(&mut *conn, &change.name, held, author.reason(), &author.actor()).await?;
    }
    let mut lasts_otherwise = false;
    if change.name.kind == LayerKind::Experiment && (*mend || start.is_some()) {
        // What is started goes by the newest words; what runs is told of others.
        if let Document::Experiment(v1::Experiment { duration_s, end_time, start_time, .. }) =
            layer::document(&mut *conn, &change.name, None).await?
        {
            experiment::schedule(&mut *conn, &change.name, duration_s).await?;
            let lasted_s = end_time.zip(start_time).map_or(0, |(end, start)| end.seconds - start.seconds);
            lasts_otherwise = start_time.is_some() && lasted_s != i64::from(duration_s);
        }
        if start.is_some() {
            experiment::reopen(&mut *conn, &change.name).await?;
        }
    }
    let about = start.as_ref().map(|held| held.revision).or(*store).or(mend.then_some(latest)).or_else(|| {
        // A canary that ends leaves its nodes with what everyone has.
        current.filter(|_| !*delete).and_then(|current| current.everyone)
    });
    // What nodes do not hear of makes no generation.
    let generation = match plan.concerns_nodes() || lasts_otherwise {
        true => control::bump(&mut *conn).await?,
        false => control::get(&mut *conn).await?.generation,
    };
    let subject = audit::Subject {
        method: method(change.name.kind, &change.action),
        name: &change.name.to_string(),
        revision: about.unwrap_or(latest).cast_signed(),
        generation,
        difference: plan.difference(current, document, change.sent.as_ref().map(|sent| &sent.document)),
    };
    audit::add(conn, author, &subject).await
}

/// What is to be known of the change, now that it is made.
async fn notes(conn: &mut PgConnection, change: &Change, plan: &Plan, before: Option<&Current>) -> Result<Notes> {
    let mut notes = Notes::default();
    if let Some(sent) = &change.sent {
        notes.document(&sent.document);
    }
    let Some(given) = given(&mut *conn, change).await? else { return Ok(notes) };
    let document = layer::document(&mut *conn, &change.name, Some(given.revision)).await?;
    notes.reach(&given, &document, &node::seen(&mut *conn).await?);
    let begins = plan.start.as_ref().is_some_and(|start| start.target == Target::Everyone) && plan.store.is_none();
    if let Some(before) = before.filter(|_| begins) {
        if !before.confirmed.contains(&given.revision) {
            notes.unconfirmed(given.revision);
        }
        if before.canary.as_ref().is_some_and(|canary| canary.revision == given.revision) {
            notes.canary_tally(&before.tally);
        }
    }
    Ok(notes)
}

/// Which revision the change gives, and to whom; also if they have it already.
async fn given(conn: &mut PgConnection, change: &Change) -> Result<Option<Assignment>> {
    let (revision, target) = match &change.action {
        Action::Delete
        | Action::Stage { .. }
        | Action::Withdraw { .. }
        | Action::Create { target: Target::Nobody }
        | Action::Update { target: Target::Nobody, .. }
        | Action::Assign { target: Target::Nobody, .. } => return Ok(None),
        Action::Create { target } | Action::Update { target, .. } => (None, target),
        Action::Assign { revision, target, .. } => (Some(*revision), target),
        Action::Promote { .. } | Action::Rollback { .. } => {
            let held = assignment::in_force(conn, &change.name).await?;
            return Ok(held.into_iter().find(|held| held.target == Target::Everyone));
        }
    };
    let revision = match (revision, layer::object(conn, &change.name).await?) {
        (Some(revision), _) => revision,
        (None, Some(object)) => object.latest_revision.cast_unsigned(),
        (None, None) => return Ok(None),
    };
    // Of waves that were added, the whole.
    let held = assignment::in_force(conn, &change.name).await?;
    let canary = held.into_iter().find(|held| held.revision == revision && matches!(held.target, Target::Canary(_)));
    Ok(match target {
        Target::Canary(_) if canary.is_some() => canary,
        _ => Some(Assignment { revision, target: target.clone() }),
    })
}
