//! Files that people are given by others, and evidence that a server gave.

use crate::commands::simulate::flows_of;
use crate::document;
use crate::{backup, name, parse, yaml};
use prost::Message;
use sockpilot_fuzz::{Bound, Shape, Target, messages};
use sockpilot_proto::convert::{layer_of_experiment, layer_of_policy};
use sockpilot_proto::v1::{self, backup_item::Item};
use sockpilot_simulate::simulate_alone;
use std::path::Path;

const KIB: usize = 1 << 10;
/// A value of a file is a node with its line and text, once as the parser hands it over and once as it is kept; aliases make more of
/// fewer bytes, up to the parser's bound on what they come to.
const YAML: Bound = Bound { per_byte: 4_000, fixed: 32 << 20 };

/// Every document of the documentation.
fn documents() -> Vec<(String, String)> {
    let mut all = vec![];
    for folder in ["../docs/examples", "../docs/samples", "../tests/demo"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for file in std::fs::read_dir(folder).expect("a folder") {
            let path = file.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            all.push((name, std::fs::read_to_string(path).expect("readable")));
        }
    }
    all
}

/// Documents. One that is understood is the same when it is written and read again.
#[test]
fn fuzz_cli_document() {
    Target::new("cli-document", Shape::Text, YAML).seeds(documents()).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Ok(roots) = yaml::parse(text) else { return false };
        let mut sound = true;
        for root in roots {
            let Ok(source) = document::read("a.yaml", &root) else {
                sound = false;
                continue;
            };
            let again = source.document.to_yaml();
            let roots = yaml::parse(&again).unwrap_or_else(|error| panic!("{error}: {again}"));
            let read = document::read("b.yaml", &roots[0]).unwrap_or_else(|problems| panic!("{problems:?}: {again}"));
            assert_eq!(read.document.to_yaml(), again);
            drop(source.locate("policy.rules[0].set", "what the server says"));
        }
        sound
    });
}

/// Backups.
#[test]
fn fuzz_cli_backup() {
    let history = v1::History { name: "policies/web".to_owned(), ..v1::History::default() };
    let map = v1::ZoneMap { zones: messages::zones(), ..v1::ZoneMap::default() };
    let items = [
        Item::ZoneMap(map),
        Item::Policy(messages::policy()),
        Item::Experiment(messages::experiment()),
        Item::History(history),
    ];
    let items = items.map(|item| v1::BackupItem { item: Some(item) });
    let seed = backup::to_yaml(&items, messages::NOW);
    Target::new("cli-backup", Shape::Text, YAML).seed("all", seed).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        backup::read(text).is_ok()
    });
}

/// Recorded connections, and what a change would do to them.
///
/// A connection is a line of JSON, which becomes a dynamic message, and that a message.
#[test]
fn fuzz_cli_flows() {
    let name = "policies/web".parse().expect("a name");
    let (mut policy, mut experiment) = (messages::policy(), messages::experiment());
    policy.node_labels.clear();
    experiment.node_labels.clear();
    let experiment = layer_of_experiment(experiment, &"experiments/syn".parse().expect("a name"), 0);
    let (policy, map) =
        (layer_of_policy(policy, &name, 0), v1::ZoneMap { zones: messages::zones(), ..v1::ZoneMap::default() });
    let line = crate::schema::dynamic("FlowSample", &messages::sample());
    let line = serde_json::to_string(&line).expect("JSON");
    let target = Target::new("cli-flows", Shape::Text, Bound { per_byte: 2_000, fixed: 512 * KIB });
    target.seed("two", format!("{line}\n{line}\n")).run(|bytes| {
        let Ok(flows) =
            std::str::from_utf8(bytes).map_err(drop).and_then(|text| flows_of("a.json", text).map_err(drop))
        else {
            return false;
        };
        simulate_alone(&flows, vec![experiment.clone()], vec![policy.clone()], &map).expect("sound layers");
        true
    });
}

/// What people type.
#[test]
fn fuzz_cli_texts() {
    let texts = [
        "10%",
        "0.5%",
        "role=edge,zone=a",
        "nodes/a,nodes/b",
        "90s",
        "250ms",
        "2026-01-31T12:00:00Z",
        "policies/web@3",
    ];
    let seeds = texts.iter().enumerate().map(|(number, text)| (number.to_string(), *text));
    Target::new("cli-texts", Shape::Text, Bound { per_byte: 200, fixed: 16 * KIB }).seeds(seeds).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let read = [
            parse::share(text).is_ok(),
            parse::wave(text).is_ok(),
            parse::duration(text).is_ok(),
            parse::micros(text).is_ok(),
            parse::time(text).is_ok(),
            name::bare(text).is_ok(),
            name::plan(text).is_ok(),
            name::policy_revision(text).is_ok(),
            name::switched(text).is_ok(),
        ];
        read.contains(&true)
    });
}

/// Evidence, judged again (`experiment replay`): nothing panics, whatever the numbers.
///
/// A group is 2 bytes, and is taken apart by arm, by stage and by measure.
#[test]
fn fuzz_cli_evidence() {
    let attempts = |count| v1::CoMoments { count, mean: vec![0.999], m2: vec![9.0] };
    // Of five columns, which vary without each other.
    let m2: Vec<_> =
        (0..5).flat_map(|row| (0..=row).map(move |column| if row == column { 1e6 } else { 0.0 })).collect();
    let established = |count| v1::CoMoments { count, mean: vec![900.0, 1.0, 3.0, 100.0, 800.0], m2: m2.clone() };
    let measured = |count| v1::Measured {
        attempts: Some(attempts(count)),
        established: Some(established(count)),
        ..v1::Measured::default()
    };
    let arm = |(arm, count): (&str, u64)| v1::ArmEvidence { arm: arm.to_owned(), measured: Some(measured(count)) };
    let evidence = v1::Evidence {
        experiment: "experiments/syn".to_owned(),
        revision: 1,
        design: Some(messages::design()),
        arms: [("control", 9_000), ("quick", 1_000)].map(arm).into(),
        from_time: Some(messages::NOW),
        to_time: Some(prost_types::Timestamp { seconds: messages::NOW.seconds + 86_400, nanos: 0 }),
        ..v1::Evidence::default()
    };
    let target = Target::new("cli-evidence", Shape::Wire, Bound { per_byte: 4_000, fixed: 1 << 20 });
    target.seed("two-arms", evidence.encode_to_vec()).run(|bytes| {
        let Ok(evidence) = v1::Evidence::decode(bytes) else { return false };
        sockpilot_judge::judge(&evidence).is_ok()
    });
}

/// An alias of aliases of aliases: ten to the ninth of what is written out.
#[test]
fn aliases_upon_aliases_are_refused() {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..10 {
        let of = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{of}]\n");
    }
    let error = yaml::parse(&text).expect_err("a bomb");
    assert!(error.description.contains("aliases"), "{error}");
}

/// JSON, and what the server and the node read, are bounded by their readers.
#[test]
fn nothing_is_followed_without_an_end() {
    let deep = 100_000;
    assert!(flows_of("a", &"{\"attributions\":[".repeat(deep)).is_err());
    let sample = "{\"attributions\":[{\"x\":".to_owned() + &"[".repeat(deep);
    assert!(flows_of("a", &sample).is_err());
    for text in ["[", "{a: ", "- ", "? ", "&a [*a, "] {
        assert!(yaml::parse(&text.repeat(deep)).is_err(), "{text}");
    }
}
