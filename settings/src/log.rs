//! The log on stderr.

use std::{
    io::{IsTerminal, stderr},
    sync::OnceLock,
};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::environment;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log what `RUST_LOG` asks for, or what `default` says.
///
/// # Errors
/// What to write in `RUST_LOG`, if it cannot be read.
pub fn to_stderr(format: Format, default: &str) -> Result<(), String> {
    let asked = environment::variable("RUST_LOG");
    let filter = EnvFilter::builder().parse(asked.as_deref().unwrap_or(default)).map_err(|error| {
        format!("RUST_LOG is \"{}\": {error}; write for example info, or debug,h2=warn", asked.unwrap_or_default())
    })?;
    let log = tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_writer(stderr);
    let log = match format {
        Format::Text => log.boxed(),
        Format::Json => log.json().boxed(),
    };
    let (beside, handle) = reload::Layer::new(None);
    tracing_subscriber::registry().with(beside).with(log).with(filter).init();
    // Whoever begins twice has ended above.
    let _ = BESIDE.set(handle);
    Ok(())
}

/// Who gets what is logged, too.
pub type Beside = Box<dyn Layer<Registry> + Send + Sync>;

static BESIDE: OnceLock<reload::Handle<Option<Beside>, Registry>> = OnceLock::new();

/// Has somebody get what is logged, too: later than the log itself, which has to be there before anything can fail.
pub fn beside(layer: Beside) {
    if let Some(handle) = BESIDE.get() {
        // The subscriber lives as long as the process.
        let _ = handle.reload(Some(layer));
    }
}
