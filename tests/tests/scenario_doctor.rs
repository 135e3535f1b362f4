//! The doctors: each says what is wrong where it looks, and what to do, and leaves everything as it is.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use sockpilot_programs::reserved_address;
use sockpilot_tests::{
    cgroup::Cgroup,
    machine::{self, Machine, Needs, scenario},
    node::{Node, Place},
    postgres::{Durability, Postgres},
    process,
    server::{Database, Served, Server},
    wait::eventually,
};

/// `nobody`: no capabilities.
const NOBODY: u32 = 65_534;

/// What a doctor has said, and whether it found everything well.
struct Said {
    well: bool,
    text: String,
}

impl Said {
    fn by(command: &mut Command) -> Result<Self> {
        let output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(!text.is_empty(), "it says nothing: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { well: output.status.success(), text })
    }

    /// The line about a subject begins with `ok`, `warn` or `FAIL`, and it or its remedy has these words.
    fn expect(&self, mark: &str, subject: &str, words: &str) -> Result<()> {
        let mut lines = self.text.lines().skip_while(|line| !line.starts_with(&format!("{mark:4}  {subject}")));
        let (line, remedy) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        ensure!(
            line.contains(words) || remedy.contains(words),
            "no {mark} of {subject} with \"{words}\":\n{}",
            self.text
        );
        ensure!(mark == "ok" || remedy.contains("->"), "no remedy for {subject}:\n{}", self.text);
        Ok(())
    }
}

/// The doctor of a node that is not there yet.
struct Patient<'m> {
    server: String,
    cgroup: &'m Path,
    state: &'m Path,
    pins: &'m Path,
}

impl Patient<'_> {
    fn doctor(&self, program: &Path) -> Command {
        let mut command = sockpilot_programs::own(program);
        command.args(["--doctor", "--node-id", "patient", "--server", &self.server, "--cgroup"]).arg(self.cgroup);
        command.arg("--state-dir").arg(self.state).arg("--pin-root").arg(self.pins);
        command
    }
}

#[test]
fn a_node_s_machine_is_looked_at() {
    scenario(Needs::Kernel, |machine| {
        let world = Served::start(machine)?;
        let cgroup = Cgroup::new(machine, "patient")?;
        let state = machine.folder("patient")?.join("not-yet");
        let pins = machine.pin_root();
        let patient = Patient { server: world.server.url(), cgroup: cgroup.path(), state: &state, pins: &pins };
        let program = process::binary("sockpilot-node")?;
        let said = Said::by(&mut patient.doctor(&program))?;
        ensure!(said.well && !said.text.contains("FAIL"), "{}", said.text);
        for (subject, words) in [
            ("kernel ", "Linux"),
            ("cgroup", "cgroup v2"),
            ("capabilities", "CAP_BPF"),
            ("kernel program", "takes it"),
            ("other programs", "none"),
            ("state directory", "will make"),
            ("server", "answers"),
            ("credentials", "none are needed"),
        ] {
            said.expect("ok", subject, words)?;
        }
        ensure!(!state.exists() && !pins.join("patient").exists(), "it has made something");

        another_daemon_is_seen(machine, &world, &cgroup, &patient, &program)?;

        let nowhere = format!("http://{}", reserved_address()?);
        let said = Said::by(&mut Patient { server: nowhere, ..patient }.doctor(&program))?;
        ensure!(!said.well, "{}", said.text);
        said.expect("FAIL", "server", "cannot be reached")?;

        let patient = Patient { server: world.server.url(), cgroup: Path::new("/proc"), state: &state, pins: &pins };
        let said = Said::by(&mut patient.doctor(&program))?;
        ensure!(!said.well, "{}", said.text);
        said.expect("FAIL", "cgroup", "--cgroup")?;

        let open = machine.folder("open")?;
        machine::set_mode(&open, 0o755)?;
        let patient = Patient { cgroup: cgroup.path(), state: &open, ..patient };
        let said = Said::by(&mut patient.doctor(&program))?;
        said.expect("FAIL", "state directory", "chmod 0700")?;

        without_capabilities(machine, &patient, &program)
    });
}

