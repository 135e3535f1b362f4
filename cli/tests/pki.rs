//! An authority and certificates, as people make them, and that no secret is seen.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use sockpilot_identity::files;
use sockpilot_identity::peer::Peer;
use sockpilot_identity::tls::{self, Oldest, Own};

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = sockpilot_programs::own(env!("CARGO_BIN_EXE_sockpilot").as_ref());
    command.current_dir(directory).args(arguments).env_remove("SOCKPILOT_SERVER").output().expect("it runs")
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_authority_and_what_it_signs() {
    let directory = tempfile::tempdir().expect("a directory");
    let make = |arguments: &[&str]| run(directory.path(), arguments);
    assert!(error(&make(&["pki", "server", "here"])).contains("sockpilot pki init"));
    for arguments in [
        &["pki", "init", "fleet.example"][..],
        &["pki", "server", "sockpilot.example", "10.0.0.5"],
        &["pki", "person", "ann", "--role", "admin"],
        &["pki", "node", "web-1", "--label", "role=edge"],
        // No server is asked, so none has to be believed.
        &["--server", "https://10.255.255.1:7460", "pki", "person", "bob"],
        // Again, as before it runs out.
        &["pki", "server", "sockpilot.example"],
    ] {
        let output = make(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("PRIVATE"), "{said}");
    }
    let file = |name: &str| directory.path().join("pki").join(name);
    for (name, expected) in [
        ("server", "spiffe://fleet.example/server"),
        ("person-ann", "spiffe://fleet.example/person/ann/role/admin"),
        ("node-web-1", "spiffe://fleet.example/node/web-1/label/role/edge"),
    ] {
        let certificate = files::certificates(&file(&format!("{name}.pem"))).expect("a certificate");
        assert_eq!(Peer::of(&certificate[0]).expect("a name").name.to_string(), expected);
        let key = file(&format!("{name}-key.pem"));
        assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o777, 0o600);
    }
    // TLS takes them, on both ends.
    let own = |name: &str| Own { certificate: file(&format!("{name}.pem")), key: file(&format!("{name}-key.pem")) };
    let server = tls::server(&file("ca.pem"), &own("server"), Oldest::Tls13).expect("files").get();
    assert_eq!(server.domain.as_deref(), Some("fleet.example"));
    tls::client(&file("ca.pem"), Some(&own("person-ann"))).expect("files");
    let refused = tls::server(&file("ca.pem"), &own("person-ann"), Oldest::Tls13).expect_err("no server's");
    assert!(refused.to_string().contains("which is no server"), "{refused}");
    // What was signed would be lost with the authority.
    assert!(error(&make(&["pki", "init", "other.example"])).contains("exists"));
    assert!(error(&make(&["pki", "node", "n", "--label", "a=b c"])).contains("sockpilot access pin"));
}

#[test]
fn a_token_is_neither_seen_nor_sent_in_the_clear() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("token"), "hunter2\n").expect("written");
    let call = |server: &str| run(directory.path(), &["--token-file", "token", "--server", server, "nodes"]);
    let said = error(&call("http://10.255.255.1:1"));
    assert!(said.contains("in the clear") && !said.contains("hunter2"), "{said}");
    let said = error(&call("https://10.255.255.1:1"));
    assert!(said.contains("--tls-ca") && !said.contains("hunter2"), "{said}");
    let help = run(directory.path(), &["--help"]);
    assert!(!String::from_utf8_lossy(&help.stdout).contains("hunter2"));
}
