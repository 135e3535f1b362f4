//! A server in this process, its clients, and nodes that are played by the tests.

use std::{
    future::Future,
    time::{Duration, SystemTime},
};

use sockpilot_proto::v1::{
    self, assignment_service_client::AssignmentServiceClient, experiment_service_client::ExperimentServiceClient,
    fleet_service_client::FleetServiceClient, node_event, node_service_client::NodeServiceClient,
    policy_service_client::PolicyServiceClient, server_event, zone_service_client::ZoneServiceClient,
};
use sockpilot_server::{Config, Running, test_support};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

/// Long enough for a loaded machine; nothing waits so long unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct World {
    pub server: Running,
    pub policies: PolicyServiceClient<Channel>,
    pub experiments: ExperimentServiceClient<Channel>,
    pub zones: ZoneServiceClient<Channel>,
    pub assignments: AssignmentServiceClient<Channel>,
    pub fleet: FleetServiceClient<Channel>,
    pub nodes: NodeServiceClient<Channel>,
}

impl World {
    pub async fn new() -> Self {
        Self::of(test_support::config().await).await
    }

    pub async fn of(config: Config) -> Self {
        let server = sockpilot_server::start(config).await.expect("the server starts");
        let channel = channel(&server).await;
        Self {
            server,
            policies: PolicyServiceClient::new(channel.clone()),
            experiments: ExperimentServiceClient::new(channel.clone()),
            zones: ZoneServiceClient::new(channel.clone()),
            assignments: AssignmentServiceClient::new(channel.clone()),
            fleet: FleetServiceClient::new(channel.clone()),
            nodes: NodeServiceClient::new(channel).max_decoding_message_size(16 << 20),
        }
    }

    /// Creates a policy for everyone, with one rule.
    pub async fn create(&mut self, id: &str) -> v1::Policy {
        let request = v1::CreatePolicyRequest { policy: Some(policy(id, 1_000)), ..v1::CreatePolicyRequest::default() };
        self.policies.create_policy(request).await.expect("created").into_inner()
    }

    /// Makes a revision that differs from others with another `syn_rto_ms`.
    pub async fn update(&mut self, id: &str, syn_rto_ms: u32, target: Option<v1::Target>) -> v1::Policy {
        let policy = Some(policy(id, syn_rto_ms));
        let request = v1::UpdatePolicyRequest {
            reason: "by a test".to_owned(),
            policy,
            target,
            ..v1::UpdatePolicyRequest::default()
        };
        self.policies.update_policy(request).await.expect("updated").into_inner()
    }

    pub async fn status(&mut self, name: &str) -> v1::LayerStatus {
        let request = v1::GetLayerStatusRequest { name: name.to_owned() };
        self.fleet.get_layer_status(request).await.expect("a status").into_inner()
    }

    /// Waits until the status says that a node has confirmed a revision.
    pub async fn confirmed(&mut self, name: &str, revision: u64) {
        let fleet = self.fleet.clone();
        let request = v1::GetLayerStatusRequest { name: name.to_owned() };
        eventually("a node has confirmed the revision", || {
            let (mut fleet, request) = (fleet.clone(), request.clone());
            async move {
                let status = fleet.get_layer_status(request).await.expect("a status").into_inner();
                let counts = &status.counts;
                counts.iter().any(|c| c.revision == revision && c.state() == v1::LayerState::InForce && c.nodes > 0)
            }
        })
        .await;
    }

    pub async fn node(&mut self, id: &str) -> v1::Node {
        let request = v1::ListNodesRequest { page_size: 200, ..v1::ListNodesRequest::default() };
        let nodes = self.fleet.list_nodes(request).await.expect("nodes").into_inner().nodes;
        nodes.into_iter().find(|node| node.name == format!("nodes/{id}")).expect("the node is known")
    }

    pub async fn audit(&mut self) -> Vec<v1::AuditEntry> {
        let request = v1::ListAuditEntriesRequest { page_size: 200, ..v1::ListAuditEntriesRequest::default() };
        self.fleet.list_audit_entries(request).await.expect("entries").into_inner().entries
    }

