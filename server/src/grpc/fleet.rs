//! `FleetService`.

use sockpilot_policy::{
    fault::{Collector, Faults},
    model::Labels,
    validate,
};
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Api,
    assignment::layer_name,
    call::{Call, Common, Work},
    convert::{
        change::{audit_entry_to_proto, status_to_proto, warning_to_proto, warnings_to_proto},
        explain_flow,
        fleet::{node_to_proto, recording_to_proto, recording_wanted, server_to_proto},
        outcome::{outcome_filter, outcome_row},
        rollout::rollout_name,
        simulate,
    },
    error::{invalid, of_store},
    paging::Page,
};
use crate::{
    auth::caller::Caller,
    change::{
        names,
        notes::{Notes, Warning},
        reach,
        record_flows::record_flows,
        remove_node::remove_node,
        zones,
    },
    fleet::{
        recording::Wanted,
        simulation::{self as simulated, Answer},
    },
    outcome::query::Found,
    rollout::plans::{SETTINGS, plan_name},
    store::{audit, fleet, known, node, node_view, outcome, sample, sample::Kept, server, simulation, status},
};

fn is_number(key: &str) -> bool {
    key.parse::<u32>().is_ok() || key.parse::<i64>().is_ok_and(|number| number > 0)
}

/// The name of a rollout or of a plan.
fn is_of_rollouts(name: &str) -> bool {
    rollout_name(name).is_ok() || plan_name(name).is_ok()
}

/// A name that may be empty, for all of them.
fn optional_name(name: &str, faults: &mut Collector) {
    if !name.is_empty() {
        layer_name(name, faults);
    }
}

