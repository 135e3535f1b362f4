//! The one table of what a gate can be about.

use std::fmt;

use sockpilot_policy::{
    fault::Collector,
    measure::{MEASURES_MAX, Measure, Quantity, Role, Transform},
};
use sockpilot_proto::v1;

/// What is made of the quantity, and so what a margin is of. Less is better of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The share of all connections that were begun, also of those that were never established: no connection that is lost is missing. The
    /// margin is of all connections.
    Share,
    /// Sum over sum: so many of all segments sent. The margin is of these.
    Per(Quantity),
    /// A time, by its geometric mean over the connections that have it. The margin is of the control's.
    Time,
}

/// What a gate can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// In a plan.
    pub name: &'static str,
    /// Of each connection.
    pub quantity: Quantity,
    /// What is made of it.
    pub form: Form,
    /// The margin of a gate that names none, in basis points.
    pub margin_bp: u32,
    /// What it is.
    pub summary: &'static str,
}

const fn metric(name: &'static str, quantity: Quantity, form: Form, margin_bp: u32, summary: &'static str) -> Metric {
    Metric { name, quantity, form, margin_bp, summary }
}

/// All of them.
pub const METRICS: [Metric; 11] = [
    metric(
        "connect_failures",
        Quantity::Failed,
        Form::Share,
        50,
        "Connections that were never established, and not given up by the program itself.",
    ),
    metric(
        "resets",
        Quantity::Reset,
        Form::Share,
        100,
        "Connections that were established and ended by a reset of either end.",
    ),
    metric(
        "timeouts",
        Quantity::TimedOut,
        Form::Share,
        50,
        "Connections that were established and given up by a timeout.",
    ),
    metric(
        "bad_ends",
        Quantity::BadEnd,
        Form::Share,
        100,
        "All of these, and connections on which more than 3 retransmission timers expired: what the circuit breaker counts.",
    ),
    metric(
        "retransmit_ratio",
        Quantity::Retransmits,
        Form::Per(Quantity::SegmentsOut),
        50,
        "Segments of data that were sent again, of all segments sent.",
    ),
    metric(
        "handshake_time",
        Quantity::HandshakeUs,
        Form::Time,
        1_000,
        "From the first SYN until established; of connections that the node opens.",
    ),
    metric("srtt", Quantity::SrttUs, Form::Time, 1_000, "The smoothed round-trip time at the end."),
    metric("completion_time", Quantity::DurationUs, Form::Time, 1_000, "How long connections were open, of all sizes."),
    metric(
        "completion_time_small",
        Quantity::DurationSmallUs,
        Form::Time,
        1_000,
        "The same of connections that sent up to 14,600 bytes.",
    ),
    metric(
        "completion_time_medium",
        Quantity::DurationMediumUs,
        Form::Time,
        1_000,
        "The same of connections that sent more than that, and up to 146,000 bytes.",
    ),
    metric(
        "completion_time_large",
        Quantity::DurationLargeUs,
        Form::Time,
        1_000,
        "The same of connections that sent more than that, and up to 1,000,000 bytes.",
    ),
];

/// The gates of a plan that has no better ones: of what every service has connections of, so that none waits for what never comes.
pub const DEFAULT_GATES: [&str; 5] = ["connect_failures", "bad_ends", "retransmit_ratio", "srtt", "completion_time"];

/// The greatest margin: all connections, or as much again as the control has.
pub const MARGIN_BP_MAX: u32 = 10_000;

/// There is no such metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no metric of gates; write one of {names}", names = METRICS.map(|metric| metric.name).join(", "))]
pub struct UnknownMetric(String);

