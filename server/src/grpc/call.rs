//! What calls that change something have in common: who, why, once, or only to see.

use std::sync::Arc;

use futures::future::BoxFuture;
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_policy::{
    fault::Collector,
    model::{LayerKind, LayerName},
};
use sockpilot_proto::v1;
use sockpilot_settings::actor::{self, Actor};
use tonic::{Extensions, Request, Status, metadata::MetadataMap};

use super::{
    Api,
    convert::{
        backup::{assemble, restored_to_proto},
        change::{notes_to_proto, status_to_proto},
    },
    error::{invalid, of_store},
};
use crate::{
    auth::caller::Caller,
    change::{
        access::{self, AccessChange},
        apply::{Change, Sent, apply},
        author::{Author, CONTROLLERS},
        document::Document,
        json, names,
        notes::Notes,
        plan::Action,
        planned::Made,
        restore::restore,
        target::Target,
    },
    fleet::{fanout::Making, resolve::Step},
    rollout::begin::supersede,
    store::{self, Settled, connection::PgConnection, control, layer, request, status},
};

const ETAG_CHARS_MAX: usize = 64;

/// A call that changes something, before its fields are looked at.
#[derive(Debug)]
pub(super) struct Call {
    method: &'static str,
    metadata: MetadataMap,
    caller: Option<Caller>,
    json: String,
}

/// What makes a change: in a transaction, for an author, with the etag that was sent (empty: none).
pub(super) type Work<T, R> =
    for<'c> fn(&'c mut PgConnection, &'c Author, &'c str, &'c T) -> BoxFuture<'c, store::Result<R>>;

/// The fields that such calls have in common.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub etag: String,
    pub reason: String,
    pub validate_only: bool,
    pub request_id: String,
}

impl Call {
    /// Takes a request apart. `method` is its name, to which `Request` is added for the message's.
    pub fn begin<M: Message>(method: &'static str, request: Request<M>) -> Result<(Self, M), Status> {
        Self::begin_as(method, method, request)
    }

    /// As [`Self::begin`], of a method that shares its message with others: `kind` is the message's name without `Request`.
    pub fn begin_as<M: Message>(
        method: &'static str,
        kind: &'static str,
        request: Request<M>,
    ) -> Result<(Self, M), Status> {
        let (metadata, extensions, message) = request.into_parts();
        let json = to_json(kind, &message)?;
        Ok((Self { method, metadata, caller: extensions.get().cloned(), json }, message))
    }

    /// As [`Self::begin`], of a stream of which this is the first message.
    pub fn of_stream<M: Message>(
        method: &'static str,
        (metadata, extensions): (MetadataMap, &Extensions),
        first: &M,
    ) -> Result<Self, Status> {
        Ok(Self { method, metadata, caller: extensions.get().cloned(), json: to_json(method, first)? })
    }

    /// Makes the change, unless something is wrong with the request.
    pub async fn finish<R: Message + Default>(
        self,
        api: &Api,
        name: Option<LayerName>,
        action: Action,
        sent: Option<Sent>,
        common: Common,
        mut faults: Collector,
    ) -> Result<R, Status> {
        let method = self.method;
        let (header, etag) = self.header(common, &mut faults);
        let name = faults.finish(name).map_err(|faults| invalid(&faults))?;
        let name = name.ok_or_else(|| Status::internal("a request without a name was taken for sound"))?;
        let work = Arc::new((header, Change { name, action, etag, sent }));
        let fanout = api.fanout.clone();
        let done = api.store.change(method, move |conn| {
            let (work, fanout) = (work.clone(), fanout.clone());
            Box::pin(async move {
                let (header, change) = &*work;
                if let Some(response) = header.answered_before(&mut *conn).await? {
                    return Ok(Settled::Discard((response, None)));
                }
                let Made { notes, newest, in_rollout, step } = apply(&mut *conn, &header.author, change).await?;
                if in_rollout && past_rollouts(change) {
                    let why = "somebody decided past the rollout";
                    supersede(&mut *conn, &header.author, &change.name, why).await?;
                }
                let response = response(&mut *conn, change, (notes, newest)).await?;
                Ok(match header.settle(conn, response).await? {
                    Settled::Commit(response) => {
                        let step = step.map(|step| (fanout.making(step.reached.generation), step));
                        Settled::Commit((response, step))
                    }
                    Settled::Discard(response) => Settled::Discard((response, None)),
                })
            })
        });
        let (response, step) = done.await.map_err(of_store)?;
        made(api, step, &response)
    }

