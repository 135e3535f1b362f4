//! Nodes are who their certificates say, who is shut out is out, and files may change under load.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sockpilot_identity::authority;
use sockpilot_programs::{GRPCURL, OPENSSL, skipped};
use sockpilot_proto::v1::{
    self, create_token_request::Grant, fleet_service_client::FleetServiceClient,
    join_service_client::JoinServiceClient, policy_service_client::PolicyServiceClient,
};
use sockpilot_server::{Config, StartError, auth::limits::Limit, test_support};
use tonic::{Code, transport::Channel};

use crate::{
    secured::{Secured, ask, bearing, now},
    world::{TestNode, eventually, hello, policy},
};

const CUT_MAX: Duration = Duration::from_secs(5);

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn labels_of(world: &Secured, node: &str) -> HashMap<String, String> {
    let mut fleet = FleetServiceClient::new(world.person("person/vi/role/viewer"));
    let nodes = fleet.list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner().nodes;
    nodes.into_iter().find(|known| known.name == node).map(|known| known.labels).unwrap_or_default()
}

/// How long it takes until a stream ends.
async fn ends(mut node: TestNode) -> Duration {
    let began = Instant::now();
    while node.next().await.is_ok() {}
    began.elapsed()
}

#[tokio::test]
async fn without_tls_it_listens_on_this_machine_only_unless_told_so() {
    let config = Config { listen: ([0, 0, 0, 0], 0).into(), ..test_support::config().await };
    let refused = sockpilot_server::start(config.clone()).await.expect_err("refused");
    assert!(matches!(refused, StartError::Insecure { .. }));
    let said = refused.to_string();
    assert!(said.contains("sockpilot pki init") && said.contains("--insecure-listen"), "{said}");
    let server = sockpilot_server::start(Config { insecure: true, ..config }).await.expect("as told");
    server.stop().await;
}

/// Runs a program beside the server, which is in this process.
async fn run(mut command: std::process::Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.stdin(std::process::Stdio::null()).output());
    let output = output.await.expect("no panic").expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn other_programs_see_what_we_say() {
    let world = Secured::new().await;
    let (address, nodes) = (world.server.address().to_string(), world.server.node_address().to_string());
    let ca = world.pki.path("ca.pem");
    for (version, spoken) in [("-tls1_3", true), ("-tls1_2", false), ("-tls1_1", false)] {
        for door in [&address, &nodes] {
            let mut command = OPENSSL.command().expect("there");
            command
                .args(["s_client", "-connect", door, version, "-alpn", "h2", "-verify_return_error", "-CAfile"])
                .arg(&ca);
            let (_, said) = run(command).await;
            assert_eq!(
                said.contains("New, TLSv1.3") && said.contains("Verify return code: 0"),
                spoken,
                "{version}: {said}"
            );
        }
    }
    // From another registry than all else, which may be out of reach.
    if let Err(missing) = GRPCURL.find() {
        skipped(missing);
        return world.server.stop().await;
    }
    let own = world.pki.own("person/vi/role/viewer");
    let person = v1::PersonGrant { name: "ci".to_owned(), role: v1::Role::Viewer.into(), bound: None };
    let (token, _) = world.token(Grant::Person(person)).await;
    let call = async |credentials: &[&std::ffi::OsStr], method: &str| {
        let mut command = GRPCURL.command().expect("there");
        command.env("TOKEN", &token).arg("-cacert").arg(&ca).args(credentials).args([address.as_str(), method]);
        run(command).await
    };
    let certificate = ["-cert".as_ref(), own.certificate.as_os_str(), "-key".as_ref(), own.key.as_os_str()];
    let bearer = ["-expand-headers".as_ref(), "-H".as_ref(), "authorization: Bearer ${TOKEN}".as_ref()];
    for credentials in [&certificate[..], &bearer[..]] {
        let (done, said) = call(credentials, "sockpilot.v1.FleetService/ListNodes").await;
        assert!(done, "{said}");
        let (done, said) = call(credentials, "sockpilot.v1.AccessService/ListTokens").await;
        assert!(!done && said.contains("PermissionDenied"), "{said}");
    }
    let (done, said) = call(&[], "sockpilot.v1.FleetService/ListNodes").await;
    assert!(!done, "{said}");
    world.server.stop().await;
}

