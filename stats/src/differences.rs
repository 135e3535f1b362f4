//! Difference in differences: how much more clusters (nodes) have changed that got a treatment than others that did not.
//!
//! Of a side, the change is the ratio of all its sums and weights after, less the same before. What differs between nodes but stays, and what
//! changes on all of them alike, cancels. Nodes are the units, and few: the variance is the jackknife's over nodes,
//! (K - 1) / K times the sum of the squares of what leaving out each changes, which needs no linearisation and errs, with few or
//! unequal clusters, on the safe side (MacKinnon, Nielsen and Webb, "Fast and reliable jackknife and bootstrap methods for cluster-robust
//! inference", Journal of Applied Econometrics 38, 2023: CV3).

use crate::{
    Estimate, NoAnswer,
    answer::{enough, finite},
    cluster::Cluster,
};

/// What a node brings.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BeforeAfter {
    /// Before the treatment began anywhere.
    pub before: Cluster,
    /// After.
    pub after: Cluster,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Differences {
    /// The treated after the treatment.
    pub treated: f64,
    /// What they would have by the change of the others.
    pub expected: f64,
    /// The difference of the two. `variance` is 0 where nothing varies.
    pub estimate: Estimate,
}

/// One side.
struct Side {
    before: f64,
    after: f64,
    variance: f64,
    clusters: u64,
}

/// Compares the changes. Nodes that were not seen both before and after have none, and are left out.
///
/// # Errors
/// If a side has fewer than two nodes, or a number is none.
pub fn difference_in_differences(control: &[BeforeAfter], treatment: &[BeforeAfter]) -> Result<Differences, NoAnswer> {
    let (control, treatment) = (Side::of(control)?, Side::of(treatment)?);
    let expected = finite(treatment.before + control.after - control.before)?;
    let variance = finite(control.variance + treatment.variance)?;
    let clusters = control.clusters.saturating_add(treatment.clusters);
    let estimate = Estimate {
        effect: finite(treatment.after - expected)?,
        variance,
        n_control: control.clusters,
        n_treatment: treatment.clusters,
        df: df(&control, &treatment),
        clusters: Some(clusters),
    };
    Ok(Differences { treated: treatment.after, expected, estimate })
}

/// Welch's and Satterthwaite's.
fn df(control: &Side, treatment: &Side) -> f64 {
    let of = |side: &Side| side.clusters as f64 - 1.0;
    let sum = control.variance + treatment.variance;
    if sum <= 0.0 {
        return of(control) + of(treatment);
    }
    let (one, other) = (control.variance / sum, treatment.variance / sum);
    1.0 / (one * one / of(control) + other * other / of(treatment))
}

impl Side {
    fn of(nodes: &[BeforeAfter]) -> Result<Self, NoAnswer> {
        let was_seen = |node: &&BeforeAfter| node.before.weight > 0.0 && node.after.weight > 0.0;
        let seen: Vec<_> = nodes.iter().filter(was_seen).collect();
        enough(seen.len() as u64, 2)?;
        let total = seen.iter().fold(BeforeAfter::default(), |total, node| total.plus(node, 1.0));
        let change = |of: &BeforeAfter| finite(of.after.sum / of.after.weight - of.before.sum / of.before.weight);
        let whole = change(&total)?;
        let mut squares = 0.0;
        for node in &seen {
            squares += (change(&total.plus(node, -1.0))? - whole).powi(2);
        }
        let count = seen.len() as f64;
        Ok(Self {
            before: total.before.sum / total.before.weight,
            after: total.after.sum / total.after.weight,
            variance: finite(squares * (count - 1.0) / count)?,
            clusters: seen.len() as u64,
        })
    }
}

impl BeforeAfter {
    fn plus(self, other: &Self, times: f64) -> Self {
        let add = |one: Cluster, other: Cluster| Cluster {
            sum: one.sum + times * other.sum,
            weight: one.weight + times * other.weight,
        };
        Self { before: add(self.before, other.before), after: add(self.after, other.after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(before: f64, after: f64) -> BeforeAfter {
        let of = |value| Cluster { sum: value * 100.0, weight: 100.0 };
        BeforeAfter { before: of(before), after: of(after) }
    }

    /// With nodes of equal weight it is the two-sample t of the nodes' changes: Welch's variances and degrees of freedom.
    #[test]
    fn of_equal_nodes_it_is_welchs_test_of_changes() {
        let control = [node(1.0, 2.0), node(5.0, 6.5), node(9.0, 9.5)];
        let treatment = [node(2.0, 5.0), node(4.0, 8.0), node(3.0, 5.0), node(1.0, 4.0)];
        let found = difference_in_differences(&control, &treatment).expect("an answer");
        // Changes: 1, 1.5, 0.5 and 3, 4, 2, 3, so means 1 and 3, variances of the means 0.25 / 3 and 2 / 3 / 4.
        let (a, b) = (0.25 / 3.0, 2.0 / 3.0 / 4.0);
        assert!((found.estimate.effect - 2.0).abs() < 1e-12, "{found:?}");
        assert!((found.estimate.variance - (a + b)).abs() < 1e-12, "{found:?}");
        let df = (a + b) * (a + b) / (a * a / 2.0 + b * b / 3.0);
        assert!((found.estimate.df - df).abs() < 1e-9, "{found:?}");
        assert!((found.treated - 5.5).abs() < 1e-12 && (found.expected - 3.5).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn what_stays_or_changes_on_all_alike_cancels() {
        let side = |levels: [f64; 3], by: f64| levels.map(|level| node(level, level + by));
        let found = difference_in_differences(&side([1.0, 20.0, 300.0], 7.0), &side([4.0, 50.0, 6.0], 7.0));
        let estimate = found.expect("an answer").estimate;
        assert!(estimate.effect.abs() < 1e-9 && estimate.variance < 1e-20, "{estimate:?}");
    }

    #[test]
    fn nodes_without_before_or_after_are_none() {
        let unseen = BeforeAfter { before: Cluster::default(), ..node(1.0, 2.0) };
        let side = [node(1.0, 2.0), unseen, unseen];
        let found = difference_in_differences(&side, &side);
        assert_eq!(found, Err(NoAnswer::TooFew { found: 1, needed: 2 }));
    }
}