    /// Makes another change, unless something is wrong with the request: `work` makes it of what was read, with the etag, and answers.
    pub async fn finish_with<T, R>(
        self,
        api: &Api,
        input: Option<T>,
        common: Common,
        mut faults: Collector,
        work: Work<T, R>,
    ) -> Result<R, Status>
    where
        T: Send + Sync + 'static,
        R: Message + Default + 'static,
    {
        let method = self.method;
        let (header, etag) = self.header(common, &mut faults);
        let input = faults.finish(input).map_err(|faults| invalid(&faults))?;
        let input = input.ok_or_else(|| Status::internal("a request without a name was taken for sound"))?;
        let held = Arc::new((header, etag, input));
        // Some look at much before they decide, and nobody has to wait for that.
        let done = api.store.transact(method, move |conn| {
            let held = held.clone();
            Box::pin(async move {
                let (header, etag, input) = &*held;
                if let Some(response) = header.answered_before(&mut *conn).await? {
                    return Ok(Settled::Discard(response));
                }
                let response = work(&mut *conn, &header.author, etag, input).await?;
                header.settle(conn, response.encode_to_vec()).await
            })
        });
        made(api, None, &done.await.map_err(of_store)?)
    }

    /// Restores a backup, unless something is wrong with it.
    pub async fn finish_restore(
        self,
        api: &Api,
        items: Vec<v1::BackupItem>,
        common: Common,
    ) -> Result<v1::RestoreBackupResponse, Status> {
        let method = self.method;
        let mut faults = Collector::at("");
        let (header, _) = self.header(common, &mut faults);
        faults.finish(()).map_err(|faults| invalid(&faults))?;
        let backup = assemble(items).map_err(|faults| invalid(&faults))?;
        let work = Arc::new((header, backup));
        let done = api.store.transact(method, move |conn| {
            let work = work.clone();
            Box::pin(async move {
                let (header, backup) = &*work;
                let restored = restore(conn, &header.author, backup).await?;
                Ok(if header.validate_only { Settled::Discard(restored) } else { Settled::Commit(restored) })
            })
        });
        let restored = done.await.map_err(of_store)?;
        api.fanout.stale.notify_one();
        Ok(v1::RestoreBackupResponse { restored: restored.into_iter().map(restored_to_proto).collect() })
    }

    /// Changes who may do what, unless something is wrong with the request, and reads what comes of it. Such a request has no id: its
    /// answer may have a secret in it, that is kept nowhere.
    pub async fn finish_access<T, F>(
        self,
        api: &Api,
        change: Option<AccessChange>,
        reason: String,
        mut faults: Collector,
        read: F,
    ) -> Result<T, Status>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, store::Result<T>> + Send + Sync + 'static,
    {
        let method = self.method;
        let (header, _) = self.header(Common { reason, ..Common::default() }, &mut faults);
        let change = faults.finish(change).map_err(|faults| invalid(&faults))?;
        let change = change.ok_or_else(|| Status::internal("a request with faults was taken for sound"))?;
        let work = Arc::new((header, change, read));
        let done = api.store.transact(method, move |conn| {
            let work = work.clone();
            Box::pin(async move {
                let (header, change, read) = &*work;
                access::change(&mut *conn, &header.author, change).await?;
                Ok(Settled::Commit(read(conn).await?))
            })
        });
        let done = done.await.map_err(of_store)?;
        // At once here; the other replicas see it within a second.
        if let Err(error) = api.access.look().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "access not read anew yet");
        }
        api.fanout.stale.notify_one();
        Ok(done)
    }

    /// Also the etag, which not every change looks at.
    fn header(self, common: Common, faults: &mut Collector) -> (Header, String) {
        let Self { method, metadata, caller, json } = self;
        let Common { etag, reason, validate_only, request_id } = common;
        let bound = caller.as_ref().and_then(Caller::bound).cloned().unwrap_or_default();
        // Whoever is known is who they are, whatever they call themselves.
        let actor = match caller.as_ref().and_then(Caller::key) {
            Some(known) => known,
            None => actor(&metadata, faults),
        };
        names::text("reason", &reason, faults);
        if etag.len() > ETAG_CHARS_MAX {
            faults.add_at("etag", "is none that this server gave; read again and send what it says");
        }
        let request_id = names::request_id(&request_id, faults);
        let hash = Sha256::new().chain_update(method).chain_update(&json).finalize().into();
        let request = request_id.map(|id| request::Request { id, method, hash });
        let (proof, role) = (caller.as_ref().and_then(Caller::proof), caller.as_ref().and_then(Caller::role));
        let author = Author::Person { actor, proof, role, reason, request_id, request_json: json, bound };
        (Header { author, request, validate_only }, etag)
    }
}

