//! The system calls that aya does not offer for values of this size, or not at all.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

use super::KernelError;

const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_MAP_DELETE_ELEM: u32 = 3;
const BPF_MAP_GET_NEXT_KEY: u32 = 4;
const BPF_OBJ_PIN: u32 = 6;
const BPF_OBJ_GET: u32 = 7;
const BPF_PROG_TEST_RUN: u32 = 10;
const BPF_LINK_CREATE: u32 = 28;
const BPF_LINK_UPDATE: u32 = 29;
/// `BPF_CGROUP_SOCK_OPS`.
pub(super) const ATTACH_SOCK_OPS: u32 = 3;
/// `MEMBARRIER_CMD_GLOBAL`.
const MEMBARRIER_GLOBAL: i32 = 1;

/// The part of `union bpf_attr` that is used here, as 64-bit words.
type Attributes = [u64; 16];

fn bpf(command: u32, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the attributes are larger than any command used here reads, and their pointers are valid (see the callers).
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn named(call: &'static str, subject: &str) -> impl FnOnce(io::Error) -> KernelError {
    let subject = subject.to_owned();
    move |source| KernelError::Call { call, subject, source }
}

fn element(fd: BorrowedFd<'_>, key: &[u8], value: *const u8) -> Attributes {
    let mut attributes = Attributes::default();
    attributes[0] = fd.as_raw_fd() as u64;
    attributes[1] = key.as_ptr() as u64;
    attributes[2] = value as u64;
    attributes
}

/// Reads an element. The buffer must have the size of the map's value.
pub(super) fn lookup(map: BorrowedFd<'_>, name: &str, key: &[u8], value: &mut [u8]) -> Result<(), KernelError> {
    bpf(BPF_MAP_LOOKUP_ELEM, &mut element(map, key, value.as_mut_ptr())).map_err(named("MAP_LOOKUP_ELEM", name))?;
    Ok(())
}

/// Writes an element.
pub(super) fn update(map: BorrowedFd<'_>, name: &str, key: &[u8], value: &[u8]) -> Result<(), KernelError> {
    bpf(BPF_MAP_UPDATE_ELEM, &mut element(map, key, value.as_ptr())).map_err(named("MAP_UPDATE_ELEM", name))?;
    Ok(())
}

/// Removes an element, which may be gone already.
pub(super) fn delete(map: BorrowedFd<'_>, name: &str, key: &[u8]) -> Result<(), KernelError> {
    match bpf(BPF_MAP_DELETE_ELEM, &mut element(map, key, std::ptr::null())) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(named("MAP_DELETE_ELEM", name)(error)),
        _ => Ok(()),
    }
}

/// The key after `key`, or the first.
pub(super) fn next_key(
    map: BorrowedFd<'_>,
    name: &str,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> Result<bool, KernelError> {
    let mut attributes = Attributes::default();
    attributes[0] = map.as_raw_fd() as u64;
    attributes[1] = key.map_or(0, |key| key.as_ptr() as u64);
    attributes[2] = next.as_mut_ptr() as u64;
    match bpf(BPF_MAP_GET_NEXT_KEY, &mut attributes) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(named("MAP_GET_NEXT_KEY", name)(error)),
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Opens what is pinned at a path.
pub(super) fn get_pinned(path: &Path) -> Result<OwnedFd, KernelError> {
    let text = c_path(path);
    let mut attributes = Attributes::default();
    attributes[0] = text.as_ptr() as u64;
    let fd = bpf(BPF_OBJ_GET, &mut attributes).map_err(named("OBJ_GET", &path.display().to_string()))?;
    // SAFETY: a file descriptor that the kernel has just given.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a program, map or link at a path.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    let text = c_path(path);
    let mut attributes = Attributes::default();
    attributes[0] = text.as_ptr() as u64;
    attributes[1] = fd.as_raw_fd() as u64;
    bpf(BPF_OBJ_PIN, &mut attributes).map_err(named("OBJ_PIN", &path.display().to_string()))?;
    Ok(())
}

/// Attaches a sock_ops program to a cgroup, beside those that are there.
pub(super) fn link_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    path: &Path,
) -> Result<OwnedFd, KernelError> {
    let mut attributes = Attributes::default();
    attributes[0] = program.as_raw_fd() as u64 | (cgroup.as_raw_fd() as u64) << 32;
    attributes[1] = u64::from(ATTACH_SOCK_OPS);
    let fd = bpf(BPF_LINK_CREATE, &mut attributes).map_err(named("LINK_CREATE", &path.display().to_string()))?;
    // SAFETY: a file descriptor that the kernel has just given.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Swaps the program of a link, without a moment in which there is none.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    let mut attributes = Attributes::default();
    attributes[0] = link.as_raw_fd() as u64 | (program.as_raw_fd() as u64) << 32;
    bpf(BPF_LINK_UPDATE, &mut attributes).map_err(named("LINK_UPDATE", &path.display().to_string()))?;
    Ok(())
}

/// Runs a program once on a packet. Returns its result and the mean duration of `repeat` runs in nanoseconds.
pub(super) fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> Result<(i32, u32), KernelError> {
    let mut attributes = Attributes::default();
    // prog_fd, retval | data_size_in, data_size_out | data_in | data_out | repeat, duration
    attributes[0] = program.as_raw_fd() as u64;
    attributes[1] = packet.len() as u64;
    attributes[2] = packet.as_ptr() as u64;
    attributes[4] = u64::from(repeat);
    bpf(BPF_PROG_TEST_RUN, &mut attributes).map_err(named("PROG_TEST_RUN", "probe"))?;
    Ok(((attributes[0] >> 32) as u32 as i32, (attributes[4] >> 32) as u32))
}

/// Returns when every program run that was under way has ended: the global membarrier waits for an RCU grace period
/// (kernel/sched/membarrier.c), and programs run inside RCU read-side sections.
pub(super) fn wait_for_readers() {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result != 0 {
        // Kernels with tickless CPUs refuse it. Runs last microseconds; this is ample.
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// CLOCK_MONOTONIC, which the kernel program reads too.
pub(super) fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        .unwrap_or_default()
}
