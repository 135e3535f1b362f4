//! Looks at a machine as a daemon would find it, and says what is wrong and what to do. Nothing is put in force, made or mounted.

use std::{
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    time::Duration,
};

use sockpilot_policy::facts::KernelFacts;
use sockpilot_settings::{
    checkup::{Check, Checkup, Room, disk, in_full},
    server::ServerAddress,
};
use tokio::runtime;

use super::{
    args::{Args, Config},
    privileges,
};
use crate::{
    disk::state_dir::{self, Seen},
    facts, keeper,
    kernel::{self, Kernel, Neighbour, Reach, Structures},
    link::credentials::{Credentials, Place},
};

/// What most policies that set a congestion control name, and many systems load only on demand.
const WANTED_CONGESTION_CONTROL: &str = "bbr";
/// How long the server is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// For what the daemon keeps.
const ROOM: Room = Room { enough: 1 << 30, least: 64 << 20 };

/// Looks at everything a daemon with these settings needs.
#[must_use]
pub fn examine(args: Args) -> Checkup {
    let mut checks = vec![];
    match facts::read() {
        Ok(facts) => {
            checks.push(Check::sound("kernel", format!("Linux {}, {} ticks a second", facts.release, facts.hz)));
            checks.push(congestion_controls(&facts));
        }
        Err(error) => checks.push(Check::faulty("kernel", in_full(&error), "run it on Linux, with /proc mounted")),
    }
    checks.push(clock());
    let reach = args.namespaces;
    match args.config() {
        Ok(config) => checks.extend(configured(&config)),
        Err(error) => {
            checks.push(Check::faulty("settings", in_full(&error), "set it right; `sockpilot-node --help` has all"));
            checks.extend(program(reach, false));
        }
    }
    Checkup(checks)
}

fn configured(config: &Config) -> Vec<Check> {
    let mounts = Kernel::needs_mount(&config.kernel);
    let mut checks = vec![cgroup(&config.kernel.cgroup), pins(mounts)];
    checks.extend(program(config.namespaces, mounts));
    checks.push(neighbours(config));
    checks.push(state(&config.state_dir));
    checks.extend(disk(&config.state_dir, ROOM, "outcomes of hours without a server may not fit"));
    checks.push(server(&config.server));
    checks.push(credentials(config));
    checks
}

fn congestion_controls(facts: &KernelFacts) -> Check {
    let subject = "congestion controls";
    let loadable = kernel::loadable_congestion_controls(&facts.release);
    let loadable: Vec<_> = loadable.into_iter().filter(|name| !facts.congestion_controls.contains(name)).collect();
    let mut found = facts.congestion_controls.join(" ");
    if !loadable.is_empty() {
        found = format!("{found}; not loaded: {}", loadable.join(" "));
    }
    if facts.congestion_controls.iter().any(|name| name == WANTED_CONGESTION_CONTROL) {
        return Check::sound(subject, found);
    }
    let remedy = if loadable.iter().any(|name| name == WANTED_CONGESTION_CONTROL) {
        format!(
            "modprobe tcp_{WANTED_CONGESTION_CONTROL}; to have it after a reboot, name it in /etc/modules-load.d/sockpilot.conf"
        )
    } else {
        format!("use a kernel with CONFIG_TCP_CONG_{}", WANTED_CONGESTION_CONTROL.to_uppercase())
    };
    let lacks = format!("{found}; no {WANTED_CONGESTION_CONTROL}, so rules that set it are refused here");
    Check::doubtful(subject, lacks, remedy)
}

fn clock() -> Check {
    let subject = "clock";
    match kernel::is_clock_kept() {
        Ok(true) => Check::sound(subject, "kept right"),
        Ok(false) => Check::doubtful(
            subject,
            "nothing keeps it right; once it is off by more than 2 s, this node is left out of experiments by slots of time",
            "run chrony or systemd-timesyncd",
        ),
        Err(error) => Check::doubtful(subject, in_full(&error), "run chrony or systemd-timesyncd"),
    }
}

fn cgroup(path: &Path) -> Check {
    let subject = "cgroup";
    let shown = path.display();
    match kernel::is_cgroup(path) {
        Ok(true) => Check::sound(subject, format!("{shown}, of cgroup v2")),
        Ok(false) => {
            let remedy = match kernel::cgroup_root() {
                Ok(root) => format!("give --cgroup {} or a directory below", root.display()),
                Err(error) => in_full(&error),
            };
            Check::faulty(subject, format!("{shown} is no directory of cgroup v2"), remedy)
        }
        Err(error) => Check::faulty(subject, in_full(&error), "give --cgroup a directory of cgroup v2"),
    }
}

