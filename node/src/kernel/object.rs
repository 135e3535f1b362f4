//! The compiled kernel program, and its way into the kernel.

use std::{fs, os::fd::AsFd, path::Path};

use aya::{
    EbpfLoader,
    programs::{ProgramFd, SockOps},
};
use sockpilot_policy::layout::KernelOffsets;

use super::{KernelError, btf, file, pins, sys};

/// The object that `build.rs` made.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockpilot.bpf.o"));

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Loads the program and pins it with its maps.
pub(super) fn load_and_pin(dir: &Path) -> Result<(), KernelError> {
    let mut object = load(dir)?;
    let program: &mut SockOps = program(&mut object, "sockpilot")?;
    program.load().map_err(refused)?;
    let fd: &ProgramFd = program.fd().map_err(refused)?;
    sys::pin(fd.as_fd(), &dir.join(pins::PROGRAM))
}

/// Reads the object, making the maps or taking those that are pinned.
pub(super) fn load(dir: &Path) -> Result<aya::Ebpf, KernelError> {
    let KernelOffsets { sk_err, total_rto } = offsets()?;
    let offsets = [sk_err, total_rto];
    let mut loader = EbpfLoader::new();
    loader.override_global("KERNEL_OFFSETS", &offsets[..], true);
    for name in pins::MAPS {
        loader.map_pin_path(name, dir.join(name));
    }
    loader.load(OBJECT).map_err(refused)
}

/// A program of the object, by name and kind.
pub(super) fn program<'a, T>(object: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut T, KernelError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = object.program_mut(name).ok_or_else(|| KernelError::Load("the object lacks the program".into()))?;
    program.try_into().map_err(refused)
}

pub(super) fn refused(error: impl std::error::Error + Send + Sync + 'static) -> KernelError {
    KernelError::Load(Box::new(error))
}

/// Where this kernel keeps what no stable interface shows. A field that it lacks is left out of the records.
fn offsets() -> Result<KernelOffsets, KernelError> {
    let path = Path::new(KERNEL_BTF);
    let types = btf::Types::parse(fs::read(path).map_err(file("read", path))?).map_err(KernelError::Btf)?;
    // struct tcp_sock begins with struct sock.
    let offset = |structure, member| types.member_offset(structure, member).unwrap_or(u32::MAX);
    Ok(KernelOffsets { sk_err: offset("sock", "sk_err"), total_rto: offset("tcp_sock", "total_rto") })
}
