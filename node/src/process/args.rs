//! What can be said on the command line or in the environment.

use std::{collections::HashMap, fs, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use sockpilot_metrics::traces::Traces;
use sockpilot_policy::{model::Labels, validate};
use sockpilot_settings::{labels, listen, log, server::ServerAddress, tls::TlsFiles};

use crate::{
    disk::state_dir,
    kernel::{self, KernelError, Reach},
    link::credentials::Tls,
};

/// Puts the server's policies into the connections of one cgroup, and reports what came of them.
#[derive(Debug, Parser)]
#[command(name = "sockpilot-node", version)]
pub struct Args {
    /// Where the server is.
    #[arg(long, env = "SOCKPILOT_SERVER", default_value = "http://127.0.0.1:7460", value_name = "URL")]
    pub server: ServerAddress,

    /// TLS: the servers' authorities, and the node's own certificate.
    #[command(flatten)]
    pub tls: TlsFiles,

    /// File with a token by which the node gets a certificate from the server, if it has none that is valid.
    #[arg(long, env = "SOCKPILOT_JOIN_TOKEN_FILE", value_name = "FILE", help_heading = "TLS")]
    pub join_token_file: Option<PathBuf>,

    /// This node's name, stable over restarts. Default: the host's name.
    #[arg(long, env = "SOCKPILOT_NODE_ID", value_parser = validate::node_id)]
    pub node_id: Option<String>,

    /// A label, or several separated by commas. May be given several times.
    #[arg(long = "label", env = "SOCKPILOT_LABELS", value_name = "KEY=VALUE", value_parser = labels::labels)]
    pub labels: Vec<Labels>,

    /// The cgroup v2 directory whose connections are managed. Default: where cgroup v2 is mounted, so all of them.
    #[arg(long, env = "SOCKPILOT_CGROUP")]
    pub cgroup: Option<PathBuf>,

    /// Where program and tables are pinned, in a directory named after the node.
    #[arg(long, env = "SOCKPILOT_PIN_ROOT", default_value = "/sys/fs/bpf/sockpilot")]
    pub pin_root: PathBuf,

    /// Where the last good snapshot and unconfirmed outcomes are kept. Default: /var/lib/sockpilot-node/NODE_ID.
    #[arg(long, env = "SOCKPILOT_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Where the lock of the pins is. Services of systemd have it from RuntimeDirectory=.
    #[arg(long, env = "RUNTIME_DIRECTORY", default_value = state_dir::LOCKS, value_name = "DIRECTORY")]
    pub run_dir: PathBuf,

    /// In which network namespaces open connections are looked at: for long flows and for rules that apply to them. New connections
    /// get their policies in all of them.
    #[arg(long, env = "SOCKPILOT_NAMESPACES", value_enum, default_value_t = Reach::All)]
    pub namespaces: Reach,

    /// How often outcomes are reported, in milliseconds.
    #[arg(long, env = "SOCKPILOT_REPORT_INTERVAL_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub report_interval_ms: u64,

    /// Length of the intervals over which outcomes are summed up, in seconds.
    #[arg(long, env = "SOCKPILOT_CELL_INTERVAL_S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub cell_interval_s: u32,

    /// How often connections that are open for as long are reported, in seconds. 0: only when they end.
    #[arg(long, env = "SOCKPILOT_LONG_FLOW_INTERVAL_S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub long_flow_interval_s: u32,

    /// Which share of the connections that no policy matches is recorded too, in hundredths of a percent, so that a policy can be tried
    /// on yesterday's connections before it exists. 0: none.
    #[arg(long, env = "SOCKPILOT_RECORD_UNMATCHED_BP", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub record_unmatched_bp: u32,

    /// When this version's kernel tables are of another layout than those at work: for how long the program before goes on serving the
    /// connections that it has begun, in seconds. Those that are open for longer end without a record, and are counted.
    #[arg(long, env = "SOCKPILOT_HANDOVER_LIMIT_S", default_value_t = 3_600, value_parser = clap::value_parser!(u32).range(1..=2_592_000))]
    pub handover_limit_s: u32,

    /// Where Prometheus reads metrics, as ADDRESS:PORT. Default: nowhere.
    #[arg(long, env = "SOCKPILOT_METRICS_LISTEN", value_name = "ADDRESS", value_parser = listen::address)]
    pub metrics_listen: Option<SocketAddr>,

    /// Where spans of snapshots and reports go.
    #[command(flatten)]
    pub traces: Traces,

    /// How log lines look.
    #[arg(long, env = "SOCKPILOT_LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    pub log_format: log::Format,

    /// Takes everything out of the kernel and ends. The state directory stays.
    #[arg(long)]
    pub detach: bool,

    /// Looks at this machine, says what is wrong for a daemon with these settings and what to do, changes nothing, and ends.
    #[arg(long, conflicts_with = "detach")]
    pub doctor: bool,

    /// Explains the connections of a running process, beside the daemon, and ends.
    #[arg(long, value_name = "PID", conflicts_with_all = ["detach", "doctor"])]
    pub explain_pid: Option<u32>,
}

/// The arguments with their defaults found out.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the server is.
    pub server: ServerAddress,
    /// Files of TLS; `None`: it is not spoken.
    pub tls: Option<Tls>,
    /// This node's name.
    pub node_id: String,
    /// By key.
    pub labels: HashMap<String, String>,
    /// Cgroup and pins.
    pub kernel: kernel::Options,
    /// The daemon's own files.
    pub state_dir: PathBuf,
    /// Where the lock of the pins is.
    pub run_dir: PathBuf,
    /// In which network namespaces open connections are looked at.
    pub namespaces: Reach,
    /// How often outcomes are reported.
    pub report_interval: Duration,
    /// Length of a cell's interval.
    pub cell_interval_s: u32,
    /// How often connections that are still open are reported; never if absent.
    pub long_flow_interval: Option<Duration>,
    /// Which share of the connections that no policy matches is recorded, in basis points.
    pub record_unmatched_bp: u32,
    /// For how long an earlier kernel side serves its connections.
    pub handover_limit: Duration,
    /// Where metrics are read.
    pub metrics_listen: Option<SocketAddr>,
    /// Where spans go.
    pub traces: Traces,
    /// Only take everything out of the kernel.
    pub detach: bool,
    /// Only explain the connections of this process.
    pub explain_pid: Option<u32>,
}

