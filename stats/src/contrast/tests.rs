use proptest::prelude::*;

use super::*;
use crate::{
    Moments,
    cluster::{Cluster, intraclass_correlation, paired_differences},
    counts,
    noninferiority::{Direction, Margin, Standing, non_inferiority},
    power, ramp, saturation, srm, switchback,
};

fn level() -> Level {
    Level::new(0.05, Level::TUNING).unwrap().looking_from(0)
}

fn of(rows: &[[f64; 2]]) -> CoMoments {
    let mut moments = CoMoments::new(2);
    rows.iter().for_each(|row| moments.add(row).unwrap());
    moments
}

fn rows(low: usize) -> impl Strategy<Value = Vec<[f64; 2]>> {
    prop::collection::vec(prop::array::uniform2(1.0..100.0_f64), low..60)
}

fn ask(control: &CoMoments, treatment: &CoMoments, kind: Kind, covariate: Option<usize>) -> Result<Contrast, NoAnswer> {
    contrast(control, treatment, kind, covariate.map(Into::into), Errors::Independent, &level())
}

const KINDS: [Kind; 3] = [Kind::Mean(0), Kind::Proportion(0), Kind::Ratio { numerator: 0, denominator: 1 }];

/// Any numbers at all.
fn hostile() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(0.0),
        Just(f64::MAX),
        Just(5e-324),
        -5.0..5.0_f64
    ]
}

fn hostile_moments() -> impl Strategy<Value = CoMoments> {
    let count = prop_oneof![Just(0), Just(1), Just(2), any::<u64>()];
    (count, 0..4_usize, prop::collection::vec(hostile(), 10)).prop_map(|(count, dimension, numbers)| {
        let mean = numbers[..dimension].to_vec();
        CoMoments { count, mean, m2: numbers[..dimension * (dimension + 1) / 2].to_vec() }
    })
}

fn assert_finite(finding: &Finding) {
    let Finding { estimate, sequence, sequence_p, fixed, fixed_p } = finding;
    assert!(estimate.effect.is_finite() && estimate.variance > 0.0 && estimate.variance.is_finite());
    assert!(sequence.holds(estimate.effect) && fixed.holds(estimate.effect), "{finding:?}");
    assert!([sequence_p, fixed_p].iter().all(|p| (0.0..=1.0).contains(*p)), "{finding:?}");
}

