//! Reading what is kept on live sockets.

use std::{
    mem::offset_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use sockpilot_policy::layout::{Changes, NAME_BYTES, NameTable, Stamp, StampHead};

use super::{
    KernelError, Map, Options,
    plain::Plain,
    sides::{self, Side},
    sys,
};

/// What a running kernel side keeps on sockets.
#[derive(Debug)]
pub struct Stamps {
    stamps: Map<Stamp>,
    changes: Map<Changes>,
    names: Map<NameTable>,
    /// Of earlier sides, with their layouts: of another layout only its beginning is known.
    earlier: Vec<(u32, Map<StampHead>)>,
}

impl Stamps {
    /// Opens them beside the daemon.
    ///
    /// # Errors
    /// If there is no kernel side.
    pub fn open(options: &Options) -> Result<Self, KernelError> {
        let Side { dir, number, .. } = sides::own(&options.pin_dir)?;
        let mut earlier = vec![];
        for side in sides::list(&options.pin_dir)?.into_iter().filter(|side| side.number < number) {
            // One that is about to be removed may have none any more.
            earlier.extend(Map::open(&side.dir, "STAMPS").ok().map(|stamps| (side.layout, stamps)));
        }
        let (stamps, changes) = (Map::open(&dir, "STAMPS")?, Map::open(&dir, "CHANGES")?);
        Ok(Self { stamps, changes, names: Map::open(&dir, "NAMES")?, earlier })
    }

    /// The stamp of a socket, if it has one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn of(&self, socket: BorrowedFd<'_>) -> Result<Option<Stamp>, KernelError> {
        of(&self.stamps, socket)
    }

    /// The layout of the earlier side that serves the connection of a socket, if one does.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn served_earlier(&self, socket: BorrowedFd<'_>) -> Result<Option<u32>, KernelError> {
        for (layout, stamps) in &self.earlier {
            let mut value = vec![0; sys::map_info(stamps.fd.as_fd(), stamps.name)?.value_bytes];
            let key = socket.as_raw_fd() as u32;
            match sys::lookup(stamps.fd.as_fd(), stamps.name, key.bytes(), &mut value) {
                Ok(()) => {}
                Err(KernelError::Call { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(error) => return Err(error),
            }
            let attachment = value[offset_of!(StampHead, attachment)..].first_chunk();
            if attachment.is_some_and(|attachment| u32::from_ne_bytes(*attachment) != 0) {
                return Ok(Some(*layout));
            }
        }
        Ok(None)
    }

    /// What rules for open connections have changed on a socket, if they have.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn changes_of(&self, socket: BorrowedFd<'_>) -> Result<Option<Changes>, KernelError> {
        of(&self.changes, socket)
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

/// What a map keeps on a socket. User space names sockets by file descriptors, the kernel program by pointers.
fn of<T: Plain>(map: &Map<T>, socket: BorrowedFd<'_>) -> Result<Option<T>, KernelError> {
    let key = socket.as_fd().as_raw_fd() as u32;
    match map.get_at(key.bytes()) {
        Ok(kept) => Ok(Some(*kept)),
        Err(KernelError::Call { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
