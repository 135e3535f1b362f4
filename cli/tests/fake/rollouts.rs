//! Rollouts that go the way a test says, plans and kill switches.

use super::{Fake, not_here};
use sockpilot_proto::v1;
use sockpilot_proto::v1::RolloutState;
use sockpilot_proto::v1::kill_switch_service_server::KillSwitchService;
use sockpilot_proto::v1::rollout_plan_service_server::RolloutPlanService;
use sockpilot_proto::v1::rollout_service_server::RolloutService;
use std::collections::{BTreeMap, VecDeque};
use tonic::{Code, Request, Response, Status};

/// What was asked to be changed.
#[derive(Debug, Clone, PartialEq)]
pub enum RolloutAsked {
    Create(v1::CreateRolloutRequest),
    Approve(v1::ApproveRolloutRequest),
    Verb(&'static str, v1::RolloutVerbRequest),
    Batch(v1::BatchRolloutVerbRequest),
    Settings(v1::UpdateRolloutSettingsRequest),
    Switch(v1::SetKillSwitchRequest),
}

#[derive(Default)]
pub struct Rollouts {
    plans: BTreeMap<String, v1::RolloutPlan>,
    settings: v1::RolloutSettings,
    rollouts: BTreeMap<String, v1::Rollout>,
    /// What is to be seen of each, look by look; the last stays.
    courses: BTreeMap<String, VecDeque<v1::Rollout>>,
    switches: Vec<v1::KillSwitch>,
    asked: Vec<RolloutAsked>,
    refusal: Option<Status>,
}

impl Rollouts {
    /// As a change of a policy starts it.
    pub fn begin(&mut self, policy: &v1::Policy, options: v1::RolloutOptions) -> String {
        let id = policy.name.trim_start_matches("policies/");
        let name = format!("rollouts/{id}-{}", policy.revision);
        let state = if options.draft { RolloutState::Draft } else { RolloutState::Running };
        let rollout = v1::Rollout {
            name: name.clone(),
            policy: policy.name.clone(),
            revision: policy.revision,
            good_revision: policy.revision - 1,
            state: state.into(),
            digest: vec![7; 32].into(),
            plan: Some(v1::RolloutPlan { name: options.plan, ..v1::RolloutPlan::default() }),
            wave: 1,
            step: 1,
            ..v1::Rollout::default()
        };
        self.rollouts.insert(name.clone(), rollout);
        name
    }

    /// The one of a policy that is not over.
    pub fn under_way(&self, policy: &str) -> Option<&v1::Rollout> {
        self.rollouts.values().find(|rollout| rollout.policy == policy && is_active(rollout))
    }

    fn get(&self, name: &str) -> Result<v1::Rollout, Status> {
        self.rollouts.get(name).cloned().ok_or_else(|| Status::not_found(format!("{name} does not exist")))
    }

    /// As a sound server does it.
    fn become_(&mut self, name: &str, state: RolloutState, validate_only: bool) -> Result<v1::Rollout, Status> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let changed = v1::Rollout { state: state.into(), ..self.get(name)? };
        if !validate_only {
            self.rollouts.insert(name.to_owned(), changed.clone());
        }
        Ok(changed)
    }
}

fn is_active(rollout: &v1::Rollout) -> bool {
    use RolloutState::{Draft, Paused, RollingBack, Running};
    [Draft, Running, Paused, RollingBack].contains(&rollout.state())
}

impl Fake {
    pub fn rollouts_asked(&self) -> Vec<RolloutAsked> {
        self.state.lock().unwrap().rollouts.asked.clone()
    }

    /// How changes of rollouts are met from now on.
    pub fn refuse_rollouts(&self, refusal: Status) {
        self.state.lock().unwrap().rollouts.refusal = Some(refusal);
    }

    /// One that is there.
    pub fn has(&self, rollout: v1::Rollout) {
        self.state.lock().unwrap().rollouts.rollouts.insert(rollout.name.clone(), rollout);
    }

