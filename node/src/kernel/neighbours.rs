//! Other sock_ops programs on the path of the managed cgroup's connections.
//!
//! The kernel runs all programs of a cgroup in the order of their attachment, then those of its parents, on one context: the last
//! answer to a question counts, and callback flags are one set for all.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramInfo, loaded_programs};

use super::{KernelError, Options, file, object::refused, pins, sides, sys};

/// One attachment of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Where it is attached: the managed cgroup or one around it.
    pub cgroup: PathBuf,
    /// The program's id, as `bpftool prog` shows it.
    pub id: u32,
    /// The program's name; empty if it has none, or has gone meanwhile.
    pub name: String,
}

/// The sock_ops programs, but this node's own, that see the connections of the managed cgroup, the outermost last.
///
/// # Errors
/// If the kernel refuses.
pub fn neighbours(options: &Options) -> Result<Vec<Neighbour>, KernelError> {
    let own: Vec<u32> = sides::list(&options.pin_dir)?
        .iter()
        .filter_map(|side| program_of(&side.dir).transpose())
        .collect::<Result<_, _>>()?;
    let mut found = Vec::new();
    // What is above the root of cgroup v2 is no cgroup.
    for cgroup in options.cgroup.ancestors().take_while(|path| path.join("cgroup.procs").exists()) {
        let directory = File::open(cgroup).map_err(file("open the cgroup", cgroup))?;
        let ids = sys::attached(directory.as_fd(), cgroup)?;
        let others = ids.into_iter().filter(|id| !own.contains(id));
        found.extend(others.map(|id| Neighbour { cgroup: cgroup.to_owned(), id, name: String::new() }));
    }
    if !found.is_empty() {
        for program in loaded_programs().filter_map(Result::ok) {
            for neighbour in found.iter_mut().filter(|neighbour| neighbour.id == program.id()) {
                neighbour.name = program.name_as_str().unwrap_or_default().to_owned();
            }
        }
    }
    Ok(found)
}

/// None that has been taken out already.
fn program_of(dir: &Path) -> Result<Option<u32>, KernelError> {
    let pin = dir.join(pins::PROGRAM);
    if !pin.exists() {
        return Ok(None);
    }
    ProgramInfo::from_pin(pin).map(|info| Some(info.id())).map_err(refused)
}
