//! What the programs may while they run: exactly what docs/security.md says, in every thread, and everything works with it.

use std::{
    fs,
    os::unix::{
        fs::MetadataExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::CapabilitySet,
};
use sockpilot_programs::{SLEEP, SYSTEMD_ANALYZE};
use sockpilot_proto::v1;
use sockpilot_tests::{
    cgroup::Cgroup,
    control::Control,
    documents::{clamp, policy_layer, rule},
    machine::{self, Machine, Needs, scenario},
    node::{Node, Place},
    privileges::{Granted, May, of_threads, open_to_others, units},
    process::{self, Process},
    server::{Database, Server},
    wait::eventually,
    world::{Pair, Wire, short_path},
};

const PATIENCE: Duration = Duration::from_secs(60);
const UNIT: &str = "sockpilot-node.service";
/// Of a service of its own; there need not be such a user.
const USER: u32 = 61_234;

fn clamping(packets: u32) -> Vec<v1::Layer> {
    vec![policy_layer("test", packets.into(), 1, vec![rule("only", v1::Match::default(), clamp(packets))])]
}

/// A daemon with a pair of agents, in its cgroup.
struct World<'m> {
    pair: Pair,
    control: Control,
    node: Node<'m>,
    _wire: Wire,
    _cgroup: Cgroup,
}

impl<'m> World<'m> {
    fn start(machine: &'m Machine, place: Place, namespaces: &str) -> Result<Self> {
        let (wire, cgroup, control) = (Wire::new(short_path())?, Cgroup::new(machine, "managed")?, Control::start()?);
        let more = ["--namespaces", namespaces];
        let node = Node::start_at(machine, "node", &control.url(), &cgroup, place, &more)?;
        let pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        Ok(Self { pair, control, node, _wire: wire, _cgroup: cgroup })
    }

    fn expect_clamp(&mut self, packets: u32) -> Result<()> {
        let found = self.pair.one("10.1.0.2")?.opened.context("not established")?.ssthresh;
        ensure!(found == packets, "a new connection has {found}, not {packets}");
        Ok(())
    }

    /// Making the kernel side takes long where everything else is busy.
    fn wait_for_hellos(&self, hellos: usize) -> Result<()> {
        eventually("the daemon is connected", PATIENCE, || {
            ensure!(self.control.hellos().len() >= hellos);
            Ok(())
        })
    }

    /// Policy, outcome, another policy, a crash, the same kernel side taken over, and once more.
    fn works(&mut self) -> Result<()> {
        self.wait_for_hellos(1)?;
        self.control.enforce(clamping(17))?;
        self.expect_clamp(17)?;
        self.control.wait_for_flows("policies/test", 1)?;
        self.control.enforce(clamping(18))?;
        self.expect_clamp(18)?;
        self.node.kill()?;
        self.expect_clamp(18)?;
        let hellos = self.control.hellos().len();
        self.node.restart()?;
        self.wait_for_hellos(hellos + 1)?;
        self.control.enforce(clamping(19))?;
        ensure!(self.node.process().log().contains("found=Adopted"), "the kernel side was not taken over");
        self.expect_clamp(19)?;
        self.control.wait_for_flows("policies/test", 4)
    }

    fn expect_may(&mut self, expected: &May) -> Result<()> {
        let (threads, found) = of_threads(self.node.process().id())?;
        ensure!(threads > 1, "only one thread has been looked at");
        ensure!(found.iter().eq([expected]), "{threads} threads have {found:?} and not {expected:?}");
        Ok(())
    }
}

/// What stays where other namespaces are looked into.
fn entering() -> CapabilitySet {
    CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::NET_ADMIN
}

#[test]
fn the_unit_grants_enough_and_nothing_is_left_after_loading() {
    scenario(Needs::Kernel, |machine| {
        let granted = Granted::by_unit(UNIT)?;
        let place = Place { granted: Some(granted), ..Place::new(machine, "node")? };
        let (state, pins) = (place.state.clone(), place.pin_root.clone());
        let mut world = World::start(machine, place, "own")?;
        world.works()?;
        let bounding = granted.capabilities.bits();
        world.expect_may(&May { user: 0, capabilities: 0, bounding, no_new_privs: true })?;
        let open = [open_to_others(&state), open_to_others(&pins.join("node"))].concat();
        ensure!(open.is_empty(), "open to others: {open:?}");
        let log = world.node.process().log();
        ensure!(log.contains("privileges given up capabilities=\"none\""), "it does not say so");
        world.node.detach().map(drop)
    });
}