#[tokio::test]
async fn who_says_nothing_is_shown_out() {
    let world = Secured::of(|config| {
        config.door_limits.handshake_timeout = Duration::from_millis(300);
        config.door_limits.handshakes_max = 2;
    })
    .await;
    let address = world.server.address();
    // Half open: nothing is said of TLS; and after TLS nothing of HTTP/2.
    let silent = tokio::net::TcpStream::connect(address).await.expect("connected");
    let tls = sockpilot_identity::tls::client(&world.pki.path("ca.pem"), None).expect("files");
    let stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let mut quiet = tls.get().connect("127.0.0.1", stream).await.expect("TLS");
    let mut bytes = vec![];
    let ended = tokio::time::timeout(CUT_MAX, tokio::io::AsyncReadExt::read_to_end(&mut quiet, &mut bytes)).await;
    assert!(ended.is_ok(), "shown out");
    silent.readable().await.expect("closed");
    // More than that is not let in at all.
    let many: Vec<_> = futures::future::join_all((0..8).map(|_| tokio::net::TcpStream::connect(address))).await;
    eventually("the rest is turned away", || {
        let text = world.server.metrics().text();
        async move {
            text.contains("turned_away_total{door=\"people\",reason=\"too_many_connections\"}")
                && text.contains("turned_away_total{door=\"people\",reason=\"handshake_timeout\"}")
        }
    })
    .await;
    drop(many);
    world.server.stop().await;
}

#[tokio::test]
async fn a_caller_is_bounded_and_others_are_not() {
    let world = Secured::of(|config| config.limits.person = Limit::new(1, 3, 64)).await;
    let path = "/sockpilot.v1.FleetService/ListNodes";
    let (greedy, other) = (world.person("person/a/role/viewer"), world.person("person/b/role/viewer"));
    let mut codes = vec![];
    for _ in 0..6 {
        codes.push(ask(greedy.clone(), path, (), None).await);
    }
    assert_eq!(
        codes.iter().filter(|code| **code == Code::Ok).count().clamp(3, 5),
        codes.iter().filter(|code| **code == Code::Ok).count()
    );
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    assert_eq!(ask(other, path, (), None).await, Code::Ok);
    assert!(world.server.metrics().text().contains("refused_calls_total{reason=\"rate\"}"));
    world.server.stop().await;
}

