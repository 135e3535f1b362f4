//! What is delivered for Prometheus and Grafana, with the real programs: alerts are loaded and fire as promised, and every question of the
//! dashboard and of the alerts has an answer in a real Prometheus that reads a real server and a real node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sockpilot_programs::{PROMETHEUS, PROMTOOL, reserved_address};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::everyone,
    cgroup::Cgroup,
    documents::{clamp, policy, rule},
    machine::{Machine, Needs, scenario},
    node::Node,
    process::Process,
    server::{Database, Server},
    wait::eventually,
};

const PATIENCE: Duration = Duration::from_secs(40);
/// There is no such thing in this fleet: nobody was refused, nothing is in a rollout or an experiment.
const NOT_HERE: [&str; 12] = [
    "sockpilot_node_reports_total",
    "sockpilot_node_set_refused",
    "sockpilot_node_snapshots_total",
    "sockpilot_server_experiment_connections",
    "sockpilot_server_experiment_effect",
    "sockpilot_server_experiment_share_p",
    "sockpilot_server_experiment_verdict",
    "sockpilot_server_refused_calls_total",
    "sockpilot_server_rollout_gate",
    "sockpilot_server_rollout_state",
    "sockpilot_server_rollout_wave",
    "sockpilot_server_turned_away_total",
];

fn delivered(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// The answer of `promtool`; an error is what it complains of.
fn promtool(arguments: &[&str]) -> Result<String> {
    let mut command = PROMTOOL.command()?;
    let output = command.args(arguments).current_dir(delivered("prometheus")).output().context("running promtool")?;
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    ensure!(output.status.success(), "promtool {arguments:?}: {said}");
    Ok(said)
}

#[test]
fn alerts_load_and_fire() {
    promtool(&["check", "rules", "alerts.yaml"]).expect("alerts that load");
    promtool(&["test", "rules", "alerts-test.yaml"]).expect("alerts that fire");
}

/// What the panels of the dashboard ask.
fn asked_by_dashboard() -> Result<Vec<String>> {
    let text = fs::read_to_string(delivered("grafana/sockpilot.json")).context("reading the dashboard")?;
    let dashboard: Value = serde_json::from_str(&text).context("reading the dashboard")?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let asked = targets.map(|target| target["expr"].as_str().map(|expr| expr.replace("$__rate_interval", "1m")));
    asked.collect::<Option<_>>().context("a target asks nothing")
}

/// What the alerts ask.
fn asked_by_alerts() -> Result<Vec<String>> {
    let text = fs::read_to_string(delivered("prometheus/alerts.yaml")).context("reading the alerts")?;
    Ok(text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect())
}

/// Names of metrics in a question.
fn names(asked: &str) -> impl Iterator<Item = &str> {
    let words = asked.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("sockpilot_"))
}

fn prometheus(machine: &Machine, server: &Server<'_>, node: &str) -> Result<(Process, String)> {
    let folder = machine.folder("prometheus")?;
    let (config, address) = (folder.join("prometheus.yaml"), reserved_address()?.to_string());
    let job = |name: &str, target: &str| {
        format!("  - {{job_name: {name}, scrape_interval: 1s, static_configs: [{{targets: [\"{target}\"]}}]}}\n")
    };
    let jobs = [job("sockpilot-server", &server.metrics().to_string()), job("sockpilot-node", node)].concat();
    let rules = delivered("prometheus/alerts.yaml");
    let text = format!("scrape_configs:\n{jobs}rule_files: [{:?}]\n", rules);
    fs::write(&config, text).context("writing a configuration")?;
    let mut command = PROMETHEUS.command()?;
    command.arg("--config.file").arg(&config).arg("--storage.tsdb.path").arg(folder.join("data"));
    command.args(["--web.listen-address", &address, "--log.level", "warn"]);
    Ok((Process::start(machine, "prometheus", command)?, format!("http://{address}")))
}

#[test]
fn every_question_has_an_answer() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let at = reserved_address()?.to_string();
        let _node = Node::start(machine, "node", &server.url(), &cgroup, &["--metrics-listen", &at])?;
        let rules = vec![rule("all", v1::Match::default(), clamp(20))];
        let revision = admin.put_policy(policy("web", 1, rules), everyone())?.revision;
        admin.wait_in_force("node", "policies/web", revision)?;

        let (mut prometheus, url) = prometheus(machine, &server, &at)?;
        let ask = |question: &str| promtool(&["query", "instant", &url, question]);
        eventually("Prometheus has read both daemons twice", PATIENCE, || {
            prometheus.check_alive()?;
            ensure!(ask("count(count_over_time(up[1m]) > 1) == 2")?.contains("2"), "not yet");
            Ok(())
        })?;
        let (dashboard, alerts) = (asked_by_dashboard()?, asked_by_alerts()?);
        ensure!(dashboard.len() > 40 && alerts.len() > 20, "{} and {}", dashboard.len(), alerts.len());
        let mut known = BTreeSet::new();
        for asked in dashboard.iter().chain(&alerts) {
            ask(asked)?;
            known.extend(names(asked));
        }
        let mut wrong = vec![];
        for name in known {
            let there = !ask(name)?.trim().is_empty();
            match (there, NOT_HERE.contains(&name)) {
                (false, false) => wrong.push(format!("nobody counts {name}")),
                (true, true) => wrong.push(format!("{name} is counted here; take it off the list")),
                _ => {}
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        let fires = ask("ALERTS{alertstate=\"firing\"}")?;
        ensure!(fires.trim().is_empty(), "a sound fleet has alerts: {fires}");
        Ok(())
    });
}

/// Values of a metric by stage, and of another one.
fn by_stage(text: &str, what: &str) -> BTreeMap<String, f64> {
    let prefix = format!("sockpilot_server_propagation_stage_seconds_{what}{{stage=\"");
    let value = |line: &str| {
        let (stage, value) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
        Some((stage.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(value).collect()
}

#[test]
fn every_stage_of_a_change_is_seen_from_the_server() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let _node = Node::start(machine, "node", &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&["node"])?;
        const CHANGES: u32 = 5;
        for change in 1..=CHANGES {
            let rules = vec![rule("all", v1::Match::default(), clamp(20 + change))];
            let revision = admin.put_policy(policy("web", 1, rules), everyone())?.revision;
            admin.wait_in_force("node", "policies/web", revision)?;
        }
        let text = server.metrics_text()?;
        let (counts, sums) = (by_stage(&text, "count"), by_stage(&text, "sum"));
        ensure!(counts.len() == 7 && counts.values().all(|count| *count == f64::from(CHANGES)), "{counts:?}");
        ensure!(sums.values().all(|sum| *sum >= 0.0) && sums["node_install"] > 0.0, "{sums:?}");
        let value = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix("sockpilot_server_")?.strip_prefix(name));
            Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
        };
        let (stages, whole) = (sums.values().sum::<f64>(), value("propagation_seconds_sum")?);
        ensure!((stages - whole).abs() < 1e-6, "{stages} s by stage, {whole} s as a whole");
        ensure!(value("propagation_stages_absurd_total")? == 0.0, "a real node is believed");
        eventually("nobody is behind", PATIENCE, || {
            let behind = server.counted("nodes_behind{for_more_than_s=\"0\"}")?;
            ensure!(behind == 0, "{behind} are");
            Ok(())
        })
    });
}
