//! A server in memory, which can be told to fail.

pub mod experiments;
pub mod rollouts;

use experiments::Asked;
use rollouts::Rollouts;
use sockpilot_proto::v1;
use sockpilot_proto::v1::assignment_service_server::{AssignmentService, AssignmentServiceServer};
use sockpilot_proto::v1::experiment_service_server::ExperimentServiceServer;
use sockpilot_proto::v1::fleet_service_server::{FleetService, FleetServiceServer};
use sockpilot_proto::v1::kill_switch_service_server::KillSwitchServiceServer;
use sockpilot_proto::v1::policy_service_server::{PolicyService, PolicyServiceServer};
use sockpilot_proto::v1::rollout_plan_service_server::RolloutPlanServiceServer;
use sockpilot_proto::v1::rollout_service_server::RolloutServiceServer;
use sockpilot_proto::v1::zone_service_server::ZoneServiceServer;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// How changes are met.
pub enum Reaction {
    /// As a sound server does.
    Sound,
    /// With this.
    Refuse(Status),
    /// UNAVAILABLE so many times before, and so many times after the change was stored.
    Unavailable { before: u32, after: u32 },
}

struct State {
    reaction: Reaction,
    calls: usize,
    actors: Vec<String>,
    updates: Vec<v1::UpdatePolicyRequest>,
    rollbacks: Vec<v1::RollbackRevisionRequest>,
    explained: Vec<v1::ExplainFlowRequest>,
    explanation: v1::ExplainFlowResponse,
    simulated: Vec<v1::SimulateChangeRequest>,
    simulation: v1::SimulateChangeResponse,
    asked: Vec<Asked>,
    results: v1::ExperimentResults,
    policies: BTreeMap<String, v1::Policy>,
    answers: BTreeMap<String, v1::Policy>,
    /// Every revision, by `name@revision`.
    revisions: BTreeMap<String, v1::Policy>,
    /// What everyone has, by policy.
    for_everyone: BTreeMap<String, u64>,
    rollouts: Rollouts,
    audit: Vec<v1::AuditEntry>,
}

#[derive(Clone)]
pub struct Fake {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            reaction: Reaction::Sound,
            calls: 0,
            actors: Vec::new(),
            updates: Vec::new(),
            rollbacks: Vec::new(),
            explained: Vec::new(),
            explanation: v1::ExplainFlowResponse::default(),
            simulated: Vec::new(),
            simulation: v1::SimulateChangeResponse::default(),
            asked: Vec::new(),
            results: v1::ExperimentResults::default(),
            policies: BTreeMap::new(),
            answers: BTreeMap::new(),
            revisions: BTreeMap::new(),
            for_everyone: BTreeMap::new(),
            rollouts: Rollouts::default(),
            audit: Vec::new(),
        };
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self { url, state: Arc::new(Mutex::new(state)) };
        let serve = tonic::transport::Server::builder()
            .add_service(PolicyServiceServer::new(fake.clone()))
            .add_service(AssignmentServiceServer::new(fake.clone()))
            .add_service(ExperimentServiceServer::new(fake.clone()))
            .add_service(FleetServiceServer::new(fake.clone()))
            .add_service(RolloutPlanServiceServer::new(fake.clone()))
            .add_service(RolloutServiceServer::new(fake.clone()))
            .add_service(KillSwitchServiceServer::new(fake.clone()))
            .add_service(ZoneServiceServer::new(fake.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serve);
        fake
    }

    pub fn react(&self, reaction: Reaction) {
        self.state.lock().unwrap().reaction = reaction;
    }

    pub fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    pub fn actors(&self) -> Vec<String> {
        self.state.lock().unwrap().actors.clone()
    }

    pub fn updates(&self) -> Vec<v1::UpdatePolicyRequest> {
        self.state.lock().unwrap().updates.clone()
    }

    pub fn rollbacks(&self) -> Vec<v1::RollbackRevisionRequest> {
        self.state.lock().unwrap().rollbacks.clone()
    }

    pub fn log(&self, audit: Vec<v1::AuditEntry>) {
        self.state.lock().unwrap().audit = audit;
    }

    pub fn explain(&self, explanation: v1::ExplainFlowResponse) {
        self.state.lock().unwrap().explanation = explanation;
    }

    pub fn explained(&self) -> Vec<v1::ExplainFlowRequest> {
        self.state.lock().unwrap().explained.clone()
    }

    pub fn simulate(&self, simulation: v1::SimulateChangeResponse) {
        self.state.lock().unwrap().simulation = simulation;
    }

    pub fn simulated(&self) -> Vec<v1::SimulateChangeRequest> {
        self.state.lock().unwrap().simulated.clone()
    }

    pub fn revision(&self, name: &str) -> Option<u64> {
        self.state.lock().unwrap().policies.get(name).map(|policy| policy.revision)
    }

    fn enter<T>(&self, request: &Request<T>) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        let actor = request.metadata().get_bin("x-sockpilot-actor-bin").and_then(|value| value.to_bytes().ok());
        state.actors.push(String::from_utf8(actor.unwrap_or_default().into()).unwrap());
        state
    }
}

