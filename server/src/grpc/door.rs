//! A door: where callers come in. Each is asked for TLS, if there is any, and has only so long for it; then for its first words, and
//! has only so long for these. Whoever takes nothing for long, or is cut off, is out.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use sockpilot_identity::{peer::Peer, tls::Link};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{
    handshakes::Handshakes,
    outgoing::{Outgoing, Refusal},
};
use crate::{
    auth::connections::{Connection, Connections, Open, Secured},
    metrics::Metrics,
};

/// Of HTTP/2: what a client says first.
const PREFACE_BYTES: usize = 24;
/// Who has so much to say at once lets others go first now and then: a large report takes as long to decrypt and take apart as a change takes to
/// go out.
const TURN_BYTES: usize = 64 << 10;
/// A timer cannot wait for ever.
const LIFE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// After a failure to accept, as when there are no more descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How much a door takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorLimits {
    /// Connections at the same time.
    pub connections_max: usize,
    /// Of these, those of one caller: by certificate, else by address.
    pub connections_of_one_max: usize,
    /// Of these, those that have not yet shown who they are.
    pub handshakes_max: usize,
    /// How long a caller has for TLS, and again for its first words.
    pub handshake_timeout: Duration,
    /// How long a caller may take nothing of what is sent to it.
    pub write_timeout: Duration,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_of_one_max: 64,
            handshakes_max: 512,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// See the [module](self).
pub struct Door {
    pub name: &'static str,
    pub tls: Option<Arc<Handshakes>>,
    pub limits: DoorLimits,
    pub connections: Arc<Connections>,
    pub metrics: Metrics,
}

impl Door {
    /// Takes callers in until `stop`.
    pub fn open(self, listener: TcpListener, stop: CancellationToken) -> ReceiverStream<io::Result<Guest>> {
        let (guests, incoming) = mpsc::channel(16);
        let room = Arc::new(Semaphore::new(self.limits.connections_max));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes_max));
        let door = Arc::new(self);
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let (stream, address) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, door = door.name, "connection not accepted");
                        sleep(ACCEPT_AGAIN).await;
                        continue;
                    }
                };
                let (Ok(place), Ok(turn)) = (room.clone().try_acquire_owned(), handshakes.clone().try_acquire_owned())
                else {
                    door.metrics.turned_away(door.name, "too_many_connections");
                    continue;
                };
                let (door, guests) = (door.clone(), guests.clone());
                tokio::spawn(async move {
                    if let Some(guest) = door.welcome(stream, address, place).await {
                        // The turn is over when the guest is in: its first words have a time of their own.
                        let _ = guests.send(Ok(guest)).await;
                    }
                    drop(turn);
                });
            }
        });
        ReceiverStream::new(incoming)
    }

    async fn welcome(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Option<Guest> {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.guest(Link::Plain(stream), address, None, place);
        };
        let stream = match timeout(self.limits.handshake_timeout, tls.make(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.turned_away(self.name, "handshake");
                tracing::info!(%address, door = self.name, %error, "TLS handshake refused");
                return None;
            }
            Err(_) => {
                self.metrics.turned_away(self.name, "handshake_timeout");
                return None;
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let secured = match shown.map(Peer::of) {
            None => Secured::Nobody,
            Some(Ok(peer)) => Secured::Peer(peer),
            Some(Err(nameless)) => Secured::Nameless(nameless.to_string()),
        };
        self.guest(Link::Tls(Box::new(stream.into())), address, Some(secured), place)
    }

    fn guest(
        self: &Arc<Self>,
        link: Link,
        address: SocketAddr,
        secured: Option<Secured>,
        place: OwnedSemaphorePermit,
    ) -> Option<Guest> {
        let cut = CancellationToken::new();
        let until = match &secured {
            Some(Secured::Peer(peer)) => Some(peer.not_after),
            _ => None,
        };
        let connection = Arc::new(Connection { address, secured, cut: cut.clone() });
        let Some(open) = self.connections.add(connection.clone(), self.limits.connections_of_one_max) else {
            self.metrics.turned_away(self.name, "too_many_of_one");
            return None;
        };
        Some(Guest {
            link,
            cut: Box::pin(cut.cancelled_owned()),
            deadline: Some(Box::pin(sleep(self.limits.handshake_timeout))),
            preface_left: PREFACE_BYTES,
            until,
            taken: 0,
            stuck: None,
            outgoing: Outgoing::default(),
            door: self.clone(),
            _open: open,
            connection,
            _place: place,
        })
    }
}

/// Somebody who came in.
pub struct Guest {
    link: Link,
    connection: Arc<Connection>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// For the first words; then until its certificate runs out.
    deadline: Option<Pin<Box<Sleep>>>,
    preface_left: usize,
    until: Option<SystemTime>,
    /// Bytes read without a pause.
    taken: usize,
    /// Since it takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
    outgoing: Outgoing,
    door: Arc<Door>,
    _open: Open,
    _place: OwnedSemaphorePermit,
}

impl Connected for Guest {
    type ConnectInfo = Arc<Connection>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.clone()
    }
}

impl Guest {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut off"));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let reason = if self.preface_left > 0 { "silent" } else { "expired" };
            self.door.metrics.turned_away(self.door.name, reason);
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        Ok(())
    }

    /// The first words are said.
    fn heard(&mut self, bytes: usize) {
        if self.preface_left == 0 || bytes == 0 {
            return;
        }
        self.preface_left = self.preface_left.saturating_sub(bytes);
        if self.preface_left == 0 {
            self.deadline = self.until.map(|until| {
                let left = until.duration_since(SystemTime::now()).unwrap_or_default();
                Box::pin(sleep(left.min(LIFE_MAX)))
            });
        }
    }

    /// What is sent says what HTTP/2 refuses.
    fn sent(&mut self, bytes: &[u8]) {
        let Door { metrics, name, .. } = &*self.door;
        self.outgoing.wrote(bytes, |refusal| match refusal {
            Refusal::Streams => metrics.refused("streams"),
            Refusal::TooMuch => metrics.turned_away(name, "too_much"),
            Refusal::Protocol => metrics.turned_away(name, "protocol"),
        });
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stuck = None;
            return polled;
        }
        let timeout = self.door.limits.write_timeout;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stuck.as_mut().poll(cx));
        self.door.metrics.turned_away(self.door.name, "takes_nothing");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "it takes nothing")))
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if self.taken >= TURN_BYTES {
            self.taken = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.link).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        self.taken = if polled.is_pending() { 0 } else { self.taken + bytes };
        self.heard(bytes);
        polled
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.link).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = polled {
            self.sent(&buf[..bytes]);
        }
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.link).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut bytes)) = polled {
            for buf in bufs {
                let sent = bytes.min(buf.len());
                self.sent(&buf[..sent]);
                bytes -= sent;
            }
        }
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.link.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.link).poll_flush(cx);
        self.written(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.link).poll_shutdown(cx);
        self.written(cx, polled)
    }
}
