//! Lists, their pages put together.

use std::collections::HashMap;

use sockpilot_proto::v1;
use sockpilot_settings::labels::Labels;

use crate::{
    client::{self, Client},
    document::Document,
    failure::Failure,
    name::{Collection, LayerName},
};

/// Largest page a server gives.
pub(super) const PAGE: u32 = 200;
/// More pages are not read: a server that never ends a list is broken.
pub(super) const MAX_PAGES: usize = 10_000;

/// A list that did not end.
pub(super) fn endless() -> Failure {
    Failure::Unreachable(format!("the server's list did not end after {MAX_PAGES} pages"))
}

/// Asks for page after page; `page` takes one in, by its token, and answers with the token of the next.
async fn every_page(mut page: impl AsyncFnMut(String) -> Result<String, Failure>) -> Result<(), Failure> {
    let mut page_token = String::new();
    for _ in 0..MAX_PAGES {
        page_token = page(page_token).await?;
        if page_token.is_empty() {
            return Ok(());
        }
    }
    Err(endless())
}

impl Client {
    /// The newest revision of everything in a collection.
    pub async fn list(&self, collection: Collection) -> Result<Vec<Document>, Failure> {
        let mut all = Vec::new();
        every_page(async |page_token| {
            let page_size = PAGE;
            Ok(match collection {
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
            })
        })
        .await?;
        Ok(all)
    }

    /// All revisions, newest first.
    pub async fn revisions(&self, name: &LayerName) -> Result<Vec<Document>, Failure> {
        let mut all = Vec::new();
        every_page(async |page_token| {
            let (name_text, page_size) = (name.resource(), PAGE);
            Ok(match name.collection {
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
            })
        })
        .await?;
        Ok(all)
    }

    /// The nodes of a canary, of one wave or (0) of all.
    pub async fn members(&self, name: &LayerName, wave: u32) -> Result<v1::ListMembersResponse, Failure> {
        let name = name.resource();
        let mut all = v1::ListMembersResponse::default();
        every_page(async |page_token| {
            let request = v1::ListMembersRequest { name: name.clone(), wave, page_size: PAGE, page_token };
            let page = self.call(request, async |c, q| client::assignments(c).list_members(q).await).await?;
            all.members.extend(page.members);
            all.warnings.extend(page.warnings);
            Ok(page.next_page_token)
        })
        .await?;
        Ok(all)
    }

    /// All nodes that carry the labels.
    pub async fn nodes(&self, labels: Labels) -> Result<v1::ListNodesResponse, Failure> {
        let labels: HashMap<_, _> = labels.into_iter().collect();
        let mut all = v1::ListNodesResponse::default();
        every_page(async |page_token| {
            let request = v1::ListNodesRequest { labels: labels.clone(), page_size: PAGE, page_token };
            let page = self.call(request, async |c, q| client::fleet(c).list_nodes(q).await).await?;
            all.nodes.extend(page.nodes);
            all.warnings.extend(page.warnings);
            Ok(page.next_page_token)
        })
        .await?;
        Ok(all)
    }

    /// The newest flow samples, or flows recorded on request, at most `limit`.
    pub async fn samples(
        &self,
        name: String,
        node: String,
        recorded: bool,
        limit: usize,
    ) -> Result<v1::ListFlowSamplesResponse, Failure> {
        let (page_size, page_token) = (PAGE, String::new());
        let mut request = v1::ListFlowSamplesRequest { name, node, page_size, page_token, recorded };
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
        let mut all = v1::ListServersResponse::default();
        every_page(async |page_token| {
            let request = v1::ListServersRequest { page_size: PAGE, page_token };
            let page = self.call(request, async |c, q| client::fleet(c).list_servers(q).await).await?;
            all.servers.extend(page.servers);
            Ok(page.next_page_token)
        })
        .await?;
        Ok(all)
    }

    /// The newest audit entries, at most `limit`.
    pub async fn audit(&self, name: String, limit: usize) -> Result<v1::ListAuditEntriesResponse, Failure> {
        let mut request = v1::ListAuditEntriesRequest { name, page_size: PAGE, ..Default::default() };
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

    /// Takes all audit entries, oldest first; of the log no more than a page is held at a time.
    pub async fn audit_from_first(
        &self,
        mut take: impl FnMut(v1::AuditEntry) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut request = v1::ListAuditEntriesRequest {
            page_size: PAGE,
            oldest_first: true,
            ..v1::ListAuditEntriesRequest::default()
        };
        loop {
            let page = self.call(request.clone(), async |c, q| client::fleet(c).list_audit_entries(q).await).await?;
            let ends = page.next_page_token.is_empty();
            if page.entries.is_empty() && !ends {
                return Err(endless());
            }
            page.entries.into_iter().try_for_each(&mut take)?;
            if ends {
                return Ok(());
            }
            request.page_token = page.next_page_token;
        }
    }

    /// All tokens, newest first.
    pub async fn tokens(&self) -> Result<v1::ListTokensResponse, Failure> {
        let mut all = v1::ListTokensResponse::default();
        every_page(async |page_token| {
            let request = v1::ListTokensRequest { page_size: PAGE, page_token };
            let page = self.call(request, async |c, q| client::access(c).list_tokens(q).await).await?;
            all.tokens.extend(page.tokens);
            Ok(page.next_page_token)
        })
        .await?;
        Ok(all)
    }

    /// All people of whom something is said.
    pub async fn people(&self) -> Result<v1::ListPeopleResponse, Failure> {
        let mut all = v1::ListPeopleResponse::default();
        every_page(async |page_token| {
            let request = v1::ListPeopleRequest { page_size: PAGE, page_token };
            let page = self.call(request, async |c, q| client::access(c).list_people(q).await).await?;
            all.people.extend(page.people);
            Ok(page.next_page_token)
        })
        .await?;
        Ok(all)
    }

    /// All who were shut out.
    pub async fn revocations(&self) -> Result<v1::ListRevocationsResponse, Failure> {
        let mut all = v1::ListRevocationsResponse::default();
        every_page(async |page_token| {
            let request = v1::ListRevocationsRequest { page_size: PAGE, page_token };
            let page = self.call(request, async |c, q| client::access(c).list_revocations(q).await).await?;
            all.revocations.extend(page.revocations);
            Ok(page.next_page_token)
        })
        .await?;
        Ok(all)
    }
}

/// No larger a page than is wanted still.
pub(super) fn page_for(wanted: usize) -> u32 {
    u32::try_from(wanted).unwrap_or(PAGE).clamp(1, PAGE)
}
