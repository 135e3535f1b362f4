//! `sockpilot`: applies policies and experiments, shows who runs what and what came of it.

mod api;
mod args;
mod backup;
mod client;
mod commands;
mod document;
#[cfg(test)]
mod examples;
mod failure;
mod format;
#[cfg(test)]
mod fuzz;
mod name;
mod output;
mod parse;
mod schema;
mod syntax;
mod table;
mod tree;
mod views;
mod walk;
mod yaml;

use failure::Failure;
use sockpilot_settings::actor::Actor;
use sockpilot_settings::environment;
use sockpilot_settings::hardening;
use sockpilot_settings::secret::Secret;
use std::process::ExitCode;
use std::time::SystemTime;

fn main() -> ExitCode {
    match start(environment::arguments()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn start(arguments: args::Arguments) -> Result<(), Failure> {
    hardening::keep_memory_private().map_err(Failure::Output)?;
    arguments.check()?;
    let actor = match &arguments.actor {
        Some(actor) => actor.parse().map_err(|why| Failure::Input(format!("\"{actor}\" is no actor: it {why}")))?,
        None => user_at_host(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Output)?;
    runtime.block_on(async {
        let credentials = client::Credentials { files: arguments.tls.clone(), token: token(&arguments)? };
        let client = client::Client::new(&arguments.server, &actor, &credentials)?;
        commands::run(arguments, &client, SystemTime::now()).await
    })
}

/// From a file or the environment: on a command line everybody on the machine could read it.
fn token(arguments: &args::Arguments) -> Result<Option<Secret>, Failure> {
    match &arguments.token_file {
        Some(file) => Secret::from_file(file).map(Some).map_err(Failure::Input),
        None => Ok(environment::variable("SOCKPILOT_TOKEN").map(|text| Secret::new(&text))),
    }
}

/// Who sits there; behind sudo the person, not root.
fn user_at_host() -> Actor {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| environment::variable(name));
    let uid = nix::unistd::getuid();
    let user = named
        .or_else(|| nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name))
        .unwrap_or_else(|| format!("uid-{uid}"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Actor::of_names(&format!("{user}@{}", host.trim()))
}
