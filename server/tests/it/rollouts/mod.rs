//! Rollouts with a real database and played nodes. Time passes when a test says so: what a rollout remembers of the clock is put back.

mod backups;
mod crashes;
mod explained;
mod gates;
mod kill_switch;
mod limits;
mod open;
mod plans;
mod steps;
mod verbs;
mod warnings;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sockpilot_proto::v1::{
    self, RolloutPhase, RolloutState, kill_switch_service_client::KillSwitchServiceClient, node_event,
    rollout_plan_service_client::RolloutPlanServiceClient, rollout_service_client::RolloutServiceClient,
    selector::Kind, server_event,
};
use sockpilot_server::{Config, store::Store, test_support};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    outcomes::execute,
    world::{World, channel, hello, not_here, policy, until},
};

const POLICY: &str = "policies/p";

/// A server, its clients for rollouts, and nodes.
struct Fleet {
    world: World,
    plans: RolloutPlanServiceClient<Channel>,
    rollouts: RolloutServiceClient<Channel>,
    switches: KillSwitchServiceClient<Channel>,
    nodes: Vec<Played>,
}

impl Fleet {
    /// With revision 1 of a policy for everyone, in force on nodes of these names.
    async fn new(nodes: &[&str]) -> Self {
        Self::of(test_support::config().await, nodes).await
    }

    async fn of(config: Config, nodes: &[&str]) -> Self {
        let mut fleet = Self::empty(config).await;
        fleet.world.create("p").await;
        for id in nodes {
            fleet.join(hello(id)).await;
        }
        fleet
    }

    /// With nothing; as of another replica.
    async fn empty(config: Config) -> Self {
        let world = World::of(config).await;
        let channel = channel(&world.server).await;
        Self {
            plans: RolloutPlanServiceClient::new(channel.clone()),
            rollouts: RolloutServiceClient::new(channel.clone()),
            switches: KillSwitchServiceClient::new(channel),
            world,
            nodes: vec![],
        }
    }

    async fn join(&mut self, hello: v1::Hello) {
        let node = Played::new(&self.world, hello).await;
        node.has("revision 1", |layers| !layers.is_empty()).await;
        self.nodes.push(node);
    }

    fn store(&self) -> Store {
        self.world.server.store().clone()
    }

    fn node(&self, id: &str) -> &Played {
        self.nodes.iter().find(|node| node.id == id).expect("a node of this name")
    }

    /// Stores the plan, the next revision of the policy, and begins its rollout.
    async fn begin(&mut self, plan: v1::RolloutPlan) -> v1::Rollout {
        self.begin_with(plan, v1::RolloutOptions::default()).await
    }

    async fn begin_with(&mut self, plan: v1::RolloutPlan, options: v1::RolloutOptions) -> v1::Rollout {
        let name = self.try_begin(plan, options).await.expect("begun");
        self.get(&name).await
    }

    /// Answers with the rollout's name.
    async fn try_begin(&mut self, plan: v1::RolloutPlan, options: v1::RolloutOptions) -> Result<String, Status> {
        let named = self.store_plan(plan).await;
        let revision = self.world.policies.get_policy(v1::GetPolicyRequest { name: POLICY.to_owned() });
        let revision = revision.await.expect("the policy").into_inner().revision;
        let request = v1::UpdatePolicyRequest {
            policy: Some(policy("p", 1_000 + 100 * u32::try_from(revision).expect("few"))),
            rollout: Some(v1::RolloutOptions { plan: named, ..options }),
            reason: "by a test".to_owned(),
            ..v1::UpdatePolicyRequest::default()
        };
        let policy = self.world.policies.update_policy(request).await?.into_inner();
        Ok(policy.notes.expect("notes").rollout)
    }

    async fn store_plan(&mut self, plan: v1::RolloutPlan) -> String {
        let request = v1::UpdateRolloutPlanRequest { plan: Some(plan), allow_missing: true, ..Default::default() };
        self.plans.update_rollout_plan(request).await.expect("stored").into_inner().name
    }

    async fn get(&self, name: &str) -> v1::Rollout {
        let request = v1::GetRolloutRequest { name: name.to_owned() };
        self.rollouts.clone().get_rollout(request).await.expect("a rollout").into_inner()
    }

    /// Waits until a rollout is as expected.
    async fn until(&self, what: &str, name: &str, holds: impl Fn(&v1::Rollout) -> bool) -> v1::Rollout {
        until(what, || self.get(name), holds).await
    }

