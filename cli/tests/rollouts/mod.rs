//! `rollout`, `off` and `on`, from outside.

mod apply;
mod documents;

use super::{WEB, expect, run};
use crate::fake::{Fake, rollouts::RolloutAsked};
use sockpilot_proto::v1::{self, RolloutState};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// One of a policy, in a state.
fn rollout(name: &str, policy: &str, state: RolloutState) -> v1::Rollout {
    v1::Rollout {
        name: name.to_owned(),
        policy: policy.to_owned(),
        revision: 2,
        good_revision: 1,
        state: state.into(),
        wave: 1,
        step: 1,
        digest: vec![7; 32].into(),
        ..v1::Rollout::default()
    }
}

async fn with(state: RolloutState) -> Fake {
    let fake = Fake::start().await;
    fake.has(rollout("rollouts/web-2", "policies/web", state));
    fake
}

fn out(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn every_verb_is_for_a_rollout_or_the_active_one_of_a_policy() {
    let place = "wave 1, step 1";
    for (words, said, verb) in [
        (vec!["start"], format!("running, {place}"), "start"),
        (vec!["pause"], format!("paused in {place}"), "pause"),
        (vec!["resume"], format!("running, {place}"), "resume"),
        (vec!["promote"], format!("running, {place}"), "promote"),
        (vec!["jump", "--wave", "1"], format!("running, {place}"), "jump"),
        (vec!["confirm"], format!("running, {place}"), "confirm"),
        (vec!["rollback"], format!("rolling back from {place}"), "rollback"),
    ] {
        let fake = with(RolloutState::Paused).await;
        for name in ["rollouts/web-2", "policies/web", "web"] {
            let arguments = [&["rollout"], &words[..], &[name, "--reason", "why", "--etag", "7"]].concat();
            fake.has(rollout("rollouts/web-2", "policies/web", RolloutState::Paused));
            expect(&run(&fake.url, &arguments, "").await, 0, &format!("rollouts/web-2: {said}\n"), "");
        }
        let asked = fake.rollouts_asked();
        assert_eq!(asked.len(), 3);
        for one in asked {
            let RolloutAsked::Verb(of, request) = one else { panic!("{one:?}") };
            assert_eq!((of, request.name.as_str(), request.reason.as_str()), (verb, "rollouts/web-2", "why"));
            assert!(request.etag == "7" && request.request_id.len() == 36 && !request.force);
        }
    }
}

#[tokio::test]
async fn force_and_break_glass_arrive_and_need_a_reason() {
    let fake = with(RolloutState::Paused).await;
    for (words, force, break_glass, wave) in [
        (vec!["promote", "web", "--force"], true, false, 0),
        (vec!["jump", "web", "--wave", "3", "--force"], true, false, 3),
        (vec!["start", "web", "--break-glass"], false, true, 0),
    ] {
        let arguments = [&["rollout"], &words[..]].concat();
        assert_eq!(run(&fake.url, &arguments, "").await.status.code(), Some(2), "{words:?} without a reason");
        let output = run(&fake.url, &[&arguments[..], &["--reason", "4711", "--dry-run"]].concat(), "").await;
        assert!(out(&output).starts_with("nothing was changed; it would be:\nrollouts/web-2: running"), "{output:?}");
        let asked = fake.rollouts_asked();
        let Some(RolloutAsked::Verb(_, request)) = asked.last() else { panic!("{asked:?}") };
        assert_eq!((request.force, request.break_glass, request.wave), (force, break_glass, wave));
        assert!(request.validate_only);
    }
    let many = ["rollout", "start", "--all", "--break-glass", "--reason", "r"];
    assert_eq!(run(&fake.url, &many, "").await.status.code(), Some(2), "one at a time");
}

#[tokio::test]
async fn a_refusal_names_each_of_its_reasons() {
    let fake = with(RolloutState::Draft).await;
    let mut details = ErrorDetails::new();
    details
        .add_precondition_failure_violation("FREEZE", "rolloutSettings", "the freeze window \"weekend\" ends on Monday")
        .add_precondition_failure_violation("LOCK", "rollouts/db-1", "changes syn_rto_ms on the same nodes");
    let refusal = Status::with_error_details(Code::FailedPrecondition, "rollouts/web-2 cannot start", details);
    fake.refuse_rollouts(refusal);
    expect(
        &run(&fake.url, &["rollout", "start", "web"], "").await,
        1,
        "",
        "error: rollouts/web-2 cannot start\n  rolloutSettings: the freeze window \"weekend\" ends on Monday\n  \
         rollouts/db-1: changes syn_rto_ms on the same nodes\n",
    );
    let output = run(&fake.url, &["rollout", "preview", "web"], "").await;
    assert_eq!((output.status.code(), err(&output).lines().count()), (Some(1), 3), "{output:?}");
}

#[tokio::test]
async fn a_policy_without_an_active_rollout_says_so() {
    let fake = with(RolloutState::Completed).await;
    let why = "error: policies/web has no rollout that is not over; see `sockpilot rollout list policies/web`\n";
    expect(&run(&fake.url, &["rollout", "pause", "web"], "").await, 1, "", why);
    let why = "error: policies/db has no rollout; see `sockpilot rollout list policies/db`\n";
    expect(&run(&fake.url, &["rollout", "get", "db"], "").await, 1, "", why);
    let back = run(&fake.url, &["rollout", "rollback", "web"], "").await;
    expect(&back, 0, "rollouts/web-2: rolling back from wave 1, step 1\n", "");
    assert!(out(&run(&fake.url, &["rollout", "get", "web"], "").await).starts_with("rollouts/web-2: rolling back"));
    fake.has(rollout("rollouts/web-3", "policies/web", RolloutState::Draft));
    let why =
        "error: policies/web has several rollouts that are not over: name one of rollouts/web-3, rollouts/web-2\n";
    expect(&run(&fake.url, &["rollout", "pause", "web"], "").await, 2, "", why);
}

#[tokio::test]
async fn rollouts_are_listed_to_the_last_page() {
    let fake = with(RolloutState::Completed).await;
    fake.has(rollout("rollouts/web-3", "policies/web", RolloutState::Running));
    fake.has(rollout("rollouts/db-1", "policies/db", RolloutState::Draft));
    for (words, lines) in [
        (vec![], 4),
        (vec!["--active"], 3),
        (vec!["web"], 3),
        (vec!["policies/web", "--active"], 2),
        (vec!["--limit", "2"], 3),
    ] {
        let output = run(&fake.url, &[&["rollout", "list"], &words[..]].concat(), "").await;
        assert_eq!(out(&output).lines().count(), lines, "{words:?}: {output:?}");
    }
    let json = out(&run(&fake.url, &["rollout", "list", "db", "-o", "json"], "").await);
    assert!(json.contains("\"state\": \"ROLLOUT_STATE_DRAFT\""), "{json}");
    let history = out(&run(&fake.url, &["rollout", "history", "web", "--evidence"], "").await);
    assert!(history.ends_with("of rollouts/web-3\n"), "{history}");
}

#[tokio::test]
async fn a_watch_ends_with_the_rollout() {
    let fake = with(RolloutState::Running).await;
    fake.goes("rollouts/web-2", &[RolloutState::Running, RolloutState::RollingBack, RolloutState::RolledBack]);
    for words in [["rollout", "watch", "rollouts/web-2"].as_slice(), &["rollout", "get", "rollouts/web-2", "--watch"]] {
        let output = run(&fake.url, words, "").await;
        let text = out(&output);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text.contains("rollouts/web-2: rolled back from wave 1, step 1\nas the test says\n"), "{text}");
    }
}