/// What every change by a request has: who asks for it, and how.
#[derive(Debug)]
struct Header {
    author: Author,
    /// So that it may be sent again.
    request: Option<request::Request>,
    /// Only say what the answer would be.
    validate_only: bool,
}

impl Header {
    /// The answer if the same request was answered before. No other change goes on beside this one from then on.
    async fn answered_before(&self, conn: &mut PgConnection) -> store::Result<Option<Vec<u8>>> {
        let Some(request) = &self.request else { return Ok(None) };
        control::lock(&mut *conn).await?;
        request::answer(conn, request).await
    }

    /// Ends a change with its answer.
    async fn settle(&self, conn: &mut PgConnection, response: Vec<u8>) -> store::Result<Settled<Vec<u8>>> {
        if self.validate_only {
            return Ok(Settled::Discard(response));
        }
        if let Some(request) = &self.request {
            request::remember(conn, request, &response).await?;
        }
        Ok(Settled::Commit(response))
    }
}

/// Whether a change decides who runs a policy, whatever a rollout of it is doing.
fn past_rollouts(change: &Change) -> bool {
    let stores = matches!(
        change.action,
        Action::Create { target: Target::Nobody } | Action::Update { target: Target::Nobody, .. }
    );
    change.name.kind == LayerKind::Policy && !stores
}

/// The encoded answer to a change that is made.
async fn response(
    conn: &mut PgConnection,
    change: &Change,
    (notes, newest): (Notes, Option<Document>),
) -> store::Result<Vec<u8>> {
    Ok(match change.action {
        Action::Create { .. } | Action::Update { .. } => {
            let newest = match newest {
                Some(newest) => newest,
                None => layer::document(conn, &change.name, None).await?,
            };
            newest.noted(notes_to_proto(notes)).encode()
        }
        Action::Assign { .. } | Action::Promote { .. } | Action::Rollback { .. } => {
            status_to_proto(status::status(conn, &change.name).await?, notes).encode_to_vec()
        }
        Action::Delete | Action::Stage { .. } | Action::Withdraw { .. } => vec![],
    })
}

/// A change was made: nodes get it, and the caller gets the answer.
fn made<R: Message + Default>(api: &Api, step: Option<(Making, Step)>, response: &[u8]) -> Result<R, Status> {
    if !step.is_some_and(|(_making, step)| api.fanout.advance(&step)) {
        api.fanout.stale.notify_one();
    }
    R::decode(response).map_err(|error| {
        tracing::error!(%error, "stored response unreadable");
        Status::internal("the stored response cannot be read")
    })
}

pub(super) fn to_json<M: Message>(method: &str, message: &M) -> Result<String, Status> {
    let value = json::of_message(&format!("{method}Request"), message).map_err(|error| {
        tracing::error!(method, error, "request not written as JSON");
        Status::internal("the request could not be written as JSON")
    })?;
    Ok(value.to_string())
}

fn actor(metadata: &MetadataMap, faults: &mut Collector) -> String {
    let (key, text) = match (metadata.get_bin(actor::BINARY_KEY), metadata.get(actor::KEY)) {
        (Some(value), _) => {
            (actor::BINARY_KEY, value.to_bytes().ok().and_then(|bytes| String::from_utf8(bytes.into()).ok()))
        }
        (None, Some(value)) => (actor::KEY, String::from_utf8(value.as_encoded_bytes().into()).ok()),
        (None, None) => return "unknown".to_owned(),
    };
    let read = text.ok_or_else(|| "is no UTF-8".to_owned()).and_then(|text| text.parse::<Actor>());
    match read {
        Ok(actor) if actor.as_str().starts_with(CONTROLLERS) => {
            faults.add_at(
                key,
                format!("begins with {CONTROLLERS}, as names of the server's own tasks do; write who asks"),
            );
            String::new()
        }
        Ok(actor) => actor.to_string(),
        Err(fault) => {
            faults.add_at(key, fault);
            String::new()
        }
    }
}
