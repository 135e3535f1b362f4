//! Spans of a real server and a real node arrive at a collector, each transaction within its call.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use sockpilot_programs::reserved_address;
use sockpilot_tests::{
    admin::everyone,
    cgroup::Cgroup,
    documents::clamped,
    machine::{Needs, scenario},
    node::Node,
    server::{Database, Server},
    wait::eventually,
};
use tonic::{Request, Response, Status};

/// A batch is sent every five seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const UPDATE: &str = "sockpilot.v1.PolicyService/UpdatePolicy";

/// Spans with the program that they come from.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

impl Collector {
    fn spans(&self) -> Vec<(String, Span)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn named(&self, program: &str, name: &str) -> Vec<Span> {
        let all = self.spans().into_iter();
        all.filter(|(from, span)| from == program && span.name == name).map(|(_, span)| span).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_program in request.into_inner().resource_spans {
            let attributes = of_program.resource.unwrap_or_default().attributes;
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let name = match name.and_then(|name| name.value?.value) {
                Some(Value::StringValue(name)) => name,
                _ => String::new(),
            };
            let spans = of_program.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans.map(|span| (name.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn spans_arrive_at_a_collector() {
    scenario(Needs::Kernel, |machine| {
        let address: SocketAddr = reserved_address()?;
        let collector = Collector::default();
        let there = format!("http://{address}");
        let send = ["--otlp-endpoint", &there];
        let server = Server::start(machine, Database::Embedded, &send)?;
        let admin = server.admin()?;
        let service = TraceServiceServer::new(collector.clone());
        admin.spawn(async move {
            let _ = tonic::transport::Server::builder().add_service(service).serve(address).await;
        });
        let cgroup = Cgroup::new(machine, "node")?;
        let _node = Node::start(machine, "node", &server.url(), &cgroup, &send)?;
        admin.wait_for_nodes(&["node"])?;
        let stored = admin.put_policy(clamped(20), everyone())?;
        admin.wait_in_force("node", &stored.name, stored.revision)?;

        eventually("the server's call and its transaction have arrived", PATIENCE, || {
            let calls = collector.named("sockpilot-server", UPDATE);
            let ids: HashSet<_> = calls.iter().map(|call| call.span_id.clone()).collect();
            let within = collector.spans().into_iter().filter(|(_, span)| ids.contains(&span.parent_span_id)).count();
            ensure!(!calls.is_empty() && within > 0, "{} calls, {within} spans within", calls.len());
            Ok(())
        })?;
        eventually("the node's snapshot has arrived", PATIENCE, || {
            let snapshots = collector.named("sockpilot-node", "snapshot");
            ensure!(!snapshots.is_empty(), "none of {}", collector.spans().len());
            Ok(())
        })
    });
}
