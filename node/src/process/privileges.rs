//! Capabilities: what loading takes, what is left afterwards, and that nothing comes back.
//!
//! Tables, links and iterators are used by file descriptors, for which the kernel asks no capability (since Linux 5.19). So after loading the
//! daemon has none, unless it is to look into other network namespaces. Threads inherit, so this is done while there is one.

use std::{fs, io};

use rustix::thread::{
    CapabilitiesSecureBits as SecureBits, CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, no_new_privs, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits,
};

use crate::kernel::Reach;

/// What it takes to load programs and make maps.
const LOADING: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "makes the maps and loads the kernel program"),
    (CapabilitySet::PERFMON, "has the kernel accept a program that reads sockets"),
    (CapabilitySet::NET_ADMIN, "attaches the program to control groups"),
];
/// What it takes to look into the network namespaces of others.
const ENTERING: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SYS_ADMIN, "enters other network namespaces"),
    (CapabilitySet::SYS_PTRACE, "finds the namespaces and sockets of other processes"),
    (CapabilitySet::DAC_READ_SEARCH, "lists the sockets of other users' processes"),
    (CapabilitySet::NET_ADMIN, "asks sockets for their namespaces"),
];
const MOUNTING: [(CapabilitySet, &str); 1] = [(CapabilitySet::SYS_ADMIN, "mounts the BPF file system at /sys/fs/bpf")];

