//! Experiments that are what a test says they are, and an empty zone map.

use super::{Fake, not_here};
use sockpilot_proto::v1;
use sockpilot_proto::v1::experiment_service_server::ExperimentService;
use sockpilot_proto::v1::zone_service_server::ZoneService;
use tonic::{Request, Response, Status};

/// What was asked to be changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Start(v1::StartExperimentRequest),
    Stop(v1::StopExperimentRequest),
    Extend(v1::ExtendExperimentRequest),
    Conclude(v1::ConcludeExperimentRequest),
    Power(v1::GetExperimentPowerRequest),
}

impl Fake {
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// What results are from now on.
    pub fn find(&self, results: v1::ExperimentResults) {
        self.state.lock().unwrap().results = results;
    }

    fn changed(&self, name: String, state: v1::ExperimentState, asked: Asked) -> v1::Experiment {
        self.state.lock().unwrap().asked.push(asked);
        v1::Experiment { name, revision: 2, state: state.into(), ..v1::Experiment::default() }
    }
}

#[tonic::async_trait]
impl ExperimentService for Fake {
    async fn create_experiment(
        &self,
        _: Request<v1::CreateExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        not_here()
    }

    async fn get_experiment(&self, _: Request<v1::GetExperimentRequest>) -> Result<Response<v1::Experiment>, Status> {
        not_here()
    }

    /// None.
    async fn list_experiments(
        &self,
        _: Request<v1::ListExperimentsRequest>,
    ) -> Result<Response<v1::ListExperimentsResponse>, Status> {
        Ok(Response::new(v1::ListExperimentsResponse::default()))
    }

    async fn list_experiment_revisions(
        &self,
        _: Request<v1::ListExperimentRevisionsRequest>,
    ) -> Result<Response<v1::ListExperimentsResponse>, Status> {
        not_here()
    }

    async fn update_experiment(
        &self,
        _: Request<v1::UpdateExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        not_here()
    }

    async fn delete_experiment(&self, _: Request<v1::DeleteExperimentRequest>) -> Result<Response<()>, Status> {
        not_here()
    }

    async fn start_experiment(
        &self,
        request: Request<v1::StartExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let request = request.into_inner();
        let running = v1::ExperimentState::Running;
        Ok(Response::new(self.changed(request.name.clone(), running, Asked::Start(request))))
    }

    async fn stop_experiment(
        &self,
        request: Request<v1::StopExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let request = request.into_inner();
        let stopped = v1::ExperimentState::Stopped;
        Ok(Response::new(self.changed(request.name.clone(), stopped, Asked::Stop(request))))
    }

    async fn extend_experiment(
        &self,
        request: Request<v1::ExtendExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let request = request.into_inner();
        let running = v1::ExperimentState::Running;
        Ok(Response::new(self.changed(request.name.clone(), running, Asked::Extend(request))))
    }

    /// Only with force.
    async fn conclude_experiment(
        &self,
        request: Request<v1::ConcludeExperimentRequest>,
    ) -> Result<Response<v1::ConcludeExperimentResponse>, Status> {
        let request = request.into_inner();
        if !request.force {
            return Err(Status::failed_precondition("the verdict is NO DATA"));
        }
        let stopped = v1::ExperimentState::Stopped;
        let experiment = Some(self.changed(request.name.clone(), stopped, Asked::Conclude(request)));
        Ok(Response::new(v1::ConcludeExperimentResponse { experiment, policy: None, verdict: None }))
    }

    async fn get_experiment_results(
        &self,
        request: Request<v1::GetExperimentResultsRequest>,
    ) -> Result<Response<v1::ExperimentResults>, Status> {
        let v1::GetExperimentResultsRequest { name, revision } = request.into_inner();
        let results = self.state.lock().unwrap().results.clone();
        Ok(Response::new(v1::ExperimentResults { name, revision, ..results }))
    }

    /// One verdict a page, three in all.
    async fn list_verdicts(
        &self,
        request: Request<v1::ListVerdictsRequest>,
    ) -> Result<Response<v1::ListVerdictsResponse>, Status> {
        let request = request.into_inner();
        let number: u32 = request.page_token.parse().unwrap_or(3);
        let name = format!("{}/verdicts/{number}", request.parent);
        let verdicts = vec![v1::RecordedVerdict { name, ..v1::RecordedVerdict::default() }];
        let next_page_token = if number > 1 { (number - 1).to_string() } else { String::new() };
        Ok(Response::new(v1::ListVerdictsResponse { verdicts, next_page_token }))
    }

    async fn get_experiment_power(
        &self,
        request: Request<v1::GetExperimentPowerRequest>,
    ) -> Result<Response<v1::ExperimentPower>, Status> {
        self.state.lock().unwrap().asked.push(Asked::Power(request.into_inner()));
        Ok(Response::new(v1::ExperimentPower::default()))
    }

    async fn freeze_experiment(
        &self,
        _: Request<v1::FreezeExperimentRequest>,
    ) -> Result<Response<v1::FreezeExperimentResponse>, Status> {
        Ok(Response::new(v1::FreezeExperimentResponse::default()))
    }
}

#[tonic::async_trait]
impl ZoneService for Fake {
    /// Nobody has written one.
    async fn get_zone_map(&self, _: Request<v1::GetZoneMapRequest>) -> Result<Response<v1::ZoneMap>, Status> {
        Ok(Response::new(v1::ZoneMap::default()))
    }

    async fn update_zone_map(&self, _: Request<v1::UpdateZoneMapRequest>) -> Result<Response<v1::ZoneMap>, Status> {
        not_here()
    }
}