proptest! {
    #[test]
    fn the_sign_and_the_unit_change_nothing_else(a in rows(3), b in rows(3), unit in 0.001..1000.0_f64) {
        let scaled = |rows: &[[f64; 2]], by: f64| of(&rows.iter().map(|row| [row[0] * by, row[1]]).collect::<Vec<_>>());
        for (kind, covariate) in [(Kind::Mean(0), None), (Kind::Mean(0), Some(1)), (KINDS[2], None)] {
            let Ok(plain) = ask(&of(&a), &of(&b), kind, covariate) else { continue };
            for by in [-1.0, unit] {
                let other = ask(&scaled(&a, by), &scaled(&b, by), kind, covariate).unwrap();
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs() + 1e-9;
                let (ours, theirs) = (plain.absolute, other.absolute);
                prop_assert!(close(theirs.estimate.effect, by * ours.estimate.effect));
                prop_assert!(close(theirs.estimate.standard_error(), by.abs() * ours.estimate.standard_error()));
                prop_assert!(close(theirs.fixed_p, ours.fixed_p) && close(theirs.sequence_p, ours.sequence_p));
            }
        }
    }

    #[test]
    fn a_sequence_excludes_no_effect_just_when_its_p_is_below_alpha(
        score in -8.0..8.0_f64, n in 10_u64..100_000, alpha in 0.001..0.3_f64, clusters in prop::option::of(4_u64..500),
    ) {
        let df = clusters.map_or(n as f64, |clusters| clusters as f64 - 1.0);
        let estimate = Estimate { effect: score, variance: 1.0, n_control: n, n_treatment: n, df, clusters };
        let level = Level::new(alpha, 5_000.0).unwrap().looking_from(0);
        for sides in [Sides::Two, Sides::Lower, Sides::Upper] {
            let p = sequence::p_value(&estimate, &level, sides).unwrap();
            let interval = sequence::interval(&estimate, &level, sides).unwrap();
            if (p / alpha - 1.0).abs() > 1e-6 {
                prop_assert_eq!(p < alpha, !interval.holds(0.0), "{} {:?}", p, interval);
            }
        }
        // Valid at every look costs more than valid at one.
        let fixed = fixed_interval(&estimate, alpha, Sides::Two).unwrap();
        prop_assert!(sequence::interval(&estimate, &level, Sides::Two).unwrap().lower <= fixed.lower);
    }

    #[test]
    fn an_unrelated_covariate_hardly_shrinks_the_error(seed in 1_u64..1_000) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64
        };
        let mut arm = || of(&(0..300).map(|_| [next(), next()]).collect::<Vec<_>>());
        let (a, b) = (arm(), arm());
        let plain = ask(&a, &b, Kind::Mean(0), None).unwrap().absolute.estimate.standard_error();
        let adjusted = ask(&a, &b, Kind::Mean(0), Some(1)).unwrap().absolute.estimate.standard_error();
        prop_assert!(adjusted <= plain * 1.01 && adjusted >= plain * 0.95, "{} {}", adjusted, plain);
    }

    #[test]
    fn clusters_of_one_are_units(a in rows(3), b in rows(3)) {
        let singles = |rows: &[[f64; 2]]| rows.iter().map(|row| of(&[*row])).collect::<Vec<_>>();
        let (control, treatment) = (singles(&a), singles(&b));
        let errors = Errors::Clustered { control: &control, treatment: &treatment };
        for kind in [KINDS[0], KINDS[2]] {
            let clustered = contrast(&of(&a), &of(&b), kind, Some(1.into()), errors, &level());
            let plain = ask(&of(&a), &of(&b), kind, None);
            let unadjusted = contrast(&of(&a), &of(&b), kind, None, errors, &level());
            let (Ok(unadjusted), Ok(plain)) = (unadjusted, plain) else { continue };
            let (one, other) = (unadjusted.absolute.estimate, plain.absolute.estimate);
            prop_assert!((one.effect - other.effect).abs() <= 1e-9 * (1.0 + other.effect.abs()));
            prop_assert!((one.variance / other.variance - 1.0).abs() <= 1e-6);
            prop_assert!(clustered.is_err() || clustered.unwrap().theta.is_some());
        }
    }

    #[test]
    fn hostile_sums_have_no_answer_or_a_finite_one(
        a in hostile_moments(), b in hostile_moments(), i in 0..5_usize, j in 0..5_usize, k in prop::option::of(0..5_usize),
    ) {
        let clusters = [a.clone(), b.clone(), CoMoments::new(a.dimension())];
        let pairs = [(a.clone(), b.clone()), (b.clone(), a.clone())];
        let all = [
            Errors::Independent,
            Errors::Clustered { control: &clusters, treatment: &clusters[1..] },
            Errors::Paired(&pairs),
        ];
        for errors in all {
            for kind in [Kind::Mean(i), Kind::Proportion(i), Kind::Ratio { numerator: i, denominator: j }] {
                if let Ok(found) = contrast(&a, &b, kind, k.map(Into::into), errors, &level()) {
                    assert_finite(&found.absolute);
                    if let Ok(relative) = found.relative {
                        assert_finite(&relative);
                    }
                    let _ = non_inferiority(&found, Direction::Lower, Margin::Relative(0.1), &level());
                }
                let _ = arm(&a, kind, Some(&clusters), &level());
                let _ = balance(&a, &b, i.into(), errors, &level());
            }
        }
    }

    #[test]
    fn hostile_numbers_never_panic(
        numbers in prop::collection::vec(hostile(), 12), counts in prop::collection::vec(any::<u64>(), 0..4), n in any::<u64>(),
    ) {
        let cluster = |at: usize| Cluster { sum: numbers[at], weight: numbers[at + 1] };
        let _ = crate::cluster::mean(&[cluster(0), cluster(1), cluster(4)]);
        let _ = crate::cluster::difference(&[cluster(0), cluster(2)], &[cluster(3), cluster(5)]);
        let _ = crate::cluster::paired(&[(cluster(0), cluster(2)), (cluster(3), cluster(5))]);
        let _ = paired_differences(&numbers);
        let moments = Moments { count: n, mean: numbers[0], m2: numbers[1], min: numbers[2], max: numbers[3] };
        let _ = intraclass_correlation(&[moments, moments]);
        let found = srm::mismatch(&counts, &numbers[..counts.len()], numbers[5]);
        prop_assert!(found.is_ok_and(|found| (0.0..=1.0).contains(&found.p)) || found.is_err());
        let _ = srm::mismatch_under(&counts, &[0.5, 0.5], &numbers[..2]);
        let found = counts::coin(n, counts.first().copied().unwrap_or_default(), numbers[0]);
        prop_assert!(found.is_err() || found.is_ok_and(|p| (0.0..=1.0).contains(&p)));
        let pair = switchback::SlotPair { control: cluster(0), treatment: cluster(2) };
        let _ = switchback::switchback(&[pair; 25], Numbers::Any, 10, &mut || n);
        let pair = saturation::SaturationPair {
            low_control: cluster(0), low_treatment: cluster(1), high_control: cluster(2), high_treatment: cluster(3),
        };
        let _ = saturation::saturation(&[pair, pair], Numbers::Any, &level());
        let estimate = Estimate {
            effect: numbers[0], variance: numbers[1], n_control: n, n_treatment: n, df: numbers[2], clusters: Some(n),
        };
        let _ = Finding::of(estimate, &level());
        let point = |at: usize| ramp::RampPoint { share: numbers[at], control: estimate, treatment: estimate };
        let _ = ramp::ramp(&[point(3), point(4)], &level());
        let design = power::Design {
            level: level(), sides: Sides::Two, test: power::Test::Sequential, share: numbers[6], design_effect: numbers[7],
        };
        let variances = power::Variances { control: numbers[8], treatment: numbers[9] };
        let _ = power::power(numbers[0], variances, numbers[1], &design);
        let _ = power::sample_size(numbers[0], variances, numbers[1], &design);
        let _ = power::detectable_relative(numbers[0], numbers[1], variances, 0.8, &design);
        let _ = power::more_needed(&estimate, numbers[3], 0.8, &design);
        let _ = crate::multiple::holm(&numbers);
        let _ = crate::multiple::benjamini_hochberg(&numbers);
        let sample = crate::quantile::QuantileSample { count: n, level: numbers[0], lower: numbers[1], upper: numbers[2] };
        let _ = crate::quantile::variance(&sample);
        let _ = Level::new(numbers[0], numbers[1]);
    }
}

