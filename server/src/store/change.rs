//! Makes a change as [`crate::change`] has planned it, in one transaction with its audit entry.

use prost::Message;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;

use super::{
    Settled, assignment, audit, confirmation,
    connection::PgConnection,
    control,
    error::{Error, Result},
    layer, node,
    request::{self, Request},
    status, zone,
};
use crate::{
    change::{self, Action, Current, Held, Plan, Refusal, Trial},
    document::Document,
    notes::Notes,
    reach,
    target::Target,
    zones::ZoneMap,
};

/// All assigned documents together; below the 16 MiB of a message to a node.
const ASSIGNED_BYTES_MAX: i64 = 12 << 20;

/// What every change has: who asks for it, why, and how.
#[derive(Debug, Clone)]
pub struct Header {
    /// Which call.
    pub method: &'static str,
    /// Empty: nobody wants it compared.
    pub etag: String,
    /// The reason that was given.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// What was asked.
    pub request_json: String,
    /// So that it may be sent again.
    pub request: Option<Request>,
    /// Only say what the answer would be.
    pub validate_only: bool,
}

/// A change of a policy or an experiment that somebody asks for, checked.
#[derive(Debug, Clone)]
pub struct Order {
    /// What all changes have.
    pub header: Header,
    /// Of what.
    pub name: LayerName,
    /// What is to be done.
    pub action: Action,
    /// The document, if the call has one.
    pub sent: Option<Sent>,
}

/// The document of a call.
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

/// Begins a change: no other one goes on beside it. Gives the answer if the same request was answered before.
///
/// # Errors
/// If the request id was used for another request, or the database fails.
pub(super) async fn begin(conn: &mut PgConnection, header: &Header) -> Result<Option<Vec<u8>>> {
    control::lock(&mut *conn).await?;
    match &header.request {
        Some(request) => request::answer(conn, request).await,
        None => Ok(None),
    }
}

/// Ends a change with its answer.
///
/// # Errors
/// If the database fails.
pub(super) async fn settle(conn: &mut PgConnection, header: &Header, response: Vec<u8>) -> Result<Settled<Vec<u8>>> {
    if header.validate_only {
        return Ok(Settled::Discard(response));
    }
    if let Some(request) = &header.request {
        request::remember(conn, request, &response).await?;
    }
    Ok(Settled::Commit(response))
}

/// Makes the change; answers with the encoded response.
///
/// # Errors
/// If the state forbids it, or the database fails.
pub async fn apply(conn: &mut PgConnection, order: &Order) -> Result<Settled<Vec<u8>>> {
    if let Some(response) = begin(&mut *conn, &order.header).await? {
        return Ok(Settled::Discard(response));
    }
    let current = current(&mut *conn, order).await?;
    let plan = change::plan(order.name.kind, &order.action, &order.header.etag, current.as_ref())
        .map_err(|refusal| Error::Refused { name: order.name.to_string(), refusal })?;
    let zones = match order.sent.as_ref().and_then(|sent| sent.beside.zones.clone()) {
        Some(zones) => ZoneMap { version: 0, zones },
        None => zone::get(&mut *conn).await?,
    };
    if let Some(sent) = &order.sent {
        zone::check(&zones, &sent.document)?;
    }
    if plan != Plan::default() {
        execute(&mut *conn, order, &plan, current.as_ref()).await?;
        check_size(&mut *conn, &order.name.to_string()).await?;
        check_zones(&mut *conn, &order.name, &plan, &zones).await?;
    }
    let notes = notes(&mut *conn, order, &plan, current.as_ref()).await?;
    let response = response(&mut *conn, order, notes).await?;
    settle(conn, &order.header, response).await
}

