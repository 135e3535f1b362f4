//! Policies and experiments are served alike: what both services do, once.

use prost::Message;
use sockpilot_policy::{
    fault::Collector,
    model::{Id, LayerKind, LayerName},
};
use sockpilot_proto::{convert::zone_map_from_proto, v1};
use sockpilot_rollout::plan::ALL_FLOWS_BP;
use tonic::Status;
use uuid::Uuid;

use super::{
    Api,
    call::{Call, Common, Work},
    convert::{change::notes_to_proto, target::target_from_proto},
    error::{invalid, invalid_field, of_store},
};
use crate::{
    change::{
        apply::{Beside, Sent},
        author::Author,
        document::Document,
        names,
        plan::Action,
        target::Target,
        wave::Canary,
    },
    grpc::paging::Page,
    rollout::begin::{Options, Stored, of_change},
    store::{Error, connection::PgConnection, layer},
};

/// The field of the document in requests.
fn field(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Policy => "policy",
        LayerKind::Experiment => "experiment",
    }
}

fn stated_name(document: &Document) -> &str {
    match document {
        Document::Policy(policy) => &policy.name,
        Document::Experiment(experiment) => &experiment.name,
    }
}

fn stated_etag(document: &Document) -> &str {
    match document {
        Document::Policy(policy) => &policy.etag,
        Document::Experiment(experiment) => &experiment.etag,
    }
}

/// Checks the document under the name that it will have.
fn checked(
    document: Option<Document>,
    name: Option<&LayerName>,
    kind: LayerKind,
    faults: &mut Collector,
) -> Option<Document> {
    let Some(document) = document else {
        faults.add_at(field(kind), "is missing; send the whole document");
        return None;
    };
    // With a stand-in if the name is unsound: the rest is checked all the same.
    let name = name.map_or_else(|| format!("{}/unnamed", kind.collection()), LayerName::to_string);
    let document = document.to_be_stored(&name);
    document.check(faults);
    Some(document)
}

pub(super) async fn create<R: Message + Default>(
    api: &Api,
    kind: LayerKind,
    call: Call,
    (document, id, target): (Option<Document>, &str, Option<&v1::Target>),
    common: Common,
    mut faults: Collector,
) -> Result<R, Status> {
    let name = new_name(kind, document.as_ref().map_or("", stated_name), id, &mut faults);
    let document = checked(document, name.as_ref(), kind, &mut faults);
    let (target, _) = self::target(Some(kind), target, &mut faults);
    let sent = document.map(|document| Sent { document, beside: Beside::default() });
    call.finish(api, name, Action::Create { target }, sent, common, faults).await
}

/// Reads a target, with a new salt if it has waves; and whether it has.
pub(super) fn target(kind: Option<LayerKind>, target: Option<&v1::Target>, faults: &mut Collector) -> (Target, bool) {
    faults.field("target", |faults| {
        let read = target_from_proto(target, faults);
        if kind == Some(LayerKind::Experiment) {
            read.of_experiment(faults);
        }
        match (read, target.and_then(|target| target.kind.as_ref())) {
            (Target::Canary(canary), Some(v1::target::Kind::Waves(_))) => {
                let salt = Uuid::new_v4().simple().to_string();
                (Target::Canary(Canary { salt, flow_share_bp: ALL_FLOWS_BP, ..canary }), true)
            }
            (read, _) => (read, false),
        }
    })
}

/// The name of something new, said by its document, by an id, or by both alike.
fn new_name(kind: LayerKind, stated: &str, id: &str, faults: &mut Collector) -> Option<LayerName> {
    let (field, id_field) = (field(kind), format!("{}_id", field(kind)));
    if stated.is_empty() && id.is_empty() {
        faults.add_at(&id_field, format!("is missing; say it here or in {field}.name"));
        return None;
    }
    let by_id = (!id.is_empty())
        .then(|| faults.field(&id_field, |faults| faults.take(id.parse::<Id>())).map(|id| LayerName { kind, id }))
        .flatten();
    if stated.is_empty() {
        return by_id;
    }
    let by_document =
        faults.field(field, |faults| faults.field("name", |faults| faults.take(names::layer_of(kind, stated))));
    if let (Some(by_id), Some(by_document)) = (&by_id, &by_document)
        && by_id != by_document
    {
        faults.add_at(&id_field, format!("says {by_id} but {field}.name says {by_document}; leave one of them out"));
    }
    by_document
}

/// What an update asks for.
pub(super) struct Asked {
    pub document: Option<Document>,
    pub allow_missing: bool,
    pub target: Option<v1::Target>,
    pub beside: Option<v1::Beside>,
}

pub(super) async fn update<R: Message + Default>(
    api: &Api,
    kind: LayerKind,
    call: Call,
    asked: Asked,
    common: Common,
    mut faults: Collector,
) -> Result<R, Status> {
    let Asked { document, allow_missing, target, beside } = asked;
    let stated = document.as_ref().map(|document| (stated_name(document).to_owned(), stated_etag(document).to_owned()));
    let (name, etag) = stated.unwrap_or_default();
    let name = if document.is_some() {
        faults.field(field(kind), |faults| faults.field("name", |faults| faults.take(names::layer_of(kind, &name))))
    } else {
        None
    };
    let document = checked(document, name.as_ref(), kind, &mut faults);
    let (target, adds) = self::target(Some(kind), target.as_ref(), &mut faults);
    let beside = self::beside(beside, common.validate_only, &mut faults);
    let sent = document.map(|document| Sent { document, beside });
    let common = Common { etag, ..common };
    call.finish(api, name, Action::Update { target, adds, allow_missing }, sent, common, faults).await
}

