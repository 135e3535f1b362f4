//! The system calls that aya does not offer for values of this size, or not at all.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
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
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_PROG_QUERY: u32 = 16;
const BPF_LINK_CREATE: u32 = 28;
const BPF_LINK_UPDATE: u32 = 29;
const BPF_ITER_CREATE: u32 = 33;
/// `BPF_CGROUP_SOCK_OPS`.
pub(super) const ATTACH_SOCK_OPS: u32 = 3;
/// The kernel attaches no more programs of a kind to a cgroup (BPF_CGROUP_MAX_PROGS).
const ATTACHED_MAX: usize = 64;
/// `BPF_TRACE_ITER`.
const ATTACH_ITER: u64 = 28;
/// `MEMBARRIER_CMD_GLOBAL`.
const MEMBARRIER_GLOBAL: i32 = 1;

/// Asks a socket for its network namespace (include/uapi/linux/sockios.h).
const SIOCGSKNS: libc::c_ulong = 0x894c;
/// Since 5.14.
const SO_NETNS_COOKIE: i32 = 71;

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

/// The id of the cgroup that a link attaches to. Nothing if the kernel has detached it, which it does when the cgroup was removed and
/// its last socket has gone (`bpf_cgroup_link_auto_detach`).
pub(super) fn linked_cgroup(link: BorrowedFd<'_>, path: &Path) -> Result<Option<u64>, KernelError> {
    // struct bpf_link_info: type, id | prog_id | cgroup_id | attach_type
    let mut info = [0_u64; 4];
    let mut attributes = Attributes::default();
    attributes[0] = link.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32;
    attributes[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes).map_err(named("OBJ_GET_INFO_BY_FD", &path.display().to_string()))?;
    Ok((info[2] != 0).then_some(info[2]))
}

/// What the kernel says of a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapInfo {
    /// Tells it from all others of this boot.
    pub id: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Entries; of a ring buffer, bytes.
    pub max_entries: u32,
}

/// Asks the kernel what a map is like.
pub(super) fn map_info(map: BorrowedFd<'_>, name: &str) -> Result<MapInfo, KernelError> {
    // struct bpf_map_info: type, id, key_size, value_size, max_entries, map_flags
    let mut info = [0_u32; 6];
    let mut attributes = Attributes::default();
    attributes[0] = map.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32;
    attributes[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes).map_err(named("OBJ_GET_INFO_BY_FD", name))?;
    Ok(MapInfo { id: info[1], value_bytes: info[3] as usize, max_entries: info[4] })
}

/// The ids of the sock_ops programs attached to a cgroup itself, as many as fit.
pub(super) fn attached(cgroup: BorrowedFd<'_>, path: &Path) -> Result<Vec<u32>, KernelError> {
    let mut ids = [0_u32; ATTACHED_MAX];
    let mut attributes = Attributes::default();
    // target_fd, attach_type | query_flags, attach_flags | prog_ids | prog_cnt
    attributes[0] = cgroup.as_raw_fd() as u64 | u64::from(ATTACH_SOCK_OPS) << 32;
    attributes[2] = ids.as_mut_ptr() as u64;
    attributes[3] = ATTACHED_MAX as u64;
    bpf(BPF_PROG_QUERY, &mut attributes).map_err(named("PROG_QUERY", &path.display().to_string()))?;
    let count = (attributes[3] as u32 as usize).min(ATTACHED_MAX);
    Ok(ids[..count].to_vec())
}

/// Makes an iterator of a program. It can be run as often as one likes.
pub(super) fn link_iterator(program: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, KernelError> {
    let mut attributes = Attributes::default();
    attributes[0] = program.as_raw_fd() as u64;
    attributes[1] = ATTACH_ITER;
    let fd = bpf(BPF_LINK_CREATE, &mut attributes).map_err(named("LINK_CREATE", name))?;
    // SAFETY: a file descriptor that the kernel has just given.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs an iterator in the calling thread's namespaces, to its end or until its program writes something.
pub(super) fn iterate(link: BorrowedFd<'_>, name: &str) -> Result<(), KernelError> {
    let mut attributes = Attributes::default();
    attributes[0] = link.as_raw_fd() as u64;
    let fd = bpf(BPF_ITER_CREATE, &mut attributes).map_err(named("ITER_CREATE", name))?;
    // SAFETY: a file descriptor that the kernel has just given.
    let mut walk = unsafe { File::from_raw_fd(fd) };
    // With a byte read the kernel is content, and does not go on to find more.
    let mut buffer = [0; 1];
    loop {
        match walk.read(&mut buffer) {
            Ok(_) => return Ok(()),
            // The kernel walks over a million objects at a time.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(named("read", name)(error)),
        }
    }
}

/// Swaps the program of a link, without a moment in which there is none. A link whose cgroup has gone has none to swap.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    let mut attributes = Attributes::default();
    attributes[0] = link.as_raw_fd() as u64 | (program.as_raw_fd() as u64) << 32;
    match bpf(BPF_LINK_UPDATE, &mut attributes) {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
            Err(named("LINK_UPDATE", &path.display().to_string())(error))
        }
        _ => Ok(()),
    }
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

/// What programs know a socket by.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    socket_option(socket, libc::SO_COOKIE)
}

/// A handle on a process.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// What a process has open under a number.
pub(crate) fn pidfd_getfd(process: BorrowedFd<'_>, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

/// The network namespace of a socket.
pub(super) fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) }.into())
}

/// Whether a socket is one of TCP.
pub(super) fn is_tcp(socket: BorrowedFd<'_>) -> bool {
    let protocol: io::Result<i32> = socket_option(socket, libc::SO_PROTOCOL);
    protocol.is_ok_and(|protocol| protocol == libc::IPPROTO_TCP)
}

/// What programs know the calling thread's network namespace by.
pub(super) fn namespace_cookie() -> io::Result<u64> {
    // SAFETY: no pointers.
    let socket = owned(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    socket_option(socket.as_fd(), SO_NETNS_COOKIE)
}

fn socket_option<T: Default>(socket: BorrowedFd<'_>, name: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the options asked for are numbers of this size, and both pointers are to variables that outlive the call.
    let result = unsafe {
        let (value, length) = ((&raw mut value).cast(), &raw mut length);
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, value, length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a file descriptor that the kernel has just given.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Whether the wall clock is kept right by something: adjtimex(2) says `TIME_ERROR` where nothing does.
pub(super) fn is_clock_kept() -> io::Result<bool> {
    // SAFETY: a structure of numbers, of which no bit is set in `modes`: nothing is changed.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a variable that outlives the call.
    match unsafe { libc::adjtimex(&raw mut clock) } {
        -1 => Err(io::Error::last_os_error()),
        state => Ok(state != libc::TIME_ERROR),
    }
}

/// CLOCK_MONOTONIC, which the kernel program reads too.
pub(super) fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        .unwrap_or_default()
}
