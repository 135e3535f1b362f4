//! The delta method on co-moments: the one place where an arm's value, and the variance of a contrast of two, come from.
//!
//! A value is a mean, or a ratio of two means; with CUPED, less theta times a covariate, itself a mean or a ratio of two
//! (Deng et al., WSDM 2013; for ratios with the delta method, Deng et al., KDD 2018). A contrast's gradient with respect to
//! all these means, on both sides of their covariance matrix, is its variance.

use crate::{
    CoMoments, NoAnswer,
    answer::{enough, finite},
};

/// Of a value: its numerator and denominator, and those of its covariate. No denominator counts as 1.
pub(crate) type Columns = [Option<usize>; 4];

/// Coefficients of means.
type Gradient = [f64; 4];

/// Where two arms' sums are.
#[derive(Clone, Copy)]
pub(crate) enum Sums<'a> {
    /// Of independent units or clusters.
    Apart { control: &'a CoMoments, treatment: &'a CoMoments },
    /// Of clusters which have units of both arms, so that both sums vary together.
    Joint(&'a CoMoments),
}

/// Two arms in the same sums.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub sums: Sums<'a>,
    pub control: Columns,
    pub treatment: Columns,
    /// Whether the measure is 0 or 1: its variance is p (1 - p), without n - 1.
    pub proportion: bool,
    /// By how much more in the sum of the numerator each arm's variance is raised: [`crate::events`].
    pub events: [f64; 2],
}

/// What comes of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delta {
    pub control: f64,
    pub treatment: f64,
    pub theta: Option<f64>,
    pub effect: f64,
    pub variance: f64,
    /// Effect and variance, relative to the control.
    pub relative: Result<(f64, f64), NoAnswer>,
    pub df: f64,
}

/// One arm's means, and what follows from them.
struct Side<'a> {
    moments: &'a CoMoments,
    columns: Columns,
    /// Value and covariate.
    value: f64,
    covariate: f64,
    /// Of value and covariate, with respect to the means.
    gradient: Gradient,
    n: f64,
    ddof_factor: f64,
    /// By what the variance of the value is raised.
    floor: f64,
}

impl<'a> Side<'a> {
    fn new(moments: &'a CoMoments, columns: Columns, proportion: bool, events: f64) -> Result<Self, NoAnswer> {
        enough(moments.count, 2)?;
        let dimension = moments.dimension();
        let mean = |column: Option<usize>| match column {
            None => Ok(1.0),
            Some(index) => moments.mean(index).ok_or(NoAnswer::NoMeasure { index, dimension }),
        };
        let [y, d, x, e] = [mean(columns[0])?, mean(columns[1])?, mean(columns[2])?, mean(columns[3])?];
        if d == 0.0 || e == 0.0 {
            return Err(NoAnswer::ZeroDenominator);
        }
        let (value, covariate) = (finite(y / d)?, if columns[2].is_some() { finite(x / e)? } else { 0.0 });
        let gradient = [1.0 / d, -value / d, 1.0 / e, -covariate / e];
        let n = moments.count as f64;
        Ok(Self {
            moments,
            columns,
            value,
            covariate,
            gradient,
            n,
            ddof_factor: if proportion { (n - 1.0) / n } else { 1.0 },
            floor: (events / (n * d)).powi(2),
        })
    }

    /// The gradient of `value` times the first, less `covariate` times the second.
    fn weighted(&self, value: f64, covariate: f64) -> Gradient {
        let [y, d, x, e] = self.gradient;
        [value * y, value * d, -covariate * x, -covariate * e]
    }

    /// The covariance of two linear combinations of these means, per unit.
    fn covariance(&self, one: Gradient, other: Gradient) -> f64 {
        bilinear(self.moments, (self.columns, one), (self.columns, other)) * self.ddof_factor
    }

    fn variance(&self, gradient: Gradient) -> f64 {
        self.covariance(gradient, gradient)
    }

    /// The variance of a combination of the means.
    fn error(&self, gradient: Gradient) -> f64 {
        let of_value = gradient[0] / self.gradient[0];
        self.variance(gradient) / self.n + of_value * of_value * self.floor
    }
}

/// The covariance of two linear combinations of means, per unit.
fn bilinear(moments: &CoMoments, one: (Columns, Gradient), other: (Columns, Gradient)) -> f64 {
    let mut sum = 0.0;
    for (i, a) in one.0.iter().zip(one.1) {
        for (j, b) in other.0.iter().zip(other.1) {
            if let (Some(i), Some(j)) = (i, j) {
                sum += a * b * moments.covariance(*i, *j).unwrap_or_default();
            }
        }
    }
    sum
}

