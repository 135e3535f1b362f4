//! A node with a certificate that is sound, and bad intent: everything that it can do to a server and to other nodes. Some of it no
//! library does, so it speaks HTTP/2 by itself where it has to.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use http::uri::PathAndQuery;
use sockpilot_identity::{
    files::Watched,
    tls::{ClientTls, Link},
};
use sockpilot_proto::v1::{self, node_event::Event, node_service_client::NodeServiceClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{peer, pki};

const DAY_S: u64 = 86_400;
const CONNECT: &str = "/sockpilot.v1.NodeService/Connect";
const REPORT_FLOWS: &str = "/sockpilot.v1.NodeService/ReportFlows";
/// Nothing here waits longer, unless it is told to.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than a server takes of one node.
const FLOOD: usize = 300;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdeed {
    /// Says that it is another node, and reports as one.
    AnothersId,
    /// Reports under the boot id of another.
    AnothersBoot,
    /// Sends the same report again.
    Replay,
    /// Sends a report that is too large.
    HugeReport,
    /// Sends one that is small and takes far more memory.
    Unfolding,
    /// Says labels without end.
    AbsurdLabels,
    /// Calls with headers without end.
    HugeHeaders,
    /// Begins reports and never ends them.
    SlowReports,
    /// Calls as fast as it can.
    Flood,
    /// Opens more calls than a connection may have.
    Streams,
    /// Opens calls and takes them back at once.
    RapidResets,
    /// Speaks no HTTP/2.
    Garbage,
    /// Opens more connections than one may have.
    Connections,
    /// Begins TLS and says no more.
    HalfOpen,
    /// Ends TLS and says no more.
    Silence,
}

impl Misdeed {
    /// All.
    pub const ALL: [Self; 15] = [
        Self::AnothersId,
        Self::AnothersBoot,
        Self::Replay,
        Self::HugeReport,
        Self::Unfolding,
        Self::AbsurdLabels,
        Self::HugeHeaders,
        Self::SlowReports,
        Self::Flood,
        Self::Streams,
        Self::RapidResets,
        Self::Garbage,
        Self::Connections,
        Self::HalfOpen,
        Self::Silence,
    ];

    /// What the server counts it by, with the labels; none where it comes to nothing and is no fault.
    #[must_use]
    pub fn counters(self) -> &'static [&'static str] {
        match self {
            Self::AnothersId => &["refused_calls_total{reason=\"another_node\"}"],
            Self::AnothersBoot | Self::Replay => &[],
            Self::HugeReport | Self::Unfolding => &["refused_calls_total{reason=\"size\"}"],
            Self::AbsurdLabels => &["refused_calls_total{reason=\"hello\"}"],
            Self::HugeHeaders => &["refused_calls_total{reason=\"headers\"}"],
            Self::Flood => &["refused_calls_total{reason=\"rate\"}"],
            Self::SlowReports => {
                &["refused_calls_total{reason=\"concurrency\"}", "refused_calls_total{reason=\"slow\"}"]
            }
            Self::Streams => &["refused_calls_total{reason=\"streams\"}"],
            Self::RapidResets => &["turned_away_total{door=\"nodes\",reason=\"too_much\"}"],
            Self::Garbage => &["turned_away_total{door=\"nodes\",reason=\"protocol\"}"],
            Self::Connections => &["turned_away_total{door=\"nodes\",reason=\"too_many_of_one\"}"],
            Self::HalfOpen => &[
                "turned_away_total{door=\"nodes\",reason=\"handshake_timeout\"}",
                "turned_away_total{door=\"nodes\",reason=\"too_many_connections\"}",
            ],
            Self::Silence => &["turned_away_total{door=\"nodes\",reason=\"silent\"}"],
        }
    }
}

