//! `RolloutService`.

use sockpilot_policy::{
    fault::Collector,
    model::{LayerKind, LayerName},
};
use sockpilot_proto::v1;
use sockpilot_rollout::{advance::waits_for, machine::State, verb::Verb};
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common, Work},
    convert::{
        change::warnings_to_proto,
        rollout::{options_from_proto, rollout_name, rollout_to_proto, verb_from_proto},
    },
    error::{invalid, invalid_field, of_store},
    paging::Page,
};
use crate::{
    change::{author::Author, names},
    clock::timestamp,
    rollout::{
        begin::{Options, begin, refusal},
        observe::{OnOthers, observe, open_on_others, waves},
        preview::preview,
        record::{COLLECTION, Rollout},
        verbs::{self, Request as Asked},
        warnings::warnings,
    },
    store::{Error, Result as Stored, connection::PgConnection, layer, rollout, same_etag},
};

/// A rollout as it is now.
async fn shown(conn: &mut PgConnection, rollout: Rollout) -> Stored<v1::Rollout> {
    let waves = if rollout.machine.state.is_active() { waves(conn, &rollout).await? } else { vec![] };
    Ok(rollout_to_proto(&rollout, waves))
}

/// The same with what is to be known of it.
async fn with_warnings(conn: &mut PgConnection, rollout: Rollout) -> Stored<v1::Rollout> {
    let warnings = warnings_to_proto(warnings(&mut *conn, &rollout).await?);
    Ok(v1::Rollout { warnings, ..shown(conn, rollout).await? })
}

/// All that is known of one now.
async fn now(conn: &mut PgConnection, rollout: Rollout) -> Stored<v1::Rollout> {
    let state = rollout.machine.state;
    let open = match state {
        State::Running | State::Paused | State::Completed => open_on_others(&mut *conn, &rollout).await?,
        _ => OnOthers::default(),
    };
    let OnOthers { connections: open_on_earlier_revisions, looked_at, unknown_nodes: open_unknown_nodes } = open;
    let open_looked_time = looked_at.map(timestamp);
    let with_open = |shown| v1::Rollout { open_on_earlier_revisions, open_looked_time, open_unknown_nodes, ..shown };
    if !state.is_active() {
        return Ok(with_open(rollout_to_proto(&rollout, vec![])));
    }
    let observed = observe(&mut *conn, &rollout).await?;
    let waits = waits_for(&rollout.plan.plan, &rollout.machine, &observed.seen);
    let says_so_already = state == State::Paused || waits.is_empty();
    let reason = if says_so_already { rollout.reason.clone() } else { waits };
    let gates = if observed.gates.is_empty() { rollout.gates.clone() } else { observed.gates };
    let rollout = Rollout { reason, gates, ..rollout };
    let warnings = warnings_to_proto(warnings(conn, &rollout).await?);
    Ok(v1::Rollout { warnings, ..with_open(rollout_to_proto(&rollout, observed.waves)) })
}

/// A policy, a revision, and how it is rolled out.
type New = (LayerName, u64, String, Options, bool);

async fn create(conn: &mut PgConnection, author: &Author, new: &New) -> Stored<v1::Rollout> {
    let (policy, revision, etag, options, only_checked) = new;
    let object = layer::object(&mut *conn, policy).await?.filter(|object| !object.deleted);
    let object = object.ok_or_else(|| Error::NotFound { name: policy.to_string() })?;
    same_etag(&policy.to_string(), etag, &object.etag())?;
    let revision = if *revision == 0 { object.latest_revision.cast_unsigned() } else { *revision };
    // Before it begins: what it would change is what it has changed then.
    let preview = if *only_checked { Some(preview(&mut *conn, policy, revision, options).await?) } else { None };
    let begun = begin(&mut *conn, author, policy, revision, options).await?;
    let begun = begun.ok_or_else(|| {
        let why = format!("everyone has revision {revision} already; there is nothing to roll out");
        refusal(&policy.to_string(), why)
    })?;
    Ok(v1::Rollout { preview, ..with_warnings(conn, begun).await? })
}