#[test]
fn root_gives_everything_up_for_good_but_what_namespaces_take() {
    scenario(Needs::Kernel, |machine| {
        for (namespaces, kept) in [("own", CapabilitySet::empty()), ("all", entering())] {
            let mut world = World::start(machine, Place::new(machine, "node")?, namespaces)?;
            world.works()?;
            let capabilities = kept.bits();
            world.expect_may(&May { user: 0, capabilities, bounding: 0, no_new_privs: true })?;
            world.node.detach()?;
        }
        Ok(())
    });
}

#[test]
fn a_user_of_its_own_will_do() {
    scenario(Needs::Kernel, |machine| {
        // Its BPF file system: that of the machine is root's.
        let (pins, locks) = (machine.folder("bpf")?, machine.folder("run")?);
        mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), None::<&str>).context("mounting a BPF file system")?;
        let result = (|| {
            let place = Place::new(machine, "node")?;
            for path in [&pins, &locks, &place.state] {
                nix::unistd::chown(path, Some(USER.into()), Some(USER.into()))?;
                machine::set_mode(path, 0o700)?;
            }
            let granted = Granted { user: USER, ..Granted::by_unit(UNIT)? };
            let environment = vec![("RUNTIME_DIRECTORY".to_owned(), locks.display().to_string())];
            let place = Place { granted: Some(granted), pin_root: pins.clone(), environment, ..place };
            let mut world = World::start(machine, place, "own")?;
            world.works()?;
            let bounding = granted.capabilities.bits();
            world.expect_may(&May { user: USER, capabilities: 0, bounding, no_new_privs: true })?;
            let pid = world.node.process().id();
            let owner = fs::metadata(format!("/proc/{pid}/mem"))?.uid();
            ensure!(owner == 0, "the memory of the daemon is open to user {owner}");
            Ok(())
        })();
        umount2(&pins, MntFlags::MNT_DETACH).context("unmounting")?;
        result
    });
}

/// Starts a daemon that is to refuse, and returns what it says.
fn refusal(machine: &Machine, place: Place, namespaces: &str) -> Result<String> {
    let cgroup = Cgroup::new(machine, "refused")?;
    let more = ["--namespaces", namespaces];
    let mut node = Node::start_at(machine, "node", "http://127.0.0.1:1", &cgroup, place, &more)?;
    let status = node.process().wait(PATIENCE)?;
    ensure!(!status.success(), "it ended as if nothing were wrong");
    let log = node.process().log();
    Ok(log.lines().filter(|line| line.contains("ERROR")).collect::<Vec<_>>().join("\n"))
}

#[test]
fn what_is_missing_or_open_is_said_in_one_sentence() {
    scenario(Needs::Kernel, |machine| {
        let unit = Granted::by_unit(UNIT)?;
        let granted = Granted { capabilities: unit.capabilities - CapabilitySet::PERFMON, ..unit };
        let place = Place { granted: Some(granted), ..Place::new(machine, "node")? };
        let said = refusal(machine, place, "own")?;
        ensure!(said.contains("CAP_PERFMON is missing") && said.lines().count() == 1, "{said}");
        let place = Place { granted: Some(unit), ..Place::new(machine, "node")? };
        let said = refusal(machine, place, "all")?;
        ensure!(said.contains("CAP_SYS_ADMIN is missing") && said.contains("--namespaces own"), "{said}");
        let place = Place::new(machine, "node")?;
        machine::set_mode(&place.state, 0o755)?;
        let said = refusal(machine, place.clone(), "own")?;
        ensure!(said.contains("is open to others (mode 0755); run `chmod 0700"), "{said}");
        machine::set_mode(&place.state, 0o700)?;
        nix::unistd::chown(&place.state, Some(USER.into()), None)?;
        let said = refusal(machine, place, "own")?;
        ensure!(said.contains(&format!("is of user {USER}")), "{said}");
        Ok(())
    });
}