/// A policy's revision that is to be rolled out.
pub(super) struct NewRevision<'a> {
    pub document: Option<Document>,
    /// Of a new policy; `None`: its document says the name.
    pub id: Option<&'a str>,
    pub allow_missing: bool,
    pub beside: Option<v1::Beside>,
    pub options: Options,
}

/// What was asked for, checked.
struct RollOut {
    name: LayerName,
    sent: Sent,
    creates: bool,
    allow_missing: bool,
    options: Options,
}

/// Stores a policy and begins its rollout.
pub(super) async fn roll_out(
    api: &Api,
    call: Call,
    asked: NewRevision<'_>,
    common: Common,
    mut faults: Collector,
) -> Result<v1::Policy, Status> {
    const KIND: LayerKind = LayerKind::Policy;
    let NewRevision { document, id, allow_missing, beside, options } = asked;
    let stated = document.as_ref().map_or("", stated_name);
    let name = match id {
        Some(id) => new_name(KIND, stated, id, &mut faults),
        None if document.is_some() => faults
            .field(field(KIND), |faults| faults.field("name", |faults| faults.take(names::layer_of(KIND, stated)))),
        None => None,
    };
    let etag = if id.is_none() { document.as_ref().map_or("", stated_etag).to_owned() } else { String::new() };
    let document = checked(document, name.as_ref(), KIND, &mut faults);
    let beside = self::beside(beside, common.validate_only, &mut faults);
    let creates = id.is_some();
    let input = name.zip(document).map(|(name, document)| RollOut {
        name,
        sent: Sent { document, beside },
        creates,
        allow_missing,
        options,
    });
    let work: Work<RollOut, v1::Policy> = |conn, author, etag, asked| Box::pin(rolled_out(conn, author, etag, asked));
    call.finish_with(api, input, Common { etag, ..common }, faults, work).await
}

async fn rolled_out(
    conn: &mut PgConnection,
    author: &Author,
    etag: &str,
    asked: &RollOut,
) -> crate::store::Result<v1::Policy> {
    let RollOut { name, sent, creates, allow_missing, options } = asked;
    let stored = Stored { name, etag, sent, creates: *creates, allow_missing: *allow_missing };
    let (notes, begun) = of_change(&mut *conn, author, stored, options).await?;
    let rollout = begun.map(|rollout| rollout.name).unwrap_or_default();
    let notes = notes_to_proto(notes).map(|notes| v1::ChangeNotes { rollout, ..notes });
    match layer::document(conn, name, None).await?.noted(notes) {
        Document::Policy(policy) => Ok(policy),
        Document::Experiment(_) => Err(Error::NotFound { name: name.to_string() }),
    }
}

/// What is to be stored in the same go, if this is only checked.
fn beside(beside: Option<v1::Beside>, validate_only: bool, faults: &mut Collector) -> Beside {
    let Some(v1::Beside { zone_map, experiments }) = beside else { return Beside::default() };
    if !validate_only {
        faults.add_at("beside", "is for validate_only; store what is beside this document by calls of its own");
    }
    let found = zone_map.as_ref().and_then(|map| zone_map_from_proto(map, "beside.zone_map").err());
    for fault in found.iter().flat_map(|faults| faults.as_slice()) {
        faults.add_at(&fault.field, fault.description.clone());
    }
    Beside { zones: zone_map.map(|map| map.zones), experiments }
}

pub(super) async fn delete(api: &Api, kind: LayerKind, call: Call, name: &str, common: Common) -> Result<(), Status> {
    let mut faults = Collector::at("");
    let name = faults.field("name", |faults| faults.take(names::layer_of(kind, name)));
    call.finish(api, name, Action::Delete, None, common, faults).await
}

pub(super) async fn get(api: &Api, kind: LayerKind, name: &str) -> Result<Document, Status> {
    let named = names::revisioned(kind, name).map_err(|description| invalid_field("name", description))?;
    let read = api
        .store
        .read("get document", |conn| Box::pin(async move { layer::document(conn, &named.name, named.revision).await }));
    read.await.map_err(of_store)
}

pub(super) async fn list(
    api: &Api,
    kind: LayerKind,
    size: u32,
    token: &str,
) -> Result<(Vec<Document>, String), Status> {
    let mut faults = Collector::at("");
    let sound = |key: &str| key.parse::<LayerName>().is_ok();
    let page = Page::read(size, token, &[kind.collection()], sound, &mut faults);
    let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
    let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit());
    let read =
        api.store.read("list documents", |conn| Box::pin(async move { layer::list(conn, kind, &after, limit).await }));
    Ok(page.finish(read.await.map_err(of_store)?, |document| stated_name(document).to_owned()))
}

pub(super) async fn list_revisions(
    api: &Api,
    kind: LayerKind,
    name: &str,
    size: u32,
    token: &str,
) -> Result<(Vec<Document>, String), Status> {
    let mut faults = Collector::at("");
    let read = faults.field("name", |faults| faults.take(names::layer_of(kind, name)));
    let sound = |key: &str| key.parse::<u32>().is_ok();
    let page = Page::read(size, token, &["revisions", name], sound, &mut faults);
    let (page, named) = faults.finish((page, read)).map_err(|faults| invalid(&faults))?;
    let named = named.ok_or_else(|| Status::internal("a request without a name was taken for sound"))?;
    let (before, limit) = (page.after.as_deref().and_then(|key| key.parse().ok()), page.limit());
    let read = api.store.read("list revisions", |conn| {
        Box::pin(async move { layer::list_revisions(conn, &named, before, limit).await })
    });
    Ok(page.finish(read.await.map_err(of_store)?, |document| document.revision().to_string()))
}

/// Nobody gets it: what is there stays with whom it is.
pub(super) fn nobody() -> v1::Target {
    v1::Target { kind: Some(v1::target::Kind::Nobody(v1::target::Nobody {})) }
}
