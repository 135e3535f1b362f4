//! How the connections of an experiment, or of a rollout, are measured.

use prost::Message;
use sockpilot_policy::{fault::Collector, measure::Columns, model::Comparison};
use sockpilot_proto::{convert::comparison_from_proto, v1};

/// What it takes to measure the connections of an experiment, or of a rollout: like those of an experiment on single connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Measuring {
    /// What is compared.
    pub comparison: Comparison,
    /// What is summed up.
    pub columns: Columns,
    /// As a server sent it.
    wire: Vec<u8>,
}

impl Measuring {
    /// Of an experiment as a server sends it; `None` if it measures nothing.
    #[must_use]
    pub fn of(message: &v1::ExperimentLayer) -> Option<Self> {
        let comparison = comparison_from_proto(message, &mut Collector::at(""));
        let columns = Columns::of(&comparison.measures);
        let measures = !comparison.measures.is_empty();
        measures.then(|| Self { comparison, columns, wire: message.encode_to_vec() })
    }

    /// Of a rollout as a server sends it; `None` if it measures nothing.
    #[must_use]
    pub fn of_rollout(message: &v1::LayerRollout) -> Option<Self> {
        let v1::LayerRollout { salt, measures, horizon_s, .. } = message;
        let (salt, measures, horizon_s) = (salt.clone(), measures.clone(), *horizon_s);
        Self::of(&v1::ExperimentLayer { salt, measures, horizon_s, ..v1::ExperimentLayer::default() })
    }

    /// Reads what [`Self::wire`] wrote.
    #[must_use]
    pub fn read(wire: &[u8]) -> Option<Self> {
        Self::of(&v1::ExperimentLayer::decode(wire).ok()?)
    }

    /// To be kept on disk.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Nanoseconds.
    #[must_use]
    pub fn horizon_ns(&self) -> u64 {
        u64::from(self.comparison.horizon_s) * 1_000_000_000
    }
}