/// A report on the wire whose cells are empty. As cells they would take a hundred times the memory here, too.
#[derive(Clone, PartialEq, prost::Message)]
struct Hollow {
    #[prost(string, tag = "1")]
    node_id: String,
    #[prost(bytes = "vec", repeated, tag = "6")]
    cells: Vec<Vec<u8>>,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Hostile {
    /// What it is by its certificate.
    pub id: String,
    /// Another node.
    pub victim: String,
    /// The nodes' door.
    pub url: String,
    /// Its own.
    pub tls: Arc<Watched<ClientTls>>,
}

impl Hostile {
    /// Does something, and says if the server lets it pass.
    ///
    /// # Errors
    /// If it is not refused.
    pub async fn act(&self, misdeed: Misdeed) -> Result<()> {
        match misdeed {
            Misdeed::AnothersId => {
                refused(self.hello(peer::hello(&self.victim, &[])).await, &[Code::PermissionDenied])?;
                refused(self.report(self.report_of(&self.victim, "own", 1)).await, &[Code::PermissionDenied])
            }
            Misdeed::AnothersBoot => {
                let boot = format!("boot-of-{}", self.victim);
                self.report(self.report_of(&self.id, &boot, 1_000_000)).await.map(drop).or_else(limited)
            }
            Misdeed::Replay => {
                let report = self.report_of(&self.id, "replayed", 1);
                for _ in 0..3 {
                    self.report(report.clone()).await.map(drop).or_else(limited)?;
                }
                Ok(())
            }
            Misdeed::HugeReport => {
                let mut report = self.report_of(&self.id, "own", 2);
                report.cells[0].choice = "x".repeat(17 << 20);
                refused(self.report(report).await, &[Code::InvalidArgument])
            }
            Misdeed::Unfolding => {
                let report = Hollow { node_id: self.id.clone(), cells: vec![vec![]; 500_000] };
                refused(self.hollow_report(report).await, &[Code::InvalidArgument])
            }
            Misdeed::AbsurdLabels => {
                let many = (0..1_000).map(|n| (format!("k{n}"), "v".to_owned())).collect();
                let long = [("k".repeat(1 << 20), "v".to_owned())].into();
                for labels in [many, long] {
                    let hello = v1::Hello { labels, ..peer::hello(&self.id, &[]) };
                    refused(self.hello(hello).await, &[Code::InvalidArgument])?;
                }
                Ok(())
            }
            Misdeed::HugeHeaders => {
                let mut request = Request::new(self.report_of(&self.id, "own", 2));
                for number in 0..8 {
                    let key = format!("x-{number}").parse::<tonic::metadata::MetadataKey<tonic::metadata::Ascii>>()?;
                    request.metadata_mut().insert(key, "v".repeat(5_000).parse()?);
                }
                refused(self.client()?.report_flows(request).await.map(drop), &[Code::ResourceExhausted])
            }
            Misdeed::Flood => self.flood().await,
            Misdeed::SlowReports => self.slow_reports().await,
            Misdeed::Streams => self.speak(&calls(300, false), PATIENCE).await.map(drop),
            Misdeed::RapidResets => self.speak(&calls(300, true), PATIENCE).await.map(drop),
            Misdeed::Garbage => self.speak(&frame(0x6, 0, 0, &[1; 3]), PATIENCE).await.map(drop),
            Misdeed::Connections => self.connections().await,
            Misdeed::HalfOpen => self.half_open().await,
            Misdeed::Silence => {
                let mut link = self.connect().await?;
                let mut heard = vec![];
                timeout(PATIENCE, link.read_to_end(&mut heard)).await.context("silence is borne")?.map(drop).or(Ok(()))
            }
        }
    }

    fn client(&self) -> Result<NodeServiceClient<Channel>> {
        let channel = pki::channel(&self.url, Some(self.tls.clone()), Some(PATIENCE))?;
        Ok(NodeServiceClient::new(channel))
    }

    async fn hello(&self, hello: v1::Hello) -> Result<(), Status> {
        let mut client = self.client().map_err(|error| Status::internal(error.to_string()))?;
        let hello = v1::NodeEvent { event: Some(Event::Hello(hello)) };
        client.connect(tokio_stream::iter([hello])).await.map(drop)
    }

    async fn report(&self, report: v1::FlowReport) -> Result<(), Status> {
        let mut client = self.client().map_err(|error| Status::internal(error.to_string()))?;
        client.report_flows(report).await.map(drop)
    }

    async fn hollow_report(&self, report: Hollow) -> Result<(), Status> {
        let channel = pki::channel(&self.url, Some(self.tls.clone()), Some(PATIENCE));
        let mut client = Grpc::new(channel.map_err(|error| Status::internal(error.to_string()))?);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Hollow, v1::FlowReportReceipt>::default();
        client.unary(Request::new(report), PathAndQuery::from_static(REPORT_FLOWS), codec).await.map(drop)
    }

    /// One that is sound but for what is said of it.
    #[must_use]
    pub fn report_of(&self, node: &str, boot: &str, sequence: u64) -> v1::FlowReport {
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        // Yesterday, so that each report has an interval of its own, however soon it comes after another.
        let interval_start_s = (now_s / DAY_S - 1) * DAY_S + sequence % 100 * 10;
        let cell = v1::FlowCell {
            interval_start_s,
            interval_length_s: 10,
            layer: "policies/hostile".to_owned(),
            revision: 1,
            choice: "all".to_owned(),
            direction: v1::Direction::Active.into(),
            size_class: v1::SizeClass::Small.into(),
            counts: Some(v1::FlowCounts { flows: 1, failed: 1, ..v1::FlowCounts::default() }),
            ..v1::FlowCell::default()
        };
        let (node_id, boot_id) = (node.to_owned(), boot.to_owned());
        v1::FlowReport { node_id, boot_id, sequence, cells: vec![cell], ..v1::FlowReport::default() }
    }

    async fn flood(&self) -> Result<()> {
        let (mut client, mut refusals) = (self.client()?, 0);
        for _ in 0..FLOOD {
            // Nothing of it is looked at by then, so it need not be sound.
            let report = v1::FlowReport { node_id: self.id.clone(), ..v1::FlowReport::default() };
            let asked = client.report_flows(report).await;
            refusals += usize::from(asked.is_err_and(|status| status.code() == Code::ResourceExhausted));
        }
        ensure!(refusals > 0, "{FLOOD} calls upon each other were taken");
        Ok(())
    }

