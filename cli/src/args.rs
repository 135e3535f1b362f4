//! The command line.

mod access;
mod apply;
mod assign;
mod audit;
mod experiment;
mod rollout;
mod simulate;
mod switch;

pub use access::{Access, CreateToken, JoinToken, Make, May, Pki};
pub use apply::{Apply, RolloutArguments};
pub use assign::{Assign, Members, Promote, Rollback};
pub use audit::{Audit, AuditTask, Verify};
pub use experiment::{Change as ExperimentChange, Experiment, Results};
pub use rollout::{Approve, Create, History, Jump, One as OneRollout, Preview, Rollout, SetDefault, Which};
pub use simulate::Simulate;
pub use switch::{Off, On};

use crate::failure::Failure;
use crate::name::{Collection, Deletable, LayerName, Selection, bare};
use crate::parse;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use sockpilot_proto::v1::target;
use sockpilot_settings::labels::{self, Labels};
use sockpilot_settings::node;
use sockpilot_settings::tls::TlsFiles;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Policies and experiments for the kernel's TCP parameters: apply them, see who runs them and what came of it.
///
/// Exit codes: 0 done, 1 refused by the server, 2 wrong usage or a faulty file, 3 server not available; of --wait for a rollout that
/// did not complete 4 to 8, as `apply --help` says; of `audit verify` 9.
#[derive(Debug, Parser)]
#[command(name = "sockpilot", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Arguments {
    /// Address of the server.
    #[arg(
        long,
        global = true,
        help_heading = "Common options",
        env = "SOCKPILOT_SERVER",
        default_value = "http://127.0.0.1:7460",
        value_name = "URL"
    )]
    pub server: String,
    /// TLS: the server's authorities, and the own certificate.
    #[command(flatten)]
    pub tls: TlsFiles,
    /// File with a token that says who asks. The variable SOCKPILOT_TOKEN can hold one itself.
    #[arg(long, global = true, help_heading = "TLS", env = "SOCKPILOT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Who asks, for the audit log of a server that does not know it otherwise. Default: USER@HOST.
    #[arg(long, global = true, help_heading = "Common options", env = "SOCKPILOT_ACTOR", value_name = "NAME")]
    pub actor: Option<String>,
    /// How to print the answer.
    #[arg(short, long, global = true, help_heading = "Common options", value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// What each option by itself cannot tell: a selection of nodes that was given in parts asks for one value of a label.
    pub fn check(&self) -> Result<(), Failure> {
        if let Command::Assign(assign) = &self.command
            && assign.name.collection == Collection::Policies
            && assign.change.reason.is_empty()
        {
            return Err(past_rollouts("assign"));
        }
        let selections = match &self.command {
            Command::Apply(apply) => apply.nodes.as_slice(),
            Command::Assign(assign) => &assign.nodes,
            Command::Simulate(simulate) => simulate.selections()?,
            Command::Nodes(nodes) => &nodes.labels,
            _ => return Ok(()),
        };
        labels::merged(selections.iter().cloned()).map(drop).map_err(Failure::Input)
    }
}

/// What past rollouts is done to a policy needs a reason.
pub fn past_rollouts(what: &str) -> Failure {
    Failure::Input(format!("{what} goes past all rollouts, which needs a reason for a policy; say it with --reason"))
}

/// How to print an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// The messages of the API in the proto JSON mapping.
    Json,
    /// The same without line breaks; of a list each entry on a line of its own.
    Jsonl,
    /// Documents as they can be applied again, here or elsewhere; other messages likewise.
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create policies, experiments and plans of rollouts from YAML, or make new revisions of them; replace the zone map and the
    /// settings of rollouts. A new revision of a policy begins a rollout.
    Apply(Apply),
    /// Show policies, experiments, the zone map, and the plans and settings of rollouts.
    Get(Get),
    /// Show who runs which revision, and who refused it.
    Status(StatusOf),
    /// Show what came of the connections, by rule or arm and revision.
    Outcomes(Outcomes),
    /// Say what a connection gets, and why.
    Explain(Explain),
    /// Show single connections of the newest past, as a random sample: how many each stands for, and a few of those that no policy
    /// matched.
    Samples(Samples),
    /// Say which connections of the newest past would get what if a policy or an experiment were changed. Nothing is changed.
    Simulate(Simulate),
    /// Show the nodes; have one record its connections.
    Nodes(Nodes),
    /// Past all rollouts, give a revision to some nodes, as a canary, or to everyone; start or stop an experiment.
    Assign(Assign),
    /// Show the nodes of a canary, and which wave each is in.
    Members(Members),
    /// Give the canary's revision of a policy to everyone.
    Promote(Promote),
    /// End a canary; without one, go back to the revision that everyone had before.
    Rollback(Rollback),
    /// See how rollouts go, and steer them.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Turn off a policy, an experiment or everything: at once, everywhere, past all rollouts. Nothing else is changed.
    Off(Off),
    /// Turn it on again.
    On(On),
    /// Start and end experiments, and see what they say.
    #[command(subcommand)]
    Experiment(Experiment),
    /// Withdraw a policy or an experiment from all nodes, forget a node that is gone, or remove a plan of rollouts. Revisions and
    /// outcomes stay readable.
    Delete(Delete),
    /// Show who changed what, newest first.
    Audit(Audit),
    /// Print everything that people have decided: the zone map, all revisions of policies and experiments, and who runs them.
    Backup,
    /// Put a backup back, all or nothing: what is missing is made, what is here and otherwise is never overwritten.
    Restore(Restore),
    /// Say and show who may do what.
    #[command(subcommand)]
    Access(Access),
    /// Make an authority and certificates for TLS, on this machine alone.
    Pki(Pki),
    /// Say what is wrong with servers, nodes and rollouts, and what to do. `sockpilot-server --doctor` and `sockpilot-node --doctor` look at
    /// their own machines.
    Doctor,
    /// Look at the servers themselves.
    #[command(subcommand)]
    Server(Server),
}

