//! Where the private Postgres lives, and how it is made.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{User, geteuid};
use sha2::{Digest, Sha256};
use sockpilot_programs::{
    INITDB, Program,
    postgres::{self, Installed},
};

use super::{Doing, EmbeddedError, USER};

/// A unix socket's path has at most 107 bytes, and its name takes 19 of them.
const SOCKET_DIRECTORY_BYTES_MAX: usize = 88;

/// The places of a private Postgres that is made and ready to be started.
#[derive(Debug, Clone)]
pub struct Layout {
    /// What runs it.
    pub installed: Installed,
    /// Its data.
    pub data: PathBuf,
    /// Its socket.
    pub socket_directory: PathBuf,
    /// What it prints.
    pub log: PathBuf,
    /// User and group to run as, if not as whoever this is.
    pub run_as: Option<(u32, u32)>,
}

impl Layout {
    /// Makes what is not there.
    pub fn prepare(state_dir: &Path) -> Result<Self, EmbeddedError> {
        let run_as = run_as()?;
        let mkdir = |path: &Path, mode| {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
            made.doing(|| format!("making {}", path.display()))
        };
        let new = !state_dir.exists();
        mkdir(state_dir, 0o700)?;
        if new && run_as.is_some() {
            // Its user has to get through to what is its own.
            let opened = fs::set_permissions(state_dir, fs::Permissions::from_mode(0o711));
            opened.doing(|| format!("letting Postgres through {}", state_dir.display()))?;
        }
        let state_dir = fs::canonicalize(state_dir).doing(|| format!("finding {}", state_dir.display()))?;
        let home = state_dir.join("postgres");
        let data = data(&home);
        let installed = installed(&data)?;
        let socket_directory = socket_directory(&home);
        for directory in [&home, &socket_directory] {
            mkdir(directory, 0o700)?;
            give(directory, run_as).doing(|| format!("taking {} over", directory.display()))?;
        }
        let layout = Self { installed, data, socket_directory, log: home.join("postgres.log"), run_as };
        if !layout.data.join("PG_VERSION").exists() {
            layout.initdb(&home.join("data.new"))?;
        }
        Ok(layout)
    }

    /// Makes the data elsewhere first, so that what is in its place is whole.
    fn initdb(&self, new: &Path) -> Result<(), EmbeddedError> {
        tracing::info!(data = %self.data.display(), "making a private Postgres");
        match fs::remove_dir_all(new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("removing the unfinished {}", new.display()));
            }
            _ => {}
        }
        let output = self
            .command(INITDB)?
            .arg("-D")
            .arg(new)
            .args(["-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"])
            .stdin(Stdio::null())
            .output()
            .doing(|| "running initdb".to_owned())?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            return Err(EmbeddedError::Initdb { output });
        }
        fs::rename(new, &self.data).doing(|| format!("renaming {} to data", new.display()))
    }

    /// A command of this Postgres, as the right user.
    pub fn command(&self, program: Program) -> Result<Command, EmbeddedError> {
        let mut command = self.installed.command(program).map_err(EmbeddedError::NotInstalled)?;
        command.current_dir("/").env_remove("PGDATA").env("LC_ALL", "C");
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        Ok(command)
    }
}

/// Postgres refuses to run as root.
fn run_as() -> Result<Option<(u32, u32)>, EmbeddedError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").map_err(io::Error::from).doing(|| "looking up user postgres".to_owned())?;
    user.map(|user| Some((user.uid.as_raw(), user.gid.as_raw()))).ok_or(EmbeddedError::NoUser)
}

fn give(directory: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    if let Some((user, group)) = owner {
        chown(directory, Some(user), Some(group))?;
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// The programs that would run a private Postgres with its data below this directory.
///
/// # Errors
/// In one sentence what is missing.
pub fn examine(state_dir: &Path) -> Result<Installed, EmbeddedError> {
    run_as()?;
    installed(&data(&state_dir.join("postgres")))
}

fn data(home: &Path) -> PathBuf {
    home.join("data")
}

/// The first one found, or, if there is data, one of its version.
fn installed(data: &Path) -> Result<Installed, EmbeddedError> {
    let all = postgres::installed().map_err(EmbeddedError::NotInstalled)?;
    let wanted = fs::read_to_string(data.join("PG_VERSION")).ok().map(|version| version.trim().to_owned());
    let fits = |one: &Installed| wanted.as_ref().is_none_or(|version| one.version.to_string() == *version);
    let none = || EmbeddedError::OtherVersion { data: data.to_owned(), version: wanted.clone().unwrap_or_default() };
    all.into_iter().find(fits).ok_or_else(none)
}

/// Below the state directory, or, where that is too long for a socket or too strange for a setting, a place of the same name
/// each time.
fn socket_directory(home: &Path) -> PathBuf {
    let below = home.join("run");
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let bytes = below.as_os_str().as_bytes();
    if bytes.len() <= SOCKET_DIRECTORY_BYTES_MAX && bytes.iter().all(plain) {
        return below;
    }
    let hash = Sha256::digest(bytes);
    let short: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Path::new("/tmp").join(format!("sockpilot-{short}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_short_plain_paths() {
        assert_eq!(
            socket_directory(Path::new("/var/lib/sockpilot/postgres")),
            Path::new("/var/lib/sockpilot/postgres/run")
        );
        for strange in ["/x".repeat(60), "/home/a b".to_owned()] {
            let short = socket_directory(Path::new(&strange));
            assert!(short.starts_with("/tmp") && short.as_os_str().len() < SOCKET_DIRECTORY_BYTES_MAX, "{short:?}");
            assert_eq!(short, socket_directory(Path::new(&strange)), "the same each time");
        }
    }
}