/// Why the arguments do not do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The host's name is no node id.
    #[error("the host's name cannot be the node's id: {0}; give --node-id")]
    NodeId(String),
    /// Files of TLS and the server's address do not fit.
    #[error("{0}")]
    Tls(String),
    /// The labels contradict each other, or are too many.
    #[error("--label: {0}")]
    Labels(String),
    /// There is no cgroup v2.
    #[error("no cgroup to manage")]
    Cgroup(#[source] KernelError),
    /// The cgroup is no directory.
    #[error("{0} is no directory; give --cgroup a directory of cgroup v2")]
    NoDirectory(PathBuf),
}

impl Args {
    /// Finds out the defaults.
    ///
    /// # Errors
    /// If one cannot be found out, or an argument does not do.
    pub fn config(self) -> Result<Config, ConfigError> {
        let Self {
            server,
            tls,
            join_token_file,
            node_id,
            labels,
            cgroup,
            pin_root,
            state_dir,
            run_dir,
            namespaces,
            report_interval_ms,
            cell_interval_s,
            long_flow_interval_s,
            record_unmatched_bp,
            handover_limit_s,
            metrics_listen,
            traces,
            log_format: _,
            detach,
            doctor: _,
            explain_pid,
        } = self;
        let tls = tls_of(&tls, join_token_file, &server).map_err(ConfigError::Tls)?;
        let node_id = node_id.map_or_else(host_name, Ok)?;
        let labels = labels::merged(labels).map_err(ConfigError::Labels)?;
        let cgroup = cgroup.map_or_else(|| kernel::cgroup_root().map_err(ConfigError::Cgroup), Ok)?;
        // What is detached may have lost its cgroup already.
        if !detach && !cgroup.is_dir() {
            return Err(ConfigError::NoDirectory(cgroup));
        }
        Ok(Config {
            tls,
            server,
            labels: labels.into_iter().collect(),
            kernel: kernel::Options { cgroup, pin_dir: pin_root.join(pin_name(&node_id)) },
            state_dir: state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/sockpilot-node").join(&node_id)),
            run_dir,
            namespaces,
            node_id,
            report_interval: Duration::from_millis(report_interval_ms),
            cell_interval_s,
            long_flow_interval: (long_flow_interval_s > 0).then(|| Duration::from_secs(long_flow_interval_s.into())),
            record_unmatched_bp,
            handover_limit: Duration::from_secs(handover_limit_s.into()),
            metrics_listen,
            traces,
            detach,
            explain_pid,
        })
    }
}

