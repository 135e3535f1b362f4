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

impl Connection {
    /// Whose it is: by certificate, else by address. `None`: nobody is asked.
    fn owner(&self) -> Option<String> {
        match self.secured.as_ref()? {
            Secured::Peer(peer) => Some(peer.name.to_string()),
            Secured::Nobody | Secured::Nameless(_) => Some(self.address.ip().to_string()),
        }
    }
}

/// All that are open.
#[derive(Debug, Default)]
pub struct Connections {
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<u64, Arc<Connection>>,
    /// How many each owner has.
    of_owner: HashMap<String, usize>,
}

/// One that is open; until it is dropped.
#[derive(Debug)]
pub struct Open {
    connections: Arc<Connections>,
    id: u64,
    owner: Option<String>,
}

impl Connections {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, unless whose it is has `of_owner_max` already.
    #[must_use]
    pub fn add(self: &Arc<Self>, connection: Arc<Connection>, of_owner_max: usize) -> Option<Open> {
        let (id, owner) = (self.next.fetch_add(1, Ordering::Relaxed), connection.owner());
        let mut state = self.lock();
        if let Some(owner) = &owner {
            let has = state.of_owner.entry(owner.clone()).or_default();
            if *has >= of_owner_max {
                return None;
            }
            *has += 1;
        }
        state.open.insert(id, connection);
        Some(Open { connections: self.clone(), id, owner })
    }

    /// Cuts those that are not to stay. Returns how many.
    pub fn cut(&self, mut stays: impl FnMut(&Connection) -> bool) -> usize {
        let going: Vec<_> = self.lock().open.values().filter(|connection| !stays(connection)).cloned().collect();
        going
            .iter()
            .filter(|connection| !connection.cut.is_cancelled())
            .map(|connection| connection.cut.cancel())
            .count()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        state.open.remove(&self.id);
        let Some(owner) = &self.owner else { return };
        match state.of_owner.get_mut(owner) {
            Some(has) if *has > 1 => *has -= 1,
            _ => drop(state.of_owner.remove(owner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(address: &str, secured: Option<Secured>) -> Arc<Connection> {
        let address = address.parse().expect("an address");
        Arc::new(Connection { address, secured, cut: CancellationToken::new() })
    }

    #[test]
    fn each_has_only_so_many() {
        let connections = Arc::new(Connections::default());
        let add = |address, secured| connections.add(connection(address, secured), 2);
        let nobody = || Some(Secured::Nobody);
        let (first, second) = (add("10.0.0.1:1", nobody()), add("10.0.0.1:2", nobody()));
        assert!(first.is_some() && second.is_some());
        assert!(add("10.0.0.1:3", nobody()).is_none());
        let _other = add("10.0.0.2:1", nobody()).expect("of another");
        drop(first);
        let third = add("10.0.0.1:3", nobody());
        assert!(third.is_some() && add("10.0.0.1:4", nobody()).is_none());
        drop((second, third));
        assert_eq!(connections.lock().of_owner.len(), 1, "nobody is remembered for nothing");
        // Where nobody is asked, nobody is told from others.
        let plain: Vec<_> = (0..5).map(|_| add("10.0.0.1:1", None)).collect();
        assert!(plain.iter().all(Option::is_some));
    }
}
