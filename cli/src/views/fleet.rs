//! Nodes, single flows, and who changed what.

use crate::format::{self, NONE};
use crate::table::{Table, one_line};
use crate::views::outcomes::direction;
use sockpilot_proto::v1::{self, LayerState, Outcome};

/// A clock that is off by more than this is worth a column.
const CLOCK_OFF_MS_MAX: u64 = 2_000;

/// How far a node's clock is off, in milliseconds, if that is worth a word.
pub fn clock_off(node: &v1::Node) -> Option<i64> {
    node.clock_offset_ms.filter(|offset| offset.unsigned_abs() > CLOCK_OFF_MS_MAX)
}

/// A line for each node; then what keeps nodes from being what they seem, and every value that a node's kernel has made into
/// another.
pub fn nodes(nodes: &[v1::Node]) -> String {
    let clocks = nodes.iter().any(|node| clock_off(node).is_some());
    let mut columns =
        vec!["NAME", "CONNECTED", "LAST SEEN", ">SHARE POS", ">GENERATION", ">FLOWS", ">LOST", "KERNEL", "LABELS"];
    if clocks {
        columns.push(">CLOCK OFF");
    }
    columns.push("LAYERS");
    let mut table = Table::new(&columns);
    for node in nodes {
        let mut row = vec![
            node.name.clone(),
            if node.connected { "yes" } else { "no" }.to_owned(),
            format::time(node.last_seen_time.as_ref()),
            node.share_position.to_string(),
            node.in_force.as_ref().map_or_else(|| NONE.to_owned(), |version| version.generation.to_string()),
            node.records_total.to_string(),
            node.records_dropped.to_string(),
            node.kernel.as_ref().map_or_else(|| NONE.to_owned(), |kernel| format::or_none(&kernel.release)),
            format::labels(&node.labels),
        ];
        if clocks {
            row.push(clock_off(node).map_or_else(|| NONE.to_owned(), format::offset_ms));
        }
        row.push(layers(&node.layers));
        table.row(row);
    }
    table.render() + &recordings(nodes) + &troubles(nodes) + &differences(nodes)
}

/// Nodes that record their flows one by one.
fn recordings(nodes: &[v1::Node]) -> String {
    let recordings = nodes.iter().filter_map(|node| node.recording.as_ref());
    recordings.map(|recording| format!("\n{}\n", one_line(&records(recording, "records")))).collect()
}

fn records(recording: &v1::Recording, verb: &str) -> String {
    let v1::Recording { node, start_time: _, end_time, flows_per_s, actor, reason } = recording;
    let end = format::time(end_time.as_ref());
    format!("{node} {verb} its connections until {end}, at most {flows_per_s} in a second, for {actor}: {reason}")
}

/// What has come of a request to record.
pub fn recording_changed(recording: &v1::Recording, validate_only: bool) -> String {
    let line = match (&recording.end_time, validate_only) {
        (Some(_), true) => records(recording, "would record"),
        (Some(_), false) => {
            format!("{} (sockpilot samples --recorded --node {})", records(recording, "records"), recording.node)
        }
        (None, true) => format!("{} would record no more than its sample", recording.node),
        (None, false) => format!("{} records no more than its sample", recording.node),
    };
    format!("{}\n", one_line(&line))
}

/// Nodes whose id another daemon uses, and nodes that cannot write what they must keep.
fn troubles(nodes: &[v1::Node]) -> String {
    let mut text = String::new();
    for node in nodes {
        if let Some(v1::NodeConflict { address, first_time, last_time: _ }) = &node.conflict {
            let since = format::time(first_time.as_ref());
            text.push_str(&format!(
                "\n{} is claimed by two daemons since {since}: {} has it, {address} is refused; give one another --node-id\n",
                node.name,
                format::or_none(&node.address),
            ));
        }
        if let Some(v1::StateNotWritten { what, reason, since_time }) = &node.state_not_written {
            let line = format!(
                "{} has not written its state since {}: {}: {reason}; it goes on trying",
                node.name,
                format::time(since_time.as_ref()),
                what.join(", "),
            );
            text.push_str(&format!("\n{}\n", one_line(&line)));
        }
    }
    text
}

fn differences(nodes: &[v1::Node]) -> String {
    let mut text = String::new();
    for node in nodes {
        let values = node.layers.iter().flat_map(|layer| &layer.effective);
        let values: Vec<_> = values.filter(|value| value.effective != value.requested).collect();
        if !values.is_empty() {
            text.push_str(&format!("\n{} has other values than were asked for:\n", node.name));
        }
        for value in values {
            let v1::EffectiveValue { layer, field, requested, effective, note, caveats: _ } = value;
            let line = format!("{layer} {field}: {effective} instead of {requested}: {note}");
            text.push_str(&format!("  {}\n", one_line(&line)));
        }
    }
    text
}

