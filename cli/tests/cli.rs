//! The tool from outside, against a server that does what each test wants.

mod audit;
mod experiments;
mod fake;
mod rollouts;
mod simulate;

use fake::{Fake, Reaction};
use nix::{sys::signal::Signal, unistd::Pid};
use sockpilot_proto::v1;
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const WEB: &str = "kind: Policy\nname: web\nrules:\n- name: far\n  set:\n    initial_cwnd_packets: 40\n";

fn command(server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::from(sockpilot_programs::own(env!("CARGO_BIN_EXE_sockpilot").as_ref()));
    command.args(arguments).env("SOCKPILOT_SERVER", server).env_remove("SOCKPILOT_ACTOR").kill_on_drop(true);
    command.env_remove("SUDO_USER").env("USER", "ann");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run(server: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = command(server, arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    child.wait_with_output().await.unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), out.as_ref(), err.as_ref()), (Some(code), stdout, stderr));
}

#[tokio::test]
async fn apply_creates_then_leaves_alone_then_makes_a_revision() {
    let fake = Fake::start().await;
    let apply = ["apply", "-f", "-", "--reason", "try"];
    expect(&run(&fake.url, &apply, WEB).await, 0, "policies/web: created, revision 1 by rollouts/web-1\n", "");
    expect(&run(&fake.url, &apply, WEB).await, 0, "policies/web: unchanged at revision 1, by rollouts/web-1\n", "");
    let shared = ["apply", "-f", "-", "--share", "12.5%", "--reason", "a part"];
    let changed = WEB.replace("40", "20");
    expect(&run(&fake.url, &shared, &changed).await, 0, "policies/web: revision 2 for 12.5% of nodes\n", "");
    let seen = fake.updates();
    assert_eq!(seen[0].reason, "try");
    assert_eq!(seen[0].target, None);
    assert_eq!(seen[2].target.as_ref().unwrap().kind, Some(v1::target::Kind::ShareBp(1_250)));
    assert_ne!(seen[0].request_id, seen[1].request_id, "two commands are two requests");
    assert!(fake.actors().iter().all(|actor| actor.starts_with("ann@")), "{:?}", fake.actors());
}

#[tokio::test]
async fn a_faulty_file_is_refused_as_a_whole_before_anything_is_sent() {
    let fake = Fake::start().await;
    let text = format!("{WEB}  matsch: {{}}\n---\nkind: Experiment\nname: e\narms: 3\n");
    let output = run(&fake.url, &["apply", "-f", "-"], &text).await;
    expect(
        &output,
        2,
        "",
        "error: 2 faults, nothing was sent\n  \
         standard input:7: rules[0].matsch: no such field as \"matsch\"; did you mean match?\n  \
         standard input:11: arms: must be a list, not 3; write [...]\n",
    );
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn files_that_are_not_there_or_no_yaml_are_wrong_input() {
    let fake = Fake::start().await;
    let output = run(&fake.url, &["apply", "-f", "/nonexistent.yaml"], "").await;
    assert_eq!(output.status.code(), Some(2));
    let output = run(&fake.url, &["apply", "-f", "-"], "a: [1\n").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = run(&fake.url, &["apply", "-f", "-"], "# nothing\n").await;
    expect(&output, 2, "", "error: there is no document in what was given\n");
    assert_eq!(run(&fake.url, &["aply"], "").await.status.code(), Some(2));
    assert_eq!(run("https://here", &["nodes"], "").await.status.code(), Some(2));
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn what_the_server_refuses_is_shown_where_it_stands_in_the_file() {
    let fake = Fake::start().await;
    let mut details = ErrorDetails::new();
    details
        .add_bad_request_violation("policy.rules[0].set.initial_cwnd_packets", "must be at most 65535")
        .add_bad_request_violation("policy.rules[0].match.services[0]", "must begin with /");
    fake.react(Reaction::Refuse(Status::with_error_details(Code::InvalidArgument, "2 faults", details)));
    expect(
        &run(&fake.url, &["apply", "-f", "-"], WEB).await,
        1,
        "",
        "error: policies/web: refused for 2 faults\n  \
         standard input:6: rules[0].set.initial_cwnd_packets: must be at most 65535\n  \
         standard input:4: rules[0].match.services[0]: must begin with /\n",
    );
}

#[tokio::test]
async fn several_documents_are_all_checked_before_one_is_stored() {
    let fake = Fake::start().await;
    let text = format!("{WEB}---\n{}", WEB.replace("name: web", "name: refused"));
    let output = run(&fake.url, &["apply", "-f", "-"], &text).await;
    expect(&output, 1, "", "error: policies/refused: this name is refused\n");
    assert!(fake.updates().iter().all(|update| update.validate_only), "nothing may be stored");
    let text = format!("{WEB}---\n{}", WEB.replace("name: web", "name: other"));
    let output = run(&fake.url, &["apply", "-f", "-"], &text).await;
    let expected = "policies/web: created, revision 1 by rollouts/web-1\npolicies/other: created, revision 1 by rollouts/other-1\n";
    expect(&output, 0, expected, "");
}

#[tokio::test]
async fn a_dry_run_shows_the_difference_and_stores_nothing() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-"], WEB).await;
    let output = run(&fake.url, &["apply", "-f", "-", "--dry-run"], &WEB.replace("40", "20")).await;
    expect(
        &output,
        0,
        "policies/web: would become revision 2 by a rollout\n\
         --- policies/web@1\n+++ policies/web\n@@ -3,4 +3,4 @@\n rules:\n - name: far\n   set:\n\
         -    initial_cwnd_packets: 40\n+    initial_cwnd_packets: 20\n",
        "",
    );
    let output = run(&fake.url, &["apply", "-f", "-", "--dry-run"], WEB).await;
    expect(&output, 0, "policies/web: unchanged at revision 1\n", "");
    let output = run(&fake.url, &["apply", "-f", "-", "--dry-run", "--share", "5%", "--reason", "r"], WEB).await;
    expect(&output, 0, "policies/web: document unchanged, revision 1 would be for 5% of nodes\n", "");
    assert_eq!(fake.updates().iter().filter(|update| !update.validate_only).count(), 1);
}

#[tokio::test]
async fn an_unavailable_server_is_asked_again_with_the_same_request_id() {
    let fake = Fake::start().await;
    fake.react(Reaction::Unavailable { before: 1, after: 1 });
    let output = run(&fake.url, &["apply", "-f", "-"], WEB).await;
    expect(&output, 0, "policies/web: created, revision 1 by rollouts/web-1\n", "");
    let ids: Vec<String> = fake.updates().into_iter().map(|update| update.request_id).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0] && id.len() == 36), "{ids:?}");
    assert_eq!(fake.revision("policies/web"), Some(1), "stored once");
}

