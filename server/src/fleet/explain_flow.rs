//! The question what a connection gets and why, and what the answer is made of. `sockpilot_policy::explain` knows the reasons.

use std::sync::Arc;

use sockpilot_policy::{address::ServicePath, decide::Flow, layout::FlowKey, model::LayerName};

use super::{
    node::KnownNode,
    resolve::{Fleet, Revision},
};

/// A question, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// On which node; `None`: on some node without labels and canaries.
    pub node_id: Option<String>,
    /// What is looked at in the place of what is assigned.
    pub overrides: Vec<(LayerName, u64)>,
    pub key: FlowKey,
    pub service: Option<ServicePath>,
    pub handshake_rtt_us: Option<u32>,
    pub silence_ms: u64,
    /// When the connection begins, in seconds since 1970.
    pub begin_s: u64,
}

/// What the answer is made of.
#[derive(Debug)]
pub struct State {
    /// What is assigned.
    pub fleet: Fleet,
    /// The node, if one is named.
    pub node: Option<KnownNode>,
    /// The revisions named by the question.
    pub overrides: Vec<Arc<Revision>>,
}

impl Question {
    /// The connection.
    #[must_use]
    pub fn flow(&self) -> Flow<'_> {
        let service = self.service.as_ref().map(ServicePath::as_str);
        Flow { key: self.key, service, handshake_rtt_us: self.handshake_rtt_us, begin_s: Some(self.begin_s) }
    }
}
