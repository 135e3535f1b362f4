//! How soon what was given is taken back: from the call until the last of a thousand connected nodes has received it. One by one of them
//! answers, as nodes do; the server and they share this machine, without TLS.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use prost::Message;
use sockpilot_proto::v1::{
    self, kill_switch_service_client::KillSwitchServiceClient, node_event::Event,
    node_service_client::NodeServiceClient, rollout_plan_service_client::RolloutPlanServiceClient,
    rollout_service_client::RolloutServiceClient, server_event,
};
use sockpilot_tests::{
    admin::{Admin, everyone},
    documents::{policy, rule},
    machine::Machine,
    peer::hello,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    wait::{eventually, pass},
};
use tokio::{sync::mpsc, time::interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::{Figures, note, quantile};

const NODES: usize = 1_000;
/// Of either; the last of a thousand is a tail in itself.
const TIMES: u32 = 30;
/// Real nodes say so as often.
const ALIVE: Duration = Duration::from_secs(10);
/// Between two measurements, so that no answer of the one before is in the way.
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(120);
const POLICY: &str = "policies/web";
const PLAN: &str = "rolloutPlans/bench";

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let postgres = Postgres::start(machine, Durability::Disk)?;
    let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
    let admin = server.admin()?;
    admin.put_policy(document(10), everyone())?;
    // Half of each node's connections, for an hour: all nodes have a canary, and what they had stands by.
    let wave = v1::RolloutWave {
        flow_shares_bp: vec![5_000],
        bake_time: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..v1::RolloutWave::default()
    };
    let plan = v1::RolloutPlan { name: PLAN.to_owned(), waves: vec![wave], ..v1::RolloutPlan::default() };
    let request = v1::UpdateRolloutPlanRequest { plan: Some(plan), allow_missing: true, ..Default::default() };
    admin.call(RolloutPlanServiceClient::new(admin.channel()).update_rollout_plan(request))?;

    let fleet = Fleet::connect(&admin, &server.url())?;
    let mut back = (0..TIMES).map(|at| roll_back(&admin, &fleet, at)).collect::<Result<Vec<_>>>()?;
    let mut off = (0..TIMES).map(|_| switch_off(&admin, &fleet)).collect::<Result<Vec<_>>>()?;
    note(figures, "rollback_ms_1000_nodes_p50", quantile(&mut back, 0.5));
    note(figures, "rollback_ms_1000_nodes_p99", quantile(&mut back, 0.99));
    note(figures, "kill_switch_ms_1000_nodes_p50", quantile(&mut off, 0.5));
    note(figures, "kill_switch_ms_1000_nodes_p99", quantile(&mut off, 0.99));
    Ok(())
}

fn document(packets: u32) -> v1::Policy {
    let set = v1::Parameters { cwnd_clamp_packets: Some(packets), ..v1::Parameters::default() };
    policy("web", 1, vec![rule("all", v1::Match::default(), set)])
}

fn roll_back(admin: &Admin, fleet: &Fleet, at: u32) -> Result<f64> {
    let rollout = v1::RolloutOptions { plan: PLAN.to_owned(), ..v1::RolloutOptions::default() };
    let request = v1::UpdatePolicyRequest {
        policy: Some(document(11 + at)),
        rollout: Some(rollout),
        ..v1::UpdatePolicyRequest::default()
    };
    let made = admin.call(admin.policies().update_policy(request))?;
    let name = made.notes.context("no notes")?.rollout;
    fleet.all_have("the canary", made.revision)?;
    pass(PAUSE)?;
    let began = Instant::now();
    let verb = v1::RolloutVerbRequest { name, reason: "a benchmark".to_owned(), ..Default::default() };
    admin.call(RolloutServiceClient::new(admin.channel()).roll_back_rollout(verb))?;
    let last = fleet.all_have("what was good", 1)?;
    pass(PAUSE)?;
    Ok(last.duration_since(began).as_secs_f64() * 1e3)
}

fn switch_off(admin: &Admin, fleet: &Fleet) -> Result<f64> {
    let switch = |off| {
        let (target, reason) = (POLICY.to_owned(), "a benchmark".to_owned());
        let request = v1::SetKillSwitchRequest { target, off, reason, ..Default::default() };
        admin.call(KillSwitchServiceClient::new(admin.channel()).set_kill_switch(request))
    };
    let began = Instant::now();
    switch(true)?;
    let last = fleet.all_have("nothing", 0)?;
    pass(PAUSE)?;
    switch(false)?;
    fleet.all_have("what they had", 1)?;
    pass(PAUSE)?;
    Ok(last.duration_since(began).as_secs_f64() * 1e3)
}

/// What each node has: a revision of the policy that does not just stand by (0: none), and since when.
struct Fleet(Arc<Vec<Has>>);

struct Has {
    revision: AtomicU64,
    since: Mutex<Instant>,
}

/// Of no revision.
const UNKNOWN: u64 = u64::MAX;

impl Fleet {
    fn connect(admin: &Admin, url: &str) -> Result<Self> {
        let has = || Has { revision: AtomicU64::new(UNKNOWN), since: Mutex::new(Instant::now()) };
        let nodes: Arc<Vec<Has>> = Arc::new((0..NODES).map(|_| has()).collect());
        for number in 0..NODES {
            let (nodes, url) = (nodes.clone(), url.to_owned());
            admin.spawn(async move {
                if let Err(error) = live(&format!("node-{number}"), &url, &nodes[number]).await {
                    eprintln!("node {number}: {error:#}");
                }
            });
        }
        let fleet = Self(nodes);
        fleet.all_have("revision 1", 1)?;
        Ok(fleet)
    }

    /// Waits until all nodes have a revision. Answers with when the last one received it.
    fn all_have(&self, what: &str, revision: u64) -> Result<Instant> {
        eventually(&format!("all nodes have {what}"), PATIENCE, || {
            let have = self.0.iter().filter(|has| has.revision.load(Ordering::Acquire) == revision).count();
            ensure!(have == NODES, "{have} have");
            Ok(())
        })?;
        let since = |has: &Has| *has.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.0.iter().map(since).max().context("no nodes")
    }
}

/// One node, until the runtime ends.
async fn live(id: &str, url: &str, has: &Has) -> Result<()> {
    let channel = Endpoint::from_shared(url.to_owned())?.connect().await?;
    let (events, outgoing) = mpsc::channel(4);
    let say = async |event| events.send(v1::NodeEvent { event: Some(event) }).await.context("the stream is over");
    say(Event::Hello(hello(id, &[("zone", "a")]))).await?;
    let mut stream = NodeServiceClient::new(channel).connect(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut alive = interval(ALIVE);
    loop {
        let event = tokio::select! {
            event = stream.message() => event?.context("the server has ended the stream")?.event,
            _ = alive.tick() => {
                say(Event::Alive(v1::Alive::default())).await?;
                continue;
            }
        };
        let Some(server_event::Event::Snapshot(v1::Snapshot { version, layers, .. })) = event else { continue };
        let now = Instant::now();
        let layers = v1::Layers::decode(layers).context("reading layers")?.layers;
        let acts = layers.iter().find(|layer| layer.name == POLICY && !layer.standby);
        *has.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
        has.revision.store(acts.map_or(0, |layer| layer.revision), Ordering::Release);
        say(Event::Ack(v1::Ack { version, apply_us: 1, ..v1::Ack::default() })).await?;
    }
}