fn tls_of(files: &TlsFiles, join_token_file: Option<PathBuf>, server: &ServerAddress) -> Result<Option<Tls>, String> {
    let own = files.own()?;
    match (&files.tls_ca, server.tls()) {
        (Some(authorities), true) => Ok(Some(Tls { authorities: authorities.clone(), own, join_token_file })),
        (None, true) => Err(format!("{server} speaks TLS; say by --tls-ca whose certificates are believed")),
        (None, false) if own.is_none() => Ok(None),
        (_, false) => Err(format!("there are files for TLS, and {server} does not speak it; write https://")),
    }
}

fn host_name() -> Result<String, ConfigError> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    validate::node_id(&name.trim().to_ascii_lowercase()).map_err(ConfigError::NodeId)
}

/// The BPF file system has no dots in names.
fn pin_name(node_id: &str) -> String {
    node_id.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Args, String> {
        Args::try_parse_from(["sockpilot-node"].iter().chain(arguments)).map_err(|error| error.to_string())
    }

    #[test]
    fn says_what_is_wrong() {
        let cases: [(&[&str], &str); 8] = [
            (&["--node-id", "Web_1"], "is no node id"),
            (&["--label", "rack"], "is no label"),
            (&["--label", "=7"], "is no label"),
            (&["--cell-interval-s", "0"], "0 is not in 1..=3600"),
            (&["--metrics-listen", "9100"], "invalid socket address"),
            (&["--metrics-listen", "9100"], "write 127.0.0.1:9100"),
            (&["--server", "ftp://here:7460"], "write http://HOST:PORT or https://HOST:PORT"),
            (&["--server", "here"], "write http://here:7460"),
        ];
        for (arguments, expected) in cases {
            let error = parse(arguments).expect_err("must be refused");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn directories_are_named_after_the_node() {
        let args = parse(&["--node-id", "web-1.eu", "--cgroup", "/", "--label", "rack=7", "--label", "tier="]);
        let config = args.expect("sound").config().expect("sound");
        assert_eq!(config.kernel.pin_dir, PathBuf::from("/sys/fs/bpf/sockpilot/web-1_eu"));
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/sockpilot-node/web-1.eu"));
        assert_eq!(config.labels["rack"], "7");
        assert_eq!(config.labels["tier"], "");
    }

    #[test]
    fn labels_are_a_list_in_which_a_key_has_one_value() {
        let arguments = ["--node-id", "a", "--cgroup", "/", "--label"];
        let config = |labels: &[&str]| parse(&[&arguments[..], labels].concat()).expect("sound").config();
        assert_eq!(config(&["role=edge, zone=a,"]).expect("sound").labels.len(), 2);
        assert!(config(&[""]).expect("sound").labels.is_empty());
        let fault = config(&["zone=a", "--label", "zone=b"]).expect_err("two values").to_string();
        assert!(fault.contains("\"zone\" is \"a\" and \"b\""), "{fault}");
    }

    #[test]
    fn tls_is_whole_or_none() {
        let config = |arguments: &[&str]| {
            parse(&[&["--node-id", "a", "--cgroup", "/"], arguments].concat()).expect("sound").config()
        };
        let fault = |arguments: &[&str]| config(arguments).expect_err("must be refused").to_string();
        assert!(fault(&["--server", "https://h:1"]).contains("--tls-ca"));
        assert!(fault(&["--tls-ca", "c"]).contains("write https://"));
        assert!(fault(&["--server", "https://h:1", "--tls-ca", "c", "--tls-cert", "x"]).contains("--tls-key"));
        assert!(config(&["--server", "https://h:1", "--tls-ca", "c"]).expect("sound").tls.is_some());
        assert!(config(&[]).expect("sound").tls.is_none());
    }

    #[test]
    fn a_cgroup_must_be_there_except_to_detach() {
        let arguments = ["--node-id", "a", "--cgroup", "/no/such/cgroup", "--detach"];
        assert!(parse(&arguments).expect("sound").config().is_ok());
        let config = parse(&arguments[..4]).expect("sound").config();
        assert!(matches!(config, Err(ConfigError::NoDirectory(_))));
    }
}
