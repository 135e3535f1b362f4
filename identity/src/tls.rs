//! TLS on both ends. No session is ever resumed: each connection shows its certificate anew, so one that is revoked or has run out
//! opens none.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector, TlsStream,
    rustls::{
        self, ClientConfig, ServerConfig, SupportedProtocolVersion,
        client::Resumption,
        crypto::{CryptoProvider, ring},
        pki_types::ServerName,
        server::{NoServerSessionStorage, WebPkiClientVerifier},
        version::{TLS12, TLS13},
    },
};

use crate::{
    files::{self, FileError, Watched},
    name::{Name, Who},
    peer::Peer,
};

const ALPN: &[u8] = b"h2";
/// The newest first.
static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Where somebody's certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The certificate, and those between it and the authority; PEM.
    pub certificate: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Oldest {
    /// 1.2, for clients that cannot do more.
    Tls12,
    /// 1.3.
    #[default]
    Tls13,
}

impl Oldest {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12 => &VERSIONS,
            Self::Tls13 => &VERSIONS[..1],
        }
    }
}

/// The server's side.
#[derive(Debug)]
pub struct ServerTls {
    /// For each connection.
    pub config: Arc<ServerConfig>,
    /// Until when its own certificate is valid.
    pub not_after: SystemTime,
    /// Whose names are believed, as its own certificate says; `None`: it says nothing of that.
    pub domain: Option<String>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The server's side, made anew when a file changes. Whoever shows a certificate must have it from an authority in `authorities`; who
/// shows none is let in as nobody, and can do what nobody may.
///
/// # Errors
/// If a file will not do.
pub fn server(authorities: &Path, own: &Own, oldest: Oldest) -> Result<Watched<ServerTls>, FileError> {
    let (authorities, own) = (authorities.to_owned(), own.clone());
    let watched = vec![authorities.clone(), own.certificate.clone(), own.key.clone()];
    Watched::new(watched, move || server_now(&authorities, &own, oldest))
}

fn server_now(authorities: &Path, own: &Own, oldest: Oldest) -> Result<ServerTls, FileError> {
    let roots = files::roots(authorities)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build();
    let verifier = verifier.map_err(|error| FileError::content(authorities, error.to_string()))?;
    let chain = files::certificates(&own.certificate)?;
    let (domain, not_after) = match Peer::of(&chain[0]) {
        Ok(Peer { name: Name { domain, who: Who::Server }, not_before: _, not_after }) => (Some(domain), not_after),
        Ok(Peer { name, .. }) => {
            return Err(FileError::content(&own.certificate, format!("the certificate of {name}, which is no server")));
        }
        Err(_) => (None, expiry(&chain[0])),
    };
    let tls = |source| FileError::Tls { path: own.certificate.clone(), source };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(oldest.versions())
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, files::private_key(&own.key)?)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(ServerTls { config: Arc::new(config), not_after, domain })
}

/// Of a certificate without a name of ours.
fn expiry(certificate: &rustls::pki_types::CertificateDer<'_>) -> SystemTime {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let seconds =
        X509Certificate::from_der(certificate).map_or(0, |(_, parsed)| parsed.validity().not_after.timestamp());
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// A client's side.
#[derive(Debug)]
pub struct ClientTls {
    connector: Arc<ClientConfig>,
    /// What its own certificate says; `None`: it shows none, or one without a name of ours.
    pub own: Option<Peer>,
}

/// A client's side, made anew when a file changes. It believes servers that have their certificate from an authority in
/// `authorities`.
///
/// # Errors
/// If a file will not do.
pub fn client(authorities: &Path, own: Option<&Own>) -> Result<Watched<ClientTls>, FileError> {
    let (authorities, own) = (authorities.to_owned(), own.cloned());
    let mut watched = vec![authorities.clone()];
    watched.extend(own.iter().flat_map(|own| [own.certificate.clone(), own.key.clone()]));
    Watched::new(watched, move || client_now(&authorities, own.as_ref()))
}

fn client_now(authorities: &Path, own: Option<&Own>) -> Result<ClientTls, FileError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(Oldest::Tls12.versions())
        .map_err(|source| FileError::Tls { path: authorities.to_owned(), source })?
        .with_root_certificates(files::roots(authorities)?);
    let (mut config, own) = match own {
        None => (builder.with_no_client_auth(), None),
        Some(Own { certificate, key }) => {
            let chain = files::certificates(certificate)?;
            let peer = Peer::of(&chain[0]).ok();
            let config = builder.with_client_auth_cert(chain, files::private_key(key)?);
            (config.map_err(|source| FileError::Tls { path: certificate.clone(), source })?, peer)
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(ClientTls { connector: Arc::new(config), own })
}

impl ClientTls {
    /// Speaks TLS on a connection to `host`, whose certificate must be for that name or address.
    ///
    /// # Errors
    /// If the server is not believed, or does not speak HTTP/2 over TLS.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<Link> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid(format!("{host} is no name for TLS")))?;
        let stream = TlsConnector::from(self.connector.clone()).connect(name, stream).await?;
        Ok(Link::Tls(Box::new(stream.into())))
    }
}

/// A connection, with TLS or without.
#[derive(Debug)]
pub enum Link {
    /// In the clear.
    Plain(TcpStream),
    /// By TLS; of either end.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! with_stream {
    ($link:expr, $stream:ident => $done:expr) => {
        match $link {
            Link::Plain($stream) => $done,
            Link::Tls($stream) => $done,
        }
    };
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        with_stream!(&mut *self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_stream!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        with_stream!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