#[tokio::test]
async fn a_server_that_stays_away_is_not_asked_for_ever() {
    let fake = Fake::start().await;
    fake.react(Reaction::Unavailable { before: u32::MAX, after: 0 });
    let output = run(&fake.url, &["apply", "-f", "-"], WEB).await;
    let expected = format!("error: the server at {} is not available: the database is away\n", fake.url);
    expect(&output, 3, "", &expected);
    assert_eq!(fake.updates().len(), 5);
}

#[tokio::test]
async fn nobody_at_the_address_is_exit_code_3() {
    let nobody = format!("http://{}", sockpilot_programs::reserved_address().unwrap());
    let output = run(&nobody, &["nodes"], "").await;
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("Connection refused") && text.lines().count() == 1, "{text}");
}

#[tokio::test]
async fn what_does_not_exist_is_exit_code_1() {
    let fake = Fake::start().await;
    let output = run(&fake.url, &["get", "policies/none"], "").await;
    expect(&output, 1, "", "error: policies/none does not exist\n");
    let output = run(&fake.url, &["get", "none"], "").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write policies/none or experiments/none"));
}

#[tokio::test]
async fn what_get_prints_can_be_applied_again() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-"], WEB).await;
    let output = run(&fake.url, &["get", "policies/web", "-o", "yaml"], "").await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("revision: 1\n"), "{text}");
    expect(
        &run(&fake.url, &["apply", "-f", "-"], &text).await,
        0,
        "policies/web: unchanged at revision 1, by rollouts/web-1\n",
        "",
    );
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let fake = Fake::start().await;
    for name in ["a", "b", "c"] {
        run(&fake.url, &["apply", "-f", "-"], &WEB.replace("web", name)).await;
    }
    let output = run(&fake.url, &["get", "policies", "-o", "json"], "").await;
    let text = String::from_utf8(output.stdout).unwrap();
    for name in ["a", "b", "c"] {
        assert!(text.contains(&format!("\"name\": \"policies/{name}\"")), "{text}");
    }
}

#[tokio::test]
async fn promote_without_a_canary_says_why_not() {
    let fake = Fake::start().await;
    let output = run(&fake.url, &["promote", "policies/web"], "").await;
    expect(&output, 1, "", "error: cannot promote\n  policies/web: has no canary\n");
}

