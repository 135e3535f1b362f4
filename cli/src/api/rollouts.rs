//! Plans, rollouts and kill switches.

use super::lists::{MAX_PAGES, PAGE, endless, page_for};
use super::{Change, request_id};
use crate::client::{self, Client};
use crate::document::Document;
use crate::failure::Failure;
use crate::name::LayerName;
use sockpilot_proto::v1;
use tonic::Code;

type Answer<T> = Result<T, Failure>;

/// What can be done to one rollout and to many alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Pause,
    Resume,
    Promote,
    Confirm,
    RollBack,
}

impl Client {
    /// One plan.
    pub async fn plan(&self, name: &str) -> Answer<Document> {
        let request = v1::GetRolloutPlanRequest { name: name.to_owned() };
        let answer = self.call(request, async |c, q| client::plans(c).get_rollout_plan(q).await).await?;
        Ok(Document::RolloutPlan(answer))
    }

    /// All plans.
    pub async fn plans(&self) -> Answer<Vec<Document>> {
        let mut request = v1::ListRolloutPlansRequest { page_size: PAGE, page_token: String::new() };
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.call(request.clone(), async |c, q| client::plans(c).list_rollout_plans(q).await).await?;
            all.extend(page.plans.into_iter().map(Document::RolloutPlan));
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }

