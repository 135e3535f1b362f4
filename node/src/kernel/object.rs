//! The compiled kernel program, and its way into the kernel.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Btf, EbpfLoader,
    programs::{Iter, ProgramFd, SockOps},
};
use sha2::{Digest, Sha256};
use sockpilot_policy::layout::{
    COMMON, EARLIER_MAX, KernelOffsets, OWNER_OFFSETS, OwnerOffsets, SOCKET_OFFSETS, SocketOffsets,
};

use super::{KernelError, btf, file, pins, plain::Plain, sides::Side, sys};

/// The object that `build.rs` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockpilot.bpf.o"));

/// Where the program has the stamps and requests of earlier sides.
const EARLIER_MAPS: [(&str, &str); EARLIER_MAX] = [
    ("EARLIER_STAMPS_0", "EARLIER_PENDING_0"),
    ("EARLIER_STAMPS_1", "EARLIER_PENDING_1"),
    ("EARLIER_STAMPS_2", "EARLIER_PENDING_2"),
];

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Loads the program of a side and pins it with its maps. Those that all sides have in common are the ones of the side before, if there
/// is one.
pub(super) fn load_and_pin(side: &Side, earlier: &[Side]) -> Result<(), KernelError> {
    pins::make_closed(&side.dir)?;
    if let Some(before) = earlier.last() {
        for name in COMMON.iter().filter(|name| before.dir.join(name).exists()) {
            sys::pin(sys::get_pinned(&before.dir.join(name))?.as_fd(), &side.dir.join(name))?;
        }
    }
    let mut object = load(side, earlier)?;
    sys::pin(loaded(&mut object)?.as_fd(), &side.dir.join(pins::PROGRAM))?;
    mark(side, earlier)
}

/// Swaps the program of an adopted side for this daemon's, if it is another one, or looks at other earlier sides. Maps, and with them
/// everything in force and everything counted, stay; each link changes over in one step, so that no connection goes without.
pub(super) fn upgrade(side: &Side, earlier: &[Side]) -> Result<bool, KernelError> {
    if marker(side, earlier).is_dir() {
        return Ok(false);
    }
    let dir = &side.dir;
    let mut object = load(side, earlier)?;
    let fd = loaded(&mut object)?;
    let (pin, fresh) = (dir.join(pins::PROGRAM), dir.join("program-new"));
    pins::remove_pin(&fresh)?;
    sys::pin(fd.as_fd(), &fresh)?;
    for link in pins::links(dir)? {
        sys::update_link(sys::get_pinned(&link)?.as_fd(), fd.as_fd(), &link)?;
    }
    fs::rename(&fresh, &pin).map_err(file("replace", &pin))?;
    mark(side, earlier)?;
    Ok(true)
}

/// A directory whose name tells which build of the program is pinned, and with which earlier sides: the BPF file system holds no text.
fn marker(side: &Side, earlier: &[Side]) -> PathBuf {
    let mut digest = Sha256::new_with_prefix(OBJECT);
    earlier_numbers(earlier).iter().for_each(|number| digest.update(number.to_le_bytes()));
    let hex: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    side.dir.join(format!("{}{hex}", pins::MARKER))
}

fn mark(side: &Side, earlier: &[Side]) -> Result<(), KernelError> {
    let marker = marker(side, earlier);
    fs::create_dir(&marker).map_err(file("create", &marker))?;
    pins::remove_markers_but(&side.dir, &marker)
}

/// The last of the earlier sides, as the program knows them.
fn last(earlier: &[Side]) -> &[Side] {
    &earlier[earlier.len().saturating_sub(EARLIER_MAX)..]
}

fn earlier_numbers(earlier: &[Side]) -> [u32; EARLIER_MAX] {
    let mut numbers = [0; EARLIER_MAX];
    numbers.iter_mut().zip(last(earlier)).for_each(|(to, side)| *to = side.number);
    numbers
}

/// Reads the object, making the maps or taking those that are pinned.
pub(super) fn load(side: &Side, earlier: &[Side]) -> Result<aya::Ebpf, KernelError> {
    Ok(load_with(side, earlier, None)?.0)
}

/// As [`load`], with the age from which connections are reported while open. Says whether this kernel has what programs need
/// that see but the socket.
pub(super) fn load_with(
    side: &Side,
    earlier: &[Side],
    long_flow_ns: Option<u64>,
) -> Result<(aya::Ebpf, bool), KernelError> {
    load_from(Some((side, earlier)), long_flow_ns)
}

/// As [`load_with`], with maps that nobody else sees and that end with the object.
pub(super) fn load_fresh() -> Result<(aya::Ebpf, bool), KernelError> {
    load_from(None, None)
}

fn load_from(pinned: Option<(&Side, &[Side])>, long_flow_ns: Option<u64>) -> Result<(aya::Ebpf, bool), KernelError> {
    let types = kernel_types()?;
    let KernelOffsets {
        sk_err,
        total_rto,
        delivered,
        delivered_ce,
        dsack_dups,
        rate_app_limited,
        rate_app_limited_mask,
    } = offsets(&types);
    let offsets = [sk_err, total_rto, delivered, delivered_ce, dsack_dups, rate_app_limited, rate_app_limited_mask];
    let (fields, owner) = (socket_fields(&types), owner_fields(&types));
    let mut loader = EbpfLoader::new();
    loader.override_global("KERNEL_OFFSETS", &offsets[..], true);
    if let Some(fields) = &fields {
        loader.override_global("SOCKET_FIELDS", &fields[..], true);
    }
    if let Some(owner) = &owner {
        loader.override_global("OWNER_FIELDS", &owner[..], true);
    }
    if let Some(long_flow_ns) = &long_flow_ns {
        loader.override_global("LONG_FLOW_NS", long_flow_ns, true);
    }
    let numbers = earlier_numbers(pinned.map_or(&[], |(_, earlier)| earlier));
    loader.override_global("EARLIER", &numbers[..], true);
    if let Some((side, earlier)) = &pinned {
        loader.override_global("SIDE", &side.number, true);
        for (before, (stamps, pending)) in last(earlier).iter().zip(EARLIER_MAPS) {
            loader.map_pin_path(stamps, before.dir.join("STAMPS")).map_pin_path(pending, before.dir.join("PENDING"));
        }
        for name in pins::MAPS {
            loader.map_pin_path(name, side.dir.join(name));
        }
    }
    Ok((loader.load(OBJECT).map_err(refused)?, fields.is_some() && owner.is_some()))
}

