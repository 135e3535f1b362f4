//! What an experiment compares its arms by: quantities of a connection, what is made of each, and what for.
//!
//! A node measures each connection of an experiment once, at its end or at the horizon, and keeps sums over two sets of them: all that were
//! begun, and those of them that were established. For each set the measures need some columns ([`Columns`]); a measure is the mean
//! of one, or the ratio of two ([`Estimator`]).

use std::fmt;

/// Columns that the measures of an experiment may need of one set of connections.
pub const COLUMNS_MAX: usize = 16;
/// Measures of an experiment.
pub const MEASURES_MAX: usize = 10;

/// Which connections have a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// All that were begun; accepted ones begin when they are established.
    Attempts,
    /// Those that were established before the horizon.
    Established,
}

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
}

macro_rules! quantities {
    ($($name:ident, $text:literal, $unit:literal, $stage:ident, $better:ident, $always:literal, $summary:literal;)*) => {
        /// A quantity of a connection, as it was at the horizon or at the connection's end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Quantity { $(#[doc = $summary] $name),* }

        impl Quantity {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$name => $text),* } }

            /// What it is counted in; empty: a yes or no.
            #[must_use]
            pub fn unit(self) -> &'static str { match self { $(Self::$name => $unit),* } }

            /// Whether it is a number of events, of which there may be none.
            #[must_use]
            pub fn is_count(self) -> bool { matches!(self.unit(), "" | "segments" | "packets" | "timeouts") }

            /// Which connections have it.
            #[must_use]
            pub fn stage(self) -> Stage { match self { $(Self::$name => Stage::$stage),* } }

            /// Which way is good.
            #[must_use]
            pub fn better(self) -> Better { match self { $(Self::$name => Better::$better),* } }

            /// Whether all connections of its stage have it. Of the others the mean is over those that do.
            #[must_use]
            pub fn is_always_known(self) -> bool { match self { $(Self::$name => $always),* } }

            /// What it is.
            #[must_use]
            pub fn summary(self) -> &'static str { match self { $(Self::$name => $summary),* } }
        }
    };
}

quantities! {
    // name, text, unit, of which connections, which way is good, whether all of these have it, what it is
    Connected, "connected", "", Attempts, Higher, true, "It was established.";
    Failed, "failed", "", Attempts, Lower, true, "It was never established, and the program did not give it up itself.";
    SynRetransmits, "syn_retransmits", "segments", Attempts, Lower, true, "SYNs or SYN-ACKs that were sent again.";
    BadEnd, "bad_end", "", Attempts, Lower, true, "It ended badly: it failed, was given up by a timeout or reset, or more than 3 retransmission timers expired. What the circuit breaker of a rollout counts.";
    Unfinished, "unfinished", "", Attempts, Lower, true, "It was still open at the horizon.";
    HandshakeUs, "handshake_us", "us", Established, Lower, false, "From the first SYN until established; of connections that this end opened.";
    HandshakeRttUs, "handshake_rtt_us", "us", Established, Lower, false, "The round-trip time of the handshake.";
    Retransmits, "retransmits", "segments", Established, Lower, true, "Segments of data that were sent again.";
    SegmentsOut, "segments_out", "segments", Established, Lower, true, "Segments sent, with those sent again.";
    SpuriousRetransmits, "spurious_retransmits", "segments", Established, Lower, true, "Segments that the peer says it got twice.";
    CeMarks, "ce_marks", "packets", Established, Lower, true, "Packets acknowledged with the echo of a congestion mark.";
    DeliveredPackets, "delivered_packets", "packets", Established, Higher, true, "Packets that the peer is known to have.";
    Rtos, "rtos", "timeouts", Established, Lower, true, "Retransmission timers that expired.";
    SrttUs, "srtt_us", "us", Established, Lower, false, "The smoothed round-trip time.";
    MinRttUs, "min_rtt_us", "us", Established, Lower, false, "The least round-trip time.";
    QueueingUs, "queueing_us", "us", Established, Lower, false, "The smoothed round-trip time without the least one: what waiting in queues takes.";
    DeliveryRateBps, "delivery_rate_bps", "bytes/s", Established, Higher, false, "How fast packets were delivered last, where the application had enough to send.";
    DurationUs, "duration_us", "us", Established, Lower, true, "How long it was open.";
    DurationSmallUs, "duration_small_us", "us", Established, Lower, false, "How long it was open, of connections that sent up to 14,600 bytes.";
    DurationMediumUs, "duration_medium_us", "us", Established, Lower, false, "The same, of those that sent more, up to 146,000 bytes.";
    DurationLargeUs, "duration_large_us", "us", Established, Lower, false, "The same, of those that sent more, up to 1 MB.";
    BytesSent, "bytes_sent", "bytes", Established, Higher, true, "Bytes sent and acknowledged.";
    BytesReceived, "bytes_received", "bytes", Established, Higher, true, "Bytes received in order.";
    Reset, "reset", "", Established, Lower, true, "It was ended by a reset of either end.";
    TimedOut, "timed_out", "", Established, Lower, true, "It was given up by a timeout.";
}

