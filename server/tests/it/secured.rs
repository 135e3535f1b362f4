//! A server that speaks TLS, an authority of the test's own, and callers of all kinds.

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use sockpilot_identity::{
    authority::{Authority, Issued, Validity},
    name::Name,
    tls::{self, Oldest, Own},
};
use sockpilot_proto::v1::{self, access_service_client::AccessServiceClient, node_service_client::NodeServiceClient};
use sockpilot_server::{
    Config, Running,
    auth::{
        gate::Pinned,
        limits::{Limit, Limits},
    },
    process::config::Tls,
    test_support::{self, Directory},
};
use tokio::net::TcpStream;
use tonic::{
    Code, Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

pub const DOMAIN: &str = "fleet.test";
const HOUR: Duration = Duration::from_secs(3_600);

pub fn now(life: Duration) -> Validity {
    Validity { now: SystemTime::now() - Duration::from_secs(2), life }
}

/// An authority, with its files.
pub struct Pki {
    pub directory: Directory,
    pub authority: Authority,
}

impl Pki {
    pub fn new() -> Self {
        let directory = test_support::directory();
        let made = Authority::create(DOMAIN, now(HOUR)).expect("an authority");
        let (ca, key) = (directory.path().join("ca.pem"), directory.path().join("ca-key.pem"));
        fs::write(&ca, made.certificate).expect("written");
        fs::write(&key, made.key).expect("written");
        let authority = Authority::read(&ca, &key).expect("whole");
        let pki = Self { directory, authority };
        pki.issue_to("server", "server", now(HOUR));
        pki
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    pub fn issue(&self, path: &str, validity: Validity) -> Issued {
        let name: Name = format!("spiffe://{DOMAIN}/{path}").parse().expect("a name");
        self.authority.issue(&name, &["127.0.0.1".to_owned(), "localhost".to_owned()], validity).expect("issued")
    }

    /// Writes a certificate and its key.
    pub fn issue_to(&self, file: &str, path: &str, validity: Validity) -> Own {
        let Issued { certificate, key } = self.issue(path, validity);
        let own = Own { certificate: self.path(&format!("{file}.pem")), key: self.path(&format!("{file}-key.pem")) };
        fs::write(&own.key, key).expect("written");
        fs::write(&own.certificate, certificate).expect("written");
        own
    }

    pub fn own(&self, path: &str) -> Own {
        self.issue_to(&path.replace('/', "_"), path, now(HOUR))
    }

    pub fn tls(&self) -> Tls {
        Tls {
            authorities: self.path("ca.pem"),
            own: Own { certificate: self.path("server.pem"), key: self.path("server-key.pem") },
            oldest: Oldest::Tls13,
            domain: None,
            issuer_key: Some(self.path("ca-key.pem")),
            node_life: HOUR,
        }
    }

    /// A channel of whoever has this certificate, or none.
    pub fn channel(&self, address: SocketAddr, own: Option<&Own>) -> Channel {
        let tls = tls::client(&self.path("ca.pem"), own).expect("files");
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("a URL");
        endpoint.connect_with_connector_lazy(tower::service_fn(move |server: Uri| {
            let tls = tls.get();
            async move {
                let host = server.host().unwrap_or_default();
                let stream = TcpStream::connect((host, server.port_u16().unwrap_or_default())).await?;
                tls.connect(host, stream).await.map(TokioIo::new)
            }
        }))
    }
}

/// A server that speaks TLS.
pub struct Secured {
    pub pki: Pki,
    pub server: Running,
    pub config: Config,
}

impl Secured {
    pub async fn new() -> Self {
        Self::of(|_| {}).await
    }

    pub async fn of(change: impl FnOnce(&mut Config)) -> Self {
        let pki = Pki::new();
        let mut config = test_support::config().await;
        config.tls = Some(pki.tls());
        config.node_listen = Some(([127, 0, 0, 1], 0).into());
        config.pinned = Pinned::Keys(["zone".to_owned()].into());
        let much = Limit { per_s: NonZeroU32::MAX, burst: NonZeroU32::MAX, at_once: 10_000 };
        config.limits = Limits { person: much, node: much, reports: much, unknown: much };
        change(&mut config);
        let server = sockpilot_server::start(config.clone()).await.expect("the server starts");
        Self { pki, server, config }
    }

    /// At the people's door.
    pub fn person(&self, path: &str) -> Channel {
        self.pki.channel(self.server.address(), Some(&self.pki.own(path)))
    }

    /// At the nodes' door.
    pub fn node(&self, path: &str) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.pki.channel(self.server.node_address(), Some(&self.pki.own(path))))
    }

    pub fn admin(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.person("person/root/role/admin"))
    }

    pub async fn token(&self, grant: v1::create_token_request::Grant) -> (String, String) {
        let request = v1::CreateTokenRequest { grant: Some(grant), ..v1::CreateTokenRequest::default() };
        let made = self.admin().create_token(request).await.expect("a token").into_inner();
        (made.secret, made.token.expect("a token").name)
    }
}

pub fn bearing<M>(message: M, token: &str) -> Request<M> {
    let mut request = Request::new(message);
    let value: MetadataValue<Ascii> = format!("Bearer {token}").parse().expect("a token");
    request.metadata_mut().insert("authorization", value);
    request
}

/// Calls a method of any kind with one message, and says how it ended.
pub async fn ask<M: prost::Message + Default + 'static>(
    channel: Channel,
    path: &str,
    message: M,
    token: Option<&str>,
) -> Code {
    let mut client = tonic::client::Grpc::new(channel);
    if let Err(error) = client.ready().await {
        return tonic::Status::from_error(error.into()).code();
    }
    let codec = tonic_prost::ProstCodec::<M, ()>::default();
    let messages = tokio_stream::iter([message]);
    let request = match token {
        Some(token) => bearing(messages, token),
        None => Request::new(messages),
    };
    let path = path.parse().expect("a path");
    match client.streaming(request, path, codec).await {
        Err(status) => status.code(),
        Ok(answer) => answer.into_inner().message().await.map_or_else(|status| status.code(), |_| Code::Ok),
    }
}

/// Whether a call was let in: whatever became of it there.
pub fn answered(code: Code) -> bool {
    !matches!(
        code,
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::Unavailable | Code::Unknown
    )
}
