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