impl std::str::FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|quantity| quantity.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|quantity| quantity.name()).collect();
            format!("\"{text}\" is no quantity; write one of {}", names.join(", "))
        })
    }
}

/// What is made of a quantity before it is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Transform {
    /// Nothing.
    #[default]
    Itself,
    /// More than this counts as this.
    Cap(f64),
    /// Its natural logarithm; below 1 counts as 1. The mean is that of the geometric mean.
    Log,
    /// 1 if it is at most this, else 0: the mean is a share.
    AtMost(f64),
}

impl Transform {
    /// The transformed value; finite for every finite value.
    #[must_use]
    pub fn of(self, value: f64) -> f64 {
        match self {
            Self::Itself => value,
            Self::Cap(at) => value.min(at),
            Self::Log => value.max(1.0).ln(),
            Self::AtMost(at) => f64::from(u8::from(value <= at)),
        }
    }
}

/// What a measure is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The experiment is to make it better.
    Success,
    /// It must not become worse than by so much, relative to the control's.
    Guardrail {
        /// In basis points of the control's mean; of events rarer than one in a hundred, of one in a hundred.
        margin_bp: u32,
    },
    /// To understand by; no verdict depends on it.
    Diagnostic,
}

/// The margin of a guardrail that names none, in basis points.
pub const MARGIN_BP: u32 = 500;

/// By what arms are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    /// Of each connection.
    pub quantity: Quantity,
    /// Sums of the quantity by sums of this one: a ratio over all connections, not a mean of ratios.
    pub per: Option<Quantity>,
    /// What is made of the quantity before.
    pub transform: Transform,
    /// What for.
    pub role: Role,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.quantity.name();
        match self.transform {
            Transform::Itself => write!(f, "{name}")?,
            Transform::Cap(at) => write!(f, "min({name}, {at})")?,
            Transform::Log => write!(f, "ln({name})")?,
            Transform::AtMost(at) => write!(f, "{name} <= {at}")?,
        }
        self.per.map_or(Ok(()), |per| write!(f, " / {}", per.name()))
    }
}

impl Measure {
    /// A measure of a quantity as it is.
    #[must_use]
    pub fn of(quantity: Quantity, role: Role) -> Self {
        Self { quantity, per: None, transform: Transform::Itself, role }
    }

    /// Which way is good.
    #[must_use]
    pub fn better(&self) -> Better {
        match (self.quantity.better(), self.transform) {
            (Better::Lower, Transform::AtMost(_)) => Better::Higher,
            (Better::Higher, Transform::AtMost(_)) => Better::Lower,
            (better, _) => better,
        }
    }

    /// What its value is counted in; empty: a share.
    #[must_use]
    pub fn unit(&self) -> String {
        match (self.per, self.transform) {
            (_, Transform::AtMost(_)) => String::new(),
            (_, Transform::Log) => format!("ln {}", self.quantity.unit()),
            (Some(per), _) if per.unit() == self.quantity.unit() => String::new(),
            (Some(per), _) => format!("{}/{}", self.quantity.unit(), per.unit()),
            (None, _) => self.quantity.unit().to_owned(),
        }
    }
}

/// A number of each connection that is summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Column {
    /// A quantity, transformed; 0 where it is not known.
    Value(Quantity, Transform),
    /// 1 where the quantity is known, else 0.
    Known(Quantity),
}

