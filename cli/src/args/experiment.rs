//! `experiment`

use super::ChangeArguments;
use crate::name::{self, Collection, LayerName};
use crate::parse;
use clap::{ArgGroup, Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// What to do with an experiment.
#[derive(Debug, Subcommand)]
pub enum Experiment {
    /// Start an epoch, the newest if none is named. One that ran before goes on with the same buckets.
    Start(Start),
    /// Stop it. Its outcomes stay, and it may be started again.
    Stop(Stop),
    /// Let it run for another time than was planned. No new epoch.
    Extend(Extend),
    /// End it for good: ship an arm as the first rule of a policy, for nobody yet, or ship nothing.
    Conclude(Conclude),
    /// Show what is known by now: the verdict, and each measure of each arm against the control.
    #[command(after_help = RESULTS)]
    Results(Results),
    /// Show the verdicts that were drawn, newest first.
    Verdicts(Verdicts),
    /// Draw a recorded verdict again, here, from what it was drawn from: that gives the same results to the byte, or fails.
    Replay(Replay),
    /// Say how many connections it takes to find an effect, and how long that takes at the present traffic.
    Power(Power),
    /// Print the measures with caps taken from what was seen, as YAML to be put into the document before it starts.
    Freeze(Freeze),
}

const RESULTS: &str = "\
An interval is drawn from end to end with the effect as a dot, on one scale for all measures. The line in the middle is no effect; the
broken line of a guardrail is its margin. An arrow is an interval that goes on beyond the scale. Intervals and p hold at every look:
it does no harm to look often, and to stop when the verdict says so. HOLM is p after correction for all success measures together.
GOOD says which way is good, more or less.

Examples:
  sockpilot experiment results syn-rto
  sockpilot experiment results syn-rto@2 --at-end
  sockpilot experiment results syn-rto --watch
  sockpilot experiment results syn-rto --html syn-rto.html";

/// `experiment start`
#[derive(Debug, Args)]
pub struct Start {
    /// NAME or experiments/NAME; NAME@N is one epoch.
    #[arg(value_parser = experiment)]
    pub name: LayerName,
    /// This epoch; NAME@N says the same.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// What goes with the change.
    #[command(flatten)]
    pub change: Change,
}

/// `experiment stop`
#[derive(Debug, Args)]
pub struct Stop {
    /// NAME or experiments/NAME.
    #[arg(value_parser = bare_experiment)]
    pub name: LayerName,
    /// What goes with the change.
    #[command(flatten)]
    pub change: Change,
}

/// `experiment extend`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("until").required(true))]
pub struct Extend {
    /// NAME or experiments/NAME.
    #[arg(value_parser = bare_experiment)]
    pub name: LayerName,
    /// How long it is to run, counted from its start: 3d, 36h.
    #[arg(long = "for", value_name = "DURATION", value_parser = seconds, group = "until")]
    pub duration_s: Option<u32>,
    /// Until it is stopped.
    #[arg(long, group = "until")]
    pub until_stopped: bool,
    /// What goes with the change.
    #[command(flatten)]
    pub change: Change,
}

/// `experiment conclude`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct Conclude {
    /// NAME or experiments/NAME.
    #[arg(value_parser = bare_experiment)]
    pub name: LayerName,
    /// Ship this arm.
    #[arg(long, value_name = "ARM", group = "what", requires = "policy")]
    pub ship: Option<String>,
    /// The policy that gets what the arm sets, as its first rule; made if there is none: policies/NAME.
    #[arg(long, value_name = "POLICY", value_parser = name::policy, conflicts_with = "discard")]
    pub policy: Option<LayerName>,
    /// Ship nothing.
    #[arg(long, group = "what")]
    pub discard: bool,
    /// Although the verdict does not say so. Say why with --reason.
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// What goes with the change.
    #[command(flatten)]
    pub change: Change,
}

/// `experiment results`
#[derive(Debug, Args)]
pub struct Results {
    /// NAME or experiments/NAME; NAME@N is one epoch.
    #[arg(value_parser = experiment)]
    pub name: LayerName,
    /// Of this epoch; NAME@N says the same. Default: the one that runs, or ran last.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// Also the intervals that hold at the planned end only, and not at a look before it.
    #[arg(long)]
    pub at_end: bool,
    /// Go on showing them until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Also write them as one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    pub html: Option<PathBuf>,
}

/// `experiment verdicts`
#[derive(Debug, Args)]
pub struct Verdicts {
    /// NAME or experiments/NAME.
    #[arg(value_parser = bare_experiment)]
    pub name: LayerName,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// `experiment replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// NAME or experiments/NAME.
    #[arg(value_parser = experiment)]
    pub name: LayerName,
    /// The verdict's number, as `verdicts` shows it; the newest if none is given.
    pub number: Option<u64>,
}

/// `experiment power`
#[derive(Debug, Args)]
pub struct Power {
    /// NAME or experiments/NAME.
    #[arg(value_parser = bare_experiment)]
    pub name: LayerName,
    /// The effect to be found, of the control's value.
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = effect)]
    pub effect: u32,
    /// With which probability it is to be found, in percent.
    #[arg(long, value_name = "PERCENT", default_value = "80", value_parser = probability)]
    pub power: u32,
    /// Before it has measured anything: by the outcomes of this policy in the last day.
    #[arg(long, value_name = "POLICY", value_parser = name::policy)]
    pub from: Option<LayerName>,
}

/// `experiment freeze`
#[derive(Debug, Args)]
pub struct Freeze {
    /// NAME or experiments/NAME.
    #[arg(value_parser = bare_experiment)]
    pub name: LayerName,
    /// By the outcomes of this policy.
    #[arg(long, value_name = "POLICY", value_parser = crate::name::policy)]
    pub from: Option<LayerName>,
}

/// What goes with a change of an experiment.
#[derive(Debug, Args)]
pub struct Change {
    /// Only if nothing has changed since it had this etag, which `get -o json` shows.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ETAG")]
    pub etag: String,
    /// What goes with every change.
    #[command(flatten)]
    pub common: ChangeArguments,
}

/// An experiment; the collection may be left out, because it can be no other.
fn experiment(text: &str) -> Result<LayerName, String> {
    name::of(Collection::Experiments, text)
}

fn bare_experiment(text: &str) -> Result<LayerName, String> {
    name::bare_of(Collection::Experiments, text)
}

fn seconds(text: &str) -> Result<u32, String> {
    let duration: Duration = parse::duration(text)?;
    duration.as_secs().try_into().map_err(|_| format!("\"{text}\" is too long; write at most {}d", u32::MAX / 86_400))
}

/// In basis points.
fn effect(text: &str) -> Result<u32, String> {
    parse::share(text).map_err(|_| format!("\"{text}\" is no effect; write 0.01% to 99.99%, with at most two decimals"))
}

fn probability(text: &str) -> Result<u32, String> {
    match text.strip_suffix('%').unwrap_or(text).parse() {
        Ok(percent @ 1..=99) => Ok(percent),
        _ => Err(format!("\"{text}\" is no probability; write 1 to 99 percent")),
    }
}
