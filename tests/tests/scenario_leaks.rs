//! No key, token or password is to be read anywhere but in its file: not in a log, though it has everything, nor in an error, `--help`, a
//! list of processes, the metrics or the audit log.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sockpilot_programs::reserved_address;
use sockpilot_tests::{
    cgroup::Cgroup,
    machine::{Machine, Needs, scenario},
    node::{Node, Place},
    postgres::{Durability, Postgres},
    process::{self, Process},
    server::metrics_text,
    wait::eventually,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// What the database does not ask for, and the server does not know that.
const PASSWORD: &str = "a-password-that-nobody-sees";
/// As identity providers have them; nobody has signed it.
const STRANGERS_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzdHJhbmdlciJ9.c2lnbmVkLWJ5LW5vYm9keQ";

/// Runs the command line, and keeps what it says.
struct Desk {
    folder: PathBuf,
    server: String,
    heard: String,
}

impl Desk {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = process::own("sockpilot")?;
        command.args(arguments).current_dir(&self.folder).env("RUST_LOG", "trace");
        if !arguments.starts_with(&["pki"]) {
            command.env("SOCKPILOT_SERVER", &self.server).env("SOCKPILOT_TLS_CA", "pki/ca.pem");
        }
        Ok(command)
    }

    /// Whether it succeeds.
    fn run(&mut self, mut command: Command) -> Result<bool> {
        let output = command.output().context("starting sockpilot")?;
        for said in [&output.stdout, &output.stderr] {
            self.heard.push_str(&String::from_utf8_lossy(said));
        }
        Ok(output.status.success())
    }

    fn says(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(arguments)?;
        command.env("SOCKPILOT_TLS_CERT", "pki/person-ann.pem").env("SOCKPILOT_TLS_KEY", "pki/person-ann-key.pem");
        ensure!(self.run(command)?, "{arguments:?}: {}", self.heard);
        Ok(())
    }

    fn by_token(&mut self, token: &str, arguments: &[&str]) -> Result<bool> {
        let mut command = self.command(arguments)?;
        command.env("SOCKPILOT_TOKEN", token);
        self.run(command)
    }

    fn secret(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join(file)).with_context(|| format!("reading {file}"))?.trim().to_owned())
    }
}

fn start_server(machine: &Machine, desk: &Desk, database: &str, addresses: [SocketAddr; 3]) -> Result<Process> {
    let [people, nodes, metrics] = addresses.map(|address| address.to_string());
    let mut server = process::own("sockpilot-server")?;
    server.current_dir(&desk.folder).env("RUST_LOG", "trace").env("DATABASE_URL", database);
    server.args(["--listen", &people, "--node-listen", &nodes, "--metrics-listen", &metrics]);
    server.args(["--tls-ca", "pki/ca.pem", "--tls-cert", "pki/server.pem", "--tls-key", "pki/server-key.pem"]);
    server.args(["--issuer-key", "pki/ca-key.pem"]);
    Process::start(machine, "server", server)
}

/// The first line of a key's content.
fn of_key(path: &Path) -> Result<String> {
    let pem = fs::read_to_string(path).with_context(|| format!("reading {path:?}"))?;
    Ok(pem.lines().nth(1).context("no key")?.to_owned())
}

fn metrics(address: SocketAddr) -> Result<String> {
    let text = metrics_text(address)?;
    ensure!(text.contains("sockpilot"), "no metrics: {text}");
    Ok(text)
}

/// The command lines of all processes.
fn process_list() -> String {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.map(|process| fs::read(process.path().join("cmdline")).unwrap_or_default());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect::<Vec<_>>().join("\n")
}