impl Metric {
    /// The metric of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<&'static Self, UnknownMetric> {
        METRICS.iter().find(|metric| metric.name == name).ok_or_else(|| UnknownMetric(name.to_owned()))
    }

    /// What nodes sum up for it.
    #[must_use]
    pub fn measure(&self) -> Measure {
        let plain = Measure::of(self.quantity, Role::Diagnostic);
        match self.form {
            Form::Share => plain,
            Form::Per(per) => Measure { per: Some(per), ..plain },
            Form::Time => Measure { transform: Transform::Log, ..plain },
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What must not become worse, understood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// By what.
    pub metric: &'static Metric,
    /// By how much it may, as a share: see [`Form`].
    pub margin: f64,
}

/// Reads the gates of a plan: at most [`MEASURES_MAX`], each metric once.
pub fn gates_from_proto(gates: &[v1::Gate], faults: &mut Collector) -> Vec<Gate> {
    if gates.len() > MEASURES_MAX {
        faults.add_at("gates", format!("has {} entries; write at most {MEASURES_MAX}", gates.len()));
        return vec![];
    }
    let mut read: Vec<Gate> = vec![];
    faults.each("gates", gates, |faults, gate| {
        let v1::Gate { metric, margin_bp } = gate;
        let metric = faults.field("metric", |faults| faults.take(Metric::named(metric)));
        if *margin_bp > MARGIN_BP_MAX {
            faults.add_at(
                "margin_bp",
                format!("is {margin_bp}; it must be at most {MARGIN_BP_MAX}, or 0 for the default"),
            );
        }
        let Some(metric) = metric else { return };
        if read.iter().any(|gate| gate.metric == metric) {
            faults.add_at("metric", format!("there is another gate of {metric}; write each once"));
        }
        let margin_bp = if *margin_bp == 0 { metric.margin_bp } else { *margin_bp };
        read.push(Gate { metric, margin: f64::from(margin_bp) / 10_000.0 });
    });
    read
}

/// What nodes sum up for gates. All that a plan can have fit: ten gates need at most 16 sums of established connections.
#[must_use]
pub fn measures_of(gates: &[Gate]) -> Vec<Measure> {
    gates.iter().map(|gate| gate.metric.measure()).collect()
}

#[cfg(test)]
mod tests {
    use sockpilot_policy::measure::{Better, COLUMNS_MAX, Columns};

    use super::*;

    /// As many columns as all metrics together need there may be, so any ten of them fit.
    #[test]
    fn all_metrics_fit() {
        let columns = Columns::of(&METRICS.map(|metric| metric.measure()));
        assert!(columns.established.len() <= COLUMNS_MAX, "{}", columns.established.len());
        assert!(columns.attempts.len() <= COLUMNS_MAX);
        assert!(METRICS.iter().all(|metric| metric.measure().better() == Better::Lower), "less is better");
    }

    #[test]
    fn names_are_read_and_others_refused_with_all_there_are() {
        for metric in &METRICS {
            assert_eq!(Metric::named(metric.name), Ok(metric));
        }
        assert!(DEFAULT_GATES.iter().all(|name| Metric::named(name).is_ok()));
        let refused = Metric::named("latency").expect_err("none").to_string();
        assert!(refused.contains("\"latency\"") && refused.contains("completion_time_large"), "{refused}");
    }

    #[test]
    fn a_fault_names_its_gate() {
        let gate = |metric: &str, margin_bp| v1::Gate { metric: metric.to_owned(), margin_bp };
        let mut faults = Collector::at("plan");
        let read = gates_from_proto(&[gate("srtt", 0), gate("speed", 5), gate("srtt", 20_000)], &mut faults);
        assert_eq!(read.len(), 2);
        let faults = faults.finish(()).expect_err("faults");
        let fields: Vec<_> = faults.as_slice().iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["plan.gates[1].metric", "plan.gates[2].margin_bp", "plan.gates[2].metric"]);
        let read = gates_from_proto(&[gate("srtt", 0), gate("resets", 7)], &mut Collector::at(""));
        assert_eq!(read.iter().map(|gate| gate.margin).collect::<Vec<_>>(), [0.1, 0.0007]);
    }
}