/// Whether a command leaves a core dump when it is made to crash, where there is no limit.
fn dumps(machine: &Machine, mut command: Command, ready: &str) -> Result<bool> {
    command.current_dir(machine.folder("core")?);
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(setrlimit(Resource::Core, Rlimit { current: None, maximum: None })?));
    }
    let mut process = Process::start(machine, "crash", command)?;
    eventually("it is ready to be crashed", PATIENCE, || {
        ensure!(process.log().contains(ready));
        Ok(())
    })?;
    // A program that says nothing has begun when its name is its own.
    let name = || fs::read_to_string(format!("/proc/{}/comm", process.id()));
    eventually("it has been executed", PATIENCE, || {
        ensure!(!name()?.starts_with("scenario_"));
        Ok(())
    })?;
    let status = process.end_by(Signal::SIGABRT)?;
    ensure!(status.signal() == Some(Signal::SIGABRT as i32), "it ended by {status}");
    Ok(status.core_dumped())
}

#[test]
fn a_crash_leaves_no_memory_behind() {
    scenario(Needs::Kernel, |machine| {
        let mut sleep = SLEEP.command()?;
        sleep.arg("60");
        if !dumps(machine, sleep, "")? {
            sockpilot_programs::skipped("this machine makes no core dumps, so there is nothing to keep out of them");
            return Ok(());
        }
        let mut server = process::own("sockpilot-server")?;
        server.args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--state-dir"]);
        server.arg(machine.folder("crash-server")?).env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
        ensure!(!dumps(machine, server, "database unavailable")?, "the server's memory is on disk");
        let (cgroup, place) = (Cgroup::new(machine, "crash")?, Place::new(machine, "crash")?);
        let mut node = process::own("sockpilot-node")?;
        node.args(["--node-id", "crash", "--server", "http://127.0.0.1:1", "--namespaces", "own", "--cgroup"]);
        node.arg(cgroup.path()).arg("--state-dir").arg(&place.state).arg("--pin-root").arg(&place.pin_root);
        ensure!(!dumps(machine, node, "not connected")?, "the daemon's memory is on disk");
        Ok(())
    });
}

#[test]
fn the_server_needs_no_privileges() {
    scenario(Needs::Nothing, |machine| {
        let mut server = Server::start(machine, Database::Embedded, &[])?;
        ensure!(server.says(&["nodes"])?.contains("NAME"), "a call is answered");
        let (threads, may) = of_threads(server.process().id())?;
        ensure!(threads > 1, "only one thread has been looked at");
        for May { user, capabilities, no_new_privs, .. } in may {
            ensure!(user != 0 && capabilities == 0 && no_new_privs, "{user} {capabilities:x} {no_new_privs}");
        }
        let owner = fs::metadata(format!("/proc/{}/mem", server.process().id()))?.uid();
        ensure!(owner == 0, "the memory of the server is open to user {owner}");
        ensure!(!server.process().log().contains("running as root"), "it is not root");
        Ok(())
    });
}

/// The score that the documentation gives a unit, in tenths.
fn documented(unit: &str) -> Result<u32> {
    let text = fs::read_to_string(units().join("../../docs/security.md"))?;
    let row = text.lines().find(|line| line.contains(unit) && line.contains('|') && !line.contains("CAP_"));
    let row = row.with_context(|| format!("docs/security.md has no score of {unit}"))?;
    let score = row.split('|').rev().find_map(|cell| cell.trim().parse::<f64>().ok());
    Ok((score.with_context(|| format!("no score in {row}"))? * 10.0).round() as u32)
}

#[test]
fn units_are_sound_and_no_more_exposed_than_documented() {
    scenario(Needs::Nothing, |machine| {
        let folder = machine.folder("units")?;
        for unit in [UNIT, "sockpilot-server.service"] {
            let (path, program) = (folder.join(unit), unit.trim_end_matches(".service"));
            let text = fs::read_to_string(units().join(unit))?;
            let binary = process::binary(program)?;
            fs::write(&path, text.replace(&format!("/usr/bin/{program}"), &binary.display().to_string()))?;
            let analyze = |arguments: &[&str], path: &Path| -> Result<String> {
                let output = SYSTEMD_ANALYZE.command()?.args(arguments).arg(path).output()?;
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said).into_owned();
                ensure!(output.status.success(), "{unit}: {said}");
                Ok(said)
            };
            let said = analyze(&["verify", "--man=no"], &path)?;
            ensure!(!said.contains(unit), "{said}");
            let score = documented(unit)?;
            let threshold = |score: u32| format!("--threshold={score}");
            analyze(&["security", "--offline=true", "--no-pager", &threshold(score)], &path)?;
            let better = analyze(&["security", "--offline=true", "--no-pager", &threshold(score - 1)], &path);
            ensure!(better.is_err(), "{unit} is better than documented");
        }
        Ok(())
    });
}