    async fn reaches(&self, name: &str, state: RolloutState) -> v1::Rollout {
        self.until(state.as_str_name(), name, |rollout| rollout.state() == state).await
    }

    /// Waits until a step is in a phase.
    async fn comes_to(&self, name: &str, (wave, step): (u32, u32), phase: RolloutPhase) -> v1::Rollout {
        let is = |rollout: &v1::Rollout| {
            rollout.state() == RolloutState::Running
                && (rollout.wave, rollout.step, rollout.phase()) == (wave, step, phase)
        };
        self.until(&format!("{wave}.{step} {}", phase.as_str_name()), name, is).await
    }

    /// Has so many seconds pass for a rollout. Whoever has read it before must read it again.
    async fn pass(&self, name: &str, seconds: i64) {
        let statement = format!(
            "UPDATE rollout SET version = version + 1, state_s = state_s - {seconds}, step_s = step_s - {seconds},
                 in_force_s = in_force_s - {seconds}, confirm_by_s = confirm_by_s - {seconds} WHERE name = '{name}'"
        );
        execute(&self.store(), statement).await;
    }

    /// All that became of it, in order: states, places and phases.
    async fn transitions(&self, name: &str) -> Vec<v1::RolloutTransition> {
        let request =
            v1::ListRolloutTransitionsRequest { parent: name.to_owned(), page_size: 200, ..Default::default() };
        let listed = self.rollouts.clone().list_rollout_transitions(request).await.expect("listed").into_inner();
        let mut transitions = listed.transitions;
        transitions.reverse();
        transitions
    }

    async fn settings(&mut self, settings: v1::RolloutSettings) -> v1::RolloutSettings {
        let request = v1::UpdateRolloutSettingsRequest { settings: Some(settings), ..Default::default() };
        self.plans.update_rollout_settings(request).await.expect("set").into_inner()
    }

    /// Of all nodes, those that have a revision for all connections or some, and do not just stand by with it.
    fn having(&self, revision: u64) -> Vec<&str> {
        let has = |node: &&Played| node.layers().iter().any(|layer| !layer.standby && layer.revision == revision);
        self.nodes.iter().filter(has).map(|node| node.id.as_str()).collect()
    }
}

/// What a played node does with snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// Confirms them.
    Confirms,
    /// Says nothing.
    Silent,
    /// Refuses them.
    Refuses,
    /// Confirms all but the policy's revision that is not the first.
    HoldsBack,
}

/// A node that goes on by itself.
struct Played {
    id: String,
    manners: watch::Sender<Manners>,
    latest: watch::Receiver<v1::Snapshot>,
    /// Whether a snapshot was older than the one before.
    went_back: Arc<AtomicBool>,
    /// To say more.
    say: mpsc::Sender<v1::NodeEvent>,
}

impl Played {
    async fn new(world: &World, hello: v1::Hello) -> Self {
        let id = hello.node_id.clone();
        let mut node = world.connect(hello).await;
        let (manners, mut told) = watch::channel(Manners::Confirms);
        let (seen, latest) = watch::channel(v1::Snapshot::default());
        let say = node.events.clone();
        let went_back = Arc::new(AtomicBool::new(false));
        let older = went_back.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    event = node.stream.message() => match event {
                        Ok(Some(v1::ServerEvent { event: Some(server_event::Event::Snapshot(snapshot)) })) => {
                            let generation =
                                |snapshot: &v1::Snapshot| snapshot.version.as_ref().map_or(0, |version| version.generation);
                            let now = generation(&snapshot);
                            older.fetch_or(now < generation(&seen.send_replace(snapshot)), Ordering::Relaxed);
                        }
                        Ok(Some(_)) => continue,
                        Ok(None) | Err(_) => return,
                    },
                    changed = told.changed() => if changed.is_err() { return },
                }
                let (snapshot, manners) = (seen.borrow().clone(), *told.borrow_and_update());
                if snapshot.version.is_some() {
                    answer(&node.events, &snapshot, manners).await;
                }
            }
        });
        Self { id, manners, latest, went_back, say }
    }

    fn now(&self, manners: Manners) {
        self.manners.send_replace(manners);
    }

    fn layers(&self) -> Vec<v1::Layer> {
        of(&self.latest.borrow())
    }

    /// Waits for a snapshot that pleases.
    async fn has(&self, what: &str, pleases: impl Fn(&[v1::Layer]) -> bool) -> Vec<v1::Layer> {
        let mut latest = self.latest.clone();
        let wait = latest.wait_for(|snapshot| snapshot.version.is_some() && pleases(&of(snapshot)));
        let found = tokio::time::timeout(crate::world::DEADLINE, wait).await;
        let found = found.unwrap_or_else(|_| panic!("{} in time: {what}; it has {:?}", self.id, self.layers()));
        of(&found.expect("the node lives"))
    }

    /// Waits until it has a revision of the policy for a share of its connections, beside another one that it had. 0: not by a rollout.
    async fn has_share(&self, revision: u64, share_bp: u32) -> v1::Layer {
        let acts = |layer: &v1::Layer| !layer.standby && layer.revision == revision;
        let share = |layer: &v1::Layer| layer.rollout.as_ref().map_or(0, |rollout| rollout.flow_share_bp);
        let what = format!("revision {revision} for {share_bp}");
        let pleases = |layers: &[v1::Layer]| layers.iter().any(|layer| acts(layer) && share(layer) == share_bp);
        self.has(&what, pleases).await.into_iter().find(acts).expect("it has")
    }

    async fn tell(&self, what: node_event::Event) {
        self.say.send(v1::NodeEvent { event: Some(what) }).await.expect("the stream is open");
    }
}