/// `policies/web@2`, and what is not as it should be: `policies/web@2 (pending 3)`.
fn layers(layers: &[v1::NodeLayer]) -> String {
    let words: Vec<String> = layers
        .iter()
        .map(|layer| {
            let confirmed = match layer.confirmed_revision {
                0 => format!("{}@{NONE}", layer.layer),
                revision => format!("{}@{revision}", layer.layer),
            };
            match (layer.state(), layer.assigned_revision) {
                (LayerState::InForce | LayerState::Unspecified, _) => confirmed,
                (LayerState::Pending, 0) => format!("{confirmed} (leaving)"),
                (LayerState::Pending, revision) => format!("{confirmed} (pending {revision})"),
                (LayerState::Rejected, revision) => format!("{confirmed} (rejected {revision})"),
                (LayerState::Unavailable, _) => format!("{confirmed} (unavailable)"),
            }
        })
        .collect();
    if words.is_empty() { NONE.to_owned() } else { words.join(", ") }
}

/// A line for each flow.
pub fn samples(samples: &[v1::FlowSample]) -> String {
    let mut table = Table::new(&[
        "CLOSED",
        "NODE",
        "LOCAL",
        "REMOTE",
        "DIRECTION",
        "OUTCOME",
        ">CONNECT",
        ">DURATION",
        ">SENT",
        ">RECEIVED",
        ">RETR",
        ">SYN RETR",
        ">SRTT",
        ">CWND",
        "SERVICE",
        ">STANDS FOR",
        "CHOICES",
    ]);
    for sample in samples {
        let choices = sample.attributions.iter().map(|a| format!("{}@{}:{}", a.layer, a.revision, a.choice));
        table.row(vec![
            format::time(sample.close_time.as_ref()),
            sample.node.clone(),
            endpoint(&sample.local_address, sample.local_port),
            endpoint(&sample.remote_address, sample.remote_port),
            direction(sample.direction()).to_owned(),
            outcome(sample.outcome()).to_owned(),
            micros(sample.connect_time_us),
            micros(sample.duration_us),
            format::bytes(sample.bytes_sent),
            format::bytes(sample.bytes_received),
            sample.retransmits.to_string(),
            sample.syn_retransmits.to_string(),
            micros(u64::from(sample.srtt_us)),
            format!("{}..{}", sample.established_cwnd, sample.final_cwnd),
            if sample.service.is_empty() { NONE.to_owned() } else { one_line(&sample.service) },
            if sample.weight == 0.0 { NONE.to_owned() } else { format!("{:.1}", sample.weight) },
            if sample.attributions.is_empty() { NONE.to_owned() } else { choices.collect::<Vec<_>>().join(", ") },
        ]);
    }
    table.render()
}

/// 0 means not known.
fn micros(value: u64) -> String {
    if value == 0 { NONE.to_owned() } else { format::micros(value as f64) }
}

