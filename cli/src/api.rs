//! The calls, with policies and experiments under one roof and pages put together.

use crate::client::{self, Client};
use crate::document::Document;
use crate::failure::Failure;
use crate::name::{Collection, Deletable, LayerName};
use sockpilot_proto::v1::restore_backup_request::Part;
use sockpilot_proto::v1::{self, Target};
use sockpilot_settings::labels::Labels;
use tonic::{Code, Request, Response};
use uuid::Uuid;

/// Largest page a server gives.
const PAGE: u32 = 200;
/// More pages are not read: a server that never ends a list is broken.
const MAX_PAGES: usize = 10_000;

/// What goes with every change.
#[derive(Debug, Clone)]
pub struct Change {
    /// For the audit log.
    pub reason: String,
    /// Only check.
    pub validate_only: bool,
    /// Although nobody knows that it works.
    pub force: bool,
}

fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// A list that did not end.
fn endless() -> Failure {
    Failure::Unreachable(format!("the server's list did not end after {MAX_PAGES} pages"))
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
        };
        match found {
            Ok(document) => Ok(Some(document)),
            Err(Failure::Refused(refusal)) if refusal.code == Code::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The newest revision of everything in a collection.
    pub async fn list(&self, collection: Collection) -> Result<Vec<Document>, Failure> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let page_size = PAGE;
            page_token = match collection {
                Collection::Policies => {
                    let request = v1::ListPoliciesRequest { page_size, page_token };
                    let page = self.call(request, async |c, q| client::policies(c).list_policies(q).await).await?;
                    all.extend(page.policies.into_iter().map(Document::Policy));
                    page.next_page_token
                }
                Collection::Experiments => {
                    let request = v1::ListExperimentsRequest { page_size, page_token };
                    let page =
                        self.call(request, async |c, q| client::experiments(c).list_experiments(q).await).await?;
                    all.extend(page.experiments.into_iter().map(Document::Experiment));
                    page.next_page_token
                }
            };
            if page_token.is_empty() {
                return Ok(all);
            }
        }
        Err(endless())
    }

    /// All revisions, newest first.
    pub async fn revisions(&self, name: &LayerName) -> Result<Vec<Document>, Failure> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let (name_text, page_size) = (name.resource(), PAGE);
            page_token = match name.collection {
                Collection::Policies => {
                    let request = v1::ListPolicyRevisionsRequest { name: name_text, page_size, page_token };
                    let page =
                        self.call(request, async |c, q| client::policies(c).list_policy_revisions(q).await).await?;
                    all.extend(page.policies.into_iter().map(Document::Policy));
                    page.next_page_token
                }
                Collection::Experiments => {
                    let request = v1::ListExperimentRevisionsRequest { name: name_text, page_size, page_token };
                    let page = self
                        .call(request, async |c, q| client::experiments(c).list_experiment_revisions(q).await)
                        .await?;
                    all.extend(page.experiments.into_iter().map(Document::Experiment));
                    page.next_page_token
                }
            };
            if page_token.is_empty() {
                return Ok(all);
            }
        }
        Err(endless())
    }

    /// Creates it, or makes a new revision if it differs from the newest.
    pub async fn apply(
        &self,
        document: &Document,
        target: Option<Target>,
        change: &Change,
        beside: Option<v1::Beside>,
    ) -> Result<Document, Failure> {
        let (allow_missing, request_id) = (true, request_id());
        let Change { reason, validate_only, force: _ } = change.clone();
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
        }
    }

    /// Everything that people have decided, in the order in which it can be put back.
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

    /// Withdraws a layer from all nodes, or forgets a node.
    pub async fn delete(&self, name: &Deletable, change: &Change) -> Result<(), Failure> {
        match name {
            Deletable::Layer(name) => self.withdraw(name, change).await,
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

    /// The nodes of a canary, of one wave or (0) of all.
    pub async fn members(&self, name: &LayerName, wave: u32) -> Result<v1::ListMembersResponse, Failure> {
        let (name, page_token) = (name.resource(), String::new());
        let mut request = v1::ListMembersRequest { name, wave, page_size: PAGE, page_token };
        let mut all = v1::ListMembersResponse::default();
        for _ in 0..MAX_PAGES {
            let page = self.call(request.clone(), async |c, q| client::assignments(c).list_members(q).await).await?;
            all.members.extend(page.members);
            all.warnings.extend(page.warnings);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
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

    /// Who runs what.
    pub async fn status(&self, name: &LayerName) -> Result<v1::LayerStatus, Failure> {
        let request = v1::GetLayerStatusRequest { name: name.resource() };
        self.call(request, async |c, q| client::fleet(c).get_layer_status(q).await).await
    }

    /// All nodes that carry the labels.
    pub async fn nodes(&self, labels: Labels) -> Result<v1::ListNodesResponse, Failure> {
        let mut request =
            v1::ListNodesRequest { page_size: PAGE, page_token: String::new(), labels: labels.into_iter().collect() };
        let mut all = v1::ListNodesResponse::default();
        for _ in 0..MAX_PAGES {
            let page = self.call(request.clone(), async |c, q| client::fleet(c).list_nodes(q).await).await?;
            all.nodes.extend(page.nodes);
            all.warnings.extend(page.warnings);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }

    /// What came of the connections.
    pub async fn outcomes(&self, request: v1::QueryOutcomesRequest) -> Result<v1::QueryOutcomesResponse, Failure> {
        self.call(request, async |c, q| client::fleet(c).query_outcomes(q).await).await
    }

    /// What a connection gets, and why.
    pub async fn explain(&self, request: v1::ExplainFlowRequest) -> Result<v1::ExplainFlowResponse, Failure> {
        self.call(request, async |c, q| client::fleet(c).explain_flow(q).await).await
    }

    /// The newest flow samples, at most `limit`.
    pub async fn samples(
        &self,
        name: String,
        node: String,
        limit: usize,
    ) -> Result<v1::ListFlowSamplesResponse, Failure> {
        let mut request = v1::ListFlowSamplesRequest { name, node, page_size: PAGE, page_token: String::new() };
        let mut all = v1::ListFlowSamplesResponse::default();
        for _ in 0..MAX_PAGES {
            request.page_size = page_for(limit - all.samples.len());
            let page = self.call(request.clone(), async |c, q| client::fleet(c).list_flow_samples(q).await).await?;
            all.samples.extend(page.samples);
            all.warnings.extend(page.warnings);
            all.samples.truncate(limit);
            if page.next_page_token.is_empty() || all.samples.len() == limit {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }

    /// The servers, with their tasks.
    pub async fn servers(&self) -> Result<v1::ListServersResponse, Failure> {
        let mut request = v1::ListServersRequest { page_size: PAGE, page_token: String::new() };
        let mut all = v1::ListServersResponse::default();
        for _ in 0..MAX_PAGES {
            let page = self.call(request.clone(), async |c, q| client::fleet(c).list_servers(q).await).await?;
            all.servers.extend(page.servers);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }

    /// The newest audit entries, at most `limit`.
    pub async fn audit(&self, name: String, limit: usize) -> Result<v1::ListAuditEntriesResponse, Failure> {
        let mut request = v1::ListAuditEntriesRequest { name, page_size: PAGE, page_token: String::new() };
        let mut all = v1::ListAuditEntriesResponse::default();
        for _ in 0..MAX_PAGES {
            request.page_size = page_for(limit - all.entries.len());
            let page = self.call(request.clone(), async |c, q| client::fleet(c).list_audit_entries(q).await).await?;
            all.entries.extend(page.entries);
            all.warnings.extend(page.warnings);
            all.entries.truncate(limit);
            if page.next_page_token.is_empty() || all.entries.len() == limit {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
        Err(endless())
    }
}

/// No larger a page than is wanted still.
fn page_for(wanted: usize) -> u32 {
    u32::try_from(wanted).unwrap_or(PAGE).clamp(1, PAGE)
}
