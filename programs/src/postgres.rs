//! The Postgres of this machine, which is a directory of programs that belong together, in one version of several.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{INITDB, Missing, POSTGRES, Program, directories, from_environment, is_program, run};

/// Where Debian keeps them, each version in a directory of its own.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A Postgres that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installed {
    /// Its major version.
    pub version: u32,
    /// Where its programs are.
    pub binaries: PathBuf,
}

impl Installed {
    /// The one that `postgres` says it is.
    fn at(binaries: PathBuf) -> Option<Self> {
        [POSTGRES, INITDB].iter().all(|program| is_program(&binaries.join(program.name))).then_some(())?;
        let output = run(&binaries.join(POSTGRES.name)).arg("--version").stdin(Stdio::null()).output().ok()?;
        let version = major_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { version, binaries })
    }

    /// A command that runs one of its programs.
    ///
    /// # Errors
    /// If it came without it.
    pub fn command(&self, program: Program) -> Result<Command, Missing> {
        let path = self.binaries.join(program.name);
        if is_program(&path) { Ok(run(&path)) } else { Err(program.nowhere()) }
    }
}

/// All that are installed, the one to take first: what `POSTGRES_BIN` names, and nothing else if it does; what is on `PATH`; the
/// newest of Debian's packages.
///
/// # Errors
/// If there is none.
pub fn installed() -> Result<Vec<Installed>, Missing> {
    let named = POSTGRES.variable().and_then(from_environment);
    installed_in(named, &directories(from_environment), Path::new(DEBIAN))
}

fn installed_in(named: Option<PathBuf>, path: &[PathBuf], debian: &Path) -> Result<Vec<Installed>, Missing> {
    if let Some(named) = named {
        let found = Installed::at(named.clone()).map(|installed| vec![installed]);
        return found.ok_or_else(|| POSTGRES.misnamed(&named, "has no postgres and initdb that run"));
    }
    let on_path = path.iter().map(|at| at.join(POSTGRES.name)).filter(|path| is_program(path));
    // A link on PATH leads to where its companions are.
    let on_path = on_path.filter_map(|path| Some(fs::canonicalize(path).ok()?.parent()?.to_owned()));
    let packaged = fs::read_dir(debian).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut packaged: Vec<_> = packaged.filter_map(Installed::at).collect();
    packaged.sort_by(|one, other| other.cmp(one));
    let mut all: Vec<_> = on_path.filter_map(Installed::at).chain(packaged).collect();
    let mut seen = HashSet::new();
    all.retain(|installed| seen.insert(installed.binaries.clone()));
    if all.is_empty() { Err(POSTGRES.nowhere()) } else { Ok(all) }
}

/// Of `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`, `17beta1` and the like.
fn major_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory with programs that say they are of a version.
    fn make(binaries: &Path, version: &str) {
        fs::create_dir_all(binaries).unwrap();
        for program in [POSTGRES, INITDB] {
            let path = binaries.join(program.name);
            fs::write(&path, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn found(named: Option<&Path>, path: &[&Path], debian: &Path) -> Result<Vec<(u32, PathBuf)>, Missing> {
        let path: Vec<_> = path.iter().map(|path| path.to_path_buf()).collect();
        let all = installed_in(named.map(Path::to_path_buf), &path, debian)?;
        Ok(all.into_iter().map(|Installed { version, binaries }| (version, binaries)).collect())
    }

    #[test]
    fn what_is_named_wins_then_what_is_on_path_then_the_newest_package() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        let (debian, own, named) = (root.join("debian"), root.join("own/bin"), root.join("named"));
        make(&debian.join("9/bin"), "9.6.24");
        make(&debian.join("17/bin"), "17.2 (Debian 17.2-1.pgdg120+1)");
        make(&debian.join("15/bin"), "15.13");
        make(&own, "18beta1");
        make(&named, "16.1");
        let packaged = [(17, debian.join("17/bin")), (15, debian.join("15/bin")), (9, debian.join("9/bin"))];
        assert_eq!(found(None, &[], &debian).unwrap(), packaged);
        // By a link, beside which there is no initdb.
        let links = root.join("links");
        fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink(own.join("postgres"), links.join("postgres")).unwrap();
        let mut all = vec![(18, own.clone())];
        all.extend(packaged);
        assert_eq!(found(None, &[&links], &debian).unwrap(), all);
        assert_eq!(found(Some(&named), &[&links], &debian).unwrap(), [(16, named)]);
    }

    #[test]
    fn what_is_missing_is_said_with_the_package_and_the_variable() {
        let folder = tempfile::tempdir().unwrap();
        let said = found(None, &[], folder.path()).unwrap_err().to_string();
        assert!(said.contains("Debian package postgresql") && said.contains("POSTGRES_BIN"), "{said}");
        let said = found(Some(folder.path()), &[], folder.path()).unwrap_err().to_string();
        assert!(said.starts_with("POSTGRES_BIN is ") && said.contains("has no postgres and initdb"), "{said}");
    }
}