    pub async fn connect(&self, hello: v1::Hello) -> TestNode {
        TestNode::open(self.nodes.clone(), hello).await.expect("the stream opens")
    }
}

/// This machine's time, in seconds since 1970.
pub fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("a time")
}

/// The beginning of the hour so many hours ago.
pub fn hours_ago(hours: i64) -> u64 {
    (now_s() / 3_600 * 3_600 - hours * 3_600).cast_unsigned()
}

pub async fn channel(server: &Running) -> Channel {
    Channel::from_shared(format!("http://{}", server.address())).expect("a URL").connect().await.expect("connected")
}

/// A node, played by a test.
pub struct TestNode {
    pub events: mpsc::Sender<v1::NodeEvent>,
    pub stream: Streaming<v1::ServerEvent>,
}

impl TestNode {
    pub async fn open(mut client: NodeServiceClient<Channel>, hello: v1::Hello) -> Result<Self, Status> {
        let (events, queue) = mpsc::channel(64);
        events.send(event(node_event::Event::Hello(hello))).await.expect("open");
        let stream = client.connect(ReceiverStream::new(queue)).await?.into_inner();
        Ok(Self { events, stream })
    }

    /// The next snapshot, past heartbeats; or how the stream ended.
    pub async fn next(&mut self) -> Result<v1::Snapshot, Status> {
        let next = async {
            loop {
                match self.stream.message().await? {
                    Some(v1::ServerEvent { event: Some(server_event::Event::Snapshot(snapshot)) }) => {
                        return Ok(snapshot);
                    }
                    Some(_) => {}
                    None => return Err(Status::ok("the stream has ended")),
                }
            }
        };
        timeout(DEADLINE, next).await.expect("something comes in time")
    }

    pub async fn snapshot(&mut self) -> v1::Snapshot {
        self.next().await.expect("a snapshot")
    }

    /// The next snapshot, acknowledged.
    pub async fn take(&mut self) -> v1::Snapshot {
        let snapshot = self.snapshot().await;
        self.ack(&snapshot).await;
        snapshot
    }

    /// Waits for three heartbeats in which no snapshot comes.
    pub async fn quiet(&mut self) {
        let mut heartbeats = 0;
        while heartbeats < 3 {
            let event = timeout(DEADLINE, self.stream.message()).await.expect("heartbeats come");
            match event.expect("the stream is open").expect("the stream is open").event {
                Some(server_event::Event::Heartbeat(_)) => heartbeats += 1,
                other => panic!("nothing was to come, but {other:?}"),
            }
        }
    }

    pub async fn ack(&self, snapshot: &v1::Snapshot) {
        let ack = v1::Ack {
            version: snapshot.version.clone(),
            effective: vec![],
            apply_us: 10,
            held_back: vec![],
            stages: None,
            put_off_us: 0,
        };
        self.say(node_event::Event::Ack(ack)).await;
    }

    /// Everything but one layer is in force.
    pub async fn hold_back(&self, snapshot: &v1::Snapshot, held: v1::HeldBack) {
        let version = snapshot.version.clone();
        self.say(node_event::Event::Ack(v1::Ack { version, held_back: vec![held], ..v1::Ack::default() })).await;
    }

    pub async fn nack(&self, snapshot: &v1::Snapshot, layer: &str) {
        let nack = v1::Nack { version: snapshot.version.clone(), violations: vec![not_here(layer)] };
        self.say(node_event::Event::Nack(nack)).await;
    }

    pub async fn say(&self, what: node_event::Event) {
        self.events.send(event(what)).await.expect("the stream is open");
    }
}

fn event(event: node_event::Event) -> v1::NodeEvent {
    v1::NodeEvent { event: Some(event) }
}

