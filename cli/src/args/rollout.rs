//! `rollout`

use super::{ChangeArguments, RolloutArguments};
use crate::name::{self, LayerName, RolloutName};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use sockpilot_proto::v1::RolloutState;

/// What to do with rollouts.
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Show rollouts, newest first.
    List(List),
    /// Show how far one has come: its waves, what its gates say, and what it waits for.
    #[command(after_help = VIEW)]
    Get(Get),
    /// As get --watch.
    #[command(after_help = VIEW)]
    Watch(One),
    /// Show every change of its state, newest first, with who or what made it and why.
    History(History),
    /// Show what a rollout of a stored revision would do: the nodes of its waves, what changes for how many connections, and how
    /// long each gate takes at the present traffic.
    Preview(Preview),
    /// Make a rollout of a stored revision, and start it unless it is to be a draft. `apply` does both in one go.
    Create(Create),
    /// Approve a draft, by its digest; by somebody else than who made it.
    Approve(Approve),
    /// Start drafts.
    Start(Start),
    /// Hold them where they are. Gates that show harm, the breaker and refusals of nodes roll back all the same.
    Pause(Plain),
    /// Go on with what was paused.
    Resume(Plain),
    /// Go on to the next step without waiting for the bake time. Gates must have passed, unless forced.
    Promote(Promote),
    /// Go to the first step of a wave. Backwards always; forwards over gates only by force.
    Jump(Jump),
    /// Confirm what was begun with --confirm-within.
    Confirm(Plain),
    /// End them, and give their nodes the revision that everyone had before. A completed one too, while its revision is everyone's.
    Rollback(Plain),
    /// Make a plan the one of rollouts that name none.
    SetDefault(SetDefault),
}

const VIEW: &str = "\
HARM is how much worse the canary is than what it is compared with, with bounds that are valid at every look; more is worse. It is
drawn in margins: the line in the middle is no harm, the broken line is the margin. A gate passes when the whole interval is
left of the margin, and fails when all of it is right of the margin. Connections under earlier revisions end by themselves.";

const BULK: &str = "\
Of many: --all, --policy and --state, which select together. What would become of each is shown first, and asked for at a terminal;
elsewhere nothing is done without --yes.";

/// `rollout list`
#[derive(Debug, Args)]
pub struct List {
    /// Only of this policy: NAME or policies/NAME.
    #[arg(value_parser = name::policy)]
    pub policy: Option<LayerName>,
    /// Only those that are not over.
    #[arg(long)]
    pub active: bool,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// One rollout.
#[derive(Debug, Args)]
pub struct One {
    /// rollouts/NAME, or a policy: its rollout that is not over, or else its newest.
    pub name: RolloutName,
}

/// `rollout get`
#[derive(Debug, Args)]
pub struct Get {
    /// Which.
    #[command(flatten)]
    pub one: One,
    /// Go on showing it until it is over, or Ctrl-C.
    #[arg(long)]
    pub watch: bool,
}

/// `rollout history`
#[derive(Debug, Args)]
pub struct History {
    /// Which.
    #[command(flatten)]
    pub one: One,
    /// Also what each was decided on: gates, waves, and trips of the breaker.
    #[arg(long)]
    pub evidence: bool,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// `rollout preview`
#[derive(Debug, Args)]
pub struct Preview {
    /// NAME or policies/NAME: its newest revision; NAME@N is another one.
    #[arg(value_parser = name::policy_revision)]
    pub policy: LayerName,
    /// By this plan: careful, rolloutPlans/careful. Default: the fleet's.
    #[arg(long, value_name = "PLAN", value_parser = name::plan)]
    pub plan: Option<String>,
}

/// `rollout create`
#[derive(Debug, Args)]
pub struct Create {
    /// NAME or policies/NAME: its newest revision; NAME@N is another one.
    #[arg(value_parser = name::policy_revision)]
    pub policy: LayerName,
    /// How it goes.
    #[command(flatten)]
    pub rollout: RolloutArguments,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `rollout approve`
#[derive(Debug, Args)]
pub struct Approve {
    /// rollouts/NAME, or a policy: its rollout that is not over.
    pub name: RolloutName,
    /// What is approved, as it was shown. Without it, it is shown, and nothing is approved.
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    pub digest: Option<Digest>,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest(pub Vec<u8>);

/// Which rollouts a verb is for.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["name", "all", "policies", "states"]))]
pub struct Which {
    /// rollouts/NAME, or a policy: its rollout that is not over.
    #[arg(conflicts_with_all = ["all", "policies", "states", "yes"])]
    pub name: Option<RolloutName>,
    /// All that are not over.
    #[arg(long, conflicts_with_all = ["policies", "states"])]
    pub all: bool,
    /// Those of this policy. May be repeated.
    #[arg(long = "policy", value_name = "POLICY", value_parser = name::policy)]
    pub policies: Vec<LayerName>,
    /// Those in this state. May be repeated.
    #[arg(long = "state", value_enum, value_name = "STATE")]
    pub states: Vec<State>,
    /// Of many, do it without showing first what it would be.
    #[arg(long)]
    pub yes: bool,
    /// Of one, only if nothing has changed since it had this etag, which `get -o json` shows.
    #[arg(long, value_name = "ETAG", conflicts_with_all = ["all", "policies", "states"])]
    pub etag: Option<String>,
}

/// The states of what is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    Draft,
    Running,
    Paused,
    RollingBack,
}

impl State {
    /// As in the contract.
    pub fn to_proto(self) -> RolloutState {
        match self {
            Self::Draft => RolloutState::Draft,
            Self::Running => RolloutState::Running,
            Self::Paused => RolloutState::Paused,
            Self::RollingBack => RolloutState::RollingBack,
        }
    }
}

/// Verbs that need no more than to be said.
#[derive(Debug, Args)]
#[command(after_help = BULK)]
pub struct Plain {
    /// Which.
    #[command(flatten)]
    pub which: Which,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `rollout start`
#[derive(Debug, Args)]
#[command(after_help = BULK)]
pub struct Start {
    /// Which.
    #[command(flatten)]
    pub which: Which,
    /// Past freeze windows, locks and limits; one at a time. Say why with --reason.
    #[arg(long, requires = "reason", conflicts_with_all = ["all", "policies", "states"])]
    pub break_glass: bool,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `rollout promote`
#[derive(Debug, Args)]
#[command(after_help = BULK)]
pub struct Promote {
    /// Which.
    #[command(flatten)]
    pub which: Which,
    /// Over gates that have not passed. Say why with --reason.
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `rollout jump`
#[derive(Debug, Args)]
pub struct Jump {
    /// rollouts/NAME, or a policy: its rollout that is not over.
    pub name: RolloutName,
    /// To this wave, from 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub wave: u32,
    /// Over gates that have not passed. Say why with --reason.
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// Only if nothing has changed since it had this etag, which `get -o json` shows.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ETAG")]
    pub etag: String,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `rollout set-default`
#[derive(Debug, Args)]
pub struct SetDefault {
    /// NAME or rolloutPlans/NAME.
    #[arg(value_parser = name::plan)]
    pub plan: String,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// As it is shown: 64 hexadecimal digits.
fn digest(text: &str) -> Result<Digest, String> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    // from_str_radix takes a sign, too.
    let is_hex = text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    bytes.filter(|_| is_hex).map(Digest).ok_or_else(|| {
        format!("\"{text}\" is no digest; write all 64 digits that `sockpilot rollout approve` shows without --digest")
    })
}
