//! The connection to a server: who asks, how long to wait, when to ask again.

use crate::failure::Failure;
use hyper_util::rt::TokioIo;
use sockpilot_identity::tls::{self, ClientTls, Link};
use sockpilot_proto::v1::access_service_client::AccessServiceClient;
use sockpilot_proto::v1::assignment_service_client::AssignmentServiceClient;
use sockpilot_proto::v1::backup_service_client::BackupServiceClient;
use sockpilot_proto::v1::experiment_service_client::ExperimentServiceClient;
use sockpilot_proto::v1::fleet_service_client::FleetServiceClient;
use sockpilot_proto::v1::kill_switch_service_client::KillSwitchServiceClient;
use sockpilot_proto::v1::policy_service_client::PolicyServiceClient;
use sockpilot_proto::v1::rollout_plan_service_client::RolloutPlanServiceClient;
use sockpilot_proto::v1::rollout_service_client::RolloutServiceClient;
use sockpilot_proto::v1::zone_service_client::ZoneServiceClient;
use sockpilot_settings::actor::{self, Actor};
use sockpilot_settings::secret::Secret;
use sockpilot_settings::server::ServerAddress;
use sockpilot_settings::tls::TlsFiles;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, Binary, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

/// For a call with all its attempts.
const DEADLINE: Duration = Duration::from_secs(10);
/// For a backup, and for restoring one.
const PATIENCE: Duration = Duration::from_secs(600);
/// At most so many times is a call sent.
const ATTEMPTS: u32 = 5;
/// Between the first and the second attempt; doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// A page of policies with a thousand rules each is larger than tonic's 4 MiB.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A connection to a server.
#[derive(Debug, Clone)]
pub struct Client {
    server: String,
    actor: Metadata,
    /// `None`: who asks is known otherwise, or not at all.
    bearer: Option<MetadataValue<Ascii>>,
    /// `Err`: why the server cannot be asked. Some commands ask no server.
    channel: Result<Channel, String>,
    deadline: Duration,
}

/// Who asks: as it is, and in ASCII for servers that look no further.
#[derive(Debug, Clone)]
struct Metadata {
    ascii: MetadataValue<Ascii>,
    binary: MetadataValue<Binary>,
}

impl Metadata {
    fn of(actor: &Actor) -> Result<Self, Failure> {
        let ascii = actor.to_ascii().parse().map_err(|_| Failure::Input(format!("\"{actor}\" is no actor")))?;
        Ok(Self { ascii, binary: MetadataValue::from_bytes(actor.as_str().as_bytes()) })
    }
}

/// By what a server knows who asks.
#[derive(Debug, Default)]
pub struct Credentials {
    /// Files for TLS.
    pub files: TlsFiles,
    /// A token.
    pub token: Option<Secret>,
}

impl Credentials {
    fn tls(&self, server: &ServerAddress) -> Result<Option<Arc<ClientTls>>, String> {
        let own = self.files.own()?;
        match (server.tls(), &self.files.tls_ca) {
            (false, _) if self.token.is_some() && !server.is_loopback() => {
                Err(format!("a token is not sent in the clear to {server}; write https://"))
            }
            (false, _) => Ok(None),
            (true, None) => Err(format!("{server} speaks TLS; say by --tls-ca whose certificates are believed")),
            (true, Some(authorities)) => {
                let tls = tls::client(authorities, own.as_ref()).map_err(|error| error.to_string())?;
                Ok(Some(tls.get()))
            }
        }
    }
}

async fn connect(tls: &ClientTls, server: &Uri) -> std::io::Result<Link> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, server.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    tls.connect(host, stream).await
}