    /// Until the server loses its patience.
    async fn slow_reports(&self) -> Result<()> {
        let mut begun = preface();
        for stream in (1..9).step_by(2) {
            begun.extend(headers(stream, REPORT_FLOWS, false));
            // Of sixteen million bytes the first thousand.
            let message = [&[0, 0, 240, 0, 0][..], &[0; 1_000]].concat();
            begun.extend(frame(0, 0, stream, &message));
        }
        self.speak(&begun, 3 * PATIENCE).await.map(drop)
    }

    async fn connections(&self) -> Result<()> {
        let mut links = vec![];
        for _ in 0..80 {
            let Ok(mut link) = self.connect().await else { continue };
            if link.write_all(&preface()).await.is_ok() {
                links.push(link);
            }
        }
        let mut open = 0;
        for link in &mut links {
            let mut byte = [0; 1];
            open += usize::from(matches!(timeout(PATIENCE, link.read(&mut byte)).await, Ok(Ok(1..))));
        }
        ensure!(open < 80, "{open} connections of one node are open");
        Ok(())
    }

    async fn half_open(&self) -> Result<()> {
        let mut links = vec![];
        for _ in 0..40 {
            links.push(self.plain().await?);
        }
        for mut link in links {
            let mut byte = [0; 1];
            let ended = timeout(PATIENCE, link.read(&mut byte)).await.context("a connection stays half open")?;
            ensure!(!matches!(ended, Ok(1..)), "the server spoke first");
        }
        Ok(())
    }

    async fn plain(&self) -> Result<TcpStream> {
        let address = self.url.trim_start_matches("https://");
        TcpStream::connect(address).await.context("a connection")
    }

    async fn connect(&self) -> Result<Link> {
        self.tls.get().connect("127.0.0.1", self.plain().await?).await.context("TLS")
    }

    /// Says something, and listens until the server ends it, but no longer than `patience`.
    async fn speak(&self, words: &[u8], patience: Duration) -> Result<Vec<u8>> {
        let mut link = self.connect().await?;
        if !words.starts_with(b"PRI") {
            link.write_all(&preface()).await?;
        }
        // The server may have heard enough before the end.
        let _ = link.write_all(words).await;
        let mut heard = vec![0; 64 << 10];
        let mut all = vec![];
        let listen = async {
            while let Ok(bytes @ 1..) = link.read(&mut heard).await {
                all.extend(&heard[..bytes]);
                // What refuses calls leaves the connection.
                if all.windows(4).any(|code| code == [0, 0, 0, 7]) && words.len() > 10_000 {
                    sleep(Duration::from_millis(50)).await;
                    break;
                }
            }
        };
        if timeout(patience, listen).await.is_err() {
            bail!("the server listens on");
        }
        Ok(all)
    }
}

/// Reads nothing of many large answers, until the server is tired of it.
///
/// # Errors
/// If it is not, for `patience`.
pub async fn take_nothing(address: &str, tls: &ClientTls, path: &str, patience: Duration) -> Result<()> {
    let stream = tokio::net::TcpSocket::new_v4()?;
    stream.set_recv_buffer_size(8 << 10)?;
    let stream = stream.connect(address.parse()?).await?;
    let mut link = tls.connect("127.0.0.1", stream).await?;
    let mut words = preface();
    for stream in (1..80).step_by(2) {
        words.extend(headers(stream, path, false));
        words.extend(frame(0, END_STREAM, stream, &[0, 0, 0, 0, 3, 8, 0xc8, 1]));
    }
    link.write_all(&words).await?;
    sleep(patience).await;
    let mut rest = vec![];
    // Cut off in the middle is as good as ended.
    timeout(PATIENCE, link.read_to_end(&mut rest)).await.context("it is open still")?.map(drop).or(Ok(()))
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client says first; it lets the server send as much as it likes.
fn preface() -> Vec<u8> {
    let settings = frame(4, 0, 0, &[&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat());
    let window = frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings, window].concat()
}

/// A call's headers, by the static table and in plain.
fn headers(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let block = [
        vec![0x83, 0x87, 0x04],
        text(path),
        vec![0x01],
        text("127.0.0.1"),
        vec![0x0f, 0x10],
        text("application/grpc"),
        vec![0x00],
        text("te"),
        text("trailers"),
    ];
    frame(1, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, &block.concat())
}

/// So many calls, each taken back at once or never ended.
fn calls(number: u32, taken_back: bool) -> Vec<u8> {
    let one = |at: u32| {
        let stream = 2 * at + 1;
        let reset = if taken_back { frame(3, 0, stream, &8_u32.to_be_bytes()) } else { vec![] };
        [headers(stream, CONNECT, false), reset].concat()
    };
    [preface(), (0..number).flat_map(one).collect()].concat()
}

fn refused<T>(answer: Result<T, Status>, by: &[Code]) -> Result<()> {
    match answer {
        Ok(_) => bail!("it was taken"),
        Err(status) if by.contains(&status.code()) => Ok(()),
        Err(status) => limited(status),
    }
}

/// Whoever does much is refused for that.
fn limited(status: Status) -> Result<()> {
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    Ok(())
}