/// Locks: a program that root executes gains nothing by that, and what is not inheritable cannot be made so.
const LOCKED: SecureBits = SecureBits::NO_ROOT
    .union(SecureBits::NO_ROOT_LOCKED)
    .union(SecureBits::KEEP_CAPS_LOCKED)
    .union(SecureBits::NO_CAP_AMBIENT_RAISE)
    .union(SecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// Why the daemon does not have the privileges that it should.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// One is missing.
    #[error("{name} is missing, which {purpose}; {remedy}")]
    Missing {
        /// As in capabilities(7).
        name: String,
        /// What for.
        purpose: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The kernel refuses.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Other threads would keep theirs.
    #[error("{0} threads are running where capabilities are given up; this is a fault of the program")]
    Threads(usize),
    /// What was given up is still there.
    #[error("the kernel says that the daemon has {found}, and it should have {expected}")]
    Kept {
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
}

/// Makes sure that there is what it takes to start, and gives up everything else.
///
/// # Errors
/// If something is missing.
pub fn begin(reach: Reach, mounts: bool) -> Result<(), PrivilegesError> {
    examine(reach, mounts)?;
    if current()?.permitted.contains(CapabilitySet::SETPCAP) {
        close_for_good()?;
    }
    keep(sum(&LOADING) | kept(reach) | if mounts { sum(&MOUNTING) } else { CapabilitySet::empty() })
}

/// What the daemon has of what it takes to start, by name.
///
/// # Errors
/// If something is missing.
pub fn examine(reach: Reach, mounts: bool) -> Result<Vec<String>, PrivilegesError> {
    let permitted = current()?.permitted;
    match missing(permitted, reach, mounts) {
        Some((lacks, purpose, remedy)) => {
            Err(PrivilegesError::Missing { name: names(lacks).join(" "), purpose, remedy })
        }
        None => Ok(names(permitted & (sum(&LOADING) | kept(reach)))),
    }
}

/// After loading: gives up everything but what is needed from then on, says what is left, and returns its names. `usable` tries
/// whether tables can be used.
///
/// # Errors
/// If the kernel refuses, or something is left that should not be.
pub fn settle(reach: Reach, usable: impl FnOnce() -> bool) -> Result<Vec<String>, PrivilegesError> {
    let threads = fs::read_dir("/proc/self/task").map_err(refused("count threads"))?.count();
    if threads != 1 {
        return Err(PrivilegesError::Threads(threads));
    }
    let mut left = kept(reach);
    // Whether this kernel lets them be used without is asked by trying.
    let before = current()?;
    set(CapabilitySets { effective: left, ..before })?;
    if !usable() {
        left |= CapabilitySet::BPF;
    }
    set(before)?;
    keep(left)?;
    let found = current()?;
    let everything = found.permitted | found.effective | found.inheritable;
    if everything != left {
        return Err(PrivilegesError::Kept { found: listed(everything), expected: listed(left) });
    }
    let bounding = bounding().map_err(refused("read the bounding set"))?;
    let no_new_privs = no_new_privs().map_err(io::Error::from).map_err(refused("ask for no_new_privs"))?;
    let user = rustix::process::geteuid().as_raw();
    tracing::info!(capabilities = listed(left), bounding = listed(bounding), no_new_privs, user, "privileges given up");
    Ok(names(left))
}

fn kept(reach: Reach) -> CapabilitySet {
    match reach {
        Reach::Own => CapabilitySet::empty(),
        Reach::All => sum(&ENTERING),
    }
}

/// The first capability that is missing, what for, and what to do.
fn missing(
    permitted: CapabilitySet,
    reach: Reach,
    mounts: bool,
) -> Option<(CapabilitySet, &'static str, &'static str)> {
    let first = |needed: &[(CapabilitySet, &'static str)]| {
        needed.iter().find(|(capability, _)| !permitted.contains(*capability)).copied()
    };
    let loading = first(&LOADING)
        .map(|lacks| (lacks, "start the daemon as root, or have its service grant CAP_BPF CAP_PERFMON CAP_NET_ADMIN"));
    let mounting = first(&MOUNTING).filter(|_| mounts).map(|lacks| (lacks, "run `mount -t bpf bpf /sys/fs/bpf` once"));
    let entering = first(&ENTERING).filter(|_| reach == Reach::All).map(|lacks| {
        (lacks, "say --namespaces own, or give the daemon CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH, too")
    });
    loading.or(mounting).or(entering).map(|((capability, purpose), remedy)| (capability, purpose, remedy))
}

/// What is out of the bounding set cannot come back, whatever is executed. It takes a capability itself, which a service may not have; then
/// `no_new_privs` alone sees to it.
fn close_for_good() -> Result<(), PrivilegesError> {
    let bounding = bounding().map_err(refused("read the bounding set"))?;
    for capability in bounding.iter() {
        remove_capability_from_bounding_set(capability)
            .map_err(io::Error::from)
            .map_err(refused("empty the bounding set"))?;
    }
    set_capabilities_secure_bits(LOCKED).map_err(io::Error::from).map_err(refused("lock the secure bits"))
}

fn keep(capabilities: CapabilitySet) -> Result<(), PrivilegesError> {
    clear_ambient_capability_set().map_err(io::Error::from).map_err(refused("empty the ambient set"))?;
    set(CapabilitySets { effective: capabilities, permitted: capabilities, inheritable: CapabilitySet::empty() })
}

fn current() -> Result<CapabilitySets, PrivilegesError> {
    capabilities(None).map_err(io::Error::from).map_err(refused("read the capabilities"))
}

fn set(sets: CapabilitySets) -> Result<(), PrivilegesError> {
    set_capabilities(None, sets).map_err(io::Error::from).map_err(refused("give up capabilities"))
}

fn bounding() -> io::Result<CapabilitySet> {
    let mut bounding = CapabilitySet::empty();
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(within) => bounding.set(capability, within),
            // The kernel knows no capabilities from here on.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bounding)
}

fn sum(needed: &[(CapabilitySet, &str)]) -> CapabilitySet {
    needed.iter().map(|(capability, _)| *capability).collect()
}

fn names(capabilities: CapabilitySet) -> Vec<String> {
    capabilities.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

fn listed(capabilities: CapabilitySet) -> String {
    if capabilities.is_empty() { "none".to_owned() } else { names(capabilities).join(" ") }
}

fn refused(action: &'static str) -> impl FnOnce(io::Error) -> PrivilegesError {
    move |source| PrivilegesError::Kernel { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let loading = sum(&LOADING);
        let all = loading | sum(&ENTERING);
        let name = |permitted, reach, mounts| missing(permitted, reach, mounts).map(|(lacks, ..)| listed(lacks));
        assert_eq!(name(loading, Reach::Own, false), None);
        assert_eq!(name(all, Reach::All, true), None);
        assert_eq!(name(loading - CapabilitySet::PERFMON, Reach::Own, false).as_deref(), Some("CAP_PERFMON"));
        assert_eq!(name(CapabilitySet::empty(), Reach::All, true).as_deref(), Some("CAP_BPF"));
        let (_, _, remedy) = missing(loading, Reach::All, false).expect("missing");
        assert!(remedy.contains("--namespaces own"), "{remedy}");
        let (lacks, _, remedy) = missing(loading, Reach::All, true).expect("missing");
        assert!(lacks == CapabilitySet::SYS_ADMIN && remedy.contains("mount -t bpf"), "{remedy}");
    }

    #[test]
    fn nothing_is_left_unless_other_namespaces_are_entered() {
        assert!(kept(Reach::Own).is_empty());
        assert_eq!(
            listed(kept(Reach::All)),
            "CAP_DAC_READ_SEARCH CAP_NET_ADMIN CAP_SYS_PTRACE CAP_SYS_ADMIN",
            "as the documentation says"
        );
    }
}