#[tonic::async_trait]
impl v1::fleet_service_server::FleetService for Api {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let v1::ListNodesRequest { page_size, page_token, labels } = request.into_inner();
        let labels: Labels = labels.into_iter().collect();
        let mut faults = Collector::at("");
        faults.field("labels", |faults| validate::labels(&labels, faults));
        let filter: Vec<_> = labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]).collect();
        let query = [&["nodes"], filter.as_slice()].concat();
        let page = Page::read(page_size, &page_token, &query, |key| validate::node_id(key).is_ok(), &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit());
        let read = self.store.read("list nodes", |conn| {
            Box::pin(async move {
                let nodes = node_view::list(&mut *conn, &labels, &after, limit).await?;
                let none = nodes.is_empty() && after.is_empty() && !labels.is_empty();
                let near = if none { Some(reach::near(&labels, &node::seen(conn).await?)) } else { None };
                Ok((nodes, near))
            })
        });
        let (nodes, near) = read.await.map_err(of_store)?;
        let (nodes, next_page_token) = page.finish(nodes, |node| node.row.node_id.clone());
        let nodes = nodes.into_iter().map(node_to_proto).collect();
        let warning = near.map(|description| warning_to_proto(Warning::new("labels", description)));
        let warnings = warning.into_iter().collect();
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token, warnings }))
    }

    async fn delete_node(&self, request: Request<v1::DeleteNodeRequest>) -> Result<Response<()>, Status> {
        // Whoever removes a node where nodes are known means that it stays away.
        let stay_out = request.extensions().get::<Caller>().is_some_and(|caller| *caller != Caller::Anyone);
        let (call, message) = Call::begin("DeleteNode", request)?;
        let v1::DeleteNodeRequest { name, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let node_id = faults.field("name", |faults| faults.take(names::node(&name)));
        if name.is_empty() {
            faults.add_at("name", "is missing; write nodes/NODE");
        }
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let node_id = node_id.unwrap_or_default();
        let work: Work<(String, bool), ()> = |conn, author, _, (node_id, stay_out)| {
            Box::pin(async move { remove_node(conn, author, node_id, *stay_out).await })
        };
        call.finish_with(self, Some((node_id, stay_out)), common, faults, work).await.map(Response::new)
    }

    async fn get_layer_status(
        &self,
        request: Request<v1::GetLayerStatusRequest>,
    ) -> Result<Response<v1::LayerStatus>, Status> {
        let v1::GetLayerStatusRequest { name } = request.into_inner();
        let mut faults = Collector::at("");
        let name = layer_name(&name, &mut faults);
        let name = faults.finish(name).map_err(|faults| invalid(&faults))?;
        let name = name.ok_or_else(|| Status::internal("a request without a name was taken for sound"))?;
        let read = self.store.read("layer status", |conn| Box::pin(async move { status::status(conn, &name).await }));
        Ok(Response::new(status_to_proto(read.await.map_err(of_store)?, Notes::default())))
    }

    async fn query_outcomes(
        &self,
        request: Request<v1::QueryOutcomesRequest>,
    ) -> Result<Response<v1::QueryOutcomesResponse>, Status> {
        let filter = outcome_filter(request.into_inner()).map_err(|faults| invalid(&faults))?;
        let read = self.store.read("query outcomes", |conn| {
            Box::pin(async move {
                let mut found = outcome::query(&mut *conn, &filter).await?;
                if found.rows.is_empty() {
                    found.warnings.extend(known::warnings(conn, &filter.name.to_string(), filter.revision, "").await?);
                }
                Ok(found)
            })
        });
        let Found { rows, warnings } = read.await.map_err(of_store)?;
        let rows = rows.into_iter().map(|(key, sums)| outcome_row(key, &sums)).collect();
        Ok(Response::new(v1::QueryOutcomesResponse { rows, warnings: warnings_to_proto(warnings) }))
    }

    async fn list_flow_samples(
        &self,
        request: Request<v1::ListFlowSamplesRequest>,
    ) -> Result<Response<v1::ListFlowSamplesResponse>, Status> {
        let v1::ListFlowSamplesRequest { name, node, page_size, page_token, recorded } = request.into_inner();
        let mut faults = Collector::at("");
        optional_name(&name, &mut faults);
        let node_id = faults.field("node", |faults| faults.take(names::node(&node))).unwrap_or_default();
        let (kept, what) = if recorded { (Kept::OnRequest, "recorded") } else { (Kept::Sample, "samples") };
        let page = Page::read(page_size, &page_token, &[what, &name, &node], is_number, &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (before, limit) = (page.after.as_deref().and_then(|key| key.parse().ok()), page.limit());
        let read = self.store.read("list samples", |conn| {
            Box::pin(async move {
                let rows = sample::list(&mut *conn, kept, &name, &node_id, before, limit).await?;
                let none = rows.is_empty() && before.is_none();
                let warnings = if none { known::warnings(conn, &name, 0, &node_id).await? } else { vec![] };
                Ok((rows, warnings))
            })
        });
        let (rows, warnings) = read.await.map_err(of_store)?;
        let (rows, next_page_token) = page.finish(rows, |(id, _)| id.to_string());
        let samples = rows.into_iter().map(|(_, sample)| sample).collect();
        let warnings = warnings_to_proto(warnings);
        Ok(Response::new(v1::ListFlowSamplesResponse { samples, next_page_token, warnings }))
    }

    async fn record_flows(&self, request: Request<v1::RecordFlowsRequest>) -> Result<Response<v1::Recording>, Status> {
        let (call, message) = Call::begin("RecordFlows", request)?;
        let v1::RecordFlowsRequest { node, duration, flows_per_s, reason, validate_only, request_id } = message;
        let mut faults = Collector::at("");
        let wanted = recording_wanted(&node, duration.as_ref(), flows_per_s, &mut faults);
        if reason.is_empty() && !wanted.duration.is_zero() {
            faults.add_at("reason", "is missing; say why it records");
        }
        let common = Common { etag: String::new(), reason, validate_only, request_id };
        let work: Work<Wanted, v1::Recording> = |conn, author, _, wanted| {
            Box::pin(async move {
                let recording = record_flows(conn, author, wanted).await?;
                let ended = || v1::Recording { node: format!("nodes/{}", wanted.node_id), ..v1::Recording::default() };
                Ok(recording.map_or_else(ended, recording_to_proto))
            })
        };
        let recording = call.finish_with(self, Some(wanted), common, faults, work).await?;
        self.record.notify_one();
        Ok(Response::new(recording))
    }

    async fn explain_flow(
        &self,
        request: Request<v1::ExplainFlowRequest>,
    ) -> Result<Response<v1::ExplainFlowResponse>, Status> {
        let question = explain_flow::question(&request.into_inner(), now_s()).map_err(|faults| invalid(&faults))?;
        let asked = question.clone();
        let read = self.store.read("explain", |conn| Box::pin(async move { fleet::explained(conn, &asked).await }));
        let state = read.await.map_err(of_store)?;
        // A thousand rules are compiled.
        beside(move || explain_flow::answer(&question, &state)).await.map(Response::new)
    }

    async fn simulate_change(
        &self,
        request: Request<v1::SimulateChangeRequest>,
    ) -> Result<Response<v1::SimulateChangeResponse>, Status> {
        let question = simulate::question(request.into_inner()).map_err(|faults| invalid(&faults))?;
        let asked = question.clone();
        let read = self.store.read("simulate", |conn| Box::pin(async move { simulation::state(conn, &asked).await }));
        let state = read.await.map_err(of_store)?;
        let Answer { response, warnings } = beside(move || simulated::answer(&question, &state)).await?;
        Ok(Response::new(v1::SimulateChangeResponse { warnings: warnings_to_proto(warnings), ..response }))
    }

    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let v1::ListAuditEntriesRequest { name, page_size, page_token, oldest_first } = request.into_inner();
        let mut faults = Collector::at("");
        match name.strip_prefix("nodes/") {
            Some(id) => {
                faults.field("name", |faults| faults.take(validate::node_id(id)));
            }
            None if [zones::NAME, SETTINGS].contains(&name.as_str()) || is_of_rollouts(&name) => {}
            None => optional_name(&name, &mut faults),
        }
        let order = if oldest_first { "oldest first" } else { "newest first" };
        let page = Page::read(page_size, &page_token, &["audit", &name, order], is_number, &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (beyond, limit) = (page.after.as_deref().and_then(|key| key.parse().ok()), page.limit());
        let read = self.store.read("list audit entries", |conn| {
            Box::pin(async move {
                let wanted = audit::Wanted { name: &name, oldest_first, beyond, limit };
                let (entries, more) = audit::list(&mut *conn, wanted).await?;
                let none = entries.is_empty() && beyond.is_none();
                let warnings = if none { known::warnings(conn, &name, 0, "").await? } else { vec![] };
                Ok((entries, more, warnings))
            })
        });
        let (entries, more, warnings) = read.await.map_err(of_store)?;
        let (entries, next_page_token) = page.finish_short(entries, more, |entry| entry.sequence.to_string());
        let entries = entries.into_iter().map(audit_entry_to_proto).collect();
        let warnings = warnings_to_proto(warnings);
        Ok(Response::new(v1::ListAuditEntriesResponse { entries, next_page_token, warnings }))
    }

    async fn list_servers(
        &self,
        request: Request<v1::ListServersRequest>,
    ) -> Result<Response<v1::ListServersResponse>, Status> {
        let v1::ListServersRequest { page_size, page_token } = request.into_inner();
        let mut faults = Collector::at("");
        let page = Page::read(page_size, &page_token, &["servers"], |key| key.parse::<Uuid>().is_ok(), &mut faults);
        let page = faults.finish(page).map_err(|faults| invalid(&faults))?;
        let (after, limit) = (page.after.as_deref().and_then(|key| key.parse().ok()), page.limit());
        let read =
            self.store.read("list servers", |conn| Box::pin(async move { server::list(conn, after, limit).await }));
        let (servers, next_page_token) =
            page.finish(read.await.map_err(of_store)?, |server| server.server_id.to_string());
        let servers = servers.into_iter().map(server_to_proto).collect();
        Ok(Response::new(v1::ListServersResponse { servers, next_page_token }))
    }
}

/// Does what takes long on a thread that does not serve streams. Faults are those of what is stored.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Faults> + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "answer failed");
        Status::internal("the question could not be answered")
    })?;
    done.map_err(|faults| {
        tracing::error!(%faults, "assigned layers unreadable");
        Status::internal("what is assigned cannot be read; the server's log says why")
    })
}

/// This server's clock, in seconds since 1970: only for questions that do not say when.
fn now_s() -> u64 {
    u64::try_from(chrono::Utc::now().timestamp()).unwrap_or_default()
}
