//! `sockpilot-server`: arguments, log, signals; the rest is in the library.

use std::{error::Error, process::ExitCode};

use sockpilot_server::{
    Database,
    process::{args::Args, doctor},
};
use sockpilot_settings::{
    checkup::{self, Checkup},
    environment, hardening, log,
};
use tokio::signal::unix::{SignalKind, signal};

/// A delivery takes a tenth less CPU with it than with glibc's, and it gives back what bursts leave. A node's connection takes as much memory
/// with either. It starts no thread of its own: that would begin before privileges are given up, and keep them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The driver's notices of schema statements that had nothing to do are no news.
const LOG_DEFAULT: &str = "info,sqlx=warn";

fn main() -> ExitCode {
    let args: Args = environment::arguments();
    if let Err(error) = log::to_stderr(args.log_format, LOG_DEFAULT) {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = hardening::of_daemon() {
        tracing::error!(%error, "cannot give up privileges");
        return ExitCode::FAILURE;
    }
    if args.doctor {
        let checkup = examine(args);
        print!("{checkup}");
        return if checkup.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if nix::unistd::geteuid().is_root() {
        tracing::warn!("running as root, which the server never needs; start it as another user");
    }
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = checkup::in_full(&*error);
            tracing::error!(error = %message, "server failed");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn examine(args: Args) -> Checkup {
    doctor::examine(args).await
}

#[tokio::main]
async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    let _traces = args.traces.clone().begin("sockpilot-server")?;
    let migrate_for = args.migrate_for.clone();
    let config = args.into_config()?;
    if let (Some(role), Database::At(address)) = (migrate_for, &config.database) {
        sockpilot_server::migrate(address, &role).await?;
        tracing::info!(role, "the schema is up to date, and for this role");
        return Ok(());
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    sockpilot_server::run(config, shutdown).await?;
    Ok(())
}