impl Client {
    /// Connects when first used.
    pub fn new(server: &str, actor: &Actor, credentials: &Credentials) -> Result<Self, Failure> {
        let server = server.parse::<ServerAddress>().map_err(Failure::Input)?;
        let endpoint = Endpoint::from_shared(server.to_string()).map_err(|error| Failure::Input(error.to_string()))?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(3));
        let channel = credentials.tls(&server).map(|tls| match tls {
            None => endpoint.connect_lazy(),
            Some(tls) => endpoint.connect_with_connector_lazy(tower::service_fn(move |server| {
                let tls = tls.clone();
                async move { connect(&tls, &server).await.map(TokioIo::new) }
            })),
        });
        let bearer = credentials.token.as_ref().map(|token| {
            let value = format!("Bearer {}", token.reveal()).parse::<MetadataValue<Ascii>>();
            let mut value =
                value.map_err(|_| Failure::Input("the token has characters that no token has".to_owned()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let (actor, bearer) = (Metadata::of(actor)?, bearer.transpose()?);
        Ok(Self { server: server.to_string(), actor, bearer, channel, deadline: DEADLINE })
    }

    /// The same, for calls that move much.
    pub fn patient(&self) -> Self {
        Self { deadline: PATIENCE, ..self.clone() }
    }

    /// Sends a request, and the same again while the server is not available. That is safe for a call that changes
    /// something, because the same request id goes with every attempt.
    pub async fn call<Q, A, F>(&self, message: Q, send: F) -> Result<A, Failure>
    where
        Q: Clone,
        F: AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    {
        let channel = self.channel.as_ref().map_err(|why| Failure::Input(why.clone()))?;
        let attempts = async {
            let mut attempt = 1;
            loop {
                let mut request = Request::new(message.clone());
                request.metadata_mut().insert(actor::KEY, self.actor.ascii.clone());
                request.metadata_mut().insert_bin(actor::BINARY_KEY, self.actor.binary.clone());
                if let Some(bearer) = &self.bearer {
                    request.metadata_mut().insert("authorization", bearer.clone());
                }
                request.set_timeout(self.deadline);
                match send(channel.clone(), request).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) if may_retry(&status) && attempt < ATTEMPTS => {
                        tokio::time::sleep(PAUSE * 2u32.pow(attempt - 1)).await;
                        attempt += 1;
                    }
                    Err(status) => return Err(Failure::from_status(&status, &self.server)),
                }
            }
        };
        tokio::time::timeout(self.deadline, attempts).await.unwrap_or_else(|_| {
            let status = Status::deadline_exceeded(format!("no answer within {:?}", self.deadline));
            Err(Failure::from_status(&status, &self.server))
        })
    }
}

/// Whether the server may not have seen the request, or could not act on it now.
fn may_retry(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // A connection that broke in the middle.
        Code::Unknown => std::error::Error::source(status).is_some_and(|e| e.is::<tonic::transport::Error>()),
        _ => false,
    }
}

/// Stub of `PolicyService`.
pub fn policies(channel: Channel) -> PolicyServiceClient<Channel> {
    PolicyServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `ExperimentService`.
pub fn experiments(channel: Channel) -> ExperimentServiceClient<Channel> {
    ExperimentServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `AssignmentService`.
pub fn assignments(channel: Channel) -> AssignmentServiceClient<Channel> {
    AssignmentServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `BackupService`.
pub fn backups(channel: Channel) -> BackupServiceClient<Channel> {
    BackupServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `FleetService`.
pub fn fleet(channel: Channel) -> FleetServiceClient<Channel> {
    FleetServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `AccessService`.
pub fn access(channel: Channel) -> AccessServiceClient<Channel> {
    AccessServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `ZoneService`.
pub fn zones(channel: Channel) -> ZoneServiceClient<Channel> {
    ZoneServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `RolloutPlanService`.
pub fn plans(channel: Channel) -> RolloutPlanServiceClient<Channel> {
    RolloutPlanServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `RolloutService`.
pub fn rollouts(channel: Channel) -> RolloutServiceClient<Channel> {
    RolloutServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// Stub of `KillSwitchService`.
pub fn kill_switches(channel: Channel) -> KillSwitchServiceClient<Channel> {
    KillSwitchServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Actor {
        "ann@desk".parse().unwrap()
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let client = Client::new("http://127.0.0.1:9", &ann(), &Credentials::default()).unwrap();
        let client = Client { deadline: Duration::from_millis(20), ..client };
        let answer = client.call((), async |_, _: Request<()>| std::future::pending::<Result<Response<()>, _>>().await);
        let failure = answer.await.unwrap_err();
        assert_eq!(failure.exit_code(), 3);
        assert!(failure.to_string().ends_with("no answer within 20ms"), "{failure}");
    }

    #[tokio::test]
    async fn only_who_is_asked_has_to_be_believed() {
        let client = Client::new("https://127.0.0.1:9", &ann(), &Credentials::default()).unwrap();
        let answer = client.call((), async |_, _: Request<()>| Ok::<_, Status>(Response::new(())));
        let failure = answer.await.unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("--tls-ca"), "{failure}");
    }

    #[tokio::test]
    async fn a_refusal_is_not_sent_again() {
        let client = Client::new("http://127.0.0.1:9", &ann(), &Credentials::default()).unwrap();
        let sent = std::cell::Cell::new(0);
        let answer = client.call((), async |_, _: Request<()>| {
            sent.set(sent.get() + 1);
            Err::<Response<()>, _>(Status::aborted("somebody was faster"))
        });
        assert_eq!(answer.await.unwrap_err().exit_code(), 1);
        assert_eq!(sent.get(), 1);
    }

    #[tokio::test]
    async fn addresses_that_cannot_be_are_wrong_input() {
        for address in ["", "here", "here:7460", "ftp://here", "http://", "http://a b"] {
            let failure = Client::new(address, &ann(), &Credentials::default()).unwrap_err();
            assert_eq!(failure.exit_code(), 2, "{address}: {failure}");
        }
    }
}
