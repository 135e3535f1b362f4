//! Files that may change at any time: looked at again and again, because no other way works on every file system and with every
//! tool that writes them. What cannot be read changes nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tokio_rustls::rustls::{
    self, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Why a file of certificates or keys will not do. What is in it is not said.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing of the kind in it.
    #[error("{path} has {what}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Certificate and key are not of each other, or TLS does not take them.
    #[error("{path} cannot be used: {source}")]
    Tls {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl FileError {
    /// Something is wrong with what is in a file.
    #[must_use]
    pub fn content(path: &Path, what: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), what: what.into() }
    }
}

/// Reads a file.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })
}

/// What becomes of a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The new one takes its place.
    Replaced,
    /// It stays, and writing fails.
    Kept,
}

/// Who else than the owner may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Nobody: keys and tokens.
    Owner,
    /// Everybody: certificates.
    All,
}

/// Writes a file that has its permissions from the beginning, and is whole, on disk, and then in its place, or not there.
///
/// # Errors
/// If it cannot be written, or is there already and is to be kept.
pub fn write(path: &Path, text: &str, readers: Readers, existing: Existing) -> io::Result<()> {
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match existing {
            Existing::Replaced => fs::rename(&beside, path)?,
            Existing::Kept => renameat_with(CWD, &beside, CWD, path, RenameFlags::NOREPLACE)?,
        }
        // The name, too.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    })();
    if written.is_err() {
        // Half a key helps nobody. The first error is what matters.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// The certificates in a PEM file.
///
/// # Errors
/// If there are none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(FileError::content(path, "no certificates in PEM")),
    }
}

/// The private key in a PEM file.
///
/// # Errors
/// If there is none.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| FileError::content(path, "no private key in PEM"))
}

/// Whom a bundle of authorities makes one trust.
///
/// # Errors
/// If there is no authority in it.
pub fn roots(path: &Path) -> Result<Arc<RootCertStore>, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| FileError::Tls { path: path.to_owned(), source })?;
    }
    Ok(Arc::new(roots))
}

/// What tells whether files are what they were. Tools that replace a file rename another one over it, so the inode is part of it.
type Stamp = Vec<Option<(i64, i64, u64, u64)>>;

/// Something that is made of files, and made anew when they change.
pub struct Watched<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, FileError> + Send + Sync>,
    /// Of what was tried last.
    stamp: Mutex<Stamp>,
    current: RwLock<Arc<T>>,
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Makes it for the first time.
    ///
    /// # Errors
    /// If a file will not do.
    pub fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let stamp = stamp(&files);
        let current = RwLock::new(Arc::new(make()?));
        Ok(Self { files, make: Box::new(make), stamp: Mutex::new(stamp), current })
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes it anew if a file has changed. Whether it has.
    ///
    /// # Errors
    /// If a file has changed and will not do: what was before stays, until the next change.
    pub fn refresh(&self) -> Result<bool, FileError> {
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        // Before reading: a change while it is read is seen the next time.
        let now = stamp(&self.files);
        if *known == now {
            return Ok(false);
        }
        *known = now;
        let made = Arc::new((self.make)()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(true)
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let of = |path: &PathBuf| {
        let data = fs::metadata(path).ok()?;
        Some((data.mtime(), data.mtime_nsec(), data.ino(), data.len()))
    };
    files.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_whole_closed_and_overwritten_only_if_asked() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("key.pem");
        let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        // What a crash has left, open to others, is neither kept nor written into.
        fs::write(home.path().join("key.new"), "half").expect("written");
        write(&path, "one", Readers::Owner, Existing::Kept).expect("new");
        assert_eq!((read(&path).expect("there"), mode()), (b"one".to_vec(), 0o600));
        let refused = write(&path, "two", Readers::Owner, Existing::Kept).expect_err("there already");
        assert_eq!((refused.kind(), read(&path).expect("there")), (io::ErrorKind::AlreadyExists, b"one".to_vec()));
        write(&path, "two", Readers::Owner, Existing::Replaced).expect("replaced");
        assert_eq!(read(&path).expect("there"), b"two");
        let names: Vec<_> =
            fs::read_dir(home.path()).expect("there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["key.pem"], "nothing beside it");
        write(Path::new("/no/such/directory/key.pem"), "x", Readers::Owner, Existing::Kept).expect_err("nowhere");
    }
}
