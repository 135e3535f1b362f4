//! Reading the stamps of live sockets.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use sockpilot_policy::layout::{NAME_BYTES, NameTable, Stamp};

use super::{KernelError, Map, Options, pins, plain::Plain};

/// The stamps of a running kernel side.
#[derive(Debug)]
pub struct Stamps {
    stamps: Map<Stamp>,
    names: Map<NameTable>,
}

impl Stamps {
    /// Opens them beside the daemon.
    ///
    /// # Errors
    /// If there is no kernel side.
    pub fn open(options: &Options) -> Result<Self, KernelError> {
        let dir = pins::layout_dir(&options.pin_dir);
        Ok(Self { stamps: Map::open(&dir, "STAMPS")?, names: Map::open(&dir, "NAMES")? })
    }

    /// The stamp of a socket, if it has one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn of(&self, socket: BorrowedFd<'_>) -> Result<Option<Stamp>, KernelError> {
        // User space names sockets by file descriptors, the kernel program by pointers.
        let key = socket.as_fd().as_raw_fd() as u32;
        match self.stamps.get_at(key.bytes()) {
            Ok(stamp) => Ok(Some(*stamp)),
            Err(KernelError::Call { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name at a position that a stamp holds.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn name(&self, position: u32) -> Result<String, KernelError> {
        let table = self.names.get(0)?;
        let at = (position as usize).saturating_mul(NAME_BYTES);
        let bytes = table.get(at..at + NAME_BYTES).unwrap_or_default();
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}