#[tokio::test]
async fn what_is_approved_is_what_was_shown() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-"], WEB).await;
    run(&fake.url, &["apply", "-f", "-", "--draft"], &WEB.replace("40", "20")).await;
    fake.has(rollout("rollouts/web-1", "policies/web", RolloutState::Superseded));
    let output = run(&fake.url, &["rollout", "approve", "web"], "").await;
    let digest = "07".repeat(32);
    let hint = format!(
        "error: nothing is approved yet; do it with: sockpilot rollout approve rollouts/web-2 --digest {digest}\n"
    );
    assert_eq!((output.status.code(), err(&output)), (Some(2), hint), "{output:?}");
    assert!(out(&output).contains(&format!("\ndigest       {digest}\n")), "{}", out(&output));
    let changes = "-    initial_cwnd_packets: 40\n+    initial_cwnd_packets: 20\n";
    assert!(out(&output).ends_with(changes), "{}", out(&output));
    assert_eq!(fake.rollouts_asked(), [], "nothing was approved");
    for wrong in ["07", "xyz", &"0g".repeat(32), &"+7".repeat(32)] {
        assert_eq!(run(&fake.url, &["rollout", "approve", "web", "--digest", wrong], "").await.status.code(), Some(2));
    }
    let other = "08".repeat(32);
    let edited = run(&fake.url, &["rollout", "approve", "web", "--digest", &other], "").await;
    expect(&edited, 1, "", "error: it has changed since; read it again\n");
    let output = run(&fake.url, &["rollout", "approve", "web", "--digest", &digest], "").await;
    expect(&output, 0, "rollouts/web-2: draft\n", "");
}