impl State {
    /// The new document as it would be stored.
    fn next(&self, document: v1::Policy, target: Option<v1::Target>) -> v1::Policy {
        let old = self.policies.get(&document.name);
        let revision = old.map_or(0, |policy| policy.revision);
        let same = old.is_some_and(|policy| policy.rules == document.rules);
        let revision = if same { revision } else { revision + 1 };
        v1::Policy { revision, uid: "u".to_owned(), etag: format!("{revision} {target:?}"), ..document }
    }

    fn update(&mut self, request: v1::UpdatePolicyRequest) -> Result<v1::Policy, Status> {
        self.updates.push(request.clone());
        match &mut self.reaction {
            Reaction::Refuse(status) => return Err(status.clone()),
            Reaction::Unavailable { before, .. } if *before > 0 => {
                *before -= 1;
                return Err(Status::unavailable("the database is away"));
            }
            _ => {}
        }
        let document = request.policy.unwrap_or_default();
        if document.name == "policies/refused" {
            return Err(Status::invalid_argument("this name is refused"));
        }
        if let Some(first) = self.answers.get(&request.request_id) {
            return Ok(first.clone());
        }
        let mut answer = self.next(document, request.target.clone());
        let is_new = self.policies.get(&answer.name).is_none_or(|old| old.revision != answer.revision);
        let by_rollout = request.target.is_none();
        if !request.validate_only {
            self.policies.insert(answer.name.clone(), answer.clone());
            self.revisions.insert(format!("{}@{}", answer.name, answer.revision), answer.clone());
            if by_rollout {
                self.for_everyone.insert(answer.name.clone(), answer.revision);
            }
            if is_new && by_rollout {
                let rollout = self.rollouts.begin(&answer, request.rollout.unwrap_or_default());
                answer.notes = Some(v1::ChangeNotes { rollout, ..v1::ChangeNotes::default() });
            } else if let Some(rollout) = self.rollouts.under_way(&answer.name).filter(|_| by_rollout) {
                answer.notes = Some(v1::ChangeNotes { rollout: rollout.name.clone(), ..v1::ChangeNotes::default() });
            }
            self.answers.insert(request.request_id, answer.clone());
        }
        if let Reaction::Unavailable { after, .. } = &mut self.reaction
            && *after > 0
        {
            *after -= 1;
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(answer)
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test needs it"))
}

#[tonic::async_trait]
impl PolicyService for Fake {
    async fn create_policy(&self, _: Request<v1::CreatePolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        not_here()
    }

    async fn get_policy(&self, request: Request<v1::GetPolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        let state = self.enter(&request);
        let name = request.into_inner().name;
        let found = state.policies.get(&name).or_else(|| state.revisions.get(&name));
        found.cloned().map(Response::new).ok_or_else(|| {
            let details = ErrorDetails::with_resource_info("Policy", &name, "", "");
            Status::with_error_details(Code::NotFound, format!("{name} does not exist"), details)
        })
    }

    /// One policy a page.
    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let state = self.enter(&request);
        let after = request.into_inner().page_token;
        let mut rest = state.policies.values().filter(|policy| policy.name > after);
        let policies: Vec<_> = rest.next().into_iter().cloned().collect();
        let next_page_token = match (policies.first(), rest.next()) {
            (Some(policy), Some(_)) => policy.name.clone(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListPoliciesResponse { policies, next_page_token }))
    }

    async fn list_policy_revisions(
        &self,
        _: Request<v1::ListPolicyRevisionsRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        not_here()
    }

    async fn update_policy(&self, request: Request<v1::UpdatePolicyRequest>) -> Result<Response<v1::Policy>, Status> {
        let mut state = self.enter(&request);
        state.update(request.into_inner()).map(Response::new)
    }

    async fn delete_policy(&self, _: Request<v1::DeletePolicyRequest>) -> Result<Response<()>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl AssignmentService for Fake {
    async fn assign_revision(
        &self,
        _: Request<v1::AssignRevisionRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        not_here()
    }

    async fn list_members(
        &self,
        _: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        not_here()
    }

    async fn promote_revision(
        &self,
        request: Request<v1::PromoteRevisionRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        let name = request.into_inner().name;
        let details = ErrorDetails::with_precondition_failure_violation("CANARY", name, "has no canary");
        Err(Status::with_error_details(Code::FailedPrecondition, "cannot promote", details))
    }

    async fn rollback_revision(
        &self,
        request: Request<v1::RollbackRevisionRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        self.enter(&request).rollbacks.push(request.into_inner());
        Ok(Response::new(v1::LayerStatus::default()))
    }
}

#[tonic::async_trait]
impl FleetService for Fake {
    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Result<Response<v1::ListNodesResponse>, Status> {
        not_here()
    }

    async fn get_layer_status(
        &self,
        request: Request<v1::GetLayerStatusRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        let state = self.enter(&request);
        let name = request.into_inner().name;
        let latest_revision = state.policies.get(&name).map_or(0, |policy| policy.revision);
        let everyone = Some(v1::Target { kind: Some(v1::target::Kind::Everyone(v1::target::Everyone {})) });
        let given =
            |revision: &u64| v1::Assignment { revision: *revision, target: everyone, ..v1::Assignment::default() };
        let assignments = state.for_everyone.get(&name).map(given).into_iter().collect();
        Ok(Response::new(v1::LayerStatus { name, latest_revision, assignments, ..v1::LayerStatus::default() }))
    }

    async fn query_outcomes(
        &self,
        _: Request<v1::QueryOutcomesRequest>,
    ) -> Result<Response<v1::QueryOutcomesResponse>, Status> {
        not_here()
    }

    /// One sample a page, three in all.
    async fn list_flow_samples(
        &self,
        request: Request<v1::ListFlowSamplesRequest>,
    ) -> Result<Response<v1::ListFlowSamplesResponse>, Status> {
        let number: u32 = request.into_inner().page_token.parse().unwrap_or_default();
        let sample = super::simulate::recorded(number);
        let next_page_token = if number < 2 { (number + 1).to_string() } else { String::new() };
        Ok(Response::new(v1::ListFlowSamplesResponse { samples: vec![sample], next_page_token, warnings: vec![] }))
    }

    async fn explain_flow(
        &self,
        request: Request<v1::ExplainFlowRequest>,
    ) -> Result<Response<v1::ExplainFlowResponse>, Status> {
        let mut state = self.enter(&request);
        state.explained.push(request.into_inner());
        Ok(Response::new(state.explanation.clone()))
    }

    async fn simulate_change(
        &self,
        request: Request<v1::SimulateChangeRequest>,
    ) -> Result<Response<v1::SimulateChangeResponse>, Status> {
        let mut state = self.enter(&request);
        state.simulated.push(request.into_inner());
        if let Reaction::Refuse(status) = &state.reaction {
            return Err(status.clone());
        }
        Ok(Response::new(state.simulation.clone()))
    }

    /// Three entries a page, whatever is asked for.
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let state = self.enter(&request);
        let v1::ListAuditEntriesRequest { oldest_first, page_token, .. } = request.into_inner();
        let mut entries = state.audit.clone();
        if !oldest_first {
            entries.reverse();
        }
        let begin: usize = page_token.parse().unwrap_or_default();
        let end = (begin + 3).min(entries.len());
        let next_page_token = if end < entries.len() { end.to_string() } else { String::new() };
        let entries = entries[begin..end].to_vec();
        Ok(Response::new(v1::ListAuditEntriesResponse { entries, next_page_token, warnings: vec![] }))
    }

    async fn list_servers(
        &self,
        _: Request<v1::ListServersRequest>,
    ) -> Result<Response<v1::ListServersResponse>, Status> {
        not_here()
    }

    async fn record_flows(&self, _: Request<v1::RecordFlowsRequest>) -> Result<Response<v1::Recording>, Status> {
        not_here()
    }

    async fn delete_node(&self, _: Request<v1::DeleteNodeRequest>) -> Result<Response<()>, Status> {
        not_here()
    }
}