fn another_daemon_is_seen(
    machine: &Machine,
    world: &Served<'_>,
    cgroup: &Cgroup,
    patient: &Patient<'_>,
    program: &Path,
) -> Result<()> {
    let place = Place::new(machine, "other")?;
    let state = place.state.clone();
    let _other = Node::start_at(machine, "other", &world.server.url(), cgroup, place, &[])?;
    world.admin.wait_for_nodes(&["other"])?;
    let said = Said::by(&mut patient.doctor(program))?;
    said.expect("warn", "other programs", "sockpilot")?;
    let beside = Patient { server: patient.server.clone(), state: &state, ..*patient };
    let mut command = beside.doctor(program);
    let said = Said::by(command.args(["--label", "a=b"]))?;
    said.expect("ok", "state directory", "a daemon uses it now")
}

fn without_capabilities(machine: &Machine, patient: &Patient<'_>, program: &Path) -> Result<()> {
    use std::os::unix::process::CommandExt;
    // Others may not be allowed to enter the folder of the workspace.
    let copy = machine.directory().join(machine.unique("sockpilot-node"));
    if fs::hard_link(program, &copy).is_err() {
        fs::copy(program, &copy).context("copying the daemon")?;
    }
    let said = Said::by(patient.doctor(&copy).uid(NOBODY).gid(NOBODY))?;
    ensure!(!said.well, "{}", said.text);
    said.expect("FAIL", "capabilities", "CAP_BPF")?;
    said.expect("warn", "kernel program", "not tried")
}

fn server_doctor(database: &str, more: &[&str]) -> Result<Said> {
    let mut command = process::own("sockpilot-server")?;
    let (listen, metrics) = (reserved_address()?.to_string(), reserved_address()?.to_string());
    command.args(["--doctor", "--metrics-listen", &metrics]).env("DATABASE_URL", database);
    if !more.contains(&"--listen") {
        command.args(["--listen", &listen]);
    }
    Said::by(command.args(more))
}

#[test]
fn a_server_s_machine_and_database_are_looked_at() {
    scenario(Needs::Nothing, |machine| {
        let world = Served::start(machine)?;
        let url = world.postgres.url();
        let said = server_doctor(&url, &[])?;
        // The database of tests outlives its own crashes, not those of its host.
        ensure!(!said.well, "{}", said.text);
        said.expect("FAIL", "durability", "fsync")?;
        said.expect("ok", "database ", "Postgres")?;
        said.expect("ok", "database clock", "from this machine's")?;
        said.expect("ok", "schema", "this version's")?;
        said.expect("ok", "address for people", "is free")?;

        let durable = Postgres::start(machine, Durability::Disk)?;
        let said = server_doctor(&durable.url(), &[])?;
        ensure!(said.well, "{}", said.text);
        said.expect("ok", "durability", "on disk")?;
        said.expect("ok", "schema", "brings it up to date")?;

        let taken = world.server.url();
        let taken = taken.strip_prefix("http://").context("its address")?;
        server_doctor(&url, &["--listen", taken])?.expect("warn", "address for people", "is taken")?;
        let said = server_doctor(&url, &["--listen", "0.0.0.0:0"])?;
        ensure!(!said.well, "{}", said.text);
        said.expect("FAIL", "TLS", "without TLS everyone")?;
        let said = server_doctor(&format!("postgres://sockpilot@{}/none", reserved_address()?), &[])?;
        ensure!(!said.well, "{}", said.text);
        said.expect("FAIL", "database", "DATABASE_URL")?;
        let said = server_doctor("", &["--tls-ca", "/no/such/file"])?;
        ensure!(!said.well, "{}", said.text);
        said.expect("FAIL", "settings", "--tls-cert")
    });
}

#[test]
fn a_fleet_is_looked_at_from_its_server() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        ensure!(server.says(&["doctor"])?.contains("no node has ever come"), "nobody is there yet");
        let cgroup = Cgroup::new(machine, "node")?;
        let mut node = Node::start(machine, "node", &server.url(), &cgroup, &[])?;
        server.admin()?.wait_for_nodes(&["node"])?;
        let said = server.says(&["doctor"])?;
        ensure!(said.contains("1 of 1 are connected"), "{said}");
        node.kill()?;
        eventually("it is said to be away", std::time::Duration::from_secs(20), || {
            let said = server.says(&["doctor"])?;
            ensure!(said.contains("0 of 1 are connected") && said.contains("nodes/node"), "{said}");
            ensure!(said.contains("sockpilot-node --doctor"), "{said}");
            Ok(())
        })
    });
}
