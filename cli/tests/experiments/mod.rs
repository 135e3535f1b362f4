//! `experiment`, from outside.

use super::{expect, run};
use crate::fake::{Fake, experiments::Asked};
use sockpilot_proto::v1;

#[tokio::test]
async fn an_experiment_is_started_extended_and_stopped() {
    let fake = Fake::start().await;
    let start = ["experiment", "start", "wide@2", "--reason", "try", "--etag", "7"];
    expect(&run(&fake.url, &start, "").await, 0, "experiments/wide@2: running until it is stopped\n", "");
    let extend = ["experiment", "extend", "wide", "--for", "3d", "--dry-run"];
    expect(&run(&fake.url, &extend, "").await, 0, "experiments/wide@2: would be running until it is stopped\n", "");
    let stop = ["experiment", "stop", "experiments/wide"];
    expect(&run(&fake.url, &stop, "").await, 0, "experiments/wide@2: stopped\n", "");
    let asked = fake.asked();
    let [Asked::Start(start), Asked::Extend(extend), Asked::Stop(stop)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((start.name.as_str(), start.revision), ("experiments/wide", 2));
    assert_eq!((start.reason.as_str(), start.etag.as_str()), ("try", "7"));
    assert_eq!((extend.duration_s, extend.validate_only, start.validate_only), (259_200, true, false));
    assert!(start.request_id.len() == 36 && start.request_id != stop.request_id);
}

#[tokio::test]
async fn an_experiment_is_concluded_against_its_verdict_by_force_only() {
    let fake = Fake::start().await;
    let conclude = ["experiment", "conclude", "wide", "--discard"];
    expect(&run(&fake.url, &conclude, "").await, 1, "", "error: the verdict is NO DATA\n");
    let ship = ["--ship", "fast", "--policy", "web", "--force", "--reason", "because"];
    let output = run(&fake.url, &[&["experiment", "conclude", "wide"], ship.as_slice()].concat(), "").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let asked = fake.asked();
    let [Asked::Conclude(conclude)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((conclude.ship_arm.as_str(), conclude.policy.as_str()), ("fast", "policies/web"));
    assert!(conclude.force && conclude.reason == "because");
}

#[tokio::test]
async fn results_are_shown_and_written() {
    let fake = Fake::start().await;
    let kind = v1::VerdictKind::NoData.into();
    let verdict = Some(v1::Verdict { kind, reason: "Nobody came.".to_owned(), ..v1::Verdict::default() });
    fake.find(v1::ExperimentResults { verdict, ..v1::ExperimentResults::default() });
    let file = std::env::temp_dir().join(format!("sockpilot-report-{}.html", std::process::id()));
    let path = file.display().to_string();
    let output = run(&fake.url, &["experiment", "results", "wide@3", "--html", &path], "").await;
    let report = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(report.starts_with("<!DOCTYPE html>") && report.contains("NO DATA, which is not a yes"), "{report}");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.starts_with("experiments/wide@3: NO DATA, which is not a yes\nNobody came.\n"), "{out}");
    assert_eq!((output.status.code(), err.as_ref()), (Some(0), format!("{path}: written\n").as_str()));
    let output = run(&fake.url, &["experiment", "results", "wide", "-o", "json"], "").await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"kind\": \"VERDICT_KIND_NO_DATA\""), "{output:?}");
    let two = run(&fake.url, &["experiment", "results", "wide@3", "--revision", "2"], "").await;
    expect(&two, 2, "", "error: experiments/wide@3 and --revision 2 are two revisions\n");
    let nowhere = run(&fake.url, &["experiment", "results", "wide", "--html", "/nonexistent/a.html"], "").await;
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
}

#[tokio::test]
async fn verdicts_are_read_page_by_page() {
    let fake = Fake::start().await;
    for (limit, lines) in [("50", 4), ("2", 3)] {
        let output = run(&fake.url, &["experiment", "verdicts", "wide", "--limit", limit], "").await;
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), lines, "{output:?}");
    }
}

#[tokio::test]
async fn power_and_measures_are_asked_for() {
    let fake = Fake::start().await;
    let output = run(&fake.url, &["experiment", "power", "wide", "--effect", "2.5%"], "").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let power = v1::GetExperimentPowerRequest {
        name: "experiments/wide".to_owned(),
        effect_bp: 250,
        power_percent: 80,
        policy: String::new(),
    };
    assert_eq!(fake.asked(), [Asked::Power(power)]);
    expect(&run(&fake.url, &["experiment", "freeze", "wide"], "").await, 0, "measures: []\n", "");
}
