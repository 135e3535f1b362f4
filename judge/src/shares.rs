//! Shares that do not vary: none of many, or all of them, is data, too.
//!
//! A share gets one unit more of each kind, by which it has a variance where there was none: Agresti and Caffo, "Simple and effective
//! confidence intervals for proportions and differences of proportions", The American Statistician 54 (2000). Where units come in
//! clusters it gets whole clusters, as large as they are in the mean: so it takes many clusters, and not only many connections, until
//! something is sure.

use sockpilot_stats::{CoMoments, cluster::Cluster, saturation::SaturationPair, switchback::SlotPair};

/// A share alone, with a connection more of each kind.
pub(crate) fn one_more(moments: &CoMoments, column: usize) -> CoMoments {
    let yes = moments.sum(column).unwrap_or_default() + 1.0;
    CoMoments::from_sums(moments.count.saturating_add(2), &[yes], &[yes])
}

/// Clusters of a share alone, with one more of each kind.
pub(crate) fn one_more_cluster(clusters: &[CoMoments], column: usize) -> Vec<CoMoments> {
    let size = size(clusters.iter());
    clusters.iter().map(|cluster| alone(cluster, column)).chain([of(size, 1.0), of(size, 0.0)]).collect()
}

/// The same of clusters that have both arms.
pub(crate) fn one_more_pair(pairs: &[(CoMoments, CoMoments)], column: usize) -> Vec<(CoMoments, CoMoments)> {
    let (control, treatment) = (size(pairs.iter().map(|pair| &pair.0)), size(pairs.iter().map(|pair| &pair.1)));
    let more = [(of(control, 1.0), of(treatment, 0.0)), (of(control, 0.0), of(treatment, 1.0))];
    pairs.iter().map(|pair| (alone(&pair.0, column), alone(&pair.1, column))).chain(more).collect()
}

/// The same of pairs of slots.
pub(crate) fn one_more_slots(pairs: &[SlotPair]) -> Vec<SlotPair> {
    let (control, treatment) = (weight(pairs, |pair| pair.control), weight(pairs, |pair| pair.treatment));
    let more = [(1.0, 0.0), (0.0, 1.0)];
    let more = more.map(|(one, other)| SlotPair { control: share(control, one), treatment: share(treatment, other) });
    pairs.iter().copied().chain(more).collect()
}

/// The same of pairs of groups: each of the four differs from each other in some.
pub(crate) fn one_more_saturation(pairs: &[SaturationPair]) -> Vec<SaturationPair> {
    let sizes = [
        weight(pairs, |pair| pair.low_control),
        weight(pairs, |pair| pair.low_treatment),
        weight(pairs, |pair| pair.high_control),
        weight(pairs, |pair| pair.high_treatment),
    ];
    let more = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]].map(|shares| {
        let [a, b, c, d] = shares;
        SaturationPair {
            low_control: share(sizes[0], a),
            low_treatment: share(sizes[1], b),
            high_control: share(sizes[2], c),
            high_treatment: share(sizes[3], d),
        }
    });
    pairs.iter().copied().chain(more).collect()
}

/// How many connections a cluster has in the mean, of those that have any.
fn size<'a>(clusters: impl Iterator<Item = &'a CoMoments>) -> u64 {
    let seen = clusters.map(|cluster| cluster.count).filter(|count| *count > 0);
    let (sum, clusters) = seen.fold((0_u64, 0_u64), |(sum, clusters), count| (sum.saturating_add(count), clusters + 1));
    (sum / clusters.max(1)).max(1)
}

fn alone(cluster: &CoMoments, column: usize) -> CoMoments {
    of(cluster.count, cluster.mean(column).unwrap_or_default())
}

/// Of a cluster only count and mean are used.
fn of(count: u64, share: f64) -> CoMoments {
    let mut moments = CoMoments::new(1);
    (moments.count, moments.mean) = (count, vec![share]);
    moments
}

fn weight<P>(pairs: &[P], of: fn(&P) -> Cluster) -> f64 {
    let seen = pairs.iter().map(of).map(|cluster| cluster.weight).filter(|weight| *weight > 0.0);
    let (sum, count) = seen.fold((0.0, 0.0), |(sum, count), weight| (sum + weight, count + 1.0));
    if count > 0.0 { sum / count } else { 1.0 }
}

fn share(weight: f64, share: f64) -> Cluster {
    Cluster { sum: weight * share, weight }
}

/// The same of a ratio: with one connection more, an average one that counts one.
pub(crate) fn one_more_of(moments: &CoMoments, numerator: usize, denominator: usize) -> CoMoments {
    let column = |index| moments.mean(index).unwrap_or_default();
    let mut two = CoMoments::new(2);
    two.count = moments.count;
    two.mean = vec![column(numerator), column(denominator)];
    two.m2 = [(numerator, numerator), (denominator, numerator), (denominator, denominator)]
        .map(|(one, other)| moments.covariance(one, other).unwrap_or_default() * (moments.count.max(1) - 1) as f64)
        .to_vec();
    // Of numbers that are finite and sound the sums are, too.
    let _ = two.add(&[column(numerator) + 1.0, column(denominator)]);
    two
}
