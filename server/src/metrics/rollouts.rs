//! What the leader last knew of the rollouts that are not over.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use sockpilot_metrics::Book;
use sockpilot_proto::v1;

type F64Gauge = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    rollout: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRollout {
    rollout: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGate {
    rollout: String,
    gate: String,
    /// "harm", "lower", "upper" or "margin".
    bound: &'static str,
}

/// A rollout, as far as gauges go.
#[derive(Debug, Clone, PartialEq)]
pub struct Now {
    pub rollout: String,
    pub state: v1::RolloutState,
    pub wave: i64,
    pub gates: Vec<v1::GateResult>,
}

/// Gauges of rollouts. Clones are the same gauges.
#[derive(Debug, Clone, Default)]
pub struct RolloutGauges {
    state: Family<OfState, Gauge>,
    wave: Family<OfRollout, Gauge>,
    gate: Family<OfGate, F64Gauge>,
}

impl RolloutGauges {
    pub(super) fn register(book: &mut Book) -> Self {
        let gauges = Self::default();
        let Self { state, wave, gate } = gauges.clone();
        book.register("rollout_state", "1 for the state that a rollout is in, while it is not over", state);
        book.register("rollout_wave", "The wave that a rollout has come to; 0 is an A/A", wave);
        book.register(
            "rollout_gate",
            "Harm by a gate of the present step, with bounds valid at every look, and its margin",
            gate,
        );
        gauges
    }

    /// What is known now; what is over goes.
    pub fn set(&self, all: &[Now]) {
        let Self { state, wave, gate } = self;
        state.clear();
        wave.clear();
        gate.clear();
        for Now { rollout, state: now, wave: at, gates } in all {
            let word = now.as_str_name().trim_start_matches("ROLLOUT_STATE_").to_lowercase();
            state.get_or_create(&OfState { rollout: rollout.clone(), state: word }).set(1);
            wave.get_or_create(&OfRollout { rollout: rollout.clone() }).set(*at);
            for result in gates.iter().filter(|result| result.n_canary > 0) {
                let bounds = [
                    ("harm", result.harm),
                    ("lower", result.harm_at_least),
                    ("upper", result.harm_at_most),
                    ("margin", result.margin),
                ];
                for (bound, value) in bounds {
                    let metric = result.gate.clone().unwrap_or_default().metric;
                    gate.get_or_create(&OfGate { rollout: rollout.clone(), gate: metric, bound }).set(value);
                }
            }
        }
    }
}
