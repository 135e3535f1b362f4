//! The life of an experiment, and what it says.

use super::lists::{MAX_PAGES, endless, page_for};
use super::{Change, request_id};
use crate::client::{self, Client};
use crate::failure::Failure;
use crate::name::LayerName;
use sockpilot_proto::v1;

type Answer<T> = Result<T, Failure>;

impl Client {
    /// Starts an epoch; 0: the newest.
    pub async fn start(&self, name: &LayerName, revision: u64, etag: &str, change: &Change) -> Answer<v1::Experiment> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (name, etag, request_id) = (name.resource(), etag.to_owned(), request_id());
        let request = v1::StartExperimentRequest { name, revision, etag, reason, validate_only, request_id };
        self.call(request, async |c, q| client::experiments(c).start_experiment(q).await).await
    }

    /// Stops it.
    pub async fn stop(&self, name: &LayerName, etag: &str, change: &Change) -> Answer<v1::Experiment> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (name, etag, request_id) = (name.resource(), etag.to_owned(), request_id());
        let request = v1::StopExperimentRequest { name, etag, reason, validate_only, request_id };
        self.call(request, async |c, q| client::experiments(c).stop_experiment(q).await).await
    }

    /// Another planned duration from the start; 0: until it is stopped.
    pub async fn extend(
        &self,
        name: &LayerName,
        duration_s: u32,
        etag: &str,
        change: &Change,
    ) -> Answer<v1::Experiment> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let (name, etag, request_id) = (name.resource(), etag.to_owned(), request_id());
        let request = v1::ExtendExperimentRequest { name, duration_s, etag, reason, validate_only, request_id };
        self.call(request, async |c, q| client::experiments(c).extend_experiment(q).await).await
    }

    /// Ends it for good; `shipped`: the arm, and the policy that gets it.
    pub async fn conclude(
        &self,
        name: &LayerName,
        shipped: Option<(&str, &LayerName)>,
        etag: &str,
        change: &Change,
    ) -> Answer<v1::ConcludeExperimentResponse> {
        let Change { reason, validate_only, force } = change.clone();
        let (ship_arm, policy) = shipped.map(|(arm, policy)| (arm.to_owned(), policy.resource())).unwrap_or_default();
        let (name, etag, request_id) = (name.resource(), etag.to_owned(), request_id());
        let request =
            v1::ConcludeExperimentRequest { name, ship_arm, policy, force, etag, reason, validate_only, request_id };
        self.call(request, async |c, q| client::experiments(c).conclude_experiment(q).await).await
    }

    /// What is known of an epoch; 0: of the one that runs, or ran last.
    pub async fn results(&self, name: &LayerName, revision: u64) -> Answer<v1::ExperimentResults> {
        let request = v1::GetExperimentResultsRequest { name: name.resource(), revision };
        self.call(request, async |c, q| client::experiments(c).get_experiment_results(q).await).await
    }

    /// The newest verdicts, at most `limit`.
    pub async fn verdicts(&self, name: &LayerName, limit: usize) -> Answer<v1::ListVerdictsResponse> {
        let mut request = v1::ListVerdictsRequest { parent: name.resource(), ..v1::ListVerdictsRequest::default() };
        let mut all = v1::ListVerdictsResponse::default();
        for _ in 0..MAX_PAGES {
            request.page_size = page_for(limit - all.verdicts.len());
            let page = self.call(request.clone(), async |c, q| client::experiments(c).list_verdicts(q).await).await?;
            all.verdicts.extend(page.verdicts);
            all.verdicts.truncate(limit);
            if page.next_page_token.is_empty() || all.verdicts.len() == limit {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }

    /// What it takes to find an effect.
    pub async fn power(
        &self,
        name: &LayerName,
        (effect_bp, power_percent): (u32, u32),
        from: Option<&LayerName>,
    ) -> Answer<v1::ExperimentPower> {
        let policy = from.map(LayerName::resource).unwrap_or_default();
        let request = v1::GetExperimentPowerRequest { name: name.resource(), effect_bp, power_percent, policy };
        self.call(request, async |c, q| client::experiments(c).get_experiment_power(q).await).await
    }

    /// The measures with caps.
    pub async fn freeze(&self, name: &LayerName, from: Option<&LayerName>) -> Answer<v1::FreezeExperimentResponse> {
        let policy = from.map(LayerName::resource).unwrap_or_default();
        let request = v1::FreezeExperimentRequest { name: name.resource(), policy };
        self.call(request, async |c, q| client::experiments(c).freeze_experiment(q).await).await
    }
}
