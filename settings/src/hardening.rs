//! What a program gives up before it reads its first key or token.

use std::io;

use rustix::{
    fs::Mode,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask},
    thread::set_no_new_privs,
};

/// Keeps this process' memory out of core dumps, and from debuggers of the same user. The limit alone would not: where a program is
/// given the dumps, the kernel does not ask for it (core(5)).
///
/// # Errors
/// If the kernel refuses.
pub fn keep_memory_private() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// What daemons do first: besides [`keep_memory_private`], the files that they make are for their user only, and neither they nor
/// what they start can gain privileges by executing something. To be called before there is a second thread.
///
/// # Errors
/// If the kernel refuses.
pub fn of_daemon() -> io::Result<()> {
    keep_memory_private()?;
    umask(Mode::RWXG | Mode::RWXO);
    Ok(set_no_new_privs(true)?)
}
