//! The node daemon.

use std::process::ExitCode;

use sockpilot_node::process::{args::Args, daemon, doctor};
use sockpilot_settings::{environment, hardening, log};

pub(crate) fn main() -> ExitCode {
    let args: Args = environment::arguments();
    if let Err(error) = log::to_stderr(args.log_format, "info") {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = hardening::of_daemon() {
        tracing::error!(%error, "cannot give up privileges");
        return ExitCode::FAILURE;
    }
    if args.doctor {
        let checkup = doctor::examine(args);
        print!("{checkup}");
        return if checkup.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let result = args.config().map_err(anyhow::Error::from).and_then(daemon::run);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