impl Api {
    async fn verb(
        &self,
        method: &'static str,
        verb: impl FnOnce(&v1::RolloutVerbRequest, &mut Collector) -> Verb,
        request: Request<v1::RolloutVerbRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        let (call, message) = Call::begin_as(method, "RolloutVerb", request)?;
        let mut faults = Collector::at("");
        let asked = verb(&message, &mut faults);
        let v1::RolloutVerbRequest { name, etag, reason, validate_only, request_id, force, wave: _, break_glass } =
            message;
        for (field, set) in [("force", force), ("break_glass", break_glass)] {
            if set && reason.is_empty() {
                faults.add_at(field, "needs a reason");
            }
        }
        let name = faults.field("name", |faults| faults.take(rollout_name(&name)));
        let asked = name.map(|name| Asked { name, etag: String::new(), verb: asked, break_glass });
        let common = Common { etag, reason, validate_only, request_id };
        let work: Work<Asked, v1::Rollout> = |conn, author, etag, asked| {
            Box::pin(async move {
                let asked = Asked { etag: etag.to_owned(), ..asked.clone() };
                let after = verbs::apply(&mut *conn, author, &asked).await?;
                with_warnings(conn, after).await
            })
        };
        call.finish_with(self, asked, common, faults, work).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl v1::rollout_service_server::RolloutService for Api {
    async fn create_rollout(
        &self,
        request: Request<v1::CreateRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        let (call, message) = Call::begin("CreateRollout", request)?;
        let v1::CreateRolloutRequest {
            policy,
            revision,
            plan,
            draft,
            confirm_within,
            break_glass,
            etag,
            reason,
            validate_only,
            request_id,
        } = message;
        let mut faults = Collector::at("");
        let policy = faults.field("policy", |faults| faults.take(names::layer_of(LayerKind::Policy, &policy)));
        let options = v1::RolloutOptions { plan, draft, confirm_within, break_glass };
        let options = options_from_proto(Some(&options), &reason, &mut faults);
        let new = policy.map(|policy| (policy, revision, etag, options, validate_only));
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let work: Work<New, v1::Rollout> = |conn, author, _, new| Box::pin(create(conn, author, new));
        call.finish_with(self, new, common, faults, work).await.map(Response::new)
    }

    async fn get_rollout(&self, request: Request<v1::GetRolloutRequest>) -> Result<Response<v1::Rollout>, Status> {
        let v1::GetRolloutRequest { name } = request.into_inner();
        let name = rollout_name(&name).map_err(|why| invalid_field("name", why))?;
        let read = self.store.read("get rollout", |conn| {
            Box::pin(async move {
                let rollout = rollout::get(&mut *conn, &name).await?;
                now(conn, rollout).await
            })
        });
        read.await.map(Response::new).map_err(of_store)
    }

    async fn list_rollouts(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        let v1::ListRolloutsRequest { policy, active, page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        if !policy.is_empty() {
            faults.field("policy", |faults| faults.take(names::layer_of(LayerKind::Policy, &policy)));
        }
        let query = [COLLECTION, &policy, if active { "active" } else { "" }];
        let page = Page::read(page_size, &page_token, &query, |key| rollout_name(key).is_ok(), &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (filter, limit) = (rollout::Filter { policy, active, before: page.after.clone() }, page.limit());
        let read =
            self.store.read("list rollouts", |conn| Box::pin(async move { rollout::list(conn, &filter, limit).await }));
        let (rollouts, next_page_token) = page.finish(read.await.map_err(of_store)?, |rollout| rollout.name.clone());
        let rollouts = rollouts.iter().map(|rollout| rollout_to_proto(rollout, vec![])).collect();
        Ok(Response::new(v1::ListRolloutsResponse { rollouts, next_page_token }))
    }

    async fn list_rollout_transitions(
        &self,
        request: Request<v1::ListRolloutTransitionsRequest>,
    ) -> Result<Response<v1::ListRolloutTransitionsResponse>, Status> {
        let v1::ListRolloutTransitionsRequest { parent, page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        let name = faults.field("parent", |faults| faults.take(rollout_name(&parent)));
        let sound = |key: &str| key.parse::<i64>().is_ok();
        let page = Page::read(page_size, &page_token, &["transitions", &parent], sound, &mut faults);
        let (page, name) = faults.finish((page, name)).map_err(|faults| invalid(&faults))?;
        let name = name.ok_or_else(|| invalid_field("parent", "is missing"))?;
        let (before, limit) = (page.after.as_deref().and_then(|key| key.parse().ok()), page.limit());
        let read = self.store.read("list transitions", |conn| {
            Box::pin(async move {
                rollout::get(&mut *conn, &name).await?;
                rollout::transitions(conn, &name, before, limit).await
            })
        });
        let (rows, next_page_token) = page.finish(read.await.map_err(of_store)?, |(number, _)| number.to_string());
        let transitions = rows.into_iter().map(|(_, transition)| transition).collect();
        Ok(Response::new(v1::ListRolloutTransitionsResponse { transitions, next_page_token }))
    }

    async fn approve_rollout(
        &self,
        request: Request<v1::ApproveRolloutRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        let (call, message) = Call::begin("ApproveRollout", request)?;
        let v1::ApproveRolloutRequest { name, digest, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let name = faults.field("name", |faults| faults.take(rollout_name(&name)));
        if digest.is_empty() {
            faults.add_at("digest", "is missing; read the rollout and send what it says");
        }
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let work: Work<(String, Vec<u8>), v1::Rollout> = |conn, author, _, (name, digest)| {
            Box::pin(async move {
                let approved = verbs::approve(&mut *conn, author, name, digest).await?;
                shown(conn, approved).await
            })
        };
        let asked = name.map(|name| (name, digest.to_vec()));
        call.finish_with(self, asked, common, faults, work).await.map(Response::new)
    }

    async fn start_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.verb("StartRollout", |_, _| Verb::Start, request).await
    }

    async fn pause_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.verb("PauseRollout", |_, _| Verb::Pause, request).await
    }

    async fn resume_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.verb("ResumeRollout", |_, _| Verb::Resume, request).await
    }

    async fn promote_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.verb("PromoteRollout", |message, _| Verb::Promote { force: message.force }, request).await
    }

    async fn jump_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Result<Response<v1::Rollout>, Status> {
        let verb = |message: &v1::RolloutVerbRequest, faults: &mut Collector| {
            if message.wave == 0 {
                faults.add_at("wave", "is missing; write the wave, from 1");
            }
            Verb::Jump { wave: message.wave as usize, force: message.force }
        };
        self.verb("JumpRollout", verb, request).await
    }

    async fn confirm_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Result<Response<v1::Rollout>, Status> {
        self.verb("ConfirmRollout", |_, _| Verb::Confirm, request).await
    }

    async fn roll_back_rollout(
        &self,
        request: Request<v1::RolloutVerbRequest>,
    ) -> Result<Response<v1::Rollout>, Status> {
        self.verb("RollBackRollout", |_, _| Verb::RollBack, request).await
    }

    async fn batch_rollout_verb(
        &self,
        request: Request<v1::BatchRolloutVerbRequest>,
    ) -> Result<Response<v1::BatchRolloutVerbResponse>, Status> {
        let (call, message) = Call::begin("BatchRolloutVerb", request)?;
        let v1::BatchRolloutVerbRequest { verb, policies, states, force, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let verb = verb_from_proto(verb, force, &mut faults);
        if force && reason.is_empty() {
            faults.add_at("force", "needs a reason");
        }
        faults.each("policies", &policies, |faults, policy| faults.take(names::layer_of(LayerKind::Policy, policy)));
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let work: Work<(Verb, Vec<String>, Vec<i32>), v1::BatchRolloutVerbResponse> =
            |conn, author, _, asked| Box::pin(batch(conn, author, asked));
        let asked = verb.map(|verb| (verb, policies, states));
        call.finish_with(self, asked, common, faults, work).await.map(Response::new)
    }
}

/// Each for itself: what one refuses, it refuses before it has changed anything.
async fn batch(
    conn: &mut PgConnection,
    author: &Author,
    (verb, policies, states): &(Verb, Vec<String>, Vec<i32>),
) -> Stored<v1::BatchRolloutVerbResponse> {
    let mut results = vec![];
    for rollout in rollout::active(&mut *conn).await? {
        let of_policy = policies.is_empty() || policies.contains(&rollout.policy.to_string());
        let in_state = states.is_empty() || states.contains(&(rollout.machine.state.to_proto() as i32));
        if !of_policy || !in_state {
            continue;
        }
        let asked = Asked { name: rollout.name.clone(), etag: String::new(), verb: *verb, break_glass: false };
        let (name, refusal) = (rollout.name.clone(), String::new());
        results.push(match verbs::apply(&mut *conn, author, &asked).await {
            Ok(after) => v1::BatchRolloutResult { name, refusal, rollout: Some(shown(&mut *conn, after).await?) },
            Err(error @ (Error::Forbidden { .. } | Error::Refused { .. })) => {
                v1::BatchRolloutResult { name, refusal: error.to_string(), rollout: None }
            }
            Err(error) => return Err(error),
        });
    }
    Ok(v1::BatchRolloutVerbResponse { results })
}