async fn current(conn: &mut PgConnection, order: &Order) -> Result<Option<Current>> {
    let name = &order.name;
    let Some(object) = layer::object(&mut *conn, name).await? else { return Ok(None) };
    let mut current = Current {
        deleted: object.deleted,
        etag: object.etag(),
        latest_revision: object.latest_revision.cast_unsigned(),
        ..Current::default()
    };
    if object.deleted {
        return Ok(Some(current));
    }
    for held in assignment::in_force(&mut *conn, name).await? {
        match held.target {
            Target::Everyone => current.everyone = Some(held.revision),
            Target::Canary(_) | Target::Nobody => current.canary = Some(held),
        }
    }
    current.had_before = assignment::had_before(&mut *conn, name).await?;
    current.confirmed = confirmation::confirmed(&mut *conn, name).await?;
    if let (Some(canary), true) = (&current.canary, for_everyone(&order.action)) {
        current.trial = trial(&mut *conn, name, canary).await?;
    }
    if let Some(sent) = &order.sent {
        current.difference = layer::document(conn, name, None).await?.difference(&sent.document);
    }
    Ok(Some(current))
}

/// Whether everyone may get a revision that some have.
fn for_everyone(action: &Action) -> bool {
    match action {
        Action::Assign { target, .. } | Action::Update { target, .. } => *target == Target::Everyone,
        Action::Promote { .. } => true,
        Action::Create { .. } | Action::Delete | Action::Rollback { .. } => false,
    }
}

async fn trial(conn: &mut PgConnection, name: &LayerName, canary: &Held) -> Result<Trial> {
    let trial = status::trial(&mut *conn, name, canary.revision).await?;
    let document = layer::document(&mut *conn, name, Some(canary.revision)).await?;
    let nodes = node::seen(conn).await?;
    let nobody = reach::for_none(document.field(), &canary.target, &document.node_labels(), &nodes);
    Ok(Trial { nobody: nobody.map(|(_, why)| why), ..trial })
}

/// A node's snapshot travels in one message; nobody shall be able to make one that no node can take.
pub(super) async fn check_size(conn: &mut PgConnection, name: &str) -> Result<()> {
    let bytes = assignment::bytes_in_force(conn).await?;
    if bytes <= ASSIGNED_BYTES_MAX {
        return Ok(());
    }
    let (bytes, most) = (bytes >> 10, ASSIGNED_BYTES_MAX >> 10);
    let refusal = Refusal::State(format!(
        "with it, all assigned policies and experiments together have {bytes} KiB, and {most} KiB is the most that a node \
         can be sent; delete or shorten some first"
    ));
    Err(Error::Refused { name: name.to_owned(), refusal })
}

/// A revision may be older than the zone map; a zone that is not there any more would hold for nothing, silently.
async fn check_zones(conn: &mut PgConnection, name: &LayerName, plan: &Plan, zones: &ZoneMap) -> Result<()> {
    let Some(Held { revision, target: _ }) = plan.start else { return Ok(()) };
    let document = layer::document(conn, name, Some(revision)).await?;
    let lacking = zones.lacks(&document);
    if lacking.is_empty() {
        return Ok(());
    }
    let refusal = Refusal::State(format!(
        "revision {revision} names what is not in the zone map: {}; add it there first",
        lacking.join(", ")
    ));
    Err(Error::Refused { name: name.to_string(), refusal })
}

async fn execute(conn: &mut PgConnection, order: &Order, plan: &Plan, current: Option<&Current>) -> Result<()> {
    let Plan { create, store, mend, end_everyone, end_canary, start, delete } = plan;
    let before = current.map_or(0, |current| current.latest_revision);
    let latest = store.unwrap_or(before);
    if *create {
        layer::create(&mut *conn, &order.name, latest.cast_signed()).await?;
    } else {
        layer::touch(&mut *conn, &order.name, latest.cast_signed(), *delete).await?;
    }
    if let (Some(revision), Some(sent)) = (store, &order.sent) {
        layer::store(&mut *conn, &order.name, revision.cast_signed(), &sent.document, &order.header.actor).await?;
    }
    if let (true, Some(sent)) = (mend, &order.sent) {
        layer::mend(&mut *conn, &order.name, latest.cast_signed(), &sent.document).await?;
    }
    for (everyone, ends) in [(true, *end_everyone), (false, *end_canary)] {
        if ends {
            assignment::end(&mut *conn, &order.name, everyone).await?;
        }
    }
    if let Some(held) = start {
        assignment::start(&mut *conn, &order.name, held, &order.header.reason, &order.header.actor).await?;
    }
    let about = start.as_ref().map(|held| held.revision).or(*store).or(mend.then_some(latest)).or_else(|| {
        // A canary that ends leaves its nodes with what everyone has.
        current.filter(|_| !*delete).and_then(|current| current.everyone)
    });
    // What nodes do not hear of makes no generation.
    let generation = match plan.concerns_nodes() {
        true => control::bump(&mut *conn).await?,
        false => control::get(&mut *conn).await?.generation,
    };
    let entry = audit::Entry {
        actor: &order.header.actor,
        method: order.header.method,
        name: &order.name.to_string(),
        revision: about.unwrap_or(latest).cast_signed(),
        reason: &order.header.reason,
        request_json: &order.header.request_json,
        generation,
    };
    audit::add(conn, &entry).await
}