pub fn hello(node_id: &str) -> v1::Hello {
    v1::Hello {
        node_id: node_id.to_owned(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        daemon_version: "0.1.0".to_owned(),
        kernel: Some(v1::KernelFacts {
            release: "6.18.0".to_owned(),
            hz: 250,
            congestion_controls: vec!["cubic".to_owned()],
            wmem_max: 212_992,
            rmem_max: 212_992,
            sysctls: [("net.ipv4.tcp_syn_retries", 6), ("net.ipv4.tcp_syn_linear_timeouts", 4)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        }),
        ..v1::Hello::default()
    }
}

pub fn policy(id: &str, syn_rto_ms: u32) -> v1::Policy {
    let set = v1::Parameters { syn_rto_ms: Some(syn_rto_ms), ..v1::Parameters::default() };
    let rule = v1::Rule { name: "all".to_owned(), set: Some(set), ..v1::Rule::default() };
    v1::Policy { name: format!("policies/{id}"), rules: vec![rule], ..v1::Policy::default() }
}

pub fn experiment(id: &str) -> v1::Experiment {
    let arm = |name: &str, weight_bp, syn_rto_ms| v1::Arm {
        name: name.to_owned(),
        weight_bp,
        first_bucket: None,
        set: Some(v1::Parameters { syn_rto_ms, ..v1::Parameters::default() }),
        withholds: false,
    };
    v1::Experiment {
        name: format!("experiments/{id}"),
        arms: vec![arm("treatment", 1_000, Some(200)), arm("control", 9_000, None)],
        ..v1::Experiment::default()
    }
}

pub fn share(share_bp: u32) -> Option<v1::Target> {
    Some(v1::Target { kind: Some(v1::target::Kind::ShareBp(share_bp)) })
}

pub fn everyone() -> Option<v1::Target> {
    Some(v1::Target { kind: Some(v1::target::Kind::Everyone(v1::target::Everyone {})) })
}

pub fn nobody() -> Option<v1::Target> {
    Some(v1::Target { kind: Some(v1::target::Kind::Nobody(v1::target::Nobody {})) })
}

pub fn labels(key: &str, value: &str) -> Option<v1::Target> {
    let labels = [(key.to_owned(), value.to_owned())].into();
    Some(v1::Target { kind: Some(v1::target::Kind::NodeLabels(v1::target::NodeLabels { labels })) })
}

/// A map of zones, each with one prefix; the region is what stands before the `-`.
pub fn zone_map(zones: &[(&str, &str)]) -> v1::ZoneMap {
    let zone = |&(name, prefix): &(&str, &str)| v1::Zone {
        name: name.to_owned(),
        region: name.split('-').next().unwrap_or_default().to_owned(),
        prefixes: vec![prefix.to_owned()],
    };
    v1::ZoneMap { zones: zones.iter().map(zone).collect(), ..v1::ZoneMap::default() }
}

/// What a node says of a layer that its kernel cannot do.
pub fn not_here(layer: &str) -> v1::RuleViolation {
    v1::RuleViolation {
        layer: layer.to_owned(),
        field: "rules[0].set.congestion_control".to_owned(),
        description: "this kernel has no such congestion control".to_owned(),
    }
}

/// Such a layer, held back.
pub fn held(layer: &str, revision: u64, revision_in_force: u64) -> v1::HeldBack {
    v1::HeldBack { layer: layer.to_owned(), revision, revision_in_force, violations: vec![not_here(layer)] }
}

/// Layers of a snapshot as `name@revision`.
pub fn layers(snapshot: &v1::Snapshot) -> Vec<String> {
    let layers: v1::Layers = prost::Message::decode(snapshot.layers.clone()).expect("layers");
    let acting = layers.layers.iter().filter(|layer| !layer.standby);
    acting.map(|layer| format!("{}@{}", layer.name, layer.revision)).collect()
}

pub fn generation(snapshot: &v1::Snapshot) -> u64 {
    snapshot.version.as_ref().expect("a version").generation
}

/// The fields that a status complains of, sorted. Every complaint has words.
pub fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations = details.bad_request().expect("a BadRequest").field_violations.clone();
    let mut fields: Vec<_> = violations
        .into_iter()
        .map(|violation| {
            assert!(!violation.description.is_empty(), "{} without a description", violation.field);
            violation.field
        })
        .collect();
    fields.sort();
    fields
}

/// Polls until something holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

/// Polls a value until it is as expected.
pub async fn until<T, F: Future<Output = T>>(what: &str, mut get: impl FnMut() -> F, holds: impl Fn(&T) -> bool) -> T {
    let poll = async {
        loop {
            let value = get().await;
            if holds(&value) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("in time: {what}"))
}
