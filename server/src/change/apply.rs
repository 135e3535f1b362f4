//! Makes a change of a policy or an experiment as [`super::plan`] has planned it, with its audit entry. People's requests and
//! controllers come through here alike.

use std::borrow::Cow;

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
    plan::{Action, Assignment, CanaryTally, ChangeRefusal, Current, Plan, plan},
    planned::{Made, Planned, reaches_all},
    reach,
    target::Target,
    zones::{self, ZoneMap},
};
use crate::store::{
    Error, Result, assignment,
    connection::PgConnection,
    control,
    decision::{self, Decided, Decision},
    experiment, layer, node,
    standing::{self, Standing, Wanted},
    status, zone,
};

/// All assigned documents together; below the 16 MiB of a message to a node.
const ASSIGNED_BYTES_MAX: u64 = 12 << 20;

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

/// Makes the change, or nothing if all is as it asks already.
///
/// # Errors
/// If the state forbids it, or the database fails.
pub async fn apply(conn: &mut PgConnection, author: &Author, change: &Change) -> Result<Made> {
    let Change { name, action, etag, sent } = change;
    control::lock(&mut *conn).await?;
    bounds::check(&mut *conn, author, name, sent.as_ref().map(|sent| &sent.document), []).await?;
    let standing = &standing::read(&mut *conn, name, wanted(action)).await?;
    let current = current(&mut *conn, change, standing).await?;
    let plan = plan(name.kind, action, etag, current.as_ref())
        .map_err(|refusal| Error::Refused { name: name.to_string(), refusal })?;
    if let Some(sent) = sent {
        let mut faults = Collector::at("");
        zones(&mut *conn, change, &sent.document).await?.check(&sent.document, &mut faults);
        check_withheld(&mut *conn, &sent.document, &mut faults).await?;
        faults.finish(()).map_err(|faults| Error::Invalid { faults })?;
    }
    bounds::check(&mut *conn, author, name, None, plan.start.as_ref().map(|start| start.revision)).await?;
    let planned = Planned { change, standing, current, plan };
    let given = planned.given();
    let document = match planned.plan.start.as_ref().or(given.as_ref()) {
        Some(held) => Some(document(&mut *conn, &planned, held.revision).await?),
        None => None,
    };
    let decided = execute(&mut *conn, author, &planned).await?;
    if let (Some(held), Some(document)) = (&planned.plan.start, &document) {
        if standing.bytes_in_force + document.encode().len() as u64 > ASSIGNED_BYTES_MAX {
            check_size(&mut *conn, &name.to_string()).await?;
        }
        check_zones(&mut *conn, change, held, document).await?;
        check_group(&mut *conn, change, document).await?;
    }
    let given = given.as_ref().zip(document.as_deref());
    let nodes = match given {
        Some((held, document)) if !reaches_all(held, document) => node::seen(conn).await?,
        _ => vec![],
    };
    Ok(planned.made(author, decided.as_ref(), given, &nodes))
}

/// What the decision goes by.
fn wanted(action: &Action) -> Wanted {
    match action {
        Action::Create { target } | Action::Update { target, .. } => {
            Wanted { history: false, nodes: *target == Target::Everyone }
        }
        Action::Delete => Wanted { history: false, nodes: false },
        Action::Stage { .. } | Action::Withdraw { .. } => Wanted { history: true, nodes: false },
        Action::Assign { target, .. } => Wanted { history: true, nodes: *target == Target::Everyone },
        Action::Promote { .. } | Action::Rollback { .. } => Wanted { history: true, nodes: true },
    }
}

/// The map that a document's zones have to be in.
async fn zones(conn: &mut PgConnection, change: &Change, document: &Document) -> Result<ZoneMap> {
    match change.sent.as_ref().and_then(|sent| sent.beside.zones.clone()) {
        Some(zones) => Ok(ZoneMap { version: 0, zones }),
        None if zones::names_some(document) => zone::get(conn).await,
        None => Ok(ZoneMap::default()),
    }
}

/// The document of a revision, as it is once the plan is carried out.
async fn document<'a>(conn: &mut PgConnection, planned: &Planned<'a>, revision: u64) -> Result<Cow<'a, Document>> {
    let Planned { change, standing, plan, .. } = planned;
    match (&change.sent, &standing.newest) {
        (Some(sent), _) if plan.store == Some(revision) => Ok(Cow::Borrowed(&sent.document)),
        (_, Some(newest)) if newest.revision() == revision => Ok(Cow::Borrowed(newest)),
        _ => layer::document(conn, &change.name, Some(revision)).await.map(Cow::Owned),
    }
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