/// `server`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Server {
    /// Show the background tasks of all replicas: when each ran last, and what came of it.
    Tasks,
}

fn labelled(selections: &[Labels]) -> target::Kind {
    target::Kind::NodeLabels(target::NodeLabels {
        labels: selections.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
    })
}

/// What goes with every change.
#[derive(Debug, Args)]
pub struct ChangeArguments {
    /// Check everything and show what would happen, but change nothing.
    #[arg(long, alias = "validate-only")]
    pub dry_run: bool,
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub reason: String,
}

/// `get`
#[derive(Debug, Args)]
pub struct Get {
    /// policies, experiments, zones, rolloutPlans, rolloutSettings, or one: policies/web, policies/web@2, rolloutPlans/careful.
    /// Default: all of them.
    #[arg(value_name = "WHAT")]
    pub selection: Option<Selection>,
    /// All revisions of the one.
    #[arg(long)]
    pub revisions: bool,
    /// With etags in YAML: a document with an etag is applied only if nothing has changed since.
    #[arg(long)]
    pub etag: bool,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusOf {
    /// policies/NAME or experiments/NAME. Default: all.
    #[arg(value_parser = bare)]
    pub name: Option<LayerName>,
    /// Go on showing it until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
}

/// `outcomes`
#[derive(Debug, Args)]
pub struct Outcomes {
    /// policies/NAME or experiments/NAME.
    pub name: LayerName,
    /// Of this revision only; NAME@N says the same.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub revision: Option<u64>,
    /// Of the newest past only: 10m, 2h.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub since: Option<Duration>,
    /// Rows by the amount of data sent as well.
    #[arg(long)]
    pub by_size: bool,
    /// On this node only.
    #[arg(long, value_name = "NODE", value_parser = node::name)]
    pub node: Option<String>,
}

/// `explain`
#[derive(Debug, Args)]
pub struct Explain {
    /// The node's end: 10.0.0.1:40000; IPv6 addresses in brackets.
    #[arg(value_name = "LOCAL")]
    pub local: SocketAddr,
    /// The other end.
    #[arg(value_name = "REMOTE")]
    pub remote: SocketAddr,
    /// On this node. Default: one without labels that is in no canary, and of whose kernel nothing is known.
    #[arg(long, value_name = "NODE", value_parser = node::name)]
    pub node: Option<String>,
    /// The node accepted the connection; without this, it opened it.
    #[arg(long)]
    pub passive: bool,
    /// The control group in which the socket was made, of an accepted one the listening socket: /system.slice/video.service.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PATH")]
    pub service: String,
    /// How long the handshake took: 350us, 80ms, 1s. Default: not known.
    #[arg(long, value_name = "TIME", value_parser = parse::micros)]
    pub rtt: Option<u32>,
    /// How long ago the node's last contact with a server was: 10m.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub silence: Option<Duration>,
    /// When the connection begins, which decides about slots of time: 2026-03-01T12:00:00Z. Default: now.
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    pub at: Option<prost_types::Timestamp>,
    /// As if this revision were for everyone: policies/web@3. May be repeated.
    #[arg(long = "with", value_name = "NAME@N", value_parser = exact)]
    pub overrides: Vec<LayerName>,
}

/// A name with a revision.
fn exact(text: &str) -> Result<LayerName, String> {
    let name: LayerName = text.parse()?;
    if name.revision.is_some() { Ok(name) } else { Err(format!("name a revision: {name}@N")) }
}

/// `samples`
#[derive(Debug, Args)]
pub struct Samples {
    /// policies/NAME or experiments/NAME. Default: all.
    #[arg(value_parser = bare)]
    pub name: Option<LayerName>,
    /// On this node only.
    #[arg(long, value_name = "NODE", value_parser = node::name)]
    pub node: Option<String>,
    /// What nodes were asked to record (`nodes record`), in the place of the sample.
    #[arg(long)]
    pub recorded: bool,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// `nodes`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Nodes {
    #[command(subcommand)]
    pub task: Option<NodesTask>,
    /// Only nodes with these labels: role=edge,zone=a.
    #[arg(short = 'l', long = "labels", value_name = "KEY=VALUE", value_parser = labels::selection)]
    pub labels: Vec<Labels>,
}

/// What one node is to do.
#[derive(Debug, Subcommand)]
pub enum NodesTask {
    /// Have a node record its connections one by one for a time, as they end, to see what is the matter there. It ends by itself; the random sample stays
    /// what it is. `samples --recorded` shows them.
    Record(Record),
}

/// `nodes record`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("time").required(true).args(["duration", "stop"]))]
pub struct Record {
    /// Which node.
    #[arg(value_name = "NODE", value_parser = node::name)]
    pub node: String,
    /// From now on: 10m, 1h; at most 24h. Say why with --reason.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse::duration, requires = "reason")]
    pub duration: Option<Duration>,
    /// End it now.
    #[arg(long)]
    pub stop: bool,
    /// At most so many connections in a second; those above it are counted only.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub per_second: u32,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `delete`
#[derive(Debug, Args)]
pub struct Delete {
    /// policies/NAME, experiments/NAME, nodes/NAME or rolloutPlans/NAME.
    pub name: Deletable,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// `restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// What `backup` printed; - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// What goes with the change.
    #[command(flatten)]
    pub change: ChangeArguments,
}

#[cfg(test)]
mod tests;