    /// Replaces a plan, or makes it.
    pub(super) async fn update_plan(&self, plan: v1::RolloutPlan, change: &Change) -> Answer<Document> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (plan, allow_missing, request_id) = (Some(plan), true, request_id());
        let request = v1::UpdateRolloutPlanRequest { plan, allow_missing, reason, validate_only, request_id };
        let answer = self.call(request, async |c, q| client::plans(c).update_rollout_plan(q).await).await?;
        Ok(Document::RolloutPlan(answer))
    }

    /// Removes a plan.
    pub(super) async fn delete_plan(&self, name: &str, change: &Change) -> Answer<()> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (name, etag, request_id) = (name.to_owned(), String::new(), request_id());
        let request = v1::DeleteRolloutPlanRequest { name, etag, reason, validate_only, request_id };
        self.call(request, async |c, q| client::plans(c).delete_rollout_plan(q).await).await
    }

    /// What holds for all rollouts.
    pub async fn rollout_settings(&self) -> Answer<v1::RolloutSettings> {
        let request = v1::GetRolloutSettingsRequest {};
        self.call(request, async |c, q| client::plans(c).get_rollout_settings(q).await).await
    }

    /// Replaces what holds for all rollouts.
    pub async fn update_rollout_settings(&self, settings: v1::RolloutSettings, change: &Change) -> Answer<Document> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (settings, request_id) = (Some(settings), request_id());
        let request = v1::UpdateRolloutSettingsRequest { settings, reason, validate_only, request_id };
        let answer = self.call(request, async |c, q| client::plans(c).update_rollout_settings(q).await).await?;
        Ok(Document::RolloutSettings(answer))
    }

    /// A rollout of a stored revision (0: the newest); with `validate_only` its preview.
    pub async fn create_rollout(
        &self,
        policy: &LayerName,
        revision: u64,
        options: v1::RolloutOptions,
        change: &Change,
    ) -> Answer<v1::Rollout> {
        let v1::RolloutOptions { plan, draft, confirm_within, break_glass } = options;
        let Change { reason, validate_only, force: _ } = change.clone();
        let request = v1::CreateRolloutRequest {
            policy: policy.resource(),
            revision,
            plan,
            draft,
            confirm_within,
            break_glass,
            etag: String::new(),
            reason,
            validate_only,
            request_id: request_id(),
        };
        self.call(request, async |c, q| client::rollouts(c).create_rollout(q).await).await
    }

    /// How far one has come.
    pub async fn rollout(&self, name: &str) -> Answer<v1::Rollout> {
        let request = v1::GetRolloutRequest { name: name.to_owned() };
        self.call(request, async |c, q| client::rollouts(c).get_rollout(q).await).await
    }

    /// The newest, at most `limit`; of one policy, or of all if it is empty.
    pub async fn rollouts(&self, policy: &str, active: bool, limit: usize) -> Answer<v1::ListRolloutsResponse> {
        let (policy, page_token) = (policy.to_owned(), String::new());
        let mut request = v1::ListRolloutsRequest { policy, active, page_size: PAGE, page_token };
        let mut all = v1::ListRolloutsResponse::default();
        for _ in 0..MAX_PAGES {
            request.page_size = page_for(limit - all.rollouts.len());
            let page = self.call(request.clone(), async |c, q| client::rollouts(c).list_rollouts(q).await).await?;
            all.rollouts.extend(page.rollouts);
            all.rollouts.truncate(limit);
            if page.next_page_token.is_empty() || all.rollouts.len() == limit {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }

    /// The newest changes of its state, at most `limit`.
    pub async fn transitions(&self, rollout: &str, limit: usize) -> Answer<v1::ListRolloutTransitionsResponse> {
        let (parent, page_token) = (rollout.to_owned(), String::new());
        let mut request = v1::ListRolloutTransitionsRequest { parent, page_size: PAGE, page_token };
        let mut all = v1::ListRolloutTransitionsResponse::default();
        for _ in 0..MAX_PAGES {
            request.page_size = page_for(limit - all.transitions.len());
            let page =
                self.call(request.clone(), async |c, q| client::rollouts(c).list_rollout_transitions(q).await).await?;
            all.transitions.extend(page.transitions);
            all.transitions.truncate(limit);
            if page.next_page_token.is_empty() || all.transitions.len() == limit {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }

    /// Approves a draft, as it was when it had this digest.
    pub async fn approve(&self, name: &str, digest: Vec<u8>, change: &Change) -> Answer<v1::Rollout> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (name, digest, request_id) = (name.to_owned(), digest.into(), request_id());
        let request = v1::ApproveRolloutRequest { name, digest, reason, validate_only, request_id };
        self.call(request, async |c, q| client::rollouts(c).approve_rollout(q).await).await
    }

    /// One verb for one rollout.
    pub async fn do_to_rollout(&self, verb: Verb, request: v1::RolloutVerbRequest) -> Answer<v1::Rollout> {
        let request = v1::RolloutVerbRequest { request_id: request_id(), ..request };
        self.call(request, async |c, q| {
            let mut stub = client::rollouts(c);
            match verb {
                Verb::Start => stub.start_rollout(q).await,
                Verb::Pause => stub.pause_rollout(q).await,
                Verb::Resume => stub.resume_rollout(q).await,
                Verb::Promote => stub.promote_rollout(q).await,
                Verb::Confirm => stub.confirm_rollout(q).await,
                Verb::RollBack => stub.roll_back_rollout(q).await,
            }
        })
        .await
    }

    /// To the first step of a wave.
    pub async fn jump(&self, request: v1::RolloutVerbRequest) -> Answer<v1::Rollout> {
        let request = v1::RolloutVerbRequest { request_id: request_id(), ..request };
        self.call(request, async |c, q| client::rollouts(c).jump_rollout(q).await).await
    }

    /// One verb for many rollouts.
    pub async fn do_to_rollouts(&self, request: v1::BatchRolloutVerbRequest) -> Answer<v1::BatchRolloutVerbResponse> {
        let request = v1::BatchRolloutVerbRequest { request_id: request_id(), ..request };
        self.call(request, async |c, q| client::rollouts(c).batch_rollout_verb(q).await).await
    }

    /// Turns something off, or on again.
    pub async fn switch(&self, target: &str, off: bool, change: &Change) -> Answer<v1::KillSwitch> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (target, request_id) = (target.to_owned(), request_id());
        let request = v1::SetKillSwitchRequest { target, off, reason, validate_only, request_id };
        self.call(request, async |c, q| client::kill_switches(c).set_kill_switch(q).await).await
    }

    /// What is off.
    pub async fn kill_switches(&self) -> Answer<v1::ListKillSwitchesResponse> {
        let request = v1::ListKillSwitchesRequest {};
        self.call(request, async |c, q| client::kill_switches(c).list_kill_switches(q).await).await
    }

    /// What is off, for answers about something else: a server that has no kill switches has none that are off.
    pub async fn off(&self) -> Answer<Vec<v1::KillSwitch>> {
        match self.kill_switches().await {
            Err(Failure::Refused(refusal)) if refusal.code == Code::Unimplemented => Ok(Vec::new()),
            answer => Ok(answer?.kill_switches),
        }
    }
}