/// What a measure is of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimator {
    /// The mean of a column.
    Mean {
        /// Over which connections.
        stage: Stage,
        /// Its position.
        column: usize,
    },
    /// The sum of a column by the sum of another.
    Ratio {
        /// Over which connections.
        stage: Stage,
        /// Position of the dividend.
        numerator: usize,
        /// Position of the divisor.
        denominator: usize,
    },
}

/// The columns that measures need, in an order that is the same everywhere: part of the contract between nodes and servers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Columns {
    /// Of all that were begun.
    pub attempts: Vec<Column>,
    /// Of those that were established. The last one is the logarithm of the handshake's round-trip time, by which variance is taken out.
    pub established: Vec<Column>,
    /// By measure.
    pub estimators: Vec<Estimator>,
}

/// The column by which variance is taken out.
pub const COVARIATE: Column = Column::Value(Quantity::HandshakeRttUs, Transform::Log);

impl Columns {
    /// Of these measures.
    #[must_use]
    pub fn of(measures: &[Measure]) -> Self {
        let mut columns = Self::default();
        for Measure { quantity, per, transform, role: _ } in measures {
            let stage = quantity.stage().max(per.map_or(Stage::Attempts, Quantity::stage));
            let numerator = columns.at(stage, Column::Value(*quantity, *transform));
            let estimator = match per {
                None if quantity.is_always_known() => Estimator::Mean { stage, column: numerator },
                None => Estimator::Ratio { stage, numerator, denominator: columns.at(stage, Column::Known(*quantity)) },
                Some(per) => {
                    let denominator = columns.at(stage, Column::Value(*per, Transform::Itself));
                    Estimator::Ratio { stage, numerator, denominator }
                }
            };
            columns.estimators.push(estimator);
        }
        // The first column counts what was begun even if nothing is measured of it.
        if columns.attempts.is_empty() {
            columns.attempts.push(Column::Value(Quantity::Connected, Transform::Itself));
        }
        columns.established.push(COVARIATE);
        columns
    }

    fn at(&mut self, stage: Stage, column: Column) -> usize {
        let columns = match stage {
            Stage::Attempts => &mut self.attempts,
            Stage::Established => &mut self.established,
        };
        columns.iter().position(|known| *known == column).unwrap_or_else(|| {
            columns.push(column);
            columns.len() - 1
        })
    }

    /// Position of [`COVARIATE`] among the columns of established connections.
    #[must_use]
    pub fn covariate(&self) -> usize {
        self.established.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_shared_and_in_order() {
        let ratio =
            Measure { per: Some(Quantity::SegmentsOut), ..Measure::of(Quantity::Retransmits, Role::Diagnostic) };
        let measures = [
            Measure::of(Quantity::Connected, Role::Success),
            ratio,
            Measure::of(Quantity::SegmentsOut, Role::Diagnostic),
            Measure { transform: Transform::Log, ..Measure::of(Quantity::SrttUs, Role::Diagnostic) },
        ];
        let columns = Columns::of(&measures);
        assert_eq!((columns.attempts.len(), columns.established.len(), columns.covariate()), (1, 5, 4));
        assert_eq!(
            columns.estimators,
            [
                Estimator::Mean { stage: Stage::Attempts, column: 0 },
                Estimator::Ratio { stage: Stage::Established, numerator: 0, denominator: 1 },
                Estimator::Mean { stage: Stage::Established, column: 1 },
                Estimator::Ratio { stage: Stage::Established, numerator: 2, denominator: 3 },
            ]
        );
    }

    #[test]
    fn a_threshold_turns_what_is_good() {
        let at_most = |quantity| Measure { transform: Transform::AtMost(5.0), ..Measure::of(quantity, Role::Success) };
        assert_eq!(at_most(Quantity::SrttUs).better(), Better::Higher);
        assert_eq!(at_most(Quantity::DeliveryRateBps).better(), Better::Lower);
        assert_eq!(at_most(Quantity::SrttUs).to_string(), "srtt_us <= 5");
    }

    #[test]
    fn names_are_read_again() {
        for quantity in Quantity::ALL {
            assert_eq!(quantity.name().parse(), Ok(*quantity));
        }
        assert!("speed".parse::<Quantity>().expect_err("none").contains("delivery_rate_bps"));
    }
}
