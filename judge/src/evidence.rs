//! What a verdict is drawn from, understood.

use sockpilot_outcomes::Measured;
use sockpilot_policy::{
    fault::Collector,
    measure::Columns,
    model::{Arm, Comparison, Unit},
};
use sockpilot_proto::{cell::measured_from_proto, convert::comparison_from_proto, v1};

/// Evidence, read.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// `experiments/{experiment}`.
    pub name: String,
    /// The epoch.
    pub revision: u64,
    /// The design.
    pub comparison: Comparison,
    /// What was summed up.
    pub columns: Columns,
    /// In the design's order.
    pub arms: Vec<ArmEvidence>,
    /// Of connections that began in this time, in seconds since 1970.
    pub from_s: i64,
    /// See above.
    pub to_s: i64,
    /// When it is to end.
    pub planned_end_s: Option<i64>,
    /// The least p-values of earlier looks at the shares.
    pub least_share_p: Vec<f64>,
    /// Epochs that differ in the shares only.
    pub earlier: Vec<EarlierShares>,
    /// Nodes that are left out because their clock is off.
    pub clocks_off: u32,
}

/// What was measured of an arm.
#[derive(Debug, Clone)]
pub struct ArmEvidence {
    /// The arm.
    pub arm: Arm,
    /// Nothing, if no node has reported any.
    pub measured: Measured,
}

/// An epoch that differs in the shares only.
#[derive(Debug, Clone)]
pub struct EarlierShares {
    /// By arm.
    pub weights_bp: Vec<u32>,
    /// By arm.
    pub measured: Vec<Measured>,
}

/// Why evidence cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the evidence cannot be read: {0}")]
pub struct EvidenceError(pub(crate) String);

impl Evidence {
    /// Reads it.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub fn read(message: &v1::Evidence) -> Result<Self, EvidenceError> {
        let v1::Evidence {
            experiment,
            revision,
            design,
            arms,
            from_time,
            to_time,
            planned_end,
            least_share_p,
            earlier,
            clocks_off,
        } = message;
        let design = design.as_ref().ok_or_else(|| EvidenceError("it has no design".to_owned()))?;
        let mut faults = Collector::at("design");
        let comparison = comparison_from_proto(design, &mut faults);
        faults.finish(()).map_err(|faults| EvidenceError(format!("{:?}", faults.as_slice())))?;
        let columns = Columns::of(&comparison.measures);
        let second = |time: &Option<prost_types::Timestamp>| time.as_ref().map(|time| time.seconds);
        Ok(Self {
            name: experiment.clone(),
            revision: *revision,
            arms: comparison
                .arms
                .iter()
                .map(|arm| Ok(ArmEvidence { arm: arm.clone(), measured: of_arm(arms, arm, &columns)? }))
                .collect::<Result<_, _>>()?,
            earlier: earlier
                .iter()
                .map(|earlier| {
                    let measured = comparison.arms.iter().map(|arm| of_arm(&earlier.arms, arm, &columns));
                    Ok(EarlierShares {
                        weights_bp: earlier.weights_bp.clone(),
                        measured: measured.collect::<Result<_, _>>()?,
                    })
                })
                .collect::<Result<_, _>>()?,
            comparison,
            columns,
            from_s: second(from_time).unwrap_or_default(),
            to_s: second(to_time).unwrap_or_default(),
            planned_end_s: second(planned_end),
            least_share_p: least_share_p.clone(),
            clocks_off: *clocks_off,
        })
    }

    /// The position of the control: the arm of that name, else the first that sets nothing and withholds nothing, else the first. Of a
    /// saturation pair it is the first, whatever its name: nodes give the shares by position.
    #[must_use]
    pub fn control(&self) -> usize {
        control(&self.comparison)
    }

    /// Whether the arms do not differ: whatever is found is a false alarm.
    #[must_use]
    pub fn is_aa(&self) -> bool {
        let mut arms = self.comparison.arms.iter();
        let Some(first) = arms.next() else { return false };
        arms.all(|arm| arm.set == first.set && arm.withholds == first.withholds)
    }

    /// How long connections were measured, in seconds.
    #[must_use]
    pub fn duration_s(&self) -> i64 {
        self.to_s.saturating_sub(self.from_s).max(0)
    }

    /// Connections of all arms that were begun.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.sum(|measured| measured.attempts.count)
    }

    /// Connections of all arms that were still open at the horizon.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.sum(|measured| measured.unfinished)
    }

    /// What a node says may be as large as it likes.
    fn sum(&self, of: impl Fn(&Measured) -> u64) -> u64 {
        self.arms.iter().map(|arm| of(&arm.measured)).fold(0, u64::saturating_add)
    }
}

/// What was measured of an arm.
fn of_arm(arms: &[v1::ArmEvidence], arm: &Arm, columns: &Columns) -> Result<Measured, EvidenceError> {
    let found = arms.iter().find(|found| found.arm == arm.name.as_str());
    measured(&format!("arm {}", arm.name), found.and_then(|found| found.measured.as_ref()), columns)
}

/// What was measured of somebody. Sums of other columns are those of a node that measures something else: never mixed in.
pub(crate) fn measured(
    whose: &str,
    message: Option<&v1::Measured>,
    columns: &Columns,
) -> Result<Measured, EvidenceError> {
    let Some(message) = message else { return Ok(Measured::default()) };
    let measured = measured_from_proto(message).map_err(|why| EvidenceError(format!("of {whose}: {why}")))?;
    let shape = (measured.attempts.mean.len(), measured.established.mean.len());
    if measured != Measured::default() && shape != (columns.attempts.len(), columns.established.len()) {
        return Err(EvidenceError(format!("of {whose}: it has other columns than are judged")));
    }
    Ok(measured)
}

/// As [`Evidence::control`].
pub(crate) fn control(comparison: &Comparison) -> usize {
    let arms = &comparison.arms;
    if matches!(comparison.unit, Unit::SaturationPair { .. }) {
        return 0;
    }
    let named = arms.iter().position(|arm| arm.name.as_str() == "control");
    let plain = || arms.iter().position(|arm| arm.set.is_empty() && !arm.withholds);
    named.or_else(plain).unwrap_or(0)
}
