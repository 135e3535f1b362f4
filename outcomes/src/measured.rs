//! What an experiment measures of its connections, each once: at its end or at the horizon.

use std::collections::BTreeMap;

use sockpilot_policy::measure::{Column, Columns, Quantity};
use sockpilot_stats::{CoMoments, CoMomentsError, QUANTITY_MAX};

use crate::{Flow, Outcome, SizeClass};

/// Sums over connections of one arm: enough for means, ratios and what is correlated with what.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measured {
    /// Over the columns of all that were begun.
    pub attempts: CoMoments,
    /// Over the columns of those that were established.
    pub established: CoMoments,
    /// How many were still open at the horizon.
    pub unfinished: u64,
    /// The same by group, if units have several connections each: what a unit's connections have in common must not pass for many units.
    pub groups: BTreeMap<u32, GroupSums>,
}

/// Sums over the connections of one group of units.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupSums {
    /// How many were begun.
    pub attempts: u64,
    /// How many of them were established.
    pub established: u64,
    /// By column.
    pub attempt_sums: Vec<f64>,
    /// By column.
    pub established_sums: Vec<f64>,
}

/// Why sums cannot be merged or are none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MeasuredError {
    /// The moments are no moments.
    #[error("{stage}: {source}")]
    Moments {
        /// Of which connections.
        stage: &'static str,
        /// What is wrong.
        source: CoMomentsError,
    },
    /// Groups contradict the whole.
    #[error("groups[{group}]: {problem}")]
    Group {
        /// Which one.
        group: u32,
        /// What is wrong.
        problem: &'static str,
    },
    /// More were established, or unfinished, than begun.
    #[error("{0} connections are more than were begun")]
    More(&'static str),
}

/// The most groups of one cell.
pub const GROUPS_MAX: usize = 2_048;

/// A quantity of a flow, as it was at the horizon or at the end; `None`: not known, or it has none.
#[must_use]
pub fn value(quantity: Quantity, flow: &Flow<'_>, horizon_ns: u64) -> Option<f64> {
    let record = flow.record;
    let age_ns = record.end_ns.saturating_sub(record.start_ns);
    let yes = |yes: bool| Some(f64::from(u8::from(yes)));
    let number = |number: u32| Some(f64::from(number));
    let duration = Some(age_ns.min(horizon_ns) as f64 / 1e3);
    let known = |number: Option<u64>| number.map(|number| number as f64);
    let value = match quantity {
        Quantity::Connected => yes(is_established(flow, horizon_ns)),
        Quantity::Failed => yes(flow.outcome == Outcome::Failed),
        Quantity::SynRetransmits => number(record.syn_retransmits),
        Quantity::Unfinished => yes(!flow.ended() || age_ns > horizon_ns),
        Quantity::HandshakeUs => known(flow.connect_time_us),
        Quantity::HandshakeRttUs => known(flow.measured(record.handshake_rtt_us)),
        Quantity::Retransmits => number(record.retransmits),
        Quantity::SegmentsOut => number(record.segments_out),
        Quantity::SpuriousRetransmits => number(record.spurious_retransmits),
        Quantity::CeMarks => number(record.ce_marked_packets),
        Quantity::DeliveredPackets => number(record.delivered_packets),
        Quantity::Rtos => number(flow.end().rtos),
        Quantity::SrttUs => known(flow.measured(record.srtt_us)),
        Quantity::MinRttUs => known(flow.measured(record.min_rtt_us)),
        Quantity::QueueingUs => {
            let least = flow.measured(record.min_rtt_us)?;
            known(flow.measured(record.srtt_us).map(|srtt_us| srtt_us.saturating_sub(least)))
        }
        Quantity::DeliveryRateBps => {
            let sampled = record.rate_interval_us > 0 && record.rate_delivered > 0 && record.rate_app_limited == 0;
            let bytes = f64::from(record.rate_delivered) * f64::from(record.mss_bytes);
            sampled.then(|| bytes * 1e6 / f64::from(record.rate_interval_us))
        }
        Quantity::DurationUs => duration,
        Quantity::DurationSmallUs => duration.filter(|_| flow.size_class == SizeClass::Small),
        Quantity::DurationMediumUs => duration.filter(|_| flow.size_class == SizeClass::Medium),
        Quantity::DurationLargeUs => duration.filter(|_| flow.size_class == SizeClass::Large),
        Quantity::BytesSent => Some(record.bytes_sent as f64),
        Quantity::BytesReceived => Some(record.bytes_received as f64),
        Quantity::Reset => yes(flow.outcome == Outcome::Reset),
        Quantity::TimedOut => yes(flow.outcome == Outcome::TimedOut),
        Quantity::BadEnd => yes(flow.end().is_bad()),
    };
    value.map(|value| value.min(QUANTITY_MAX))
}

fn is_established(flow: &Flow<'_>, horizon_ns: u64) -> bool {
    let record = flow.record;
    record.established_ns > 0 && record.established_ns.saturating_sub(record.start_ns) <= horizon_ns
}

/// Whether a record is the one to measure its connection by: the first at its end or after the horizon. No other record of the
/// connection says so too, whatever was lost or put off between them.
#[must_use]
pub fn is_due(flow: &Flow<'_>, horizon_ns: u64) -> bool {
    let record = flow.record;
    let past = |at_ns: u64| at_ns.saturating_sub(record.start_ns) >= horizon_ns;
    let reported_before = record.reported.end_ns > 0 && past(record.reported.end_ns);
    (flow.ended() || past(record.end_ns)) && !reported_before
}

