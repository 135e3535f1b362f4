//! Connections that are open, so that some can be cut: those of a node that was revoked, of a certificate that has run out, of a caller
//! that reads nothing.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sockpilot_identity::peer::Peer;
use tokio_util::sync::CancellationToken;

/// What is known of whoever is at the other end of a connection.
#[derive(Debug)]
pub struct Connection {
    /// Where it comes from.
    pub address: SocketAddr,
    /// By TLS; `None`: it is spoken in the clear, and nobody is asked who they are.
    pub secured: Option<Secured>,
    /// Cuts the connection.
    pub cut: CancellationToken,
}

/// What TLS says of the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secured {
    /// It has shown no certificate.
    Nobody,
    /// Its certificate says this.
    Peer(Peer),
    /// It has a certificate that names nobody, for this reason.
    Nameless(String),
}

/// All that are open.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
}

/// One that is open; until it is dropped.
#[derive(Debug)]
pub struct Open {
    connections: Arc<Connections>,
    id: u64,
}

impl Connections {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one.
    #[must_use]
    pub fn add(self: &Arc<Self>, connection: Arc<Connection>) -> Open {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, connection);
        Open { connections: self.clone(), id }
    }

    /// Cuts those that are not to stay. Returns how many.
    pub fn cut(&self, mut stays: impl FnMut(&Connection) -> bool) -> usize {
        let going: Vec<_> = self.lock().values().filter(|connection| !stays(connection)).cloned().collect();
        going
            .iter()
            .filter(|connection| !connection.cut.is_cancelled())
            .map(|connection| connection.cut.cancel())
            .count()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}
