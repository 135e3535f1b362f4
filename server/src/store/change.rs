//! Makes a change as [`crate::change`] has planned it, in one transaction with its audit entry.

use prost::Message;
use sockpilot_policy::model::LayerName;

use super::{
    Settled, assignment, audit,
    connection::PgConnection,
    control,
    error::{Error, Result},
    layer,
    request::{self, Request},
    zone,
};
use crate::{
    change::{self, Action, Current, Held, Plan, Refusal},
    document::Document,
    target::Target,
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
    /// Why.
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
    /// What.
    pub action: Action,
    /// The document, if the call has one.
    pub document: Option<Document>,
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
    let current = current(&mut *conn, &order.name, order.document.as_ref()).await?;
    let plan = change::plan(&order.action, &order.header.etag, current.as_ref())
        .map_err(|refusal| Error::Refused { name: order.name.to_string(), refusal })?;
    if let Some(document) = &order.document {
        zone::check(&mut *conn, document).await?;
    }
    if plan != Plan::default() {
        execute(&mut *conn, order, &plan, current.as_ref()).await?;
        check_size(&mut *conn, &order.name).await?;
        check_zones(&mut *conn, &order.name, &plan).await?;
    }
    let response = response(&mut *conn, order).await?;
    settle(conn, &order.header, response).await
}

async fn current(conn: &mut PgConnection, name: &LayerName, document: Option<&Document>) -> Result<Option<Current>> {
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
    if let Some(document) = document {
        current.same_document = layer::document(conn, name, None).await?.means(document);
    }
    Ok(Some(current))
}

/// A node's snapshot travels in one message; nobody shall be able to make one that no node can take.
async fn check_size(conn: &mut PgConnection, name: &LayerName) -> Result<()> {
    let bytes = assignment::bytes_in_force(conn).await?;
    if bytes <= ASSIGNED_BYTES_MAX {
        return Ok(());
    }
    let (bytes, most) = (bytes >> 10, ASSIGNED_BYTES_MAX >> 10);
    let refusal = Refusal::State(format!(
        "with it, all assigned policies and experiments together have {bytes} KiB, and {most} KiB is the most that a node \
         can be sent; delete or shorten some first"
    ));
    Err(Error::Refused { name: name.to_string(), refusal })
}

/// A revision may be older than the zone map; a zone that is not there any more would hold for nothing, silently.
async fn check_zones(conn: &mut PgConnection, name: &LayerName, plan: &Plan) -> Result<()> {
    let Some(Held { revision, target: _ }) = plan.start else { return Ok(()) };
    let document = layer::document(&mut *conn, name, Some(revision)).await?;
    let lacking = zone::get(conn).await?.lacks(&document);
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
    let Plan { create, store, end_everyone, end_canary, start, delete } = plan;
    let before = current.map_or(0, |current| current.latest_revision);
    let latest = store.unwrap_or(before);
    if *create {
        layer::create(&mut *conn, &order.name, latest.cast_signed()).await?;
    } else {
        layer::touch(&mut *conn, &order.name, latest.cast_signed(), *delete).await?;
    }
    if let (Some(revision), Some(document)) = (store, &order.document) {
        layer::store(&mut *conn, &order.name, revision.cast_signed(), document, &order.header.actor).await?;
    }
    for (everyone, ends) in [(true, *end_everyone), (false, *end_canary)] {
        if ends {
            assignment::end(&mut *conn, &order.name, everyone).await?;
        }
    }
    if let Some(held) = start {
        assignment::start(&mut *conn, &order.name, held, &order.header.reason, &order.header.actor).await?;
    }
    let about = start.as_ref().map(|held| held.revision).or(*store).or_else(|| {
        // A canary that ends leaves its nodes with what everyone has.
        current.filter(|_| !*delete).and_then(|current| current.everyone)
    });
    let generation = control::bump(&mut *conn).await?;
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

async fn response(conn: &mut PgConnection, order: &Order) -> Result<Vec<u8>> {
    Ok(match order.action {
        Action::Create { .. } | Action::Update { .. } => layer::document(conn, &order.name, None).await?.encode(),
        Action::Assign { .. } | Action::Promote | Action::Rollback { .. } => {
            assignment::status(conn, &order.name).await?.encode_to_vec()
        }
        Action::Delete => vec![],
    })
}