fn endpoint(address: &str, port: u32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => NONE,
        Outcome::Established => "established",
        Outcome::Failed => "failed",
        Outcome::Reset => "reset",
        Outcome::TimedOut => "timed out",
        Outcome::StillOpen => "still open",
        Outcome::Abandoned => "abandoned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;

    const NOON: Option<Timestamp> = Some(Timestamp { seconds: 1_772_366_400, nanos: 0 });

    #[test]
    fn a_node_shows_what_it_runs_and_what_it_should_run() {
        let layer = |name: &str, assigned, confirmed, state: LayerState| v1::NodeLayer {
            layer: name.to_owned(),
            assigned_revision: assigned,
            confirmed_revision: confirmed,
            state: state.into(),
            ..v1::NodeLayer::default()
        };
        let node = v1::Node {
            name: "nodes/a".to_owned(),
            labels: [("zone".to_owned(), "x".to_owned())].into(),
            connected: true,
            last_seen_time: NOON,
            kernel: Some(v1::KernelFacts { release: "6.18.0".to_owned(), ..v1::KernelFacts::default() }),
            share_position: 412,
            in_force: Some(v1::SnapshotVersion { generation: 9, ..v1::SnapshotVersion::default() }),
            layers: vec![
                layer("policies/web", 2, 2, LayerState::InForce),
                layer("experiments/rto", 3, 0, LayerState::Rejected),
            ],
            records_total: 1_000,
            ..v1::Node::default()
        };
        assert_eq!(
            nodes(&[node]),
            "\
NAME     CONNECTED  LAST SEEN             SHARE POS  GENERATION  FLOWS  LOST  KERNEL  LABELS  LAYERS
nodes/a  yes        2026-03-01T12:00:00Z        412           9   1000     0  6.18.0  zone=x  policies/web@2, experiments/rto@- (rejected 3)
"
        );
    }

    #[test]
    fn what_is_wrong_with_a_node_is_said() {
        let conflict = v1::NodeConflict { address: "10.0.0.6:999".to_owned(), first_time: NOON, last_time: NOON };
        let not_written = v1::StateNotWritten {
            what: vec!["snapshot".to_owned(), "choices".to_owned()],
            reason: "No space left on device (os error 28)".to_owned(),
            since_time: NOON,
        };
        let sick = v1::Node {
            name: "nodes/a".to_owned(),
            address: "10.0.0.5:888".to_owned(),
            conflict: Some(conflict),
            clock_offset_ms: Some(-10_800_250),
            state_not_written: Some(not_written),
            ..v1::Node::default()
        };
        let well = v1::Node { name: "nodes/b".to_owned(), clock_offset_ms: Some(1_999), ..v1::Node::default() };
        let text = nodes(&[sick, well.clone()]);
        let lines: Vec<Vec<&str>> = text.lines().take(3).map(|line| line.split_whitespace().collect()).collect();
        let tail = |line: &[&str]| line[line.len() - 2..].join(" ");
        assert!(lines[0].ends_with(&["CLOCK", "OFF", "LAYERS"]), "{text}");
        assert_eq!((tail(&lines[1]), tail(&lines[2])), ("-3h00m -".to_owned(), "- -".to_owned()));
        let said = "
nodes/a is claimed by two daemons since 2026-03-01T12:00:00Z: 10.0.0.5:888 has it, 10.0.0.6:999 is refused; give one another --node-id

nodes/a has not written its state since 2026-03-01T12:00:00Z: snapshot, choices: No space left on device (os error 28); it goes on trying
";
        assert!(text.ends_with(said), "{text}");
        assert!(!nodes(&[well]).contains("CLOCK"), "only where it is notable");
    }

    #[test]
    fn what_a_node_records_is_said() {
        let recording = v1::Recording {
            node: "nodes/a".to_owned(),
            start_time: NOON,
            end_time: NOON,
            flows_per_s: 50,
            actor: "ann@vm".to_owned(),
            reason: "resets\nof web".to_owned(),
        };
        let said = "nodes/a records its connections until 2026-03-01T12:00:00Z, at most 50 in a second, for ann@vm: resets of web";
        let node = v1::Node { recording: Some(recording.clone()), ..v1::Node::default() };
        let text = nodes(&[node, v1::Node::default()]);
        assert!(text.ends_with(&format!("\n{said}\n")), "{text}");
        assert_eq!(
            recording_changed(&recording, false),
            format!("{said} (sockpilot samples --recorded --node nodes/a)\n")
        );
        let ended = v1::Recording { node: "nodes/a".to_owned(), ..v1::Recording::default() };
        assert_eq!(recording_changed(&ended, true), "nodes/a would record no more than its sample\n");
    }

    #[test]
    fn what_a_kernel_made_of_a_value_is_said() {
        let value = v1::EffectiveValue {
            layer: "policies/web".to_owned(),
            field: "rules[0].set.send_buffer_bytes".to_owned(),
            requested: "8388608".to_owned(),
            effective: "425984".to_owned(),
            note: "cut to net.core.wmem_max and doubled".to_owned(),
            caveats: vec![],
        };
        let as_asked = v1::EffectiveValue {
            requested: "5".to_owned(),
            effective: "5".to_owned(),
            caveats: vec!["too late".to_owned()],
            ..v1::EffectiveValue::default()
        };
        let layer = v1::NodeLayer { effective: vec![value, as_asked], ..v1::NodeLayer::default() };
        let node = v1::Node { name: "nodes/a".to_owned(), layers: vec![layer], ..v1::Node::default() };
        assert_eq!(
            differences(&[node]),
            "\nnodes/a has other values than were asked for:\n  policies/web rules[0].set.send_buffer_bytes: \
             425984 instead of 8388608: cut to net.core.wmem_max and doubled\n"
        );
    }

    #[test]
    fn a_sample_is_one_line() {
        let sample = v1::FlowSample {
            node: "nodes/a".to_owned(),
            close_time: NOON,
            local_address: "2001:db8::1".to_owned(),
            local_port: 40_000,
            remote_address: "10.0.0.1".to_owned(),
            remote_port: 443,
            direction: v1::Direction::Active.into(),
            outcome: Outcome::TimedOut.into(),
            connect_time_us: 40_300,
            bytes_sent: 14_600,
            established_cwnd: 10,
            final_cwnd: 33,
            service: "/web".to_owned(),
            weight: 12.5,
            attributions: vec![v1::Attribution {
                layer: "policies/web".to_owned(),
                revision: 2,
                choice: "far".to_owned(),
            }],
            ..v1::FlowSample::default()
        };
        let text = samples(&[sample]);
        let line: Vec<&str> = text.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
        let cells: Vec<&str> = line.iter().map(|cell| cell.trim()).collect();
        assert_eq!(
            cells,
            [
                "2026-03-01T12:00:00Z",
                "nodes/a",
                "[2001:db8::1]:40000",
                "10.0.0.1:443",
                "active",
                "timed out",
                "40.3ms",
                "-",
                "14.6kB",
                "0B",
                "0",
                "0",
                "-",
                "10..33",
                "/web",
                "12.5",
                "policies/web@2:far",
            ]
        );
    }
}