#[tokio::test]
async fn many_are_shown_first_and_changed_by_yes_only() {
    let fake = with(RolloutState::Running).await;
    fake.has(rollout("rollouts/db-1", "policies/db", RolloutState::Draft));
    let preview = "NAME            POLICY          WOULD BE  REFUSED\n\
                   rollouts/db-1   policies/db@2   -         is a draft; start it\n\
                   rollouts/web-2  policies/web@2  paused\n";
    let output = run(&fake.url, &["rollout", "pause", "--all"], "").await;
    expect(&output, 2, "", &format!("{preview}error: nothing was changed; say --yes to do it\n"));
    let output = run(&fake.url, &["rollout", "pause", "--all", "--dry-run"], "").await;
    expect(&output, 1, preview, "error: 1 of 2 rollouts refused\n");
    let asked = fake.rollouts_asked();
    assert!(asked.iter().all(|one| matches!(one, RolloutAsked::Batch(request) if request.validate_only)), "{asked:?}");
    let words = ["rollout", "pause", "--policy", "web", "--policy", "policies/db", "--state", "running", "--yes"];
    let done = "NAME            POLICY          IS      REFUSED\nrollouts/web-2  policies/web@2  paused\n";
    expect(&run(&fake.url, &[&words[..], &["--reason", "hold"]].concat(), "").await, 0, done, "");
    let asked = fake.rollouts_asked();
    let Some(RolloutAsked::Batch(request)) = asked.last() else { panic!("{asked:?}") };
    assert_eq!(request.policies, ["policies/web", "policies/db"]);
    assert_eq!(
        (request.states.as_slice(), request.verb()),
        ([RolloutState::Running as i32].as_slice(), v1::RolloutVerb::Pause)
    );
    assert!(request.reason == "hold" && !request.validate_only && request.request_id.len() == 36);
    let none = run(&fake.url, &["rollout", "resume", "--state", "rolling-back"], "").await;
    expect(&none, 0, "", "no rollout is selected\n");
    for wrong in [vec!["pause"], vec!["pause", "web", "--all"], vec!["pause", "--all", "--policy", "web"]] {
        assert_eq!(run(&fake.url, &[&["rollout"], &wrong[..]].concat(), "").await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn everything_can_be_turned_off_and_on_again() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-"], WEB).await;
    assert_eq!(run(&fake.url, &["off", "policies/web"], "").await.status.code(), Some(2), "needs a reason");
    let dry = ["off", "policies/web", "--reason", "hurts", "--dry-run"];
    expect(&run(&fake.url, &dry, "").await, 0, "policies/web: would be off\n", "");
    expect(&run(&fake.url, &["off", "--list"], "").await, 0, "OFF  SINCE  BY  REASON\n", "");
    expect(&run(&fake.url, &["off", "policies/web", "--reason", "hurts"], "").await, 0, "policies/web: is off\n", "");
    expect(&run(&fake.url, &["off", "all", "--reason", "fire"], "").await, 0, "everything: is off\n", "");
    let list = "OFF           SINCE  BY   REASON\npolicies/web  -      ann  hurts\neverything    -      ann  fire\n";
    expect(&run(&fake.url, &["off", "--list"], "").await, 0, list, "");
    let status = out(&run(&fake.url, &["status", "policies/web"], "").await);
    assert!(status.ends_with(&format!("\n\n{list}")), "{status}");
    expect(&run(&fake.url, &["on", "all"], "").await, 0, "everything: is on\n", "");
    let json = out(&run(&fake.url, &["off", "--list", "-o", "json"], "").await);
    assert!(json.contains("\"target\": \"policies/web\"") && !json.contains("\"-\""), "{json}");
    let asked = fake.rollouts_asked();
    let Some(RolloutAsked::Switch(on)) = asked.last() else { panic!("{asked:?}") };
    assert_eq!((on.target.as_str(), on.off), ("-", false));
    assert_eq!(run(&fake.url, &["off"], "").await.status.code(), Some(2));
}
