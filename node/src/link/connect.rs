//! The connection to the server. Its socket is exempt from every policy before it connects: a policy that no connection
//! survives must not cut the daemon off from the server that takes it back.

use std::{io, net::SocketAddr, os::fd::AsFd, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use sockpilot_identity::{
    files::Watched,
    tls::{ClientTls, Link},
};
use sockpilot_settings::server::ServerAddress;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    sync::{mpsc::WeakSender, oneshot},
};
use tonic::transport::{Channel, Endpoint, Error, Uri};

use crate::{keeper::Command, kernel::cookie};

const CONNECT_MAX: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A channel to the server, which connects when it is needed, again and again. The keeper exempts its sockets.
///
/// # Errors
/// If the address is none.
pub fn channel(
    server: &ServerAddress,
    tls: Option<Arc<Watched<ClientTls>>>,
    keeper: WeakSender<Command>,
) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(server.to_string())?
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .user_agent(concat!("sockpilot-node/", env!("CARGO_PKG_VERSION")))?;
    // Weak, so that the channel does not keep the keeper from ending.
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |server: Uri| {
        let (tls, keeper) = (tls.as_ref().map(|tls| tls.get()), keeper.clone());
        async move {
            let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = connect(host, server.port_u16().unwrap_or_default(), &keeper).await?;
            let link = match tls {
                Some(tls) => tls.connect(host, stream).await?,
                None => Link::Plain(stream),
            };
            Ok::<_, io::Error>(TokioIo::new(link))
        }
    })))
}

async fn connect(host: &str, port: u16, keeper: &WeakSender<Command>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in lookup_host((host, port)).await? {
        match connect_to(address, keeper).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr, keeper: &WeakSender<Command>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    exempt(cookie(socket.as_fd())?, keeper).await;
    socket.connect(address).await
}

/// If the keeper has ended there is nobody to exempt the socket, and nothing more to do with it than to say goodbye.
async fn exempt(cookie: u64, keeper: &WeakSender<Command>) {
    let Some(keeper) = keeper.upgrade() else { return };
    let (done, answered) = oneshot::channel();
    if keeper.send(Command::Exempt { cookie, done }).await.is_ok() {
        let _ = answered.await;
    }
}
