//! A node that joins for a token, and renews its certificate by itself, against a server that signs and speaks TLS.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use sockpilot_identity::{
    authority::{Authority, Validity},
    name::{Name, Who},
    tls::{self, Link, Oldest, Own},
    tokio_rustls::TlsAcceptor,
};
use sockpilot_node::{
    keeper,
    link::credentials::{Credentials, Place, Tls},
};
use sockpilot_proto::v1::{
    self,
    join_service_server::{JoinService, JoinServiceServer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::server::Connected};

const DEADLINE: Duration = Duration::from_secs(60);
const TOKEN: &str = "sockpilot-0123";

/// A connection, as tonic wants it.
struct Stream(Link);

impl Connected for Stream {
    /// Whether a certificate was shown.
    type ConnectInfo = bool;

    fn connect_info(&self) -> bool {
        matches!(&self.0, Link::Tls(stream) if stream.get_ref().1.peer_certificates().is_some())
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Signer {
    authority: Authority,
    authorities: String,
    /// What was asked for.
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Signer {
    fn sign(&self, request: &[u8], life_s: u64) -> Result<Response<v1::JoinResponse>, Status> {
        let name = Name { domain: "d".to_owned(), who: Who::Node { id: "n".to_owned(), labels: [].into() } };
        let validity = Validity { now: SystemTime::now(), life: Duration::from_secs(life_s) };
        let certificate = self.authority.sign_request(request, &name, validity).expect("a request");
        Ok(Response::new(v1::JoinResponse { certificate, authorities: self.authorities.clone() }))
    }
}

#[tonic::async_trait]
impl JoinService for Signer {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        assert_eq!(request.extensions().get::<bool>(), Some(&false), "it has none yet");
        let message = request.into_inner();
        assert_eq!((message.token.as_str(), message.node_id.as_str()), (TOKEN, "n"));
        self.calls.lock().expect("whole").push("join");
        // Two thirds of it are soon over.
        self.sign(&message.signing_request, 15)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        assert_eq!(request.extensions().get::<bool>(), Some(&true), "by the one that it has");
        self.calls.lock().expect("whole").push("renew");
        self.sign(&request.into_inner().signing_request, 3_600)
    }
}

/// Serves, and says where.
async fn serve(directory: &Path, calls: Arc<Mutex<Vec<&'static str>>>) -> String {
    let validity = Validity { now: SystemTime::now(), life: Duration::from_secs(3_600) };
    let made = Authority::create("d", validity).expect("an authority");
    let file = |name: &str| directory.join(name);
    fs::write(file("ca.pem"), &made.certificate).expect("written");
    fs::write(file("ca-key.pem"), &made.key).expect("written");
    let authority = Authority::read(&file("ca.pem"), &file("ca-key.pem")).expect("whole");
    let name = "spiffe://d/server".parse().expect("a name");
    let issued = authority.issue(&name, &["127.0.0.1".to_owned()], validity).expect("issued");
    fs::write(file("server.pem"), issued.certificate).expect("written");
    fs::write(file("server-key.pem"), issued.key).expect("written");
    let own = Own { certificate: file("server.pem"), key: file("server-key.pem") };
    let tls = tls::server(&file("ca.pem"), &own, Oldest::Tls13).expect("files");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let (streams, incoming) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = TlsAcceptor::from(tls.get().config.clone()).accept(stream).await {
                let _ = streams.send(Ok::<_, io::Error>(Stream(Link::Tls(Box::new(stream.into()))))).await;
            }
        }
    });
    let signer = Signer { authority, authorities: made.certificate, calls };
    let server = tonic::transport::Server::builder().add_service(JoinServiceServer::new(signer));
    tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
    url
}

fn mode(path: &PathBuf) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_node_joins_and_renews_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let calls = Arc::new(Mutex::new(vec![]));
    let server = serve(directory.path(), calls.clone()).await.parse().expect("an address");
    let (token_file, state) = (directory.path().join("token"), directory.path().join("state"));
    fs::write(&token_file, format!("{TOKEN}\n")).expect("written");
    let open = |join_token_file: Option<PathBuf>| {
        let tls = Tls { authorities: directory.path().join("ca.pem"), own: None, join_token_file };
        let (handle, _ends) = keeper::channel();
        let place = Place { server: &server, tls: Some(&tls), node_id: "n", state_dir: &state };
        Credentials::open(&place, handle.commands.downgrade())
    };
    let lacking = open(None).expect_err("no certificate and no token").to_string();
    assert!(lacking.contains("--join-token-file") && !lacking.contains(TOKEN), "{lacking}");

    let (credentials, mut access) = open(Some(token_file)).expect("sound");
    let stop = CancellationToken::new();
    let running = tokio::spawn(credentials.run(stop.clone()));
    assert!(timeout(DEADLINE, access.ready(&stop)).await.expect("it joins"));
    access.channel.mark_unchanged();
    assert_eq!(*calls.lock().expect("whole"), ["join"]);
    let identity = state.join("identity");
    assert_eq!(mode(&identity), 0o700);
    assert_eq!(mode(&identity.join("key.pem")), 0o600);

    // At two thirds; and those who talk to the server are told to move over.
    timeout(DEADLINE, access.channel.changed()).await.expect("it renews").expect("it runs");
    assert_eq!(*calls.lock().expect("whole"), ["join", "renew"]);
    stop.cancel();
    running.await.expect("no panic");

    // A daemon that starts anew needs no token.
    let (_, mut access) = open(None).expect("the files are there");
    assert!(access.ready(&CancellationToken::new()).await);
}