#[test]
fn clusters_tell_chance_between_nodes_from_an_effect() {
    // Two nodes of each arm, far apart: thousands of flows do not make that an effect.
    let node = |level: f64| of(&(0..1_000).map(|at| [level + f64::from(at % 7), 1.0]).collect::<Vec<_>>());
    let (control, treatment) = ([node(10.0), node(20.0), node(14.0)], [node(18.0), node(25.0), node(13.0)]);
    let total = |nodes: &[CoMoments]| {
        nodes.iter().fold(CoMoments::new(2), |mut all, node| {
            all.merge(node).unwrap();
            all
        })
    };
    let (one, other) = (total(&control), total(&treatment));
    assert!(ask(&one, &other, Kind::Mean(0), None).unwrap().absolute.sequence_p < 1e-6);
    let errors = Errors::Clustered { control: &control, treatment: &treatment };
    let clustered = contrast(&one, &other, Kind::Mean(0), None, errors, &level()).unwrap().absolute;
    assert!(clustered.fixed_p > 0.3 && clustered.sequence_p > 0.9, "{clustered:?}");
    assert_eq!((clustered.estimate.clusters, clustered.estimate.n_control), (Some(6), 3_000));
}

#[test]
fn what_a_cluster_has_in_common_cancels_in_pairs() {
    let group = |level: f64, effect: f64| {
        let arm = |shift: f64| of(&(0..50).map(|at| [level + shift + f64::from(at % 5), 1.0]).collect::<Vec<_>>());
        (arm(0.0), arm(effect))
    };
    let pairs: Vec<_> = (0..10).map(|at| group(100.0 * f64::from(at), 2.0 + 0.1 * f64::from(at % 3))).collect();
    let empty = CoMoments::new(2);
    let found = contrast(&empty, &empty, Kind::Mean(0), None, Errors::Paired(&pairs), &level()).unwrap();
    assert!(found.absolute.sequence.lower > 1.9 && found.absolute.sequence.upper < 2.3, "{found:?}");
    assert_eq!(found.absolute.estimate.df, 9.0);
}