    /// What looks at one see, one after the other.
    pub fn goes(&self, name: &str, states: &[RolloutState]) {
        let looks = states.iter().map(|state| v1::Rollout {
            name: name.to_owned(),
            state: (*state).into(),
            wave: 1,
            step: 1,
            reason: "as the test says".to_owned(),
            ..v1::Rollout::default()
        });
        self.state.lock().unwrap().rollouts.courses.insert(name.to_owned(), looks.collect());
    }

    pub fn settings(&self) -> v1::RolloutSettings {
        self.state.lock().unwrap().rollouts.settings.clone()
    }

    fn verb(
        &self,
        verb: &'static str,
        request: Request<v1::RolloutVerbRequest>,
        state: RolloutState,
    ) -> Result<Response<v1::Rollout>, Status> {
        let rollouts = &mut self.enter(&request).rollouts;
        let request = request.into_inner();
        rollouts.asked.push(RolloutAsked::Verb(verb, request.clone()));
        rollouts.become_(&request.name, state, request.validate_only).map(Response::new)
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RolloutService for Fake {
    /// With `validate_only` a preview of one wave.
    async fn create_rollout(&self, request: Request<v1::CreateRolloutRequest>) -> Answer<v1::Rollout> {
        let state = &mut *self.enter(&request);
        let request = request.into_inner();
        state.rollouts.asked.push(RolloutAsked::Create(request.clone()));
        if let Some(refusal) = &state.rollouts.refusal {
            return Err(refusal.clone());
        }
        let newest = state.policies.get(&request.policy).cloned().unwrap_or_default();
        let revision = if request.revision == 0 { newest.revision } else { request.revision };
        let policy = v1::Policy { name: request.policy, revision, ..newest };
        if request.validate_only {
            let nodes = vec!["nodes/a".to_owned(), "nodes/b".to_owned()];
            let wave = v1::PreviewWave { wave: 1, selector: "1% of nodes".to_owned(), nodes, node_count: 2 };
            let preview = v1::RolloutPreview { waves: vec![wave], ..v1::RolloutPreview::default() };
            let plan = v1::RolloutPlan { name: "rolloutPlans/careful".to_owned(), ..v1::RolloutPlan::default() };
            let (policy, plan, preview) = (policy.name, Some(plan), Some(preview));
            return Ok(Response::new(v1::Rollout { policy, revision, plan, preview, ..v1::Rollout::default() }));
        }
        let v1::CreateRolloutRequest { plan, draft, confirm_within, break_glass, .. } = request;
        let name = state.rollouts.begin(&policy, v1::RolloutOptions { plan, draft, confirm_within, break_glass });
        state.rollouts.get(&name).map(Response::new)
    }

    async fn get_rollout(&self, request: Request<v1::GetRolloutRequest>) -> Answer<v1::Rollout> {
        let rollouts = &mut self.enter(&request).rollouts;
        let name = request.into_inner().name;
        if let Some(course) = rollouts.courses.get_mut(&name) {
            let next = if course.len() > 1 { course.pop_front() } else { course.front().cloned() };
            return next.map(Response::new).ok_or_else(|| Status::internal("a course without looks"));
        }
        rollouts.get(&name).map(Response::new)
    }

    /// The last by name first; one a page.
    async fn list_rollouts(&self, request: Request<v1::ListRolloutsRequest>) -> Answer<v1::ListRolloutsResponse> {
        let rollouts = &self.enter(&request).rollouts;
        let v1::ListRolloutsRequest { policy, active, page_size: _, page_token } = request.into_inner();
        let wanted =
            |rollout: &&v1::Rollout| (policy.is_empty() || rollout.policy == policy) && (!active || is_active(rollout));
        let mut rest = rollouts.rollouts.values().rev().filter(wanted);
        let mut rest = rest.by_ref().filter(|rollout| page_token.is_empty() || rollout.name < page_token);
        let page: Vec<_> = rest.next().into_iter().cloned().collect();
        let next_page_token = match (page.first(), rest.next()) {
            (Some(rollout), Some(_)) => rollout.name.clone(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListRolloutsResponse { rollouts: page, next_page_token }))
    }

    /// One transition.
    async fn list_rollout_transitions(
        &self,
        request: Request<v1::ListRolloutTransitionsRequest>,
    ) -> Answer<v1::ListRolloutTransitionsResponse> {
        let reason = format!("of {}", request.into_inner().parent);
        let transition = v1::RolloutTransition { reason, ..v1::RolloutTransition::default() };
        let next_page_token = String::new();
        Ok(Response::new(v1::ListRolloutTransitionsResponse { transitions: vec![transition], next_page_token }))
    }

    async fn approve_rollout(&self, request: Request<v1::ApproveRolloutRequest>) -> Answer<v1::Rollout> {
        let rollouts = &mut self.enter(&request).rollouts;
        let request = request.into_inner();
        rollouts.asked.push(RolloutAsked::Approve(request.clone()));
        let rollout = rollouts.get(&request.name)?;
        if rollout.digest != request.digest {
            return Err(Status::aborted("it has changed since; read it again"));
        }
        Ok(Response::new(v1::Rollout { approver: "bob".to_owned(), ..rollout }))
    }

    async fn start_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Answer<v1::Rollout> {
        self.verb("start", request, RolloutState::Running)
    }

    async fn pause_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Answer<v1::Rollout> {
        self.verb("pause", request, RolloutState::Paused)
    }

    async fn resume_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Answer<v1::Rollout> {
        self.verb("resume", request, RolloutState::Running)
    }

    async fn promote_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Answer<v1::Rollout> {
        self.verb("promote", request, RolloutState::Running)
    }

    async fn jump_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Answer<v1::Rollout> {
        self.verb("jump", request, RolloutState::Running)
    }

    async fn confirm_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Answer<v1::Rollout> {
        self.verb("confirm", request, RolloutState::Running)
    }

    async fn roll_back_rollout(&self, request: Request<v1::RolloutVerbRequest>) -> Answer<v1::Rollout> {
        self.verb("rollback", request, RolloutState::RollingBack)
    }

    /// Pauses what is no draft.
    async fn batch_rollout_verb(
        &self,
        request: Request<v1::BatchRolloutVerbRequest>,
    ) -> Answer<v1::BatchRolloutVerbResponse> {
        let rollouts = &mut self.enter(&request).rollouts;
        let request = request.into_inner();
        rollouts.asked.push(RolloutAsked::Batch(request.clone()));
        let selected = rollouts.rollouts.values().filter(|rollout| {
            let of_policy = request.policies.is_empty() || request.policies.contains(&rollout.policy);
            let in_state = request.states.is_empty() || request.states.contains(&rollout.state);
            is_active(rollout) && of_policy && in_state
        });
        let names: Vec<String> = selected.map(|rollout| rollout.name.clone()).collect();
        let mut results = Vec::new();
        for name in names {
            let rollout = rollouts.get(&name)?;
            let is_draft = rollout.state() == RolloutState::Draft;
            let refusal = if is_draft { "is a draft; start it".to_owned() } else { String::new() };
            let rollout = if is_draft {
                rollout
            } else {
                rollouts.become_(&name, RolloutState::Paused, request.validate_only)?
            };
            results.push(v1::BatchRolloutResult { name, refusal, rollout: Some(rollout) });
        }
        Ok(Response::new(v1::BatchRolloutVerbResponse { results }))
    }
}

#[tonic::async_trait]
impl RolloutPlanService for Fake {
    async fn create_rollout_plan(&self, _: Request<v1::CreateRolloutPlanRequest>) -> Answer<v1::RolloutPlan> {
        not_here()
    }

    async fn get_rollout_plan(&self, request: Request<v1::GetRolloutPlanRequest>) -> Answer<v1::RolloutPlan> {
        let rollouts = &self.enter(&request).rollouts;
        let name = request.into_inner().name;
        let missing = || Status::new(Code::NotFound, format!("{name} does not exist"));
        rollouts.plans.get(&name).cloned().map(Response::new).ok_or_else(missing)
    }

    async fn list_rollout_plans(
        &self,
        request: Request<v1::ListRolloutPlansRequest>,
    ) -> Answer<v1::ListRolloutPlansResponse> {
        let plans = self.enter(&request).rollouts.plans.values().cloned().collect();
        Ok(Response::new(v1::ListRolloutPlansResponse { plans, next_page_token: String::new() }))
    }

    async fn update_rollout_plan(&self, request: Request<v1::UpdateRolloutPlanRequest>) -> Answer<v1::RolloutPlan> {
        let rollouts = &mut self.enter(&request).rollouts;
        let v1::UpdateRolloutPlanRequest { plan, validate_only, .. } = request.into_inner();
        let plan = plan.unwrap_or_default();
        let old = rollouts.plans.get(&plan.name);
        let same = old.is_some_and(|old| old.waves == plan.waves);
        let revision = old.map_or(0, |old| old.revision) + u64::from(!same);
        let plan = v1::RolloutPlan { revision, etag: revision.to_string(), ..plan };
        if !validate_only {
            rollouts.plans.insert(plan.name.clone(), plan.clone());
        }
        Ok(Response::new(plan))
    }

    async fn delete_rollout_plan(&self, request: Request<v1::DeleteRolloutPlanRequest>) -> Answer<()> {
        let rollouts = &mut self.enter(&request).rollouts;
        let name = request.into_inner().name;
        if rollouts.settings.default_plan == name {
            return Err(Status::failed_precondition(format!("{name} is the fleet's default")));
        }
        rollouts.plans.remove(&name);
        Ok(Response::new(()))
    }

    async fn get_rollout_settings(
        &self,
        request: Request<v1::GetRolloutSettingsRequest>,
    ) -> Answer<v1::RolloutSettings> {
        Ok(Response::new(self.enter(&request).rollouts.settings.clone()))
    }

    /// A default plan must be there.
    async fn update_rollout_settings(
        &self,
        request: Request<v1::UpdateRolloutSettingsRequest>,
    ) -> Answer<v1::RolloutSettings> {
        let rollouts = &mut self.enter(&request).rollouts;
        let request = request.into_inner();
        rollouts.asked.push(RolloutAsked::Settings(request.clone()));
        let settings = request.settings.unwrap_or_default();
        let plan = &settings.default_plan;
        if !plan.is_empty() && !rollouts.plans.contains_key(plan) {
            return Err(Status::invalid_argument(format!("settings.default_plan: there is no {plan}")));
        }
        if settings.etag != rollouts.settings.etag && !settings.etag.is_empty() {
            return Err(Status::aborted("somebody else was faster"));
        }
        if !request.validate_only {
            rollouts.settings = v1::RolloutSettings { etag: "8".to_owned(), ..settings.clone() };
        }
        Ok(Response::new(settings))
    }
}

#[tonic::async_trait]
impl KillSwitchService for Fake {
    async fn set_kill_switch(&self, request: Request<v1::SetKillSwitchRequest>) -> Answer<v1::KillSwitch> {
        let rollouts = &mut self.enter(&request).rollouts;
        let request = request.into_inner();
        rollouts.asked.push(RolloutAsked::Switch(request.clone()));
        let v1::SetKillSwitchRequest { target, off, reason, validate_only, request_id: _ } = request;
        let switch = v1::KillSwitch { target, off, reason, actor: "ann".to_owned(), time: None };
        if !validate_only {
            rollouts.switches.retain(|other| other.target != switch.target);
            rollouts.switches.extend(off.then(|| switch.clone()));
        }
        Ok(Response::new(switch))
    }

    async fn list_kill_switches(
        &self,
        request: Request<v1::ListKillSwitchesRequest>,
    ) -> Answer<v1::ListKillSwitchesResponse> {
        let kill_switches = self.enter(&request).rollouts.switches.clone();
        Ok(Response::new(v1::ListKillSwitchesResponse { kill_switches }))
    }
}