/// `--help` shows what the environment says for each option.
fn helps(desk: &Desk, database: &str, token: &str) -> Result<String> {
    let mut heard = String::new();
    for program in ["sockpilot", "sockpilot-server", "sockpilot-node"] {
        let mut command = process::own(program)?;
        command.arg("--help").current_dir(&desk.folder).env("DATABASE_URL", database).env("SOCKPILOT_TOKEN", token);
        let output = command.env("SOCKPILOT_TOKEN_FILE", "ci.token").output()?;
        ensure!(output.status.success(), "{program} has no help");
        heard.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    Ok(heard)
}

#[test]
fn no_secret_is_to_be_read_anywhere() {
    scenario(Needs::Kernel, |machine| {
        let addresses = [reserved_address()?, reserved_address()?, reserved_address()?];
        let (people, nodes) = (format!("https://{}", addresses[0]), format!("https://{}", addresses[1]));
        let mut desk = Desk { folder: machine.folder("desk")?, server: people, heard: String::new() };
        for arguments in [
            &["pki", "init", "fleet.test"][..],
            &["pki", "server", "127.0.0.1"],
            &["pki", "person", "ann", "--role", "admin"],
        ] {
            let command = desk.command(arguments)?;
            ensure!(desk.run(command)?, "{arguments:?}: {}", desk.heard);
        }
        let postgres = Postgres::start(machine, Durability::Process)?;
        let database = format!("{}&password={PASSWORD}", postgres.url());
        let server = start_server(machine, &desk, &database, addresses)?;
        eventually("the server answers", PATIENCE, || desk.says(&["nodes"]))?;

        desk.says(&["access", "create-token", "ci", "--role", "operator", "--life", "1d", "--to", "ci.token"])?;
        desk.says(&["access", "join-token", "web-1", "--to", "web-1.token"])?;
        let (token, join_token) = (desk.secret("ci.token")?, desk.secret("web-1.token")?);
        ensure!(desk.by_token(&token, &["nodes"])?, "the token does not do: {}", desk.heard);
        ensure!(!desk.by_token(STRANGERS_TOKEN, &["nodes"])?, "anybody may");
        ensure!(!desk.by_token(&format!("{token}x"), &["access", "tokens"])?, "a token like it does, too");

        let cgroup = Cgroup::new(machine, "managed")?;
        let environment = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
        let place = Place { environment, ..Place::new(machine, "web-1")? };
        let state = place.state.clone();
        let at = |file: &str| desk.folder.join(file).display().to_string();
        let (ca, file, node_metrics) = (at("pki/ca.pem"), at("web-1.token"), reserved_address()?);
        let listen = node_metrics.to_string();
        let more = ["--tls-ca", &ca, "--join-token-file", &file, "--metrics-listen", &listen];
        let mut node = Node::start_at(machine, "web-1", &nodes, &cgroup, place, &more)?;
        eventually("the node has joined and is connected", PATIENCE, || {
            let log = node.process().log();
            ensure!(log.contains("joined") && log.contains("snapshot in force"));
            Ok(())
        })?;
        desk.says(&["audit"])?;
        desk.says(&["access", "tokens"])?;

        let mut places = vec![
            ("the server's log", server.log()),
            ("the daemon's log", node.process().log()),
            ("the list of processes", process_list()),
            ("--help", helps(&desk, &database, &token)?),
            ("the server's metrics", metrics(addresses[2])?),
            ("the daemon's metrics", metrics(node_metrics)?),
        ];
        places.push(("what the command line said", std::mem::take(&mut desk.heard)));
        let mut secrets = vec![token, join_token, PASSWORD.to_owned(), STRANGERS_TOKEN.to_owned()];
        for key in ["pki/ca-key.pem", "pki/server-key.pem", "pki/person-ann-key.pem"] {
            secrets.push(of_key(&desk.folder.join(key))?);
        }
        secrets.push(of_key(&state.join("identity/key.pem"))?);
        for (place, text) in &places[..2] {
            ensure!(text.contains(" TRACE "), "{place} does not have everything");
        }
        for (place, text) in &places {
            ensure!(!text.is_empty(), "{place} is empty");
            for (number, secret) in secrets.iter().enumerate() {
                ensure!(secret.len() > 16, "secret {number} is none");
                let bytes: Vec<_> = secret.bytes().take(12).map(|byte| byte.to_string()).collect();
                for shown in [secret.clone(), bytes.join(", ")] {
                    let line = text.lines().find(|line| line.contains(&shown));
                    ensure!(line.is_none(), "secret {number} in {place}: {}", line.unwrap_or_default());
                }
            }
        }
        node.detach().map(drop)
    });
}