#[tokio::test]
async fn a_hostile_node_is_nobody_but_itself() {
    let world = Secured::new().await;
    let mut victim = TestNode::open(world.node("node/victim"), hello("victim")).await.expect("connected");
    let hostile = world.node("node/hostile");
    for claimed in ["victim", "other"] {
        let refused = TestNode::open(hostile.clone(), hello(claimed)).await.err().expect("refused");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let report = v1::FlowReport { node_id: "victim".to_owned(), ..v1::FlowReport::default() };
    let refused = hostile.clone().report_flows(report).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let absurd = (0..1_000).map(|n| (format!("k{n}"), "v".to_owned())).collect();
    let refused = TestNode::open(hostile.clone(), v1::Hello { labels: absurd, ..hello("hostile") }).await;
    assert_eq!(refused.err().expect("refused").code(), Code::InvalidArgument);
    let long = [("k".repeat(1 << 20), "v".to_owned())].into();
    let refused = TestNode::open(hostile.clone(), v1::Hello { labels: long, ..hello("hostile") }).await;
    assert_eq!(refused.err().expect("refused").code(), Code::InvalidArgument);
    // Itself it may be, and the other goes on.
    let own = TestNode::open(hostile, hello("hostile")).await.expect("connected");
    victim.take().await;
    drop(own);
    world.server.stop().await;
}

#[tokio::test]
async fn labels_are_pinned_by_certificate_and_by_operators() {
    let world = Secured::new().await;
    let client = world.node("node/n/label/role/core");
    let said = labels(&[("role", "canary"), ("zone", "a"), ("rack", "7")]);
    let node =
        TestNode::open(client.clone(), v1::Hello { labels: said.clone(), ..hello("n") }).await.expect("connected");
    // Of the certificate; `zone` is not for nodes to say here.
    assert_eq!(labels_of(&world, "nodes/n").await, labels(&[("role", "core"), ("rack", "7")]));
    let pins = v1::PinLabelsRequest {
        node: "nodes/n".to_owned(),
        labels: labels(&[("zone", "b"), ("role", "edge")]),
        reason: String::new(),
    };
    world.admin().pin_labels(pins).await.expect("pinned");
    assert!(ends(node).await < CUT_MAX, "it says hello again");
    let again = TestNode::open(client, v1::Hello { labels: said, ..hello("n") }).await.expect("connected");
    assert_eq!(labels_of(&world, "nodes/n").await, labels(&[("role", "edge"), ("zone", "b"), ("rack", "7")]));
    drop(again);
    world.server.stop().await;
}

#[tokio::test]
async fn who_is_revoked_is_cut_off_on_every_replica_and_stays_out() {
    let world = Secured::new().await;
    let second = sockpilot_server::start(world.config.clone()).await.expect("a second replica");
    let own = world.pki.own("node/n");
    let connect = async |address| {
        let client = v1::node_service_client::NodeServiceClient::new(world.pki.channel(address, Some(&own)));
        TestNode::open(client, hello("n")).await
    };
    let node = connect(second.node_address()).await.expect("connected");
    let other = TestNode::open(world.node("node/m"), hello("m")).await.expect("connected");
    let name = "nodes/n".to_owned();
    let request = v1::RevokeRequest { name: name.clone(), reason: "stolen".to_owned() };
    world.admin().revoke(request).await.expect("revoked");
    let took = ends(node).await;
    assert!(took < CUT_MAX, "{took:?}");
    for address in [world.server.node_address(), second.node_address()] {
        assert_eq!(connect(address).await.err().expect("out").code(), Code::Unauthenticated);
    }
    // Let in again, with something newer only.
    world.admin().admit(v1::AdmitRequest { name, reason: String::new() }).await.expect("admitted");
    assert_eq!(connect(world.server.node_address()).await.err().expect("older").code(), Code::Unauthenticated);
    let newer = authority::Validity {
        now: std::time::SystemTime::now() + Duration::from_secs(1),
        life: Duration::from_secs(60),
    };
    let newer = world.pki.issue_to("newer", "node/n", newer);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let client =
        v1::node_service_client::NodeServiceClient::new(world.pki.channel(world.server.node_address(), Some(&newer)));
    TestNode::open(client, hello("n")).await.expect("connected");
    drop(other);

    // Removed, it is out as well.
    let node = TestNode::open(world.node("node/gone"), hello("gone")).await.expect("connected");
    let request = v1::DeleteNodeRequest { name: "nodes/gone".to_owned(), ..v1::DeleteNodeRequest::default() };
    FleetServiceClient::new(world.person("person/op/role/operator")).delete_node(request).await.expect("removed");
    assert!(ends(node).await < CUT_MAX);
    second.stop().await;
    world.server.stop().await;
}

#[tokio::test]
async fn a_node_joins_once_and_renews() {
    let world = Secured::new().await;
    let nobody = JoinServiceClient::new(world.pki.channel(world.server.node_address(), None));
    let join = async |token: &str, node: &str, request: &[u8]| {
        let (token, node_id, signing_request) = (token.to_owned(), node.to_owned(), request.to_vec().into());
        nobody.clone().join(v1::JoinRequest { token, node_id, signing_request }).await
    };
    let (key, request) = authority::request().expect("a key");
    let grant = v1::JoinGrant { node: "nodes/n".to_owned(), labels: labels(&[("role", "edge")]) };
    let (token, _) = world.token(Grant::Join(grant)).await;
    assert_eq!(join(&token, "m", &request).await.expect_err("another's").code(), Code::Unauthenticated);
    assert_eq!(join("sockpilot-no", "n", &request).await.expect_err("none").code(), Code::Unauthenticated);
    assert_eq!(join(&token, "n", b"no request").await.expect_err("none").code(), Code::InvalidArgument);
    let joined = join(&token, "n", &request).await.expect("joined").into_inner();
    assert_eq!(join(&token, "n", &request).await.expect_err("used").code(), Code::Unauthenticated);

    let own = sockpilot_identity::tls::Own { certificate: world.pki.path("n.pem"), key: world.pki.path("n-key.pem") };
    fs::write(&own.certificate, joined.certificate).expect("written");
    fs::write(&own.key, key).expect("written");
    let channel = world.pki.channel(world.server.node_address(), Some(&own));
    let client = v1::node_service_client::NodeServiceClient::new(channel.clone());
    let node = TestNode::open(client, hello("n")).await.expect("connected");
    assert_eq!(labels_of(&world, "nodes/n").await.get("role").map(String::as_str), Some("edge"));
    let renewed = JoinServiceClient::new(channel).renew(v1::RenewRequest { signing_request: request.into() }).await;
    let certificate = renewed.expect("renewed").into_inner().certificate;
    fs::write(&own.certificate, certificate).expect("written");
    let peer = sockpilot_identity::files::certificates(&own.certificate).expect("one");
    let peer = sockpilot_identity::peer::Peer::of(&peer[0]).expect("a name");
    assert_eq!(peer.name.to_string(), "spiffe://fleet.test/node/n/label/role/edge");
    drop(node);

    // A token for any node is for none that is known.
    let (any, _) = world.token(Grant::Join(v1::JoinGrant::default())).await;
    let (_, request) = authority::request().expect("a key");
    assert_eq!(join(&any, "n", &request).await.expect_err("known").code(), Code::Unauthenticated);
    join(&any, "new", &request).await.expect("joined");
    world.server.stop().await;
}

#[tokio::test]
async fn a_token_says_who_asks_until_it_is_ended() {
    let world = Secured::new().await;
    let person = v1::PersonGrant { name: "ci".to_owned(), role: v1::Role::Operator.into(), bound: None };
    let (token, name) = world.token(Grant::Person(person)).await;
    let mut policies = PolicyServiceClient::new(world.pki.channel(world.server.address(), None));
    let create =
        |id: &str| v1::CreatePolicyRequest { policy: Some(policy(id, 1_000)), ..v1::CreatePolicyRequest::default() };
    let mut request = bearing(create("p"), &token);
    request.metadata_mut().insert("x-sockpilot-actor", "somebody-else".parse().expect("ascii"));
    policies.create_policy(request).await.expect("created");
    let mut fleet = FleetServiceClient::new(world.person("person/vi/role/viewer"));
    let audit = fleet.list_audit_entries(v1::ListAuditEntriesRequest::default()).await.expect("entries").into_inner();
    assert_eq!(audit.entries[0].actor, "tokens/ci", "not what a header says");
    assert_eq!((audit.entries[1].method.as_str(), audit.entries[1].actor.as_str()), ("CreateToken", "root"));
    let known = |entry: &v1::AuditEntry| (entry.proof.clone(), entry.role.clone());
    assert_eq!(known(&audit.entries[0]), ("token".to_owned(), "operator".to_owned()));
    assert_eq!(known(&audit.entries[1]), ("certificate".to_owned(), "admin".to_owned()));
    assert!(audit.entries[1].difference_json.contains("token.holder"), "{audit:?}");
    let tables = world.server.store().read("everything", |conn| {
        Box::pin(async move {
            let all =
                "SELECT string_agg(audit::text, '') || (SELECT string_agg(token::text, '') FROM token) FROM audit";
            let all = sqlx::query_scalar::<_, String>(all).fetch_one(conn).await;
            all.map_err(|source| sockpilot_server::store::Error::Database { operation: "test", source })
        })
    });
    let all = format!("{audit:?} {} {}", world.server.metrics().text(), tables.await.expect("text"));
    assert!(all.contains("CreateToken") && !all.contains(&token), "nothing leaks");
    // Nor what the server keeps of it.
    let hash: String = sockpilot_server::auth::token::hash(&token).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(all.contains(&hash) && !format!("{audit:?}").contains(&hash), "the table of tokens has it, and only that");
    world.admin().revoke_token(v1::RevokeTokenRequest { name, reason: String::new() }).await.expect("ended");
    let refused = policies.create_policy(bearing(create("q"), &token)).await.expect_err("ended");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(world.server.metrics().text().contains("refused_calls_total{reason=\"no_such_token\"} 1"));
    world.server.stop().await;
}

#[tokio::test]
async fn an_operator_stays_within_bounds() {
    let world = Secured::new().await;
    let bound = v1::Bound { name_prefix: "web-".to_owned(), node_labels: labels(&[("role", "edge")]) };
    let person = v1::PersonGrant { name: "bo".to_owned(), role: v1::Role::Operator.into(), bound: Some(bound) };
    let (token, _) = world.token(Grant::Person(person)).await;
    let channel = world.pki.channel(world.server.address(), None);
    let edge = |id: &str| v1::Policy { node_labels: labels(&[("role", "edge")]), ..policy(id, 1_000) };
    let create = async |channel: Channel, policy: v1::Policy, token: Option<&str>| {
        let request = v1::CreatePolicyRequest { policy: Some(policy), ..v1::CreatePolicyRequest::default() };
        ask(channel, "/sockpilot.v1.PolicyService/CreatePolicy", request, token).await
    };
    let operator = world.person("person/op/role/operator");
    assert_eq!(create(operator.clone(), policy("web-all", 1_000), None).await, Code::Ok);
    assert_eq!(create(operator, edge("db"), None).await, Code::Ok);
    let bounded = Some(token.as_str());
    assert_eq!(create(channel.clone(), edge("web-1"), bounded).await, Code::Ok);
    assert_eq!(create(channel.clone(), edge("db-1"), bounded).await, Code::PermissionDenied, "another name");
    assert_eq!(create(channel.clone(), policy("web-2", 1_000), bounded).await, Code::PermissionDenied, "all nodes");
    let update = v1::UpdatePolicyRequest { policy: Some(policy("web-1", 2_000)), ..v1::UpdatePolicyRequest::default() };
    let path = "/sockpilot.v1.PolicyService/UpdatePolicy";
    assert_eq!(ask(channel.clone(), path, update, bounded).await, Code::PermissionDenied, "all nodes from now on");
    let update = v1::UpdatePolicyRequest { policy: Some(edge("web-all")), ..v1::UpdatePolicyRequest::default() };
    assert_eq!(ask(channel.clone(), path, update, bounded).await, Code::PermissionDenied, "all nodes until now");
    for (name, code) in [
        ("policies/db", Code::PermissionDenied),
        ("policies/not-there", Code::PermissionDenied),
        ("policies/web-all", Code::PermissionDenied),
        ("policies/web-1", Code::Ok),
    ] {
        let delete = v1::DeletePolicyRequest { name: name.to_owned(), ..v1::DeletePolicyRequest::default() };
        let path = "/sockpilot.v1.PolicyService/DeletePolicy";
        assert_eq!(ask(channel.clone(), path, delete, bounded).await, code, "{name}");
    }
    world.server.stop().await;
}

#[tokio::test]
async fn every_file_is_replaced_under_load_and_nobody_notices() {
    let world = Secured::new().await;
    let mut node = TestNode::open(world.node("node/n"), hello("n")).await.expect("connected");
    let (calls, failed, over) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let old = world.pki.own("person/vi/role/viewer");
    let load = tokio::spawn({
        let (calls, failed, over) = (calls.clone(), failed.clone(), over.clone());
        let kept = world.pki.channel(world.server.address(), Some(&old));
        let (ca, address) = (world.pki.path("ca.pem"), world.server.address());
        let tls = sockpilot_identity::tls::client(&ca, Some(&old)).expect("files");
        async move {
            while !over.load(Ordering::Relaxed) {
                // One connection that stays, and a new one each time with the files as they are.
                let _ = tls.refresh();
                let connected = tokio::net::TcpStream::connect(address).await.expect("a port");
                let fresh = tls.get().connect("127.0.0.1", connected).await;
                failed.fetch_add(u64::from(fresh.is_err()), Ordering::Relaxed);
                let code = ask(kept.clone(), "/sockpilot.v1.FleetService/ListNodes", (), None).await;
                failed.fetch_add(u64::from(code != Code::Ok), Ordering::Relaxed);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let before = world.server.metrics().certificate_expires.get();
    let after = async |number: u64| {
        let calls = calls.clone();
        eventually("calls go on", || {
            let calls = calls.clone();
            async move { calls.load(Ordering::Relaxed) >= number }
        })
        .await;
    };
    after(5).await;
    // The server's, by rename as tools do it; then the client's; then the authorities, old and new.
    let life = Duration::from_secs(7_200);
    let renewed = world.pki.issue("server", now(life));
    for (file, text) in [("server-key.pem", &renewed.key), ("server.pem", &renewed.certificate)] {
        fs::write(world.pki.path("new"), text).expect("written");
        fs::rename(world.pki.path("new"), world.pki.path(file)).expect("replaced");
    }
    eventually("the server has it", || {
        let now = world.server.metrics().certificate_expires.get();
        async move { now > before + 3_000 }
    })
    .await;
    world.pki.issue_to("person_vi_role_viewer", "person/vi/role/viewer", now(life));
    let next = authority::Authority::create(crate::secured::DOMAIN, now(life)).expect("an authority");
    let both = fs::read_to_string(world.pki.path("ca.pem")).expect("there") + &next.certificate;
    fs::write(world.pki.path("new"), both).expect("written");
    fs::rename(world.pki.path("new"), world.pki.path("ca.pem")).expect("replaced");
    after(calls.load(Ordering::Relaxed) + 10).await;
    over.store(true, Ordering::Relaxed);
    load.await.expect("no panic");
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} calls", calls.load(Ordering::Relaxed));
    // The node's stream is the one that it was.
    node.take().await;
    assert_eq!(world.server.metrics().streams.get(), 1);
    world.server.stop().await;
}
