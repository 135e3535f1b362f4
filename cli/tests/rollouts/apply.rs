//! `apply` and the rollouts that it begins.

use super::{err, out, rollout};
use crate::fake::{Fake, rollouts::RolloutAsked};
use crate::{WEB, expect, run};
use sockpilot_proto::v1::{self, RolloutState};

#[tokio::test]
async fn how_the_rollout_goes_is_said_beside_the_file() {
    let fake = Fake::start().await;
    let options = ["--plan", "careful", "--draft", "--confirm-within", "10m", "--break-glass", "--reason", "4711"];
    let output = run(&fake.url, &[&["apply", "-f", "-"], &options[..]].concat(), WEB).await;
    let said = "policies/web: created, revision 1 by rollouts/web-1, a draft\nStart it with: sockpilot rollout start rollouts/web-1\n";
    expect(&output, 0, said, "");
    let expected = v1::RolloutOptions {
        plan: "rolloutPlans/careful".to_owned(),
        draft: true,
        confirm_within: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        break_glass: true,
    };
    assert_eq!((fake.updates()[0].rollout.clone(), fake.updates()[0].target.clone()), (Some(expected), None));
    let output = run(&fake.url, &["apply", "-f", "-", "--confirm-within", "90s"], &WEB.replace("40", "20")).await;
    let said =
        "policies/web: revision 2 by rollouts/web-2\nConfirm it with: sockpilot rollout confirm rollouts/web-2\n";
    expect(&output, 0, said, "");
    for wrong in [
        vec!["--plan", "quick", "--share", "5%"],
        vec!["--draft", "--wait"],
        vec!["--wait", "--dry-run"],
        vec!["--now", "--reason", "r", "--wait"],
        vec!["--break-glass"],
        vec!["--now"],
    ] {
        let output = run(&fake.url, &[&["apply", "-f", "-"], &wrong[..]].concat(), WEB).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(fake.updates().len(), 2);
}

#[tokio::test]
async fn past_all_rollouts_a_policy_needs_a_reason() {
    let fake = Fake::start().await;
    for (option, value, said) in [("--share", "5%", "--share"), ("--nodes", "role=edge", "--nodes")] {
        let output = run(&fake.url, &["apply", "-f", "-", option, value], WEB).await;
        let why =
            format!("error: {said} goes past all rollouts, which needs a reason for a policy; say it with --reason\n");
        expect(&output, 2, "", &why);
    }
    let assign = run(&fake.url, &["assign", "policies/web", "--revision", "2", "--everyone"], "").await;
    assert!(assign.status.code() == Some(2) && err(&assign).contains("needs a reason"), "{assign:?}");
    assert_eq!(fake.calls(), 0);
    let staged = run(&fake.url, &["apply", "-f", "-", "--stage"], WEB).await;
    expect(&staged, 0, "policies/web: created, revision 1 for nobody\n", "");
    let now = ["apply", "-f", "-", "--now", "--reason", "incident 4711"];
    expect(&run(&fake.url, &now, &WEB.replace("40", "20")).await, 0, "policies/web: revision 2 for everyone\n", "");
    let everyone = Some(v1::target::Kind::Everyone(v1::target::Everyone {}));
    assert_eq!(fake.updates().last().and_then(|update| update.target.clone()?.kind), everyone);
}

#[tokio::test]
async fn the_exit_code_says_how_the_rollout_ended() {
    use RolloutState::{Completed, Draft, Paused, RollbackFailed, RolledBack, RollingBack, Running, Superseded};
    let line = |state: &str| format!("rollouts/web-1: {state}: as the test says\n");
    for (course, code, end) in [
        (vec![Running, Completed], 0, "completed"),
        (vec![Running, RollingBack, RolledBack], 4, "rolled back from wave 1, step 1"),
        (vec![Paused], 5, "paused in wave 1, step 1"),
        (vec![Draft], 5, "draft"),
        (vec![Superseded], 6, "superseded from wave 1, step 1"),
        (vec![RollbackFailed], 8, "rollback failed from wave 1, step 1"),
    ] {
        let fake = Fake::start().await;
        fake.goes("rollouts/web-1", &course);
        let output = run(&fake.url, &["apply", "-f", "-", "--wait"], WEB).await;
        let begun = "policies/web: created, revision 1 by rollouts/web-1\n";
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        if code == 0 {
            assert_eq!(out(&output), format!("{begun}{}", line(end)));
            assert_eq!(err(&output), line("running, wave 1, step 1"));
        } else {
            assert_eq!(out(&output), begun);
            assert!(err(&output).ends_with(&format!("error: {}", line(end))), "{output:?}");
        }
    }
}

#[tokio::test]
async fn a_wait_ends_with_its_timeout_and_where_there_is_nothing_to_wait_for() {
    let fake = Fake::start().await;
    fake.goes("rollouts/web-1", &[RolloutState::Running]);
    let output = run(&fake.url, &["apply", "-f", "-", "--wait=1s"], WEB).await;
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(err(&output).ends_with("as the test says; it is not over yet, and goes on\n"), "{output:?}");
    // The same again finds it under way.
    let output = run(&fake.url, &["apply", "-f", "-", "--wait=1s"], WEB).await;
    assert_eq!(
        (output.status.code(), out(&output).as_str()),
        (Some(7), "policies/web: unchanged at revision 1, by rollouts/web-1\n")
    );
    fake.has(rollout("rollouts/web-1", "policies/web", RolloutState::Completed));
    let output = run(&fake.url, &["apply", "-f", "-", "--wait"], WEB).await;
    expect(&output, 0, "policies/web: unchanged at revision 1\n", "");
}

#[tokio::test]
async fn of_several_policies_the_first_that_did_not_complete_says_the_code() {
    let fake = Fake::start().await;
    fake.goes("rollouts/web-1", &[RolloutState::Completed]);
    fake.goes("rollouts/b-1", &[RolloutState::Running, RolloutState::Superseded]);
    fake.goes("rollouts/c-1", &[RolloutState::RolledBack]);
    let named = |name: &str| WEB.replace("name: web", &format!("name: {name}"));
    let text = [WEB.to_owned(), named("b"), named("c")].join("---\n");
    let output = run(&fake.url, &["apply", "-f", "-", "--wait", "-o", "json"], &text).await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(
        serde_json::from_str::<serde_json::Value>(&out(&output)).is_ok(),
        "progress is not in the answer: {output:?}"
    );
    assert!(
        err(&output).contains("error: rollouts/b-1: superseded")
            && err(&output).contains("\nrollouts/c-1: rolled back")
    );
}

#[tokio::test]
async fn a_dry_run_shows_what_the_rollout_of_a_stored_revision_would_do() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-", "--stage"], WEB).await;
    let output = run(&fake.url, &["apply", "-f", "-", "--dry-run", "--plan", "careful"], WEB).await;
    let text = out(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text.contains("\npolicies/web@1 in the place of nothing, by rolloutPlans/careful@0:\n"), "{text}");
    assert!(text.contains("   1  1% of nodes                       -      2  a, b\n"), "{text}");
    let asked = fake.rollouts_asked();
    let [RolloutAsked::Create(request)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((request.policy.as_str(), request.revision), ("policies/web", 1));
    assert!(request.validate_only && request.plan == "rolloutPlans/careful");
    // Of what is not stored there is none to be had.
    let output = run(&fake.url, &["apply", "-f", "-", "--dry-run"], &WEB.replace("40", "20")).await;
    assert!(!out(&output).contains("WAVE") && fake.rollouts_asked().len() == 1, "{output:?}");
}

#[tokio::test]
async fn a_stored_revision_gets_a_rollout_too() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-", "--stage"], WEB).await;
    fake.goes("rollouts/web-1", &[RolloutState::Running, RolloutState::Completed]);
    let create = ["rollout", "create", "web@1", "--plan", "quick", "--reason", "go", "--wait=1h"];
    let output = run(&fake.url, &create, "").await;
    assert!(out(&output).ends_with("rollouts/web-1: completed: as the test says\n"), "{output:?}");
    let preview = out(&run(&fake.url, &["rollout", "preview", "policies/web"], "").await);
    let dry = out(&run(&fake.url, &["rollout", "create", "web", "--dry-run"], "").await);
    assert!(preview.starts_with("policies/web@1 in the place of nothing") && preview == dry, "{preview}{dry}");
    let asked = fake.rollouts_asked();
    let [RolloutAsked::Create(create), RolloutAsked::Create(newest), _] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((create.revision, create.plan.as_str(), create.reason.as_str()), (1, "rolloutPlans/quick", "go"));
    assert!(newest.revision == 0 && newest.validate_only && !create.validate_only);
}
