//! `ExperimentService`.

use sockpilot_judge::judge;
use sockpilot_policy::{fault::Collector, model::LayerKind};
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common, Work},
    documents, lifecycle,
};
use crate::change::{
    conclude::{Conclusion, conclude},
    document::Document,
    target::Target,
};

const KIND: LayerKind = LayerKind::Experiment;

fn experiment(document: Document) -> Result<v1::Experiment, Status> {
    match document {
        Document::Experiment(experiment) => Ok(experiment),
        _ => Err(Status::internal("something else is stored under the name of an experiment")),
    }
}

fn experiments(
    (documents, next_page_token): (Vec<Document>, String),
) -> Result<Response<v1::ListExperimentsResponse>, Status> {
    let experiments = documents.into_iter().map(experiment).collect::<Result<_, _>>()?;
    Ok(Response::new(v1::ListExperimentsResponse { experiments, next_page_token }))
}

#[tonic::async_trait]
impl v1::experiment_service_server::ExperimentService for Api {
    async fn create_experiment(
        &self,
        request: Request<v1::CreateExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let (call, message) = Call::begin("CreateExperiment", request)?;
        let v1::CreateExperimentRequest { experiment, experiment_id, target, reason, validate_only, request_id } =
            message;
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let document = experiment.map(Document::Experiment);
        documents::create(self, KIND, call, (document, &experiment_id, target.as_ref()), common, Collector::at(""))
            .await
            .map(Response::new)
    }

    async fn get_experiment(
        &self,
        request: Request<v1::GetExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let v1::GetExperimentRequest { name } = request.into_inner();
        documents::get(self, KIND, &name).await.and_then(experiment).map(Response::new)
    }

    async fn list_experiments(
        &self,
        request: Request<v1::ListExperimentsRequest>,
    ) -> Result<Response<v1::ListExperimentsResponse>, Status> {
        let v1::ListExperimentsRequest { page_size, page_token } = request.into_inner();
        documents::list(self, KIND, page_size, &page_token).await.and_then(experiments)
    }

    async fn list_experiment_revisions(
        &self,
        request: Request<v1::ListExperimentRevisionsRequest>,
    ) -> Result<Response<v1::ListExperimentsResponse>, Status> {
        let v1::ListExperimentRevisionsRequest { name, page_size, page_token } = request.into_inner();
        documents::list_revisions(self, KIND, &name, page_size, &page_token).await.and_then(experiments)
    }

    async fn update_experiment(
        &self,
        request: Request<v1::UpdateExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let (call, message) = Call::begin("UpdateExperiment", request)?;
        let v1::UpdateExperimentRequest {
            experiment,
            allow_missing,
            target,
            reason,
            validate_only,
            request_id,
            beside,
        } = message;
        // The etag is in the document.
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let document = experiment.map(Document::Experiment);
        let asked = documents::Asked { document, allow_missing, target, beside };
        documents::update(self, KIND, call, asked, common, Collector::at("")).await.map(Response::new)
    }

    async fn delete_experiment(&self, request: Request<v1::DeleteExperimentRequest>) -> Result<Response<()>, Status> {
        let (call, message) = Call::begin("DeleteExperiment", request)?;
        let v1::DeleteExperimentRequest { name, etag, reason, validate_only, request_id } = message;
        let common = Common { etag, reason, validate_only, request_id };
        documents::delete(self, KIND, call, &name, common).await.map(Response::new)
    }

    async fn start_experiment(
        &self,
        request: Request<v1::StartExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let (call, message) = Call::begin("StartExperiment", request)?;
        let v1::StartExperimentRequest { name, revision, etag, reason, validate_only, request_id } = message;
        let revision = match revision {
            0 => documents::get(self, KIND, &name).await?.revision(),
            revision => revision,
        };
        let common = Common { etag, reason, validate_only, request_id };
        lifecycle::assign(self, call, &name, (revision, Target::Everyone), common).await?;
        documents::get(self, KIND, &name).await.and_then(experiment).map(Response::new)
    }

    async fn stop_experiment(
        &self,
        request: Request<v1::StopExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let (call, message) = Call::begin("StopExperiment", request)?;
        let v1::StopExperimentRequest { name, etag, reason, validate_only, request_id } = message;
        let revision = lifecycle::running(self, &name, !request_id.is_empty()).await?;
        let common = Common { etag, reason, validate_only, request_id };
        lifecycle::assign(self, call, &name, (revision, Target::Nobody), common).await?;
        documents::get(self, KIND, &name).await.and_then(experiment).map(Response::new)
    }

    async fn extend_experiment(
        &self,
        request: Request<v1::ExtendExperimentRequest>,
    ) -> Result<Response<v1::Experiment>, Status> {
        let (call, message) = Call::begin("ExtendExperiment", request)?;
        let v1::ExtendExperimentRequest { name, duration_s, etag, reason, validate_only, request_id } = message;
        let before = documents::get(self, KIND, &name).await.and_then(experiment)?;
        // The etag is in the document.
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let document = Some(Document::Experiment(v1::Experiment { duration_s, etag, ..before }));
        let asked =
            documents::Asked { document, allow_missing: false, target: Some(documents::nobody()), beside: None };
        documents::update(self, KIND, call, asked, common, Collector::at("")).await.map(Response::new)
    }

    async fn conclude_experiment(
        &self,
        request: Request<v1::ConcludeExperimentRequest>,
    ) -> Result<Response<v1::ConcludeExperimentResponse>, Status> {
        let (call, message) = Call::begin("ConcludeExperiment", request)?;
        let v1::ConcludeExperimentRequest { name, ship_arm, policy, force, etag, reason, validate_only, request_id } =
            message;
        let mut faults = Collector::at("");
        let conclusion = lifecycle::conclusion(&name, (ship_arm, &policy), (force, &reason), &mut faults);
        let common = Common { etag, reason, validate_only, request_id };
        let work: Work<Conclusion, v1::ConcludeExperimentResponse> = |conn, author, etag, conclusion| {
            Box::pin(async move {
                let conclusion = Conclusion { etag: etag.to_owned(), ..conclusion.clone() };
                conclude(conn, author, &conclusion).await
            })
        };
        call.finish_with(self, conclusion, common, faults, work).await.map(Response::new)
    }

    async fn get_experiment_results(
        &self,
        request: Request<v1::GetExperimentResultsRequest>,
    ) -> Result<Response<v1::ExperimentResults>, Status> {
        let v1::GetExperimentResultsRequest { name, revision } = request.into_inner();
        let evidence = lifecycle::evidence(self, &name, revision).await?;
        // Many groups of many measures take some time.
        let judged = tokio::task::spawn_blocking(move || judge(&evidence)).await;
        let judged = judged.map_err(|error| Status::internal(format!("the evidence could not be judged: {error}")))?;
        judged.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }

    async fn list_verdicts(
        &self,
        request: Request<v1::ListVerdictsRequest>,
    ) -> Result<Response<v1::ListVerdictsResponse>, Status> {
        lifecycle::verdicts(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_experiment_power(
        &self,
        request: Request<v1::GetExperimentPowerRequest>,
    ) -> Result<Response<v1::ExperimentPower>, Status> {
        lifecycle::power(self, request.into_inner()).await.map(Response::new)
    }

    async fn freeze_experiment(
        &self,
        request: Request<v1::FreezeExperimentRequest>,
    ) -> Result<Response<v1::FreezeExperimentResponse>, Status> {
        lifecycle::freeze(self, request.into_inner()).await.map(Response::new)
    }
}
