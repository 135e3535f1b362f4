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

use clap::Parser;
use failure::Failure;
use std::process::ExitCode;
use std::time::SystemTime;

fn main() -> ExitCode {
    match start(args::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn start(arguments: args::Arguments) -> Result<(), Failure> {
    let actor = arguments.actor.clone().unwrap_or_else(user_at_host);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Output)?;
    runtime.block_on(async {
        let client = client::Client::new(&arguments.server, &actor)?;
        commands::run(arguments, &client, SystemTime::now()).await
    })
}

/// Who sits there; behind sudo the person, not root.
fn user_at_host() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let uid = nix::unistd::getuid();
    let user = named
        .or_else(|| nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name))
        .unwrap_or_else(|| format!("uid-{uid}"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let text = format!("{user}@{}", host.trim());
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
