//! `ExperimentService`.

use sockpilot_policy::model::LayerKind;
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Call, Common},
    documents,
};
use crate::change::document::Document;

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
        documents::create(self, KIND, call, document, &experiment_id, target.as_ref(), common).await.map(Response::new)
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
        documents::update(self, KIND, call, asked, common).await.map(Response::new)
    }

    async fn delete_experiment(&self, request: Request<v1::DeleteExperimentRequest>) -> Result<Response<()>, Status> {
        let (call, message) = Call::begin("DeleteExperiment", request)?;
        let v1::DeleteExperimentRequest { name, etag, reason, validate_only, request_id } = message;
        let common = Common { etag, reason, validate_only, request_id };
        documents::delete(self, KIND, call, &name, common).await.map(Response::new)
    }
}
