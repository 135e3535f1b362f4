//! Who gets which revision.

use super::{ChangeArguments, labelled};
use crate::name::{LayerName, bare};
use crate::parse;
use clap::Args;
use sockpilot_proto::v1::{Selector, Target, target};
use sockpilot_settings::labels::{self, Labels};

/// `assign`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true))]
pub struct Assign {
    /// policies/NAME or experiments/NAME.
    #[arg(value_parser = bare)]
    pub name: LayerName,
    /// Which revision.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: u64,
    /// To a stable share of the nodes: 10%.
    #[arg(long, value_name = "PERCENT", value_parser = parse::share, group = "whom")]
    pub share: Option<u32>,
    /// To the nodes with these labels: role=edge,zone=a.
    #[arg(long, value_name = "KEY=VALUE", value_parser = labels::selection, group = "whom")]
    pub nodes: Vec<Labels>,
    /// To a wave of nodes: 10%, role=edge,zone=a or nodes/web-1,nodes/web-2. May be repeated. If the revision is the canary already,
    /// after the waves that it has: whoever is in it stays in it.
    #[arg(long = "wave", value_name = "NODES", value_parser = parse::wave, group = "whom")]
    pub waves: Vec<Selector>,
    /// The waves in the place of those that the canary has.
    #[arg(long, requires = "waves", conflicts_with_all = ["share", "nodes", "everyone", "nobody"])]
    pub replace_waves: bool,
    /// To everyone; ends a canary, starts an experiment.
    #[arg(long, group = "whom")]
    pub everyone: bool,
    /// To nobody any more: stops an experiment.
    #[arg(long, group = "whom")]
    pub nobody: bool,
    /// To everyone although no node has ever confirmed it. Say why with --reason.
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

impl Assign {
    /// Whom the revision is for.
    pub fn target(&self) -> Target {
        let kind = match (self.share, self.everyone, self.nobody) {
            (Some(share), ..) => target::Kind::ShareBp(share),
            (None, true, _) => target::Kind::Everyone(target::Everyone {}),
            (None, false, true) => target::Kind::Nobody(target::Nobody {}),
            (None, false, false) if !self.waves.is_empty() => target::Kind::Waves(target::Waves {
                selectors: self.waves.clone(),
                salt: String::new(),
                flow_share_bp: 0,
            }),
            (None, false, false) => labelled(&self.nodes),
        };
        Target { kind: Some(kind) }
    }
}

/// `members`
#[derive(Debug, Args)]
pub struct Members {
    /// policies/NAME.
    #[arg(value_parser = bare)]
    pub name: LayerName,
    /// Of this wave only, from 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub wave: Option<u32>,
}

/// `promote`
#[derive(Debug, Args)]
pub struct Promote {
    /// policies/NAME or experiments/NAME.
    #[arg(value_parser = bare)]
    pub name: LayerName,
    /// Although no node has confirmed it. Say why with --reason.
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `rollback`
#[derive(Debug, Args)]
pub struct Rollback {
    /// policies/NAME or experiments/NAME.
    #[arg(value_parser = bare)]
    pub name: LayerName,
    /// Give everyone this revision.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub to_revision: Option<u64>,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}
