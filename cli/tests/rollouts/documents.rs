//! Plans and settings as documents.

use super::{err, out};
use crate::fake::{Fake, rollouts::RolloutAsked};
use crate::{WEB, expect, run};

const PLAN: &str = "kind: RolloutPlan\nname: slow\nwaves:\n- bake_time: 1h30m\n";
const SETTINGS: &str = "kind: RolloutSettings\ndefault_plan: rolloutPlans/slow\n";

#[tokio::test]
async fn a_plan_is_applied_shown_compared_and_deleted() {
    let fake = Fake::start().await;
    let apply = ["apply", "-f", "-"];
    expect(&run(&fake.url, &apply, PLAN).await, 0, "rolloutPlans/slow: created, revision 1\n", "");
    expect(&run(&fake.url, &apply, PLAN).await, 0, "rolloutPlans/slow: unchanged at revision 1\n", "");
    let changed = PLAN.replace("1h30m", "2h");
    expect(
        &run(&fake.url, &["apply", "-f", "-", "--dry-run"], &changed).await,
        0,
        "rolloutPlans/slow: would become revision 2\n--- rolloutPlans/slow@1\n+++ rolloutPlans/slow\n@@ -1,4 +1,4 @@\n \
         kind: RolloutPlan\n name: rolloutPlans/slow\n waves:\n-- bake_time: 1h30m\n+- bake_time: 2h\n",
        "",
    );
    let yaml = out(&run(&fake.url, &["get", "rolloutPlans/slow", "-o", "yaml"], "").await);
    expect(&run(&fake.url, &apply, &yaml).await, 0, "rolloutPlans/slow: unchanged at revision 1\n", "");
    let list = out(&run(&fake.url, &["get", "rolloutPlans"], "").await);
    assert!(list.starts_with("NAME               REVISION  WAVES") && list.lines().count() == 2, "{list}");
    let json = out(&run(&fake.url, &["get", "rolloutPlans", "-o", "json"], "").await);
    assert!(json.contains("\"rolloutPlans\": [") && json.contains("\"bakeTime\": \"5400s\""), "{json}");
    expect(&run(&fake.url, &["delete", "rolloutPlans/slow"], "").await, 0, "rolloutPlans/slow: deleted\n", "");
    let gone = run(&fake.url, &["get", "rolloutPlans/slow"], "").await;
    expect(&gone, 1, "", "error: rolloutPlans/slow does not exist\n");
}

#[tokio::test]
async fn settings_may_name_a_plan_of_the_same_file() {
    let fake = Fake::start().await;
    let text = [WEB, SETTINGS, PLAN].join("---\n");
    let dry = run(&fake.url, &["apply", "-f", "-", "--dry-run", "--plan", "slow"], &text).await;
    let said = out(&dry);
    assert!(
        said.contains("rolloutSettings: would be replaced\n") && said.contains("+default_plan: rolloutPlans/slow\n"),
        "{dry:?}"
    );
    let output = run(&fake.url, &["apply", "-f", "-", "--plan", "slow"], &text).await;
    let said = "rolloutPlans/slow: created, revision 1\nrolloutSettings: replaced\npolicies/web: created, revision 1 by rollouts/web-1\n";
    expect(&output, 0, said, "");
    assert_eq!(fake.settings().default_plan, "rolloutPlans/slow");
    let refused = run(&fake.url, &["delete", "rolloutPlans/slow"], "").await;
    expect(&refused, 1, "", "error: rolloutPlans/slow is the fleet's default\n");
    let shown = out(&run(&fake.url, &["get", "rolloutSettings"], "").await);
    assert!(shown.starts_with("default plan rolloutPlans/slow\n"), "{shown}");
    let missing = run(&fake.url, &["apply", "-f", "-"], &SETTINGS.replace("slow", "none")).await;
    assert!(missing.status.code() == Some(1) && err(&missing).contains("there is no rolloutPlans/none"), "{missing:?}");
}

#[tokio::test]
async fn what_is_about_rollouts_of_policies_is_said_of_policies_only() {
    let fake = Fake::start().await;
    let output = run(&fake.url, &["apply", "-f", "-", "--plan", "quick"], PLAN).await;
    let why = "error: 1 fault, nothing was sent\n  --plan is about rollouts of policies, and there is no policy in what was given\n";
    expect(&output, 2, "", why);
    let output = run(&fake.url, &["apply", "-f", "-", "--share", "5%"], PLAN).await;
    let why = "error: 1 fault, nothing was sent\n  a RolloutPlan is for everyone; apply it without --share, --nodes and --stage\n";
    expect(&output, 2, "", why);
}

#[tokio::test]
async fn the_default_plan_is_changed_and_nothing_else() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-"], PLAN).await;
    run(&fake.url, &["apply", "-f", "-"], "kind: RolloutSettings\nmax_nodes_bp: 2500\n").await;
    let output = run(&fake.url, &["rollout", "set-default", "slow", "--reason", "be careful"], "").await;
    expect(&output, 0, "rolloutPlans/slow is the plan of rollouts that name none\n", "");
    assert_eq!((fake.settings().max_nodes_bp, fake.settings().default_plan.as_str()), (2_500, "rolloutPlans/slow"));
    let asked = fake.rollouts_asked();
    let Some(RolloutAsked::Settings(request)) = asked.last() else { panic!("{asked:?}") };
    assert_eq!((request.reason.as_str(), request.settings.clone().unwrap().etag.as_str()), ("be careful", "8"));
}

#[tokio::test]
async fn everything_as_yaml_has_plans_and_settings_before_what_refers_to_them() {
    let fake = Fake::start().await;
    let text = [WEB, SETTINGS, PLAN].join("---\n");
    run(&fake.url, &["apply", "-f", "-"], &text).await;
    let printed = out(&run(&fake.url, &["get", "-o", "yaml"], "").await);
    let kinds: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
    assert_eq!(kinds, ["RolloutPlan", "RolloutSettings", "Policy"], "{printed}");
    let again = out(&run(&fake.url, &["apply", "-f", "-"], &printed).await);
    assert!(again.lines().count() == 3 && again.lines().all(|line| line.contains(": unchanged")), "{again}");
    let json = out(&run(&fake.url, &["get", "-o", "json"], "").await);
    assert!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["policies"][0]["name"] == "policies/web",
        "{json}"
    );
}
