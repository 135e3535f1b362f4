//! `audit`.

use crate::name::{SETTINGS, bare};
use clap::{Args, Subcommand};
use sockpilot_audit::Head;
use std::path::PathBuf;

/// `audit`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Audit {
    #[command(subcommand)]
    pub task: Option<AuditTask>,
    /// policies/NAME, experiments/NAME, nodes/NAME, rollouts/NAME, rolloutPlans/NAME, rolloutSettings or zoneMap. Default: all.
    #[arg(value_parser = audited)]
    pub name: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Also what each made different.
    #[arg(long)]
    pub differences: bool,
}

/// What is done with the log as a whole.
#[derive(Debug, Subcommand)]
pub enum AuditTask {
    /// Find any entry that was changed, removed or inserted. It is looked for here: the server is asked for the entries only.
    ///
    /// That the newest entries were removed, or all rewritten, is found with a head that was noted before, elsewhere. Exit code 9: the log
    /// is not what it was.
    Verify(Verify),
    /// Print all entries, oldest first, each as a line of JSON: AuditEntry of the API.
    Export,
    /// Print where the log ends, to be noted where nobody can change it.
    Head,
}

/// `audit verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// What `audit export` printed, and no server; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What `audit head` or `audit verify` printed before. May be given several times.
    #[arg(long = "head", value_name = "SEQUENCE:HASH")]
    pub heads: Vec<Head>,
}

fn audited(text: &str) -> Result<String, String> {
    if ["zoneMap", SETTINGS].contains(&text)
        || ["nodes/", "rollouts/", "rolloutPlans/"].iter().any(|collection| text.starts_with(collection))
    {
        Ok(text.to_owned())
    } else {
        bare(text).map(|name| name.resource())
    }
}
