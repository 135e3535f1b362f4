//! What the command line takes and refuses.

use super::*;
use clap::CommandFactory;

fn parsed(line: &str) -> Result<Command, String> {
    let words = std::iter::once("sockpilot").chain(line.split_whitespace());
    Arguments::try_parse_from(words).map(|arguments| arguments.command).map_err(|error| error.to_string())
}

#[test]
fn the_definition_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn targets_exclude_each_other() {
    assert!(parsed("apply -f a.yaml --share 10% --stage").unwrap_err().contains("cannot be used with"));
    assert!(parsed("assign policies/x --revision 2").unwrap_err().contains("--everyone"));
    assert!(parsed("assign policies/x --revision 2 --share 10% --everyone").is_err());
    assert!(parsed("assign policies/x@2 --revision 2 --everyone").is_err());
    assert!(parsed("rollback policies/x --to-revision 0").is_err());
}

#[test]
fn connections_are_named_by_both_ends() {
    let line = "explain [2001:db8::1]:443 [2001:db8::2]:40000 --passive --rtt 80ms --with policies/x@3";
    let Ok(Command::Explain(explain)) = parsed(line) else { panic!("explain") };
    assert_eq!((explain.local.port(), explain.rtt, explain.overrides.len()), (443, Some(80_000), 1));
    assert!(parsed("explain 10.0.0.1 10.0.0.2:1").is_err());
    assert!(parsed("explain 10.0.0.1:1 10.0.0.2:1 --with policies/x").unwrap_err().contains("policies/x@N"));
}

#[test]
fn targets_are_what_was_said() {
    let Ok(Command::Apply(apply)) = parsed("apply -f a -f - --nodes a=b,c=d --nodes e=f") else { panic!("apply") };
    let Some(target::Kind::NodeLabels(selection)) = apply.target().unwrap().kind else { panic!("labels") };
    assert_eq!(selection.labels.len(), 3);
    assert_eq!(apply.files.len(), 2);
    let Ok(Command::Assign(assign)) = parsed("assign policies/x --revision 2 --share 12.5%") else { panic!("assign") };
    assert_eq!(assign.target().kind, Some(target::Kind::ShareBp(1_250)));
    let line = "assign policies/x --revision 2 --wave nodes/a,nodes/b --wave role=edge --wave 10% --replace-waves";
    let Ok(Command::Assign(assign)) = parsed(line) else { panic!("assign") };
    let target = assign.target();
    assert!(assign.replace_waves);
    assert_eq!(crate::format::target(Some(&target)), "2 nodes by name, then role=edge, then 10% of nodes");
    assert!(parsed("assign policies/x --revision 2 --wave 10% --share 20%").is_err());
    assert!(parsed("assign policies/x --revision 2 --share 20% --replace-waves").is_err());
    assert!(parsed("assign policies/x --revision 2 --wave nodes/a,b=c").unwrap_err().contains("nodes/NODE"));
    let Ok(Command::Apply(apply)) = parsed("apply -f a") else { panic!("apply") };
    assert_eq!(apply.target(), None);
    for nothing in [",", "a", "=b", "a=b,c"] {
        assert!(parsed(&format!("apply -f a --nodes {nothing}")).is_err(), "{nothing}");
    }
}

