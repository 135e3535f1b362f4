//! `AssignmentService`.

use sockpilot_policy::{
    fault::Collector,
    model::{LayerKind, LayerName},
    validate::node_id,
};
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common},
    convert::change::{member_to_proto, warning_to_proto},
    documents,
    error::{invalid, invalid_field, of_store},
};
use crate::{
    change::{
        notes::Warning,
        plan::Action,
        target::Target,
        wave::{Canary, WAVES_MAX},
    },
    grpc::paging::Page,
    store::{self, assignment, connection::PgConnection, layer, member},
};

/// Reads the name of a policy or an experiment.
pub(super) fn layer_name(name: &str, faults: &mut Collector) -> Option<LayerName> {
    faults.field("name", |faults| faults.take(name.parse()))
}

/// Whoever forces something says why.
pub(super) fn forced(force: bool, reason: &str, faults: &mut Collector) {
    if force && reason.trim().is_empty() {
        faults.add_at("reason", "is missing; say why it is forced");
    }
}

/// Where a member stands in the list, as a page token has it.
fn key_of(member: &member::Member) -> String {
    format!("{}/{}", member.wave, member.node_id)
}

/// Reads what [`key_of`] wrote: wave and node id.
fn place(text: &str) -> Option<(u32, String)> {
    let (wave, id) = text.split_once('/')?;
    let wave = wave.parse().ok().filter(|wave| (1..=WAVES_MAX as u32).contains(wave))?;
    Some((wave, node_id(id).ok()?))
}

/// The members of a canary after a place in the list, and why there can be none.
async fn members(
    conn: &mut PgConnection,
    name: &LayerName,
    wave: u32,
    after: (u32, String),
    limit: i64,
) -> store::Result<(Vec<member::Member>, Option<Warning>)> {
    if layer::object(&mut *conn, name).await?.is_none_or(|object| object.deleted) {
        return Err(store::Error::NotFound { name: name.to_string() });
    }
    let held = assignment::in_force(&mut *conn, name).await?;
    let canary =
        held.iter().find_map(|held| if let Target::Canary(canary) = &held.target { Some(canary) } else { None });
    let Some(Canary { waves, .. }) = canary else {
        return Ok((vec![], Some(Warning::new("name", format!("{name} has no canary, so no node is in a wave")))));
    };
    if wave as usize > waves.len() {
        let waves = if waves.len() == 1 { "1 wave".to_owned() } else { format!("{} waves", waves.len()) };
        return Ok((vec![], Some(Warning::new("wave", format!("the canary has {waves}, and no wave {wave}")))));
    }
    Ok((member::list(conn, name, wave, after, limit).await?, None))
}

/// What decides who runs a policy goes past all rollouts, and must say why.
fn explained(kind: Option<LayerKind>, reason: &str, faults: &mut Collector) {
    if kind == Some(LayerKind::Policy) && reason.is_empty() {
        faults.add_at("reason", "is missing; this goes past all rollouts, so say why, or begin a rollout (CreateRollout)");
    }
}

#[tonic::async_trait]
impl v1::assignment_service_server::AssignmentService for Api {
    async fn assign_revision(
        &self,
        request: Request<v1::AssignRevisionRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        let (call, message) = Call::begin("AssignRevision", request)?;
        let v1::AssignRevisionRequest {
            name,
            revision,
            target,
            etag,
            reason,
            validate_only,
            request_id,
            force,
            replace_waves,
        } = message;
        let mut faults = Collector::at("");
        let name = layer_name(&name, &mut faults);
        if revision == 0 {
            faults.add_at("revision", "is missing; revisions begin with 1");
        }
        // No default here: forgetting it must not give a revision to the whole fleet.
        if target.is_none() {
            faults.add_at("target", "is missing; write everyone, share_bp, node_labels or waves");
        }
        let kind = name.as_ref().map(|name| name.kind);
        let (target, by_waves) = documents::target(kind, target.as_ref(), &mut faults);
        if kind == Some(LayerKind::Policy) && target == Target::Nobody {
            faults.add_at("target.nobody", "cannot be assigned; to take a revision of a policy away, roll back");
        }
        if replace_waves && !by_waves {
            faults.add_at("replace_waves", "is for target.waves; any other target replaces what is there anyway");
        }
        explained(kind, &reason, &mut faults);
        forced(force, &reason, &mut faults);
        let adds = by_waves && !replace_waves;
        let common = Common { etag, reason, validate_only, request_id };
        call.finish(self, name, Action::Assign { revision, target, adds, force }, None, common, faults)
            .await
            .map(Response::new)
    }

    async fn promote_revision(
        &self,
        request: Request<v1::PromoteRevisionRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        let (call, message) = Call::begin("PromoteRevision", request)?;
        let v1::PromoteRevisionRequest { name, etag, reason, validate_only, request_id, force } = message;
        let mut faults = Collector::at("");
        let name = layer_name(&name, &mut faults);
        if name.as_ref().is_some_and(|name| name.kind == LayerKind::Experiment) {
            faults
                .add_at("name", "is an experiment, which has no canary to promote; assign an epoch of it to everyone");
        }
        explained(name.as_ref().map(|name| name.kind), &reason, &mut faults);
        forced(force, &reason, &mut faults);
        let common = Common { etag, reason, validate_only, request_id };
        call.finish(self, name, Action::Promote { force }, None, common, faults).await.map(Response::new)
    }

    async fn rollback_revision(
        &self,
        request: Request<v1::RollbackRevisionRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        let (call, message) = Call::begin("RollbackRevision", request)?;
        let v1::RollbackRevisionRequest { name, revision, etag, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let name = layer_name(&name, &mut faults);
        let revision = (revision > 0).then_some(revision);
        let common = Common { etag, reason, validate_only, request_id };
        call.finish(self, name, Action::Rollback { revision }, None, common, faults).await.map(Response::new)
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let v1::ListMembersRequest { name, wave, page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        let read = layer_name(&name, &mut faults);
        if wave as usize > WAVES_MAX {
            faults.add_at("wave", format!("is {wave}; write 1 to {WAVES_MAX}, or 0 for all"));
        }
        let query = ["members", &name, &wave.to_string()];
        let page = Page::read(page_size, &page_token, &query, |key| place(key).is_some(), &mut faults);
        let (page, read) = faults.finish((page, read)).map_err(|faults| invalid(&faults))?;
        let name = read.ok_or_else(|| invalid_field("name", "is missing"))?;
        let after = page.after.as_deref().and_then(place).unwrap_or_default();
        let limit = page.limit();
        let listed = self
            .store
            .read("list members", |conn| Box::pin(async move { members(conn, &name, wave, after, limit).await }));
        let (members, warning) = listed.await.map_err(of_store)?;
        let (members, next_page_token) = page.finish(members, key_of);
        let members = members.into_iter().map(member_to_proto).collect();
        let warnings = warning.into_iter().map(warning_to_proto).collect();
        Ok(Response::new(v1::ListMembersResponse { members, next_page_token, warnings }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::node::LayerState;

    #[test]
    fn a_place_in_the_list_is_read_back() {
        let member = member::Member { node_id: "web-1".to_owned(), wave: 3, revision: 1, state: LayerState::InForce };
        assert_eq!(place(&key_of(&member)), Some((3, "web-1".to_owned())));
        for bad in ["", "3", "0/web", "65/web", "x/web", "3/", "3/W", "3/a/b"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
