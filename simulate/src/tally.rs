//! How many connections recorded flows stand for, and how sure that is.
//!
//! A recorded flow with weight w stands for w: it was recorded with probability 1/w. So a sum of weights estimates a number without
//! bias, with the variance Σ w(w − 1) if flows are recorded independently of each other. Those that no layer matched are. Those that a
//! layer matched are drawn without replacement from a report, of which the number is known; then the variance is smaller, and errors
//! are a little too large.

use sockpilot_proto::v1;

/// The normal quantile of a two-sided interval at 95%.
const Z: f64 = 1.959_963_984_540_054;

/// Recorded flows of one sort.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Part {
    recorded: u64,
    weight: f64,
    /// Sum of w(w − 1).
    variance: f64,
}

impl Part {
    pub(crate) fn add(&mut self, weight: f64) {
        self.recorded += 1;
        self.weight += weight;
        self.variance += weight * (weight - 1.0).max(0.0);
    }

    fn plus(self, other: Self) -> Self {
        Self {
            recorded: self.recorded + other.recorded,
            weight: self.weight + other.weight,
            variance: self.variance + other.variance,
        }
    }

    /// Without a part of it.
    fn minus(self, part: Self) -> Self {
        Self {
            recorded: self.recorded.saturating_sub(part.recorded),
            weight: (self.weight - part.weight).max(0.0),
            variance: (self.variance - part.variance).max(0.0),
        }
    }

    /// Limits of the number N that it estimates: those at which it would be just as far off as chance allows, (N̂ − N)² = z²·N·(w − 1).
    /// So of none that were seen there may be some. `excess`: w − 1, on average over all of the kind.
    fn limits(&self, excess: f64) -> (f64, f64) {
        let half = Z * Z * excess / 2.0;
        let off = (half * (2.0 * self.weight + half)).sqrt();
        ((self.weight + half - off).max(0.0), self.weight + half + off)
    }
}

/// Recorded flows by kind (whether a layer matched them: others are recorded more rarely) and by whether they are touched.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally([[Part; 2]; 2]);

impl Tally {
    pub(crate) fn add(&mut self, kind: usize, touched: bool, weight: f64) {
        self.0[kind][usize::from(touched)].add(weight);
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let both = |kind: usize, touched: usize| self.0[kind][touched].plus(other.0[kind][touched]);
        Self([0, 1].map(|kind| [0, 1].map(|touched| both(kind, touched))))
    }

    /// The same flows, of which only these are touched.
    pub(crate) fn of(&self, touched: &[Part; 2]) -> Self {
        let kind = |kind: usize| [self.0[kind][0].plus(self.0[kind][1]).minus(touched[kind]), touched[kind]];
        Self([0, 1].map(kind))
    }

    fn sum(&self, touched: usize, of: impl Fn(&Part) -> f64) -> f64 {
        self.0.iter().map(|parts| of(&parts[touched])).sum()
    }

    /// How many connections those that are touched stand for.
    #[must_use]
    pub fn touched(&self) -> f64 {
        self.sum(1, |part| part.weight)
    }

    /// How many connections all of them stand for.
    #[must_use]
    pub fn connections(&self) -> f64 {
        self.sum(0, |part| part.weight) + self.touched()
    }

    /// The share that is touched, with its limits.
    #[must_use]
    pub fn share(&self) -> v1::TouchedShare {
        let (rest, touched) = (self.sum(0, |part| part.weight), self.touched());
        let connections = rest + touched;
        let recorded_touched = self.0.iter().map(|parts| parts[1].recorded).sum();
        let recorded = self.0.iter().map(|parts| parts[0].recorded).sum::<u64>() + recorded_touched;
        let known = connections > 0.0;
        let share = if known { touched / connections } else { 0.0 };
        let variance = self.sum(1, |part| part.variance) * (1.0 - share).powi(2)
            + self.sum(0, |part| part.variance) * share.powi(2);
        let standard_error = if known { variance.sqrt() / connections } else { 0.0 };
        let (lower, upper) = if known { self.interval(rest, touched, share) } else { (0.0, 1.0) };
        v1::TouchedShare { connections, touched, recorded, recorded_touched, share, standard_error, lower, upper }
    }

    /// Each of the four numbers is moved to its limit, alone; the squares of what that does to the share add up.
    fn interval(&self, rest: f64, touched: f64, share: f64) -> (f64, f64) {
        let ratio = |touched: f64, rest: f64| if touched + rest > 0.0 { touched / (touched + rest) } else { share };
        let (mut below, mut above) = (0.0, 0.0);
        for [others, meant] in &self.0 {
            let all = others.plus(*meant);
            if all.recorded == 0 {
                continue;
            }
            let excess = all.variance / all.weight;
            let ((others_min, others_max), (meant_min, meant_max)) = (others.limits(excess), meant.limits(excess));
            below += (ratio(touched - meant.weight + meant_min, rest) - share).powi(2);
            below += (ratio(touched, rest - others.weight + others_max) - share).powi(2);
            above += (ratio(touched - meant.weight + meant_max, rest) - share).powi(2);
            above += (ratio(touched, rest - others.weight + others_min) - share).powi(2);
        }
        ((share - below.sqrt()).max(0.0), (share + above.sqrt()).min(1.0))
    }
}

#[cfg(test)]
mod tests;