#[test]
fn a_rollout_goes_as_it_is_said() {
    for (line, expected) in [
        ("apply -f a", None),
        ("apply -f a --wait", Some(None)),
        ("apply -f a --wait=2h", Some(Some(Duration::from_secs(7_200)))),
    ] {
        let Ok(Command::Apply(apply)) = parsed(line) else { panic!("{line}") };
        assert_eq!((apply.rollout.wait, apply.rollout.said()), (expected, None), "{line}");
    }
    let line = "rollout create web@3 --plan careful --confirm-within 10m --break-glass --reason why";
    let Ok(Command::Rollout(Rollout::Create(create))) = parsed(line) else { panic!("create") };
    assert_eq!(create.policy.to_string(), "policies/web@3");
    let options = create.rollout.options();
    assert_eq!((options.plan.as_str(), options.break_glass), ("rolloutPlans/careful", true));
    for wrong in [
        "rollout create experiments/e",
        "rollout create web --wait --draft",
        "rollout create web --wait 2h",
        "rollout jump web",
        "rollout jump web --wave 0",
        "rollout jump web --wave 33",
        "rollout get nodes/a",
        "rollout pause web@2",
        "rollout pause --all --etag 7",
        "rollout pause web --yes",
        "rollout start --all --break-glass --reason why --yes",
        "apply -f a --plan policies/x",
    ] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn past_all_rollouts_an_experiment_needs_no_reason_and_a_policy_does() {
    let check = |line: &str| {
        let words = std::iter::once("sockpilot").chain(line.split_whitespace());
        Arguments::try_parse_from(words).unwrap().check()
    };
    assert!(check("assign experiments/e --revision 2 --everyone").is_ok());
    assert!(check("assign policies/p --revision 2 --everyone --reason why").is_ok());
    assert_eq!(check("assign policies/p --revision 2 --wave 1%").unwrap_err().exit_code(), 2);
}

#[test]
fn an_experiment_needs_no_collection() {
    for line in ["experiment start x@3", "experiment start experiments/x --revision 3"] {
        let Ok(Command::Experiment(Experiment::Start(start))) = parsed(line) else { panic!("{line}") };
        assert_eq!(
            (start.name.resource().as_str(), start.name.revision.or(start.revision)),
            ("experiments/x", Some(3))
        );
    }
    assert!(parsed("experiment start policies/x").unwrap_err().contains("write experiments/x"));
    assert!(parsed("experiment stop x@3").unwrap_err().contains("leave the revision away"));
    assert!(parsed("experiment results x --revision 0").is_err());
    assert!(parsed("experiment results x --watch --html a.html").is_err());
}

#[test]
fn an_end_is_said_in_full() {
    let line = "experiment conclude x --ship fast --policy web --force --reason why --etag 7 --validate-only";
    let Ok(Command::Experiment(Experiment::Conclude(conclude))) = parsed(line) else { panic!("conclude") };
    assert_eq!(conclude.policy.unwrap().resource(), "policies/web");
    assert!(conclude.force && conclude.change.common.dry_run && conclude.change.etag == "7");
    for incomplete in
        ["", "--ship fast", "--discard --policy web", "--discard --ship fast --policy web", "--discard --force"]
    {
        assert!(parsed(&format!("experiment conclude x {incomplete}")).is_err(), "{incomplete}");
    }
    let Ok(Command::Experiment(Experiment::Extend(extend))) = parsed("experiment extend x --for 3d") else {
        panic!("extend")
    };
    assert_eq!(extend.duration_s, Some(259_200));
    for line in
        ["experiment extend x", "experiment extend x --for 3d --until-stopped", "experiment extend x --for 90000d"]
    {
        assert!(parsed(line).is_err(), "{line}");
    }
}

#[test]
fn effects_and_probabilities_are_percent() {
    let Ok(Command::Experiment(Experiment::Power(power))) = parsed("experiment power x --effect 2.5% --power 90%")
    else {
        panic!("power")
    };
    assert_eq!((power.effect, power.power), (250, 90));
    let Ok(Command::Experiment(Experiment::Power(power))) = parsed("experiment power x") else { panic!("power") };
    assert_eq!((power.effect, power.power), (500, 80));
    for line in ["--effect 5", "--effect 100%", "--power 100", "--power 0"] {
        assert!(parsed(&format!("experiment power x {line}")).is_err(), "{line}");
    }
}

#[test]
fn access_says_who_and_how_far() {
    let line = "access create-token ci --role operator --only-names web- --only-nodes role=edge --life 12h --to f";
    let Ok(Command::Access(Access::CreateToken(token))) = parsed(line) else { panic!("it is sound") };
    assert_eq!((token.name.as_str(), token.may.only_names.as_str()), ("ci", "web-"));
    assert_eq!(token.life, Some(std::time::Duration::from_secs(43_200)));
    for bad in [
        "access create-token ci --to f",
        "access create-token ci --role root --to f",
        "access create-token a/b --role viewer --to f",
        "access create-token ci --role viewer",
        "pki init Fleet",
        "pki server",
        "pki server http://here",
        "pki node Web_1",
    ] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
}