fn pins(mounts: bool) -> Check {
    Check::sound("BPF file system", if mounts { "not mounted yet; the daemon does it" } else { "mounted" })
}

/// Whether what it takes is granted, and, if so, whether the kernel takes the program.
fn program(reach: Reach, mounts: bool) -> Vec<Check> {
    let (subject, of_program) = ("capabilities", "kernel program");
    match privileges::examine(reach, mounts) {
        Ok(held) => vec![Check::sound(subject, held.join(" ")), loaded(of_program)],
        Err(privileges::PrivilegesError::Missing { name, purpose, remedy }) => vec![
            Check::faulty(subject, format!("{name} is missing, which {purpose}"), remedy),
            Check::doubtful(of_program, "not tried without capabilities", "grant them, and look again"),
        ],
        Err(error) => vec![Check::faulty(subject, in_full(&error), "start it as root, or by its systemd unit")],
    }
}

fn loaded(subject: &'static str) -> Check {
    match kernel::try_program() {
        Ok(Structures::Known) => Check::sound(subject, "the kernel takes it, and its sockets are as they should be"),
        Ok(Structures::Unfamiliar) => Check::doubtful(
            subject,
            "the kernel takes it, but keeps its sockets otherwise: long connections are recorded at their end only, and rules apply to \
             new connections only",
            "use a newer sockpilot-node, or tell its developers the kernel's release",
        ),
        Err(error) => Check::faulty(
            subject,
            in_full(&error),
            "use a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_CGROUP_BPF; sockpilot was tried on Linux 6.18",
        ),
    }
}

fn neighbours(config: &Config) -> Check {
    let subject = "other programs";
    match kernel::neighbours(&config.kernel) {
        Ok(others) if others.is_empty() => Check::sound(subject, "none acts on these connections"),
        Ok(others) => {
            let named =
                |Neighbour { cgroup, id, name }: &Neighbour| format!("{name} (id {id}) at {}", cgroup.display());
            let named = others.iter().map(named).collect::<Vec<_>>().join(", ");
            let remedy = "look by `bpftool prog show id ID` at what they set, and detach what nobody needs";
            Check::doubtful(subject, format!("{named}: what they set may win over policies"), remedy)
        }
        Err(error) => Check::doubtful(subject, in_full(&error), "look again with CAP_BPF and CAP_NET_ADMIN"),
    }
}

fn state(path: &Path) -> Check {
    let subject = "state directory";
    let shown = path.display();
    match state_dir::examine(path) {
        Ok(Seen::None) => Check::sound(subject, format!("{shown}, which the daemon will make")),
        Ok(Seen::Free) => Check::sound(subject, format!("{shown}; no daemon uses it now")),
        Ok(Seen::InUse) => Check::sound(subject, format!("{shown}; a daemon uses it now")),
        Err(error) => Check::faulty(subject, in_full(&error), "see there"),
    }
}

fn server(address: &ServerAddress) -> Check {
    let subject = "server";
    let found = address.authority().to_socket_addrs().and_then(|found| {
        let mut last = std::io::Error::other("its name leads nowhere");
        for address in found {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(_) => return Ok(address),
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    match found {
        Ok(_) => Check::sound(subject, format!("something answers at {address}")),
        Err(error) => Check::faulty(
            subject,
            format!("{address} cannot be reached: {error}"),
            "start sockpilot-server there, open its port, or name another --server",
        ),
    }
}

/// As the daemon opens them.
fn credentials(config: &Config) -> Check {
    let subject = "credentials";
    let place = Place {
        server: &config.server,
        tls: config.tls.as_ref(),
        node_id: &config.node_id,
        state_dir: &config.state_dir,
    };
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Check::faulty(subject, error.to_string(), "raise the limits on threads and files"),
    };
    let _inside = runtime.enter();
    let (handle, _ends) = keeper::channel();
    match Credentials::open(&place, handle.commands.downgrade()) {
        Ok(_) if config.tls.is_none() && !config.server.is_loopback() => Check::doubtful(
            subject,
            format!("none: everybody between here and {} can read and change what is said", config.server),
            "use TLS: `sockpilot pki --help`",
        ),
        Ok(_) if config.tls.is_none() => Check::sound(subject, "none are needed on this machine"),
        Ok(_) => Check::sound(subject, format!("as nodes/{}", config.node_id)),
        Err(error) => {
            Check::faulty(subject, format!("{error:#}"), "see there, and `sockpilot access join-token --help`")
        }
    }
}
