//! The admin API for tests, one call at a time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use sockpilot_identity::{files::Watched, tls::ClientTls};
use sockpilot_proto::v1::{
    self, access_service_client::AccessServiceClient, assignment_service_client::AssignmentServiceClient,
    experiment_service_client::ExperimentServiceClient, fleet_service_client::FleetServiceClient,
    policy_service_client::PolicyServiceClient,
};
use tokio::runtime::Runtime;
use tonic::{Response, Status, transport::Channel};

use crate::{pki, wait::eventually};

/// How long the fleet may take to do what was asked.
const PATIENCE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(10);

/// A client of all services.
#[derive(Debug)]
pub struct Admin {
    runtime: Runtime,
    channel: Channel,
}

/// Everyone.
#[must_use]
pub fn everyone() -> v1::Target {
    v1::Target { kind: Some(v1::target::Kind::Everyone(v1::target::Everyone {})) }
}

/// A share of the nodes.
#[must_use]
pub fn share(basis_points: u32) -> v1::Target {
    v1::Target { kind: Some(v1::target::Kind::ShareBp(basis_points)) }
}

/// Nodes with one label.
#[must_use]
pub fn labelled(key: &str, value: &str) -> v1::Target {
    let labels = [(key.to_owned(), value.to_owned())].into();
    v1::Target { kind: Some(v1::target::Kind::NodeLabels(v1::target::NodeLabels { labels })) }
}

impl Admin {
    /// Connects when first used.
    ///
    /// # Errors
    /// If the address is none.
    pub fn new(url: &str) -> Result<Self> {
        Self::with(url, None)
    }

    /// The same, by TLS if there is any.
    ///
    /// # Errors
    /// If no runtime can be made.
    pub fn with(url: &str, tls: Option<Arc<Watched<ClientTls>>>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("starting a runtime")?;
        let channel = {
            let _guard = runtime.enter();
            pki::channel(url, tls, Some(CALL))?
        };
        Ok(Self { runtime, channel })
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// What the server says.
    pub fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.runtime.block_on(call).map(Response::into_inner)
    }

    /// Makes something that needs a runtime about it.
    pub fn with_runtime<T>(&self, make: impl FnOnce() -> T) -> T {
        let _guard = self.runtime.enter();
        make()
    }

    /// Waits for something.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Runs something beside.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(work));
    }

    /// Calls to `PolicyService`.
    #[must_use]
    pub fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
    }

    /// Calls to `ExperimentService`.
    #[must_use]
    pub fn experiments(&self) -> ExperimentServiceClient<Channel> {
        ExperimentServiceClient::new(self.channel.clone())
    }

    /// Calls to `AssignmentService`.
    #[must_use]
    pub fn assignments(&self) -> AssignmentServiceClient<Channel> {
        AssignmentServiceClient::new(self.channel.clone())
    }

    /// Calls to `FleetService`.
    #[must_use]
    pub fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.channel.clone())
    }

    /// Calls to `AccessService`.
    #[must_use]
    pub fn access(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.channel.clone())
    }

    /// The channel, for other services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Creates a policy or makes a new revision of it.
    ///
    /// # Errors
    /// What the server says.
    pub fn put_policy(&self, policy: v1::Policy, target: v1::Target) -> Result<v1::Policy, Status> {
        let request = v1::UpdatePolicyRequest {
            policy: Some(policy),
            allow_missing: true,
            target: Some(target),
            reason: "a test".to_owned(),
            ..v1::UpdatePolicyRequest::default()
        };
        self.call(self.policies().update_policy(request))
    }

    /// Creates an experiment or starts a new epoch of it.
    ///
    /// # Errors
    /// What the server says.
    pub fn put_experiment(&self, experiment: v1::Experiment, target: v1::Target) -> Result<v1::Experiment, Status> {
        let request = v1::UpdateExperimentRequest {
            experiment: Some(experiment),
            allow_missing: true,
            target: Some(target),
            reason: "a test".to_owned(),
            ..v1::UpdateExperimentRequest::default()
        };
        self.call(self.experiments().update_experiment(request))
    }

    /// All nodes, by id.
    ///
    /// # Errors
    /// What the server says.
    pub fn nodes(&self) -> Result<BTreeMap<String, v1::Node>, Status> {
        let request = v1::ListNodesRequest { page_size: 200, ..v1::ListNodesRequest::default() };
        let nodes = self.call(self.fleet().list_nodes(request))?.nodes;
        Ok(nodes.into_iter().map(|node| (node.name.trim_start_matches("nodes/").to_owned(), node)).collect())
    }

    /// Waits until the server answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_until_ready(&self) -> Result<()> {
        eventually("the server answers", PATIENCE, || Ok(self.nodes().map(drop)?))
    }

    /// Waits until these nodes are connected.
    ///
    /// # Errors
    /// If they are not.
    pub fn wait_for_nodes(&self, ids: &[&str]) -> Result<()> {
        eventually(&format!("{ids:?} are connected"), PATIENCE, || {
            let nodes = self.nodes()?;
            for id in ids {
                ensure!(nodes.get(*id).is_some_and(|node| node.connected), "{id} is not");
            }
            Ok(())
        })
    }

    /// Waits until a node has confirmed a revision of a layer (0: that it has none).
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_in_force(&self, node: &str, layer: &str, revision: u64) -> Result<()> {
        eventually(&format!("{node} runs revision {revision} of {layer}"), PATIENCE, || {
            let nodes = self.nodes()?;
            let found = nodes.get(node).context("the node is unknown")?;
            let layer = found.layers.iter().find(|entry| entry.layer == layer);
            let state = layer.map(v1::NodeLayer::state);
            let confirmed = layer.map_or(0, |layer| layer.confirmed_revision);
            let in_force = matches!(state, None | Some(v1::LayerState::InForce)) || revision == 0;
            if confirmed != revision || !in_force {
                bail!("it runs {confirmed}, {state:?}");
            }
            Ok(())
        })
    }

    /// Outcome rows of a layer.
    ///
    /// # Errors
    /// What the server says.
    pub fn outcomes(&self, layer: &str) -> Result<Vec<v1::OutcomeRow>, Status> {
        let request = v1::QueryOutcomesRequest { name: layer.to_owned(), ..v1::QueryOutcomesRequest::default() };
        Ok(self.call(self.fleet().query_outcomes(request))?.rows)
    }

    /// Flows of a layer in the database, by (revision, choice).
    ///
    /// # Errors
    /// What the server says.
    pub fn flows(&self, layer: &str) -> Result<BTreeMap<(u64, String), u64>, Status> {
        let mut flows = BTreeMap::new();
        for row in self.outcomes(layer)? {
            *flows.entry((row.revision, row.choice)).or_default() += row.counts.map_or(0, |counts| counts.flows);
        }
        Ok(flows)
    }
}