/// The program that decides about connections, in the kernel.
pub(super) fn loaded(object: &mut aya::Ebpf) -> Result<&ProgramFd, KernelError> {
    let program: &mut SockOps = program(object, "sockpilot")?;
    program.load().map_err(refused)?;
    program.fd().map_err(refused)
}

/// A program of the object, by name and kind.
pub(super) fn program<'a, T>(object: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut T, KernelError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = object.program_mut(name).ok_or_else(|| KernelError::Load("the object lacks the program".into()))?;
    program.try_into().map_err(refused)
}

/// A program that walks over the sockets of a network namespace, ready to be run.
pub(super) fn iterator(object: &mut aya::Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let types = Btf::from_sys_fs().map_err(refused)?;
    let iterator: &mut Iter = program(object, name)?;
    iterator.load("tcp", &types).map_err(refused)?;
    sys::link_iterator(iterator.fd().map_err(refused)?.as_fd(), name)
}

pub(super) fn refused(error: impl std::error::Error + Send + Sync + 'static) -> KernelError {
    KernelError::Load(Box::new(error))
}

fn kernel_types() -> Result<btf::Types, KernelError> {
    let path = Path::new(KERNEL_BTF);
    btf::Types::parse(fs::read(path).map_err(file("read", path))?).map_err(KernelError::Btf)
}

/// Where this kernel keeps what no stable interface shows. A field that it lacks is left out of the records.
fn offsets(types: &btf::Types) -> KernelOffsets {
    // struct tcp_sock begins with struct sock.
    let offset = |structure, member| types.member_offset(structure, member).unwrap_or(u32::MAX);
    let tcp = |member| offset("tcp_sock", member);
    let limited = types.member_bit("tcp_sock", "rate_app_limited");
    KernelOffsets {
        sk_err: offset("sock", "sk_err"),
        total_rto: tcp("total_rto"),
        delivered: tcp("delivered"),
        delivered_ce: tcp("delivered_ce"),
        dsack_dups: tcp("dsack_dups"),
        rate_app_limited: limited.map_or(u32::MAX, |bit| bit / 8),
        rate_app_limited_mask: limited.map_or(0, |bit| 1 << (bit % 8)),
    }
}

/// [`sockpilot_policy::layout::SocketOffsets`], in that order; nothing if this kernel lacks one of them.
fn socket_fields(types: &btf::Types) -> Option<[u32; SOCKET_OFFSETS]> {
    // struct tcp_sock begins with struct sock, which begins with struct sock_common.
    let common = |member| types.member_offset("sock_common", member);
    let tcp = |member| types.member_offset("tcp_sock", member);
    // The windowed minimum begins with its newest sample, a value after its time.
    let minimum = types.member_offset("minmax", "s")? + types.member_offset("minmax_sample", "v")?;
    let fields = SocketOffsets {
        family: common("skc_family")?,
        state: common("skc_state")?,
        local_ipv4: common("skc_rcv_saddr")?,
        remote_ipv4: common("skc_daddr")?,
        local_ipv6: common("skc_v6_rcv_saddr")?,
        remote_ipv6: common("skc_v6_daddr")?,
        local_port: common("skc_num")?,
        remote_port: common("skc_dport")?,
        bytes_acked: tcp("bytes_acked")?,
        bytes_received: tcp("bytes_received")?,
        segments_out: tcp("segs_out")?,
        segments_in: tcp("segs_in")?,
        total_retrans: tcp("total_retrans")?,
        srtt_us: tcp("srtt_us")?,
        min_rtt_us: tcp("rtt_min")? + minimum,
        cwnd: tcp("snd_cwnd")?,
        cwnd_clamp: tcp("snd_cwnd_clamp")?,
        rate_delivered: tcp("rate_delivered")?,
        rate_interval_us: tcp("rate_interval_us")?,
        mss_bytes: tcp("mss_cache")?,
    };
    Some(words(&fields))
}

/// [`OwnerOffsets`], in that order; nothing if this kernel lacks one of them.
fn owner_fields(types: &btf::Types) -> Option<[u32; OWNER_OFFSETS]> {
    // struct tcp_sock begins with struct inet_sock, that with struct sock.
    let fields = OwnerOffsets {
        accepted_ipv4: types.member_offset("inet_sock", "mc_index")?,
        ipv6: types.member_offset("inet_sock", "pinet6")?,
        accepted_ipv6: types.member_offset("ipv6_pinfo", "mcast_oif")?,
        cgroup: types.member_offset("sock", "sk_cgrp_data")? + types.member_offset("sock_cgroup_data", "cgroup")?,
        directory: types.member_offset("cgroup", "kn")?,
        id: types.member_offset("kernfs_node", "id")?,
        parent: types.member_offset("cgroup", "self")? + types.member_offset("cgroup_subsys_state", "parent")?,
        parent_cgroup: types.member_offset("cgroup_subsys_state", "cgroup")?,
    };
    Some(words(&fields))
}

/// A structure of words as an array of them.
fn words<const N: usize>(fields: &impl Plain) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(fields.bytes().as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}