#[test]
fn a_sequence_says_nothing_before_its_first_look() {
    let arm = |n: u32, level: f64| of(&(0..n).map(|at| [level + f64::from(at % 10), 1.0]).collect::<Vec<_>>());
    let level = Level::new(0.05, Level::TUNING).unwrap();
    let of = |n| {
        let (control, treatment) = (arm(5_000, 100.0), arm(n, 150.0));
        contrast(&control, &treatment, Kind::Mean(0), None, Errors::Independent, &level).unwrap().absolute
    };
    assert_eq!((of(299).sequence_p, of(299).sequence.upper), (1.0, f64::INFINITY));
    assert!(of(300).sequence_p < 1e-9 && of(299).fixed_p < 1e-9);
}

#[test]
fn a_guardrail_passes_only_when_harm_is_known_to_be_small() {
    let arm = |n: u32, level: f64| of(&(0..n).map(|at| [level + f64::from(at % 10), 1.0]).collect::<Vec<_>>());
    let standing = |n, treatment, direction| {
        let found = ask(&arm(n, 100.0), &arm(n, treatment), Kind::Mean(0), None).unwrap();
        non_inferiority(&found, direction, Margin::Relative(0.02), &level()).unwrap().standing
    };
    assert_eq!(standing(20, 100.0, Direction::Lower), Standing::Inconclusive);
    assert_eq!(standing(5_000, 100.0, Direction::Lower), Standing::Pass);
    assert_eq!(standing(5_000, 101.0, Direction::Lower), Standing::Pass);
    assert_eq!(standing(5_000, 110.0, Direction::Lower), Standing::Fail);
    assert_eq!(standing(5_000, 110.0, Direction::Higher), Standing::Pass);
    assert_eq!(standing(5_000, 90.0, Direction::Higher), Standing::Fail);
}

#[test]
fn saturation_tells_a_gain_at_others_expense_from_a_gain() {
    // Treated flows take what the others had: the more are treated, the worse for all; all treated is as none.
    let group = |pair: u32, share: f64| {
        let noise = f64::from(pair % 5) * 0.3;
        let of = |value: f64, weight: f64| Cluster { sum: (value + noise) * weight, weight };
        (of(100.0 - 50.0 * share, 1_000.0 * (1.0 - share)), of(150.0 - 50.0 * share, 1_000.0 * share))
    };
    let pairs: Vec<_> = (0..12)
        .map(|pair| {
            let ((low_control, low_treatment), (mut high_control, mut high_treatment)) =
                (group(pair, 0.05), group(pair + 3, 0.95));
            high_control.sum += f64::from(pair % 4);
            high_treatment.sum += f64::from(pair % 3) * 10.0;
            let low_treatment = Cluster { sum: low_treatment.sum + f64::from(pair % 2), ..low_treatment };
            saturation::SaturationPair { low_control, low_treatment, high_control, high_treatment }
        })
        .collect();
    let found = saturation::saturation(&pairs, Numbers::Any, &level()).unwrap();
    assert!(found.direct_low.sequence.lower > 45.0 && found.direct_high.sequence.lower > 45.0, "{found:?}");
    assert!(found.spillover.sequence.upper < -40.0 && found.spillover.sequence_p < 1e-6);
    assert!((found.total.estimate.effect - 5.0).abs() < 1.0, "{found:?}");
}

