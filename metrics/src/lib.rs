//! What a daemon counts. A metric is registered in a [`Book`] once: from there Prometheus reads it, and `docs/metrics.md` follows. Of a family
//! without a member the text for Prometheus says nothing, so the documentation could not follow from that.
#![warn(missing_docs)]

pub mod traces;

use std::{env, fs, path::Path};

use axum::{Router, http::header, routing::get};
use prometheus_client::{
    encoding::{EncodeMetric, text},
    metrics::MetricType,
    registry::{Metric, Registry},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// All metrics of a daemon.
#[derive(Debug)]
pub struct Book {
    registry: Registry,
    prefix: &'static str,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// As Prometheus knows it.
    name: String,
    kind: &'static str,
    help: String,
}

impl Book {
    /// Without a metric yet; the names of all begin with `prefix`.
    #[must_use]
    pub fn of(prefix: &'static str) -> Self {
        Self { registry: Registry::with_prefix(prefix), prefix, entries: vec![] }
    }

    /// Adds a metric. `name` is without the prefix, and of a counter without `_total`; `help` is a phrase without a full stop.
    pub fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        let (kind, suffix) = match EncodeMetric::metric_type(&metric) {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Gauge => ("gauge", ""),
            MetricType::Histogram => ("histogram", ""),
            MetricType::Info | MetricType::Unknown => ("other", ""),
        };
        self.entries.push(Entry { name: format!("{}_{name}{suffix}", self.prefix), kind, help: help.to_owned() });
        self.registry.register(name, help, metric);
    }

    /// As Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut page = String::new();
        match text::encode(&mut page, &self.registry) {
            Ok(()) => page,
            // Writing to a string cannot fail; if it ever does, an empty page is an absent target, which alerts.
            Err(std::fmt::Error) => String::new(),
        }
    }

    fn table(&self) -> String {
        let row = |Entry { name, kind, help }: &Entry| format!("| `{name}` | {kind} | {help} |\n");
        format!("| metric | kind | what it is |\n|---|---|---|\n{}", self.entries.iter().map(row).collect::<String>())
    }

    /// Compares a section of a page of the documentation with this, or writes it anew if `SOCKPILOT_UPDATE` is set. For tests.
    ///
    /// # Errors
    /// If the page differs, has no such section or cannot be read.
    pub fn check_documentation(&self, page: &Path, heading: &str) -> Result<(), String> {
        let found = fs::read_to_string(page).map_err(|error| format!("{}: {error}", page.display()))?;
        let (before, rest) =
            found.split_once(&format!("{heading}\n")).ok_or_else(|| format!("there is no {heading:?}"))?;
        let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
        let expected = format!("{before}{heading}\n\n{}{after}", self.table());
        if env::var_os("SOCKPILOT_UPDATE").is_some() {
            return fs::write(page, expected).map_err(|error| error.to_string());
        }
        if found == expected {
            Ok(())
        } else {
            Err(format!("{} is out of date: set SOCKPILOT_UPDATE=1", page.display()))
        }
    }
}

/// Serves a page under `/metrics` until it is stopped.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    text: impl Fn() -> String + Clone + Send + Sync + 'static,
    listener: TcpListener,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let page = move || {
        let text = text();
        async { ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text) }
    };
    axum::serve(listener, Router::new().route("/metrics", get(page)))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}
