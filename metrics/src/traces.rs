//! Spans, sent to an OpenTelemetry collector by OTLP over gRPC, if one is named. What a span is for people who read the log, it is there, too.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use sockpilot_settings::log;

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq, Default, clap::Args)]
pub struct Traces {
    /// An OpenTelemetry collector that gets spans by OTLP over gRPC, as http://127.0.0.1:4317 [default: none]. How many it gets say
    /// OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    otlp_endpoint: Option<String>,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("the exporter of spans cannot be made for {endpoint}")]
pub struct TracesError {
    endpoint: String,
    #[source]
    source: opentelemetry_otlp::ExporterBuildError,
}

/// While it lives spans are sent. The last ones go when it is dropped.
#[derive(Debug)]
pub struct Sending(SdkTracerProvider);

impl Drop for Sending {
    fn drop(&mut self) {
        // A collector that is not there is no reason to end otherwise.
        let _ = self.0.shutdown();
    }
}

impl Traces {
    /// Begins to send, if there is a collector; within a runtime of tokio. `service` is the program.
    ///
    /// # Errors
    /// If the exporter cannot be made.
    pub fn begin(self, service: &'static str) -> Result<Option<Sending>, TracesError> {
        let Some(endpoint) = self.otlp_endpoint else { return Ok(None) };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint.clone()).build();
        let exporter = exporter.map_err(|source| TracesError { endpoint: endpoint.clone(), source })?;
        let resource = Resource::builder().with_service_name(service).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(service))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        log::beside(Box::new(layer));
        tracing::info!(endpoint, "spans sent");
        Ok(Some(Sending(provider)))
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let place = text.strip_prefix("http://").filter(|place| !place.is_empty());
    let remedy = "write http://HOST:4317; a collector beside the daemon speaks TLS to the others";
    place
        .map(|_| text.to_owned())
        .ok_or_else(|| format!("\"{}\" is no address of a collector: {remedy}", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_address() {
        assert!(endpoint("http://127.0.0.1:4317").is_ok());
        for bad in ["", "127.0.0.1:4317", "https://collector:4317", "http://"] {
            let fault = endpoint(bad).expect_err("no address");
            assert!(fault.contains("write http://HOST:4317"), "{fault}");
        }
    }

    #[test]
    fn without_a_collector_nothing_is_sent() {
        assert!(Traces::default().begin("test").is_ok_and(|sending| sending.is_none()));
    }
}