#[tokio::test]
async fn rollback_sends_what_was_said() {
    let fake = Fake::start().await;
    let arguments = ["rollback", "policies/web", "--to-revision", "2", "--reason", "p99 up"];
    let output = run(&fake.url, &arguments, "").await;
    assert!(output.status.success(), "{output:?}");
    let seen = fake.rollbacks();
    assert_eq!((seen[0].name.as_str(), seen[0].revision, seen[0].reason.as_str()), ("policies/web", 2, "p99 up"));
    assert_eq!(seen[0].request_id.len(), 36);
}

#[tokio::test]
async fn explain_asks_about_the_connection_that_was_named() {
    let fake = Fake::start().await;
    fake.explain(v1::ExplainFlowResponse { generation: 7, ..v1::ExplainFlowResponse::default() });
    let ends = ["[2001:db8::1]:443", "[2001:db8::2]:40000"];
    let rest = ["--passive", "--node", "desk", "--rtt", "80ms", "--silence", "10m", "--with", "policies/web@3"];
    let output = run(&fake.url, &[&["explain"], &ends[..], &rest[..]].concat(), "").await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("No layer sets anything"), "{text}");
    let asked = v1::ExplainFlowRequest {
        node: "nodes/desk".to_owned(),
        local_address: "2001:db8::1".to_owned(),
        local_port: 443,
        remote_address: "2001:db8::2".to_owned(),
        remote_port: 40_000,
        direction: v1::Direction::Passive.into(),
        handshake_rtt_us: Some(80_000),
        silence_ms: 600_000,
        overrides: vec!["policies/web@3".to_owned()],
        ..v1::ExplainFlowRequest::default()
    };
    assert_eq!(fake.explained(), [asked]);
}

#[tokio::test]
async fn a_watch_prints_what_changes_and_ends_well_on_ctrl_c() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-"], WEB).await;
    let mut child = command(&fake.url, &["status", "policies/web", "--watch"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut wait_for = async |revision: &str| {
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.split_whitespace().nth(1) == Some(revision) {
                    return;
                }
            }
            panic!("the watch ended before revision {revision}");
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), found).await.expect("the change was not shown");
    };
    wait_for("1").await;
    run(&fake.url, &["apply", "-f", "-"], &WEB.replace("40", "20")).await;
    wait_for("2").await;
    let pid = Pid::from_raw(child.id().unwrap().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn variables_that_are_set_to_nothing_are_not_set() {
    let fake = Fake::start().await;
    let mut empty = command(&fake.url, &["apply", "-f", "-"]);
    // With nothing in SOCKPILOT_SERVER the default is asked, where nobody need be.
    empty.env("SOCKPILOT_ACTOR", "").env("SUDO_USER", " ");
    let mut child = empty.spawn().unwrap();
    child.stdin.take().unwrap().write_all(WEB.as_bytes()).await.unwrap();
    expect(&child.wait_with_output().await.unwrap(), 0, "policies/web: created, revision 1 by rollouts/web-1\n", "");
    assert!(fake.actors().iter().all(|actor| actor.starts_with("ann@")), "{:?}", fake.actors());
    let default = command("", &["status", "--server", "https://h:1"]).output().await.unwrap();
    let given = String::from_utf8_lossy(&default.stderr).into_owned();
    assert!(given.contains("say by --tls-ca"), "{given}");
    let default = command(" ", &["status"]).output().await.unwrap();
    assert_ne!(default.status.code(), Some(2), "{}", String::from_utf8_lossy(&default.stderr));
}

#[tokio::test]
async fn an_actor_arrives_as_it_is() {
    let fake = Fake::start().await;
    run(&fake.url, &["apply", "-f", "-", "--actor", "jürgen"], WEB).await;
    assert!(!fake.actors().is_empty() && fake.actors().iter().all(|actor| actor == "jürgen"), "{:?}", fake.actors());
    for bad in ["ann\n\u{7}", "", "a\u{202e}"] {
        let output = run(&fake.url, &["apply", "-f", "-", "--actor", bad], WEB).await;
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
}

#[tokio::test]
async fn a_selection_asks_for_one_value_of_a_label() {
    let fake = Fake::start().await;
    let output = run(&fake.url, &["apply", "-f", "-", "--nodes", "zone=a", "--nodes", "zone=b"], WEB).await;
    expect(&output, 2, "", "error: \"zone\" is \"a\" and \"b\"; give a label one value\n");
    assert_eq!(fake.calls(), 0);
}