/// What is to be known of the change, now that it is made.
async fn notes(conn: &mut PgConnection, order: &Order, plan: &Plan, before: Option<&Current>) -> Result<Notes> {
    let mut notes = Notes::default();
    if let Some(sent) = &order.sent {
        notes.document(&sent.document);
    }
    let Some(given) = given(&mut *conn, order).await? else { return Ok(notes) };
    let document = layer::document(&mut *conn, &order.name, Some(given.revision)).await?;
    notes.reach(&given, &document, &node::seen(&mut *conn).await?);
    if let Document::Experiment(experiment) = &document {
        let coming = order.sent.as_ref().map(|sent| sent.beside.experiments.as_slice()).unwrap_or_default();
        let mut others = layer::experiments(&mut *conn).await?;
        others.retain(|other| coming.iter().all(|coming| coming.name != other.name));
        others.extend_from_slice(coming);
        notes.salt(experiment, &others);
    }
    let begins = plan.start.as_ref().is_some_and(|start| start.target == Target::Everyone) && plan.store.is_none();
    if let Some(before) = before.filter(|_| begins) {
        if !before.confirmed.contains(&given.revision) {
            notes.unconfirmed(given.revision);
        }
        if before.canary.as_ref().is_some_and(|canary| canary.revision == given.revision) {
            notes.trial(&before.trial);
        }
    }
    Ok(notes)
}

/// Which revision the change gives, and to whom; also if they have it already.
async fn given(conn: &mut PgConnection, order: &Order) -> Result<Option<Held>> {
    let (revision, target) = match &order.action {
        Action::Delete
        | Action::Create { target: Target::Nobody }
        | Action::Update { target: Target::Nobody, .. }
        | Action::Assign { target: Target::Nobody, .. } => return Ok(None),
        Action::Create { target } | Action::Update { target, .. } => (None, target),
        Action::Assign { revision, target, .. } => (Some(*revision), target),
        Action::Promote { .. } | Action::Rollback { .. } => {
            let held = assignment::in_force(conn, &order.name).await?;
            return Ok(held.into_iter().find(|held| held.target == Target::Everyone));
        }
    };
    let revision = match (revision, layer::object(conn, &order.name).await?) {
        (Some(revision), _) => revision,
        (None, Some(object)) => object.latest_revision.cast_unsigned(),
        (None, None) => return Ok(None),
    };
    // Of waves that were added, the whole.
    let held = assignment::in_force(conn, &order.name).await?;
    let canary = held.into_iter().find(|held| held.revision == revision && matches!(held.target, Target::Canary(_)));
    Ok(match target {
        Target::Canary(_) if canary.is_some() => canary,
        _ => Some(Held { revision, target: target.clone() }),
    })
}

async fn response(conn: &mut PgConnection, order: &Order, notes: Notes) -> Result<Vec<u8>> {
    let notes = notes.into_proto();
    Ok(match order.action {
        Action::Create { .. } | Action::Update { .. } => {
            layer::document(conn, &order.name, None).await?.noted(notes).encode()
        }
        Action::Assign { .. } | Action::Promote { .. } | Action::Rollback { .. } => {
            let status = status::status(conn, &order.name).await?;
            v1::LayerStatus { notes, ..status }.encode_to_vec()
        }
        Action::Delete => vec![],
    })
}