fn row(columns: &[Column], flow: &Flow<'_>, horizon_ns: u64) -> Vec<f64> {
    let column = |column: &Column| match column {
        Column::Value(quantity, transform) => {
            value(*quantity, flow, horizon_ns).map_or(0.0, |value| transform.of(value))
        }
        Column::Known(quantity) => f64::from(u8::from(value(*quantity, flow, horizon_ns).is_some())),
    };
    columns.iter().map(column).collect()
}

impl Measured {
    /// Adds a connection that [is due](is_due).
    pub fn add(&mut self, columns: &Columns, flow: &Flow<'_>, horizon_ns: u64, group: Option<u32>) {
        let (attempts, established) =
            (row(&columns.attempts, flow, horizon_ns), row(&columns.established, flow, horizon_ns));
        let is_established = is_established(flow, horizon_ns);
        if self.attempts.count == 0 {
            self.attempts = CoMoments::new(attempts.len());
            self.established = CoMoments::new(established.len());
        }
        // Rows are as long as what they are added to, and finite.
        let _ = self.attempts.add(&attempts);
        if is_established {
            let _ = self.established.add(&established);
        }
        let unfinished = value(Quantity::Unfinished, flow, horizon_ns) == Some(1.0);
        self.unfinished = self.unfinished.saturating_add(u64::from(unfinished));
        if let Some(group) = group {
            let established_sums = if is_established { established } else { vec![0.0; established.len()] };
            self.groups.entry(group).or_default().merge(&GroupSums {
                attempts: 1,
                established: u64::from(is_established),
                attempt_sums: attempts,
                established_sums,
            });
        }
    }

    /// Adds the connections of another.
    ///
    /// # Errors
    /// If it has other columns; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MeasuredError> {
        if *other == Self::default() {
            return Ok(());
        }
        if *self == Self::default() {
            other.clone_into(self);
            return Ok(());
        }
        // Both are asked before either is changed.
        let at = |stage| move |source| MeasuredError::Moments { stage, source };
        let (ours, theirs) = (self.established.dimension(), other.established.dimension());
        if ours != theirs {
            return Err(at("established")(CoMomentsError::Dimension { ours, theirs }));
        }
        self.attempts.merge(&other.attempts).map_err(at("attempts"))?;
        self.established.merge(&other.established).map_err(at("established"))?;
        self.unfinished = self.unfinished.saturating_add(other.unfinished);
        for (group, sums) in &other.groups {
            self.groups.entry(*group).or_default().merge(sums);
        }
        Ok(())
    }

    /// Checks what came from outside.
    ///
    /// # Errors
    /// If no connections can have these sums.
    pub fn checked(self) -> Result<Self, MeasuredError> {
        let Self { attempts, established, unfinished, groups } = self;
        let at = |stage| move |source| MeasuredError::Moments { stage, source };
        let attempts = attempts.checked().map_err(at("attempts"))?;
        let established = established.checked().map_err(at("established"))?;
        if established.count > attempts.count {
            return Err(MeasuredError::More("established"));
        }
        if unfinished > attempts.count {
            return Err(MeasuredError::More("unfinished"));
        }
        let mut counted = (0_u64, 0_u64);
        for (group, sums) in &groups {
            let wrong = |problem| MeasuredError::Group { group: *group, problem };
            let GroupSums { attempts: begun, established: done, attempt_sums, established_sums } = sums;
            if (attempt_sums.len(), established_sums.len()) != (attempts.mean.len(), established.mean.len()) {
                return Err(wrong("has other columns than the whole"));
            }
            let bound = QUANTITY_MAX * 1e6;
            if !attempt_sums.iter().chain(established_sums).all(|sum| sum.abs() <= bound) {
                return Err(wrong("has a sum that is no number, or beyond all bounds"));
            }
            counted = (counted.0.saturating_add(*begun), counted.1.saturating_add(*done));
        }
        if !groups.is_empty() && counted != (attempts.count, established.count) {
            let group = groups.keys().next().copied().unwrap_or_default();
            return Err(MeasuredError::Group { group, problem: "and the others do not add up to the whole" });
        }
        Ok(Self { attempts, established, unfinished, groups })
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn numbers(&self) -> usize {
        let of = |moments: &CoMoments| moments.mean.len() + moments.m2.len();
        let group = |sums: &GroupSums| 3 + sums.attempt_sums.len() + sums.established_sums.len();
        2 + of(&self.attempts) + of(&self.established) + self.groups.values().map(group).sum::<usize>()
    }
}

impl GroupSums {
    /// Adds the connections of another.
    pub fn merge(&mut self, other: &Self) {
        let Self { attempts, established, attempt_sums, established_sums } = other;
        self.attempts = self.attempts.saturating_add(*attempts);
        self.established = self.established.saturating_add(*established);
        add(&mut self.attempt_sums, attempt_sums);
        add(&mut self.established_sums, established_sums);
    }
}

fn add(to: &mut Vec<f64>, sums: &[f64]) {
    to.resize(to.len().max(sums.len()), 0.0);
    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
}

#[cfg(test)]
mod tests;
