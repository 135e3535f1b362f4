//! `sockpilot audit verify`, `export` and `head`.

use crate::fake::Fake;
use crate::{expect, run};
use sockpilot_proto::v1;

fn chain(length: u64) -> Vec<v1::AuditEntry> {
    let mut before = "0".repeat(64);
    (1..=length)
        .map(|sequence| {
            let mut entry = v1::AuditEntry {
                sequence,
                time: Some(prost_types::Timestamp { seconds: 1_772_366_400 + sequence.cast_signed(), nanos: 7_000 }),
                actor: "änn".to_owned(),
                method: "UpdatePolicy".to_owned(),
                name: "policies/web".to_owned(),
                request_json: "{\"a\": 1}".to_owned(),
                difference_json: "[]".to_owned(),
                previous_hash: before.clone(),
                ..v1::AuditEntry::default()
            };
            entry.hash = sockpilot_audit::hash(&entry).unwrap();
            before = entry.hash.clone();
            entry
        })
        .collect()
}

#[tokio::test]
async fn a_whole_chain_is_verified_by_pages_and_from_a_file() {
    let fake = Fake::start().await;
    let entries = chain(7);
    fake.log(entries.clone());
    let head = format!("7:{}", entries[6].hash);
    expect(&run(&fake.url, &["audit", "head"], "").await, 0, &format!("{head}\n"), "");
    let noted = format!("4:{}", entries[3].hash);
    let said = format!(
        "7 entries, from 2026-03-01T12:00:01Z to 2026-03-01T12:00:07Z: none was changed, removed or inserted\n\
         the head that was noted is in it\nhead {head}\n"
    );
    expect(&run(&fake.url, &["audit", "verify", "--head", &noted], "").await, 0, &said, "");
    let exported = run(&fake.url, &["audit", "export"], "").await;
    let text = String::from_utf8(exported.stdout).unwrap();
    assert_eq!((exported.status.code(), text.lines().count()), (Some(0), 7));
    let nowhere = "http://127.0.0.1:1";
    expect(&run(nowhere, &["audit", "verify", "--file", "-", "--head", &noted], &text).await, 0, &said, "");
    let json = run(nowhere, &["audit", "verify", "--file", "-", "-o", "json"], &text).await;
    expect(&json, 0, &format!("{{\"entries\":7,\"head\":\"{head}\"}}\n"), "");
}

#[tokio::test]
async fn what_was_done_to_it_is_said_and_has_an_exit_code() {
    let fake = Fake::start().await;
    let whole = chain(7);
    let noted = format!("7:{}", whole[6].hash);
    let with = async |change: &dyn Fn(&mut Vec<v1::AuditEntry>), said: &str| {
        let mut entries = whole.clone();
        change(&mut entries);
        fake.log(entries);
        let output = run(&fake.url, &["audit", "verify", "--head", &noted], "").await;
        expect(&output, 9, "", &format!("error: the audit log is not what it was: {said}\n"));
    };
    with(&|log| log[4].reason = "better".to_owned(), "entry 5 was changed: its hash is not that of what it says").await;
    with(&|log| drop(log.remove(4)), "entry 5 is missing: entry 6 is in its place").await;
    let cut = "entry 6 is missing: the log ends at entry 5, and went on at least to entry 7 when that head was noted";
    with(&|log| log.truncate(5), cut).await;
    let output = run(&fake.url, &["audit", "verify", "--file", "-"], "{\"sequence\": \"1\", \"more\": 1}\n").await;
    assert_eq!(output.status.code(), Some(2));
    let output = run(&fake.url, &["audit", "verify", "--head", "7:ab"], "").await;
    assert_eq!(output.status.code(), Some(2));
}
