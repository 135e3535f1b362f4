//! `apply`, and how the rollouts go that it starts.

use super::{ChangeArguments, labelled};
use crate::{name, parse};
use clap::{ArgGroup, Args};
use sockpilot_proto::v1::{RolloutOptions, Target, target};
use sockpilot_settings::labels::{self, Labels};
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
A new revision of a policy reaches nodes by a rollout. --wait waits for its end, and says by its exit code how it ended:
  0  completed, or there was nothing to wait for
  4  rolled back
  5  waits for a person: paused, or a draft
  6  superseded by another rollout, or by a change past rollouts
  7  not over within the timeout; it goes on
  8  rolled back, and some nodes have not confirmed that: somebody must look
Of several policies the first that did not complete says the code.

--dry-run shows what would change; of a revision that is stored already (--stage) also what its rollout would do.

Past all rollouts, at once: --now, --share and --nodes. For a policy that needs a --reason.

Examples:
  sockpilot apply -f web.yaml --reason \"more window\" --wait=2h
  sockpilot apply -f web.yaml --plan quick --confirm-within 10m
  sockpilot apply -f web.yaml --now --reason \"incident 4711\"";

/// `apply`
#[derive(Debug, Args)]
#[command(after_help = HELP, group = ArgGroup::new("whom").conflicts_with_all(["plan", "draft", "confirm_within", "break_glass", "wait"]))]
pub struct Apply {
    /// File with one or several YAML documents; a directory, of which all *.yaml, *.yml and *.json are read, by name; - for
    /// standard input. May be repeated.
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Directories with all that is beneath them.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Past all rollouts, to a stable share of the nodes only: 10%. Of a policy say why with --reason.
    #[arg(long, value_name = "PERCENT", value_parser = parse::share, group = "whom")]
    pub share: Option<u32>,
    /// Past all rollouts, to the nodes with these labels only: role=edge,zone=a. Of a policy say why with --reason.
    #[arg(long, value_name = "KEY=VALUE", value_parser = labels::selection, group = "whom")]
    pub nodes: Vec<Labels>,
    /// Store it only; give it to nobody yet.
    #[arg(long, group = "whom")]
    pub stage: bool,
    /// Policies past all rollouts, to everyone at once: the emergency path. Say why with --reason.
    #[arg(long, group = "whom", requires = "reason")]
    pub now: bool,
    /// How rollouts go that it starts.
    #[command(flatten)]
    pub rollout: RolloutArguments,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

impl Apply {
    /// Whom the revision of a policy is for past all rollouts; `None`: by a rollout.
    pub fn target(&self) -> Option<Target> {
        if self.now { Some(Target { kind: Some(target::Kind::Everyone(target::Everyone {})) }) } else { self.part() }
    }

    /// Whom a revision is for that needs no rollout; `None` for everyone.
    pub fn part(&self) -> Option<Target> {
        let kind = match (self.share, self.stage, self.nodes.is_empty()) {
            (Some(share), _, _) => target::Kind::ShareBp(share),
            (None, true, _) => target::Kind::Nobody(target::Nobody {}),
            (None, false, false) => labelled(&self.nodes),
            (None, false, true) => return None,
        };
        Some(Target { kind: Some(kind) })
    }
}

/// How a rollout goes.
#[derive(Debug, Args)]
pub struct RolloutArguments {
    /// By this plan: careful, rolloutPlans/careful. Default: the fleet's.
    #[arg(long, value_name = "PLAN", value_parser = name::plan)]
    pub plan: Option<String>,
    /// Make the rollout, but do not start it yet.
    #[arg(long)]
    pub draft: bool,
    /// It goes back by itself if it is not confirmed within that long (sockpilot rollout confirm): 10m.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub confirm_within: Option<Duration>,
    /// Past freeze windows, locks and limits. Say why with --reason.
    #[arg(long, requires = "reason")]
    pub break_glass: bool,
    /// Wait for its end, at most so long: --wait, --wait=2h. The exit code says how it ended.
    #[arg(
        long,
        value_name = "TIMEOUT",
        require_equals = true,
        value_parser = parse::duration,
        conflicts_with_all = ["draft", "dry_run"]
    )]
    pub wait: Option<Option<Duration>>,
}

impl RolloutArguments {
    /// As in the contract.
    pub fn options(&self) -> RolloutOptions {
        RolloutOptions {
            plan: self.plan.clone().unwrap_or_default(),
            draft: self.draft,
            // At most a hundred years, which fits.
            confirm_within: self.confirm_within.and_then(|within| within.try_into().ok()),
            break_glass: self.break_glass,
        }
    }

    /// What was said, if anything was.
    pub fn said(&self) -> Option<&'static str> {
        let Self { plan, draft, confirm_within, break_glass, wait: _ } = self;
        let said = [
            (plan.is_some(), "--plan"),
            (*draft, "--draft"),
            (confirm_within.is_some(), "--confirm-within"),
            (*break_glass, "--break-glass"),
        ];
        said.into_iter().find_map(|(given, option)| given.then_some(option))
    }
}
