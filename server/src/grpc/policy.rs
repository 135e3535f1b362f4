//! `PolicyService`.

use sockpilot_policy::{fault::Collector, model::LayerKind};
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common},
    convert::rollout::options_from_proto,
    documents,
};
use crate::change::document::Document;

const KIND: LayerKind = LayerKind::Policy;

fn policy(document: Document) -> Result<v1::Policy, Status> {
    match document {
        Document::Policy(policy) => Ok(policy),
        _ => Err(Status::internal("something else is stored under the name of a policy")),
    }
}

fn policies(
    (documents, next_page_token): (Vec<Document>, String),
) -> Result<Response<v1::ListPoliciesResponse>, Status> {
    let policies = documents.into_iter().map(policy).collect::<Result<_, _>>()?;
    Ok(Response::new(v1::ListPoliciesResponse { policies, next_page_token }))
}

/// By a rollout, or past it to a target.
fn way(target: Option<&v1::Target>, rollout: Option<&v1::RolloutOptions>, reason: &str) -> Collector {
    let mut faults = Collector::at("");
    let to_nobody = matches!(target, Some(v1::Target { kind: Some(v1::target::Kind::Nobody(_)) }));
    if target.is_some() && !to_nobody && reason.is_empty() {
        faults.add_at("reason", "is missing; a target goes past all rollouts, so say why, or leave the target out");
    }
    if target.is_some() && rollout.is_some() {
        faults.add_at("rollout", "is how a rollout goes, and a target goes past it; leave one of them out");
    }
    faults
}

#[tonic::async_trait]
impl v1::policy_service_server::PolicyService for Api {
    async fn create_policy(&self, request: Request<v1::CreatePolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        let (call, message) = Call::begin("CreatePolicy", request)?;
        let v1::CreatePolicyRequest { policy, policy_id, target, reason, validate_only, request_id, rollout } = message;
        let document = policy.map(Document::Policy);
        let mut faults = way(target.as_ref(), rollout.as_ref(), &reason);
        let options = faults.field("rollout", |faults| options_from_proto(rollout.as_ref(), &reason, faults));
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        if target.is_some() {
            return documents::create(self, KIND, call, (document, &policy_id, target.as_ref()), common, faults)
                .await
                .map(Response::new);
        }
        let asked =
            documents::NewRevision { document, id: Some(&policy_id), allow_missing: true, beside: None, options };
        documents::roll_out(self, call, asked, common, faults).await.map(Response::new)
    }

    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        let v1::GetPolicyRequest { name } = request.into_inner();
        documents::get(self, KIND, &name).await.and_then(policy).map(Response::new)
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let v1::ListPoliciesRequest { page_size, page_token } = request.into_inner();
        documents::list(self, KIND, page_size, &page_token).await.and_then(policies)
    }

    async fn list_policy_revisions(
        &self,
        request: Request<v1::ListPolicyRevisionsRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let v1::ListPolicyRevisionsRequest { name, page_size, page_token } = request.into_inner();
        documents::list_revisions(self, KIND, &name, page_size, &page_token).await.and_then(policies)
    }

    async fn update_policy(&self, request: Request<v1::UpdatePolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        let (call, message) = Call::begin("UpdatePolicy", request)?;
        let v1::UpdatePolicyRequest {
            policy,
            allow_missing,
            target,
            reason,
            validate_only,
            request_id,
            beside,
            rollout,
        } = message;
        let document = policy.map(Document::Policy);
        let mut faults = way(target.as_ref(), rollout.as_ref(), &reason);
        let options = faults.field("rollout", |faults| options_from_proto(rollout.as_ref(), &reason, faults));
        // The etag is in the document.
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        if target.is_some() {
            let asked = documents::Asked { document, allow_missing, target, beside };
            return documents::update(self, KIND, call, asked, common, faults).await.map(Response::new);
        }
        let asked = documents::NewRevision { document, id: None, allow_missing, beside, options };
        documents::roll_out(self, call, asked, common, faults).await.map(Response::new)
    }

    async fn delete_policy(&self, request: Request<v1::DeletePolicyRequest>) -> Result<Response<()>, Status> {
        let (call, message) = Call::begin("DeletePolicy", request)?;
        let v1::DeletePolicyRequest { name, etag, reason, validate_only, request_id } = message;
        let common = Common { etag, reason, validate_only, request_id };
        documents::delete(self, KIND, call, &name, common).await.map(Response::new)
    }
}