fn of(snapshot: &v1::Snapshot) -> Vec<v1::Layer> {
    let layers: v1::Layers = prost::Message::decode(snapshot.layers.clone()).expect("layers");
    layers.layers
}

/// The stream may have ended with the server.
async fn answer(events: &mpsc::Sender<v1::NodeEvent>, snapshot: &v1::Snapshot, manners: Manners) {
    let version = snapshot.version.clone();
    let ack = v1::Ack { version: version.clone(), apply_us: 10, ..v1::Ack::default() };
    let newer = of(snapshot).into_iter().find(|layer| !layer.standby && layer.revision > 1);
    let event = match (manners, newer) {
        (Manners::Silent, _) => return,
        (Manners::Refuses, _) => node_event::Event::Nack(v1::Nack { version, violations: vec![not_here(POLICY)] }),
        (Manners::HoldsBack, Some(newer)) => {
            let held_back = vec![crate::world::held(POLICY, newer.revision, 1)];
            node_event::Event::Ack(v1::Ack { held_back, ..ack })
        }
        (Manners::Confirms | Manners::HoldsBack, _) => node_event::Event::Ack(ack),
    };
    let _ = events.send(v1::NodeEvent { event: Some(event) }).await;
}

fn of_nodes(ids: &[&str]) -> Option<v1::Selector> {
    let nodes = ids.iter().map(|id| format!("nodes/{id}")).collect();
    Some(v1::Selector { kind: Some(Kind::Nodes(v1::selector::Nodes { nodes })) })
}

/// Every node must answer; an hour for each step.
fn wave(selector: Option<v1::Selector>, flow_shares_bp: &[u32]) -> v1::RolloutWave {
    v1::RolloutWave { selector, flow_shares_bp: flow_shares_bp.to_vec(), ..v1::RolloutWave::default() }
}

fn plan(id: &str, waves: Vec<v1::RolloutWave>) -> v1::RolloutPlan {
    v1::RolloutPlan { name: format!("rolloutPlans/{id}"), waves, ..v1::RolloutPlan::default() }
}

fn baking(seconds: i64, wave: v1::RolloutWave) -> v1::RolloutWave {
    v1::RolloutWave { bake_time: Some(duration(seconds)), ..wave }
}

fn gate(metric: &str) -> v1::Gate {
    v1::Gate { metric: metric.to_owned(), margin_bp: 0 }
}

fn duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn verb(name: &str) -> v1::RolloutVerbRequest {
    v1::RolloutVerbRequest { name: name.to_owned(), reason: "by a test".to_owned(), ..Default::default() }
}

/// The same request of somebody else.
fn by<T>(actor: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-sockpilot-actor", actor.parse().expect("ascii"));
    request
}

/// What was refused because of the state, and its words.
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>, words: &str) -> Status {
    let status = answer.expect_err(words);
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    let details = format!("{} {:?}", status.message(), tonic_types::StatusExt::get_error_details(&status));
    assert!(details.contains(words), "{words}: {details}");
    status
}
