//! What a change would do.

use std::path::PathBuf;
use std::time::Duration;

use super::{Failure, exact, labelled};
use crate::name::LayerName;
use crate::parse;
use clap::Args;
use sockpilot_proto::v1::{Target, target};
use sockpilot_settings::labels::{self, Labels};

/// `simulate`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct Simulate {
    /// A revision that is stored: policies/web@3.
    #[arg(value_name = "NAME@N", value_parser = exact, group = "what", conflicts_with = "flows")]
    pub name: Option<LayerName>,
    /// File with the policy or experiment; - for standard input.
    #[arg(short, long, value_name = "FILE", group = "what")]
    pub file: Option<PathBuf>,
    /// As if it were for a stable share of the nodes only: 10%. Default: for everyone.
    #[arg(long, value_name = "PERCENT", value_parser = parse::share, group = "whom")]
    pub share: Option<u32>,
    /// As if it were for the nodes with these labels only: role=edge,zone=a.
    #[arg(long, value_name = "KEY=VALUE", value_parser = labels::selection, group = "whom")]
    pub nodes: Vec<Labels>,
    /// Connections that ended so far back: 10m, 2h. Default: an hour.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub since: Option<Duration>,
    /// Connections of nodes with these labels only: role=edge,zone=a.
    #[arg(short = 'l', long = "labels", value_name = "KEY=VALUE", value_parser = labels::selection)]
    pub labels: Vec<Labels>,
    /// At most so many recorded connections, the newest. Default: 20000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_flows: Option<u32>,
    /// Without a server: recorded connections from this file, as `samples -o jsonl` prints them; - for standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["whom", "since", "labels", "max_flows"])]
    pub flows: Option<PathBuf>,
    /// Without a server: files or directories with what everyone has now. Default: nothing.
    #[arg(long, value_name = "FILE", requires = "flows", num_args = 1..)]
    pub against: Vec<PathBuf>,
    /// Without a server: file with the zone map.
    #[arg(long, value_name = "FILE", requires = "flows")]
    pub zones: Option<PathBuf>,
}

impl Simulate {
    /// Whom it would be for; `None` for everyone.
    pub fn target(&self) -> Option<Target> {
        let kind = match (self.share, self.nodes.is_empty()) {
            (Some(share), _) => target::Kind::ShareBp(share),
            (None, false) => labelled(&self.nodes),
            (None, true) => return None,
        };
        Some(Target { kind: Some(kind) })
    }

    /// The selections that were given in parts.
    pub fn selections(&self) -> Result<&[Labels], Failure> {
        labels::merged(self.labels.iter().cloned()).map_err(Failure::Input)?;
        Ok(&self.nodes)
    }
}
