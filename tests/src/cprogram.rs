//! Programs in C, compiled when a test or the benchmark runs: peers of the kernel program, written to descriptions.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, CgroupAttachMode, SockOps},
};
use sockpilot_programs::BPFTOOL;

use crate::{cgroup::Cgroup, machine::Machine};

/// What a program has cost so far, by the kernel's own account, which must have been turned on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Account {
    /// Runs.
    pub calls: u64,
    /// Time in them.
    pub time_ns: u64,
}

/// A loaded program; attachments go with the guard.
#[derive(Debug)]
pub struct CProgram {
    name: String,
    object: Ebpf,
}

impl CProgram {
    /// Compiles and loads `tests/c/{name}.bpf.c`. Maps that are pinned in `pins` under their names are taken from there.
    ///
    /// # Errors
    /// With the words of the compiler or the verifier.
    pub fn load(machine: &Machine, name: &str, pins: Option<(&Path, &[&'static str])>) -> Result<Self> {
        let object = compile(machine, name)?;
        let mut loader = EbpfLoader::new();
        let (folder, maps) = pins.unwrap_or((Path::new(""), &[]));
        for map in maps {
            loader.map_pin_path(map, folder.join(map));
        }
        let mut object = loader.load_file(&object).with_context(|| format!("reading the object of {name}"))?;
        sock_ops(&mut object, name)?.load().with_context(|| format!("loading {name}"))?;
        Ok(Self { name: name.to_owned(), object })
    }

    /// Attaches it to a cgroup, until the guard is dropped.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach(&mut self, cgroup: &Cgroup) -> Result<()> {
        let folder = File::open(cgroup.path()).context("opening a cgroup")?;
        let program = sock_ops(&mut self.object, &self.name)?;
        // With links several programs live together all the same.
        program.attach(folder, CgroupAttachMode::Single).with_context(|| format!("attaching {}", self.name))?;
        Ok(())
    }

    /// Attaches another program of the object to a tracepoint of the kernel's, until the guard is dropped.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach_to_tracepoint(&mut self, program: &str, tracepoint: &str) -> Result<()> {
        let types = Btf::from_sys_fs().context("reading the kernel's types")?;
        let found = self.object.program_mut(program).with_context(|| format!("the object has no program {program}"))?;
        let found: &mut BtfTracePoint = found.try_into().context("the program is of another kind")?;
        found.load(tracepoint, &types).with_context(|| format!("loading {program}"))?;
        found.attach().with_context(|| format!("attaching {program}"))?;
        Ok(())
    }

    /// Takes a map out, by its name.
    ///
    /// # Errors
    /// If there is none, or it is of another kind.
    pub fn map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(&mut self, name: &str) -> Result<T> {
        let map = self.object.take_map(name).with_context(|| format!("{} has no map {name}", self.name))?;
        T::try_from(map).with_context(|| format!("the map {name} is of another kind"))
    }

    /// See [`Account`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn account(&self) -> Result<Account> {
        let program = self.object.program(&self.name).context("the program is gone")?;
        let info = program.info().context("asking for the program's account")?;
        Ok(Account { calls: info.run_count(), time_ns: time_ns(info.run_time())? })
    }
}

/// A congestion control that the kernel has while this lives, as one that comes with a module.
#[derive(Debug)]
pub struct CongestionControl;

impl CongestionControl {
    /// Its name.
    pub const NAME: &str = "sockpilot_test";

    /// Compiles `tests/c/congestion_control.bpf.c`, and gives it to the kernel.
    ///
    /// # Errors
    /// With the words of the compiler or the kernel.
    pub fn register(machine: &Machine) -> Result<Self> {
        let object = compile(machine, "congestion_control")?;
        let output = BPFTOOL.command()?.args(["struct_ops", "register"]).arg(object).output()?;
        if !output.status.success() {
            bail!("bpftool registers no congestion control: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self)
    }
}

impl Drop for CongestionControl {
    fn drop(&mut self) {
        let _ = BPFTOOL
            .command()
            .map(|mut bpftool| bpftool.args(["struct_ops", "unregister", "name", Self::NAME]).output());
    }
}

/// The account of a pinned program.
///
/// # Errors
/// If it is not pinned there.
pub fn pinned_account(pin: &Path) -> Result<Account> {
    let info = aya::programs::ProgramInfo::from_pin(pin).with_context(|| format!("opening {pin:?}"))?;
    Ok(Account { calls: info.run_count(), time_ns: time_ns(info.run_time())? })
}

fn time_ns(time: std::time::Duration) -> Result<u64> {
    u64::try_from(time.as_nanos()).context("more than 500 years")
}

fn sock_ops<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SockOps> {
    let program = object.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    program.try_into().context("the program is of another kind")
}

fn compile(machine: &Machine, name: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c").join(format!("{name}.bpf.c"));
    let object = machine.directory().join(format!("{}.bpf.o", machine.unique(name)));
    let output = sockpilot_programs::compile_for_bpf(&source, &object)?.output().context("starting clang")?;
    if !output.status.success() {
        bail!("clang refuses {}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(object)
}