async fn current(conn: &mut PgConnection, change: &Change, standing: &Standing) -> Result<Option<Current>> {
    let Some(object) = &standing.object else { return Ok(None) };
    let mut current = Current {
        deleted: object.deleted,
        etag: object.etag(),
        latest_revision: object.latest_revision.cast_unsigned(),
        ..Current::default()
    };
    if object.deleted {
        return Ok(Some(current));
    }
    current.everyone = standing.everyone;
    current.had_before.clone_from(&standing.had_before);
    current.confirmed.clone_from(&standing.confirmed);
    if standing.has_canary {
        let held = assignment::in_force(&mut *conn, &change.name).await?;
        current.canary = held.into_iter().find(|held| held.target != Target::Everyone);
    }
    if let (Some(canary), true) = (&current.canary, for_everyone(&change.action)) {
        current.tally = canary_tally(&mut *conn, &change.name, canary).await?;
    }
    if let (Some(sent), Some(newest)) = (&change.sent, &standing.newest) {
        current.difference = newest.difference(&sent.document);
    }
    Ok(Some(current))
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
    let bytes = assignment::bytes_in_force(conn).await?.cast_unsigned();
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
async fn check_zones(conn: &mut PgConnection, change: &Change, held: &Assignment, document: &Document) -> Result<()> {
    let lacking = zones(conn, change, document).await?.lacks(document);
    if lacking.is_empty() {
        return Ok(());
    }
    let refusal = ChangeRefusal::State(format!(
        "revision {} names what is not in the zone map: {}; add it there first",
        held.revision,
        lacking.join(", ")
    ));
    Err(Error::Refused { name: change.name.to_string(), refusal })
}

/// What is to run may have to keep its hands off buckets of what runs.
async fn check_group(conn: &mut PgConnection, change: &Change, document: &Document) -> Result<()> {
    let Document::Experiment(experiment) = document else { return Ok(()) };
    let coming = change.sent.as_ref().map(|sent| sent.beside.experiments.as_slice()).unwrap_or_default();
    let mut running = layer::running_experiments(conn).await?;
    running.retain(|other| coming.iter().all(|coming| coming.name != other.name));
    running.extend_from_slice(coming);
    let mut faults = Collector::at("");
    groups::check(experiment, &running, change.sent.as_ref().map(|sent| sent.document.field()), &mut faults);
    faults.finish(()).map_err(|faults| Error::Invalid { faults })
}

/// Carries out what was planned; answers with nothing if that is nothing.
async fn execute(conn: &mut PgConnection, author: &Author, planned: &Planned<'_>) -> Result<Option<Decided>> {
    let Planned { change: Change { name, action, sent, .. }, standing, current, plan } = planned;
    if *plan == Plan::default() {
        return Ok(None);
    }
    let sent = sent.as_ref().map(|sent| &sent.document);
    let latest = planned.latest();
    let about = plan.start.as_ref().map(|held| held.revision).or(plan.store).or(plan.mend.then_some(latest));
    // A canary that ends leaves its nodes with what everyone has.
    let about = about.or_else(|| current.as_ref().filter(|_| !plan.delete).and_then(|current| current.everyone));
    let decision = Decision {
        name,
        plan,
        latest,
        document: sent.filter(|_| plan.store.is_some()),
        // What nodes do not hear of makes no generation.
        concerns_nodes: plan.concerns_nodes() || (plan.mend && planned.lasts_otherwise()),
        author,
        method: method(name.kind, action),
        about: about.unwrap_or(latest),
        difference: plan.difference(current.as_ref(), standing.newest.as_ref(), sent),
    };
    let decided = decision::carry_out(&mut *conn, &decision).await?;
    if let (true, Some(sent)) = (plan.mend, sent) {
        layer::mend(&mut *conn, name, latest.cast_signed(), sent).await?;
    }
    if name.kind == LayerKind::Experiment && (plan.mend || plan.start.is_some()) {
        // What is started goes by the newest words; what runs is told of others.
        let said = sent.filter(|_| plan.mend || plan.store.is_some()).or(standing.newest.as_ref());
        if let Some(Document::Experiment(v1::Experiment { duration_s, .. })) = said {
            experiment::schedule(&mut *conn, name, *duration_s).await?;
        }
        if plan.start.is_some() {
            experiment::reopen(&mut *conn, name).await?;
        }
    }
    Ok(Some(decided))
}
