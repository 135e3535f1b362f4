//! Paired saturation: groups of nodes in which few, and others in which most, have the treatment.
//!
//! At a shared bottleneck an A/B difference within one group is not what everybody would get: treated flows may win what others
//! lose (Spang et al., IMC 2021, arXiv 2110.00118). With Y0(p) and Y1(p) the means of control and treatment where a share p is
//! treated, a pair of groups at a low and a high share shows
//! - the direct effect Y1(p) - Y0(p), which is what an A/B test at p would say,
//! - the spillover Y0(high) - Y0(low): what the others' treatment does to who has none,
//! - the total effect Y1(high) - Y0(low): near to what all would get, if low is near 0 and high near 1.

use crate::{
    Estimate, Finding, Level, NoAnswer,
    cluster::{self, Cluster},
    events::Numbers,
};

/// Two groups of nodes that are alike, at a low and a high share of treatment by a coin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SaturationPair {
    /// The control in the group where few are treated.
    pub low_control: Cluster,
    /// The treated there.
    pub low_treatment: Cluster,
    /// The control in the group where most are treated.
    pub high_control: Cluster,
    /// The treated there.
    pub high_treatment: Cluster,
}

/// The effects that a saturation design tells apart, in the measure's unit, with errors over pairs of groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saturation {
    /// Y1(low) - Y0(low).
    pub direct_low: Finding,
    /// Y1(high) - Y0(high).
    pub direct_high: Finding,
    /// Y0(high) - Y0(low). Its p-values test that the control is the same at both shares: no interference.
    pub spillover: Finding,
    /// Y1(high) - Y0(low).
    pub total: Finding,
    /// Y0(low), to which effects can be related.
    pub base: f64,
}

/// Tells the effects apart.
///
/// # Errors
/// If there are fewer than two pairs, or a contrast of numbers other than of events does not vary over them.
pub fn saturation(pairs: &[SaturationPair], numbers: Numbers, level: &Level) -> Result<Saturation, NoAnswer> {
    let rows = pairs.iter().map(|pair| [pair.low_control, pair.low_treatment, pair.high_control, pair.high_treatment]);
    let moments = cluster::groups(rows)?;
    let contrast = |control: usize, treatment: usize| {
        let delta = cluster::joint(&moments, control, treatment, numbers)?;
        let n = moments.count;
        let (effect, variance, df) = (delta.effect, delta.variance, delta.df);
        let estimate = Estimate { effect, variance, n_control: n, n_treatment: n, df, clusters: Some(n) };
        Ok((delta.control, Finding::of(estimate, level)?))
    };
    let (base, direct_low) = contrast(0, 1)?;
    let (direct_high, spillover, total) = (contrast(2, 3)?.1, contrast(0, 2)?.1, contrast(0, 3)?.1);
    Ok(Saturation { direct_low, direct_high, spillover, total, base })
}
