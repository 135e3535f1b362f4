//! What the leader last knew of the experiments that run.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use sockpilot_metrics::Book;
use sockpilot_proto::v1;

type F64Gauge = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfExperiment {
    experiment: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    experiment: String,
    verdict: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfArm {
    experiment: String,
    arm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMeasure {
    experiment: String,
    arm: String,
    measure: String,
    /// "effect", "lower" or "upper".
    bound: &'static str,
}

/// Gauges of experiments. Clones are the same gauges.
#[derive(Debug, Clone, Default)]
pub struct ExperimentGauges {
    verdict: Family<OfVerdict, Gauge>,
    connections: Family<OfArm, Gauge>,
    effect: Family<OfMeasure, F64Gauge>,
    share_p: Family<OfExperiment, F64Gauge>,
}

impl ExperimentGauges {
    pub(super) fn register(book: &mut Book) -> Self {
        let gauges = Self::default();
        let Self { verdict, connections, effect, share_p } = gauges.clone();
        book.register("experiment_verdict", "1 for the verdict that holds now", verdict);
        book.register("experiment_connections", "Connections measured, by arm", connections);
        book.register(
            "experiment_effect",
            "Difference to the control in the measure's unit, with bounds valid at every look",
            effect,
        );
        book.register("experiment_share_p", "Least p-value of the arms having their shares", share_p);
        gauges
    }

    /// What is known now; what runs no more goes.
    pub fn set(&self, results: &[v1::ExperimentResults]) {
        let Self { verdict, connections, effect, share_p } = self;
        verdict.clear();
        connections.clear();
        effect.clear();
        share_p.clear();
        for results in results {
            let experiment = results.name.clone();
            let kind = results.verdict.clone().unwrap_or_default().kind();
            let kind = kind.as_str_name().trim_start_matches("VERDICT_KIND_").to_lowercase();
            verdict.get_or_create(&OfVerdict { experiment: experiment.clone(), verdict: kind }).set(1);
            for arm in &results.arms {
                let of = OfArm { experiment: experiment.clone(), arm: arm.arm.clone() };
                connections.get_or_create(&of).set(i64::try_from(arm.attempts).unwrap_or(i64::MAX));
            }
            if let Some(least) = results.share_checks.iter().map(|check| check.p).reduce(f64::min) {
                share_p.get_or_create(&OfExperiment { experiment: experiment.clone() }).set(least);
            }
            for row in results.measures.iter().filter(|row| row.effect_of.is_empty()) {
                let Some(found) = &row.absolute else { continue };
                for (bound, value) in [("effect", found.effect), ("lower", found.lower), ("upper", found.upper)] {
                    let (arm, measure) = (row.arm.clone(), row.title.clone());
                    let of = OfMeasure { experiment: experiment.clone(), arm, measure, bound };
                    effect.get_or_create(&of).set(value);
                }
            }
        }
    }
}
