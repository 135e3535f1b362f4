//! The calls, with all documents under one roof.

mod experiments;
mod lists;
mod rollouts;

use crate::client::{self, Client};
use crate::document::Document;
use crate::failure::Failure;
use crate::name::{Collection, Deletable, LayerName};
use sockpilot_proto::v1::restore_backup_request::Part;
use sockpilot_proto::v1::{self, Target};
use std::time::Duration;
use tonic::{Code, Request, Response};
use uuid::Uuid;

pub use rollouts::Verb;

/// What goes with every change.
#[derive(Debug, Clone)]
pub struct Change {
    pub reason: String,
    pub validate_only: bool,
    /// Although nobody knows that it works.
    pub force: bool,
}

/// How a policy or an experiment is to reach nodes.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// Whom it is for, past all rollouts.
    pub target: Option<Target>,
    /// How its rollout goes, of a policy without a target.
    pub rollout: Option<v1::RolloutOptions>,
    /// With what it is to be checked.
    pub beside: Option<v1::Beside>,
}

fn request_id() -> String {
    Uuid::new_v4().to_string()
}

impl Client {
    /// The newest revision, or the one that the name names.
    pub async fn get(&self, name: &LayerName) -> Result<Document, Failure> {
        let text = name.to_string();
        match name.collection {
            Collection::Policies => self
                .call(v1::GetPolicyRequest { name: text }, async |c, q| client::policies(c).get_policy(q).await)
                .await
                .map(Document::Policy),
            Collection::Experiments => self
                .call(v1::GetExperimentRequest { name: text }, async |c, q| {
                    client::experiments(c).get_experiment(q).await
                })
                .await
                .map(Document::Experiment),
        }
    }

    /// The zone map.
    pub async fn zone_map(&self) -> Result<Document, Failure> {
        let request = v1::GetZoneMapRequest {};
        self.call(request, async |c, q| client::zones(c).get_zone_map(q).await).await.map(Document::ZoneMap)
    }

