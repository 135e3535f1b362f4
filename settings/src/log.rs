//! The log on stderr.

use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

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
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(stderr().is_terminal()).with_writer(stderr);
    match format {
        Format::Text => log.init(),
        Format::Json => log.json().init(),
    }
    Ok(())
}
