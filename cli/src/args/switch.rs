//! `off` and `on`

use super::ChangeArguments;
use crate::name;
use clap::{ArgGroup, Args};

/// `off`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["target", "list"]))]
pub struct Off {
    /// policies/NAME, experiments/NAME, or all. Say why with --reason.
    #[arg(value_parser = name::switched, requires = "reason")]
    pub target: Option<String>,
    /// Show what is off.
    #[arg(long)]
    pub list: bool,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `on`
#[derive(Debug, Args)]
pub struct On {
    /// policies/NAME, experiments/NAME, or all.
    #[arg(value_parser = name::switched)]
    pub target: String,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}