    /// What a server has under the name of a document, if there is any.
    pub async fn find(&self, document: &Document) -> Result<Option<Document>, Failure> {
        let found = match document {
            Document::Policy(_) | Document::Experiment(_) => {
                self.get(&document.name().parse().map_err(Failure::Input)?).await
            }
            Document::ZoneMap(_) => self.zone_map().await,
            Document::RolloutPlan(plan) => self.plan(&plan.name).await,
            Document::RolloutSettings(_) => self.rollout_settings().await.map(Document::RolloutSettings),
        };
        match found {
            Ok(document) => Ok(Some(document)),
            Err(Failure::Refused(refusal)) if refusal.code == Code::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Creates it, or makes a new revision if it differs from the newest.
    pub async fn apply(&self, document: &Document, way: Way, change: &Change) -> Result<Document, Failure> {
        let (allow_missing, request_id) = (true, request_id());
        let Change { reason, validate_only, force: _ } = change.clone();
        let Way { target, rollout, beside } = way;
        match document.clone() {
            Document::Policy(policy) => {
                let policy = Some(policy);
                let request = v1::UpdatePolicyRequest {
                    policy,
                    allow_missing,
                    target,
                    reason,
                    validate_only,
                    request_id,
                    beside,
                    rollout,
                };
                let answer = self.call(request, async |c, q| client::policies(c).update_policy(q).await).await?;
                Ok(Document::Policy(answer))
            }
            Document::Experiment(experiment) => {
                let experiment = Some(experiment);
                let request = v1::UpdateExperimentRequest {
                    experiment,
                    allow_missing,
                    target,
                    reason,
                    validate_only,
                    request_id,
                    beside,
                };
                let answer = self.call(request, async |c, q| client::experiments(c).update_experiment(q).await).await?;
                Ok(Document::Experiment(answer))
            }
            Document::ZoneMap(map) => {
                let zone_map = Some(map);
                let request = v1::UpdateZoneMapRequest { zone_map, reason, validate_only, request_id };
                let answer = self.call(request, async |c, q| client::zones(c).update_zone_map(q).await).await?;
                Ok(Document::ZoneMap(answer))
            }
            Document::RolloutPlan(plan) => self.update_plan(plan, change).await,
            Document::RolloutSettings(settings) => self.update_rollout_settings(settings, change).await,
        }
    }

    /// Everything that people have decided, in the order in which it can be restored.
    pub async fn export(&self) -> Result<Vec<v1::BackupItem>, Failure> {
        self.patient()
            .call(v1::ExportBackupRequest {}, async |c, q| {
                let mut stream = client::backups(c).export_backup(q).await?.into_inner();
                let mut items = Vec::new();
                while let Some(item) = stream.message().await? {
                    items.push(item);
                }
                Ok(Response::new(items))
            })
            .await
    }

    /// Puts a backup back. Safe to send again: what is there already is left alone.
    pub async fn restore(
        &self,
        items: Vec<v1::BackupItem>,
        change: &Change,
    ) -> Result<v1::RestoreBackupResponse, Failure> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let header = Part::Header(v1::RestoreHeader { reason, validate_only });
        self.patient()
            .call((), async |c, q| {
                let parts = std::iter::once(header.clone()).chain(items.clone().into_iter().map(Part::Item));
                let parts: Vec<_> = parts.map(|part| v1::RestoreBackupRequest { part: Some(part) }).collect();
                let (metadata, extensions, ()) = q.into_parts();
                let request = Request::from_parts(metadata, extensions, tokio_stream::iter(parts));
                client::backups(c).restore_backup(request).await
            })
            .await
    }

    /// Withdraws a layer from all nodes, forgets a node, or removes a plan.
    pub async fn delete(&self, name: &Deletable, change: &Change) -> Result<(), Failure> {
        match name {
            Deletable::Layer(name) => self.withdraw(name, change).await,
            Deletable::Plan(name) => self.delete_plan(name, change).await,
            Deletable::Node(name) => {
                let Change { reason, validate_only, force: _ } = change.clone();
                let (name, request_id) = (name.clone(), request_id());
                let request = v1::DeleteNodeRequest { name, reason, validate_only, request_id };
                self.call(request, async |c, q| client::fleet(c).delete_node(q).await).await
            }
        }
    }

    async fn withdraw(&self, name: &LayerName, change: &Change) -> Result<(), Failure> {
        let (etag, request_id) = (String::new(), request_id());
        let Change { reason, validate_only, force: _ } = change.clone();
        let resource = name.resource();
        match name.collection {
            Collection::Policies => {
                let request = v1::DeletePolicyRequest { name: resource, etag, reason, validate_only, request_id };
                self.call(request, async |c, q| client::policies(c).delete_policy(q).await).await
            }
            Collection::Experiments => {
                let request = v1::DeleteExperimentRequest { name: resource, etag, reason, validate_only, request_id };
                self.call(request, async |c, q| client::experiments(c).delete_experiment(q).await).await
            }
        }
    }

    /// Gives a revision to a target.
    pub async fn assign(
        &self,
        name: &LayerName,
        revision: u64,
        target: Target,
        replace_waves: bool,
        change: &Change,
    ) -> Result<v1::LayerStatus, Failure> {
        let Change { reason, validate_only, force } = change.clone();
        let request = v1::AssignRevisionRequest {
            name: name.resource(),
            revision,
            target: Some(target),
            etag: String::new(),
            reason,
            validate_only,
            request_id: request_id(),
            force,
            replace_waves,
        };
        self.call(request, async |c, q| client::assignments(c).assign_revision(q).await).await
    }

    /// Gives the canary's revision to everyone.
    pub async fn promote(&self, name: &LayerName, change: &Change) -> Result<v1::LayerStatus, Failure> {
        let Change { reason, validate_only, force } = change.clone();
        let request = v1::PromoteRevisionRequest {
            name: name.resource(),
            etag: String::new(),
            reason,
            validate_only,
            request_id: request_id(),
            force,
        };
        self.call(request, async |c, q| client::assignments(c).promote_revision(q).await).await
    }

    /// Ends a canary, or goes back; revision 0 leaves the choice to the server.
    pub async fn roll_back(
        &self,
        name: &LayerName,
        revision: u64,
        change: &Change,
    ) -> Result<v1::LayerStatus, Failure> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let request = v1::RollbackRevisionRequest {
            name: name.resource(),
            revision,
            etag: String::new(),
            reason,
            validate_only,
            request_id: request_id(),
        };
        self.call(request, async |c, q| client::assignments(c).rollback_revision(q).await).await
    }

    /// Has a node record its flows for a time, or end that (zero).
    pub async fn record(
        &self,
        node: &str,
        duration: Duration,
        flows_per_s: u32,
        change: &Change,
    ) -> Result<v1::Recording, Failure> {
        let Change { reason, validate_only, force: _ } = change.clone();
        let duration = prost_types::Duration::try_from(duration).map_err(|error| Failure::Input(error.to_string()))?;
        let (node, duration, request_id) = (node.to_owned(), Some(duration), request_id());
        let request = v1::RecordFlowsRequest { node, duration, flows_per_s, reason, validate_only, request_id };
        self.call(request, async |c, q| client::fleet(c).record_flows(q).await).await
    }

    /// Who runs what.
    pub async fn status(&self, name: &LayerName) -> Result<v1::LayerStatus, Failure> {
        let request = v1::GetLayerStatusRequest { name: name.resource() };
        self.call(request, async |c, q| client::fleet(c).get_layer_status(q).await).await
    }

    /// What came of the connections.
    pub async fn outcomes(&self, request: v1::QueryOutcomesRequest) -> Result<v1::QueryOutcomesResponse, Failure> {
        self.call(request, async |c, q| client::fleet(c).query_outcomes(q).await).await
    }

    /// What a connection gets, and why.
    pub async fn explain(&self, request: v1::ExplainFlowRequest) -> Result<v1::ExplainFlowResponse, Failure> {
        self.call(request, async |c, q| client::fleet(c).explain_flow(q).await).await
    }

    /// What a change would do; that may take a while.
    pub async fn simulate(&self, request: v1::SimulateChangeRequest) -> Result<v1::SimulateChangeResponse, Failure> {
        self.patient().call(request, async |c, q| client::fleet(c).simulate_change(q).await).await
    }
}