/// The slope of value on covariate over both arms, and over no other: a slope that is borrowed from third arms leaves more
/// variance than it should (arXiv 2606.18750). For means over the pooled units; for ratios over the sum of both arms'
/// matrices, as gbstats does. 0 where the covariate does not vary.
fn theta(question: &Question<'_>, control: &Side<'_>, treatment: &Side<'_>) -> f64 {
    let (post, pre) = ([1.0, 0.0], [0.0, -1.0]);
    let [mut covariance, mut variance] = [0.0, 0.0];
    let plain = [control.columns, treatment.columns].iter().all(|columns| columns[1].is_none() && columns[3].is_none());
    if let (true, Sums::Apart { control: one, treatment: other }) = (plain, question.sums) {
        let mut pooled = one.clone();
        if pooled.merge(other).is_ok() {
            let [y, _, x, _] = control.columns;
            let of = |i: Option<usize>| i.and_then(|i| pooled.covariance(i, x?)).unwrap_or_default();
            (covariance, variance) = (of(y), of(x));
        }
    } else {
        for side in [control, treatment] {
            let (post, pre) = (side.weighted(post[0], post[1]), side.weighted(pre[0], pre[1]));
            covariance += side.covariance(post, pre);
            variance += side.variance(pre);
        }
    }
    let slope = covariance / variance;
    if variance > 0.0 && slope.is_finite() { slope } else { 0.0 }
}

impl Question<'_> {
    /// The contrast, treatment less control.
    pub fn answer(&self) -> Result<Delta, NoAnswer> {
        let (one, other) = match self.sums {
            Sums::Apart { control, treatment } => (control, treatment),
            Sums::Joint(both) => (both, both),
        };
        if one.dimension() != other.dimension() {
            return Err(NoAnswer::Unlike);
        }
        let control = Side::new(one, self.control, self.proportion, self.events[0])?;
        let treatment = Side::new(other, self.treatment, self.proportion, self.events[1])?;
        let adjusted = self.control[2].is_some();
        let slope = if adjusted { theta(self, &control, &treatment) } else { 0.0 };
        let effect = (treatment.value - slope * treatment.covariate) - (control.value - slope * control.covariate);
        let ours = (control.weighted(-1.0, -slope), treatment.weighted(1.0, slope));
        let variance = self.variance(&control, &treatment, ours)?;
        Ok(Delta {
            control: control.value,
            treatment: treatment.value,
            theta: adjusted.then_some(slope),
            effect: finite(effect)?,
            variance,
            relative: self.relative(&control, &treatment, slope, effect),
            df: self.df(&control, &treatment, ours),
        })
    }

    /// The effect divided by the unadjusted control, and its variance.
    fn relative(
        &self,
        control: &Side<'_>,
        treatment: &Side<'_>,
        slope: f64,
        effect: f64,
    ) -> Result<(f64, f64), NoAnswer> {
        let base = control.value.abs();
        if base == 0.0 {
            return Err(NoAnswer::ZeroControl);
        }
        // The derivative with respect to the control's value is -(control + effect) / control^2. Without ratios, gbstats
        // takes the treatment's unadjusted mean for control + effect. The two differ by chance imbalance only.
        let plain = self.control[1].is_none();
        let numerator = if plain { treatment.value } else { control.value + effect };
        let gradient = -numerator * control.value.signum() / (base * base);
        let gradients = (control.weighted(gradient, -slope / base), treatment.weighted(1.0 / base, slope / base));
        Ok((finite(effect / base)?, self.variance(control, treatment, gradients)?))
    }

    fn variance(
        &self,
        control: &Side<'_>,
        treatment: &Side<'_>,
        (ours, theirs): (Gradient, Gradient),
    ) -> Result<f64, NoAnswer> {
        let apart = [control.error(ours), treatment.error(theirs)];
        // An arm that does not vary at all says nothing of how it would: none of few attempts failed.
        if apart.iter().any(|variance| *variance <= 0.0) {
            return Err(NoAnswer::NoVariance);
        }
        let between = match self.sums {
            Sums::Apart { .. } => 0.0,
            Sums::Joint(both) => 2.0 * bilinear(both, (control.columns, ours), (treatment.columns, theirs)) / control.n,
        };
        let variance = finite(apart[0] + apart[1] + between)?;
        // What cancels to rounding is no variance.
        if variance > 1e-14 * (apart[0] + apart[1]) { Ok(variance) } else { Err(NoAnswer::NoVariance) }
    }

    /// Welch's and Satterthwaite's degrees of freedom; of clusters with both arms, their number less one.
    fn df(&self, control: &Side<'_>, treatment: &Side<'_>, (ours, theirs): (Gradient, Gradient)) -> f64 {
        if matches!(self.sums, Sums::Joint(_)) {
            return control.n - 1.0;
        }
        let (a, b) = (control.error(ours), treatment.error(theirs));
        // Divided by the sum first: squares of small variances vanish.
        let (a, b) = (a / (a + b), b / (a + b));
        1.0 / (a * a / (control.n - 1.0) + b * b / (treatment.n - 1.0))
    }
}

/// One arm's own value, and its variance.
pub(crate) fn value(moments: &CoMoments, columns: Columns, proportion: bool) -> Result<(f64, f64), NoAnswer> {
    let side = Side::new(moments, columns, proportion, 0.0)?;
    let variance = finite(side.variance(side.weighted(1.0, 0.0)) / side.n)?;
    if variance > 0.0 { Ok((side.value, variance)) } else { Err(NoAnswer::NoVariance) }
}