#[test]
fn a_ramp_sees_the_control_drift() {
    let point = |share: f64, control: f64, treatment: f64| {
        let of = |effect| Estimate { effect, variance: 0.01, n_control: 9, n_treatment: 0, df: 8.0, clusters: None };
        ramp::RampPoint { share, control: of(control), treatment: of(treatment) }
    };
    let of = |points: &[ramp::RampPoint]| ramp::ramp(points, &level());
    let drifting = of(&[point(0.1, 99.0, 108.9), point(0.5, 95.0, 105.0)]).unwrap();
    let drift = drifting.drift;
    assert!(drift.fixed_p < 1e-9 && (drift.estimate.effect + 10.0).abs() < 1e-9, "{drifting:?}");
    assert!((drifting.total - 0.125).abs() < 1e-9 && drifting.line_p == 1.0, "{drifting:?}");
    let still = of(&[point(0.1, 100.0, 110.0), point(0.5, 100.05, 110.0), point(0.3, 99.96, 110.0)]).unwrap();
    assert!(still.drift.fixed_p > 0.5 && still.line_p > 0.5, "{still:?}");
    assert_eq!(of(&[point(0.1, 1.0, 1.0), point(0.1, 2.0, 2.0)]), Err(NoAnswer::NoVariance));
}

#[test]
fn a_switchback_counts_worlds() {
    let slot = |value: f64| Cluster { sum: value * 7.0, weight: 7.0 };
    let pair =
        |control: f64, treatment: f64| switchback::SlotPair { control: slot(control), treatment: slot(treatment) };
    let pairs: Vec<_> = (0..10).map(|at| pair(50.0 + f64::from(at), 53.0 + f64::from(at) * 1.1)).collect();
    let found = switchback::switchback(&pairs, Numbers::Any, 0, &mut || 0).unwrap();
    // All ten differences have one sign: two worlds of 1,024.
    assert_eq!((found.p, found.worlds, found.exact), (2.0 / 1_024.0, 1_024, true));
    let many: Vec<_> = pairs.iter().cycle().take(30).copied().collect();
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 32
    };
    let found = switchback::switchback(&many, Numbers::Any, 999, &mut random).unwrap();
    assert_eq!((found.p, found.worlds, found.exact), (0.001, 999, false));
    let empty = switchback::SlotPair { control: Cluster::default(), treatment: slot(1.0) };
    assert_eq!(
        switchback::switchback(&[empty; 5], Numbers::Any, 0, &mut || 0),
        Err(NoAnswer::TooFew { found: 0, needed: 2 })
    );
}

#[test]
fn rare_events_are_weighed_by_exposure() {
    // Half of the units, and of eight failures all: once in 256 by chance.
    assert!(counts::coin(0, 8, 0.5).unwrap() < 0.05);
    assert_eq!(counts::coin(8, 0, 0.5).unwrap(), 1.0);
    assert_eq!(counts::coin(0, 0, 0.5).unwrap(), 1.0);
    assert!(counts::events(&[50, 50], &[0.5, 0.5], counts::CONCENTRATION).unwrap().p > 0.5);
    let least = [0.5, 0.01, 0.7, f64::NAN].iter().fold(srm::LeastP::default(), |least, p| least.after(*p));
    assert_eq!(least.p(), 0.01);
    let off = srm::mismatch(&[500_500_000, 499_500_000], &[1.0, 1.0], srm::CONCENTRATION).unwrap();
    assert!(
        off.p < 1e-6 && !off.matters(srm::LeastP::new(off.p), 0.001, 0.001),
        "significant, and too small to matter"
    );
}

#[test]
fn the_same_sums_give_the_same_bits() {
    let (a, b) = (of(&[[1.0, 2.0], [3.0, 5.0], [4.0, 1.0]]), of(&[[2.0, 2.0], [3.5, 5.0], [9.0, 1.0]]));
    let ask = || format!("{:?}", super::contrast(&a, &b, KINDS[2], Some(1.into()), Errors::Independent, &level()));
    assert_eq!(ask(), ask());
}
