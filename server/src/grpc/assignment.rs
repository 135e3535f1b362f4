//! `AssignmentService`.

use sockpilot_policy::{
    fault::Collector,
    model::{LayerKind, LayerName},
};
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common},
};
use crate::{change::Action, target::Target};

/// Reads the name of a policy or an experiment.
pub(super) fn layer_name(name: &str, faults: &mut Collector) -> Option<LayerName> {
    faults.field("name", |faults| faults.take(name.parse()))
}

/// Whoever forces something says why.
fn forced(force: bool, reason: &str, faults: &mut Collector) {
    if force && reason.trim().is_empty() {
        faults.add_at("reason", "is missing; say why it is forced");
    }
}

#[tonic::async_trait]
impl v1::assignment_service_server::AssignmentService for Api {
    async fn assign_revision(
        &self,
        request: Request<v1::AssignRevisionRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        let (call, message) = Call::begin("AssignRevision", request)?;
        let v1::AssignRevisionRequest { name, revision, target, etag, reason, validate_only, request_id, force } =
            message;
        let mut faults = Collector::at("");
        let name = layer_name(&name, &mut faults);
        if revision == 0 {
            faults.add_at("revision", "is missing; revisions begin with 1");
        }
        let target = faults.field("target", |faults| {
            // No default here: forgetting it must not give a revision to the whole fleet.
            if target.is_none() {
                faults.add("is missing; write everyone, share_bp or node_labels");
            }
            let target = Target::from_proto(target.as_ref(), faults);
            match name.as_ref().map(|name| name.kind) {
                Some(LayerKind::Experiment) => target.of_experiment(faults),
                Some(LayerKind::Policy) if target == Target::Nobody => {
                    faults.add_at("nobody", "cannot be assigned; to take a revision of a policy away, roll back");
                }
                Some(LayerKind::Policy) | None => {}
            }
            target
        });
        forced(force, &reason, &mut faults);
        let common = Common { etag, reason, validate_only, request_id };
        call.finish(self, name, Action::Assign { revision, target, force }, None, common, faults)
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
}
