//! Files that may change at any time: looked at again and again, because no other way works on every file system and with every
//! tool that writes them. What cannot be read changes nothing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

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
