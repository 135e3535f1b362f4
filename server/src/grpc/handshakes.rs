//! Handshakes of TLS, on threads of their own. Each is half a millisecond of arithmetic, whoever reaches the port can ask for many, and streams
//! would wait behind all of them; beside these threads they wait no longer than the kernel lets them.

use std::{io, sync::Arc, thread};

use sockpilot_identity::{
    files::Watched,
    tls::ServerTls,
    tokio_rustls::{TlsAcceptor, server::TlsStream},
};
use tokio::{net::TcpStream, runtime};
use tokio_util::task::AbortOnDropHandle;

/// See the [module](self).
pub struct Handshakes {
    tls: Arc<Watched<ServerTls>>,
    /// Until it is dropped.
    threads: Option<runtime::Runtime>,
}

impl Handshakes {
    /// Starts the threads: half as many as there are processors.
    ///
    /// # Errors
    /// If there can be none.
    pub fn start(tls: Arc<Watched<ServerTls>>) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let mut threads = runtime::Builder::new_multi_thread();
        let threads = threads.worker_threads(processors.div_ceil(2)).thread_name("handshakes").build()?;
        Ok(Self { tls, threads: Some(threads) })
    }

    /// Makes one, by the certificates of now. Dropped, it ends.
    ///
    /// # Errors
    /// Why it is refused; and if the server is ending.
    pub async fn make(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let ending = || io::Error::new(io::ErrorKind::ConnectionAborted, "the server is ending");
        let threads = self.threads.as_ref().ok_or_else(ending)?;
        let acceptor = TlsAcceptor::from(self.tls.get().config.clone());
        let accepted = AbortOnDropHandle::new(threads.spawn(acceptor.accept(stream)));
        accepted.await.unwrap_or_else(|_| Err(ending()))
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        // Without waiting, which a runtime inside of another may not.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
