use proptest::prelude::*;

use super::*;
use crate::{
    cluster::Cluster,
    noninferiority::{Direction, Margin, NonInferiority, Standing, non_inferiority},
    saturation::{SaturationPair, saturation},
    switchback::{SlotPair, switchback},
};

fn level() -> Level {
    Level::new(0.05, Level::TUNING).unwrap()
}

fn of(units: u64, events: u64) -> CoMoments {
    CoMoments::from_sums(units, &[events as f64], &[events as f64])
}

/// Clusters, by units and events.
fn clusters(all: &[(u64, u64)]) -> Vec<CoMoments> {
    all.iter().map(|(units, events)| of(*units, *events)).collect()
}

fn ask(control: &CoMoments, treatment: &CoMoments, errors: Errors<'_>, margin: Margin) -> NonInferiority {
    let found = contrast(control, treatment, Kind::Proportion(0), None, errors, &level()).unwrap();
    non_inferiority(&found, Direction::Lower, margin, &level()).unwrap()
}

fn alone((units, control): (u64, u64), (others, treatment): (u64, u64), margin: f64) -> NonInferiority {
    ask(&of(units, control), &of(others, treatment), Errors::Independent, Margin::Absolute(margin))
}

#[test]
fn none_of_many_is_an_answer() {
    for margin in [0.05_f64, 0.01, 0.0005] {
        let (few, many) = ((3.0 / margin) as u64, (14.0 / margin).max(400.0) as u64);
        assert_eq!(alone((few.max(300), 0), (few, 0), margin).standing, Standing::Inconclusive, "{margin}");
        assert_eq!(alone((many, 0), (many, 0), margin).standing, Standing::Pass, "{margin}");
        // All of them is the same, the other way round.
        let all = contrast(&of(many, many), &of(many, many), Kind::Proportion(0), None, Errors::Independent, &level());
        let all = non_inferiority(&all.unwrap(), Direction::Higher, Margin::Relative(margin), &level()).unwrap();
        assert_eq!(all.standing, Standing::Pass, "{margin}");
    }
    let found = contrast(&of(900, 0), &of(100, 0), Kind::Proportion(0), None, Errors::Independent, &level()).unwrap();
    assert_eq!(
        (found.control, found.treatment, found.absolute.sequence_p),
        (0.0, 0.0, 1.0),
        "values are as they were seen"
    );
    let variance = (2.0_f64 / 900.0).powi(2) + (2.0_f64 / 100.0).powi(2);
    assert!((found.absolute.estimate.variance / variance - 1.0).abs() < 1e-12, "{found:?}");
}

/// Twenty clusters of each arm, of a thousand units without an event.
#[test]
fn clusters_without_an_event_pass_too() {
    let none = clusters(&[(1_000, 0); 20]);
    let pairs: Vec<_> = none.iter().cloned().zip(none.clone()).collect();
    let whole = of(20_000, 0);
    for errors in [Errors::Clustered { control: &none, treatment: &none }, Errors::Paired(&pairs)] {
        assert_eq!(ask(&whole, &whole, errors, Margin::Absolute(0.001)).standing, Standing::Pass);
        assert_eq!(ask(&whole, &whole, errors, Margin::Absolute(0.0001)).standing, Standing::Inconclusive);
        let relative = contrast(&whole, &whole, Kind::Proportion(0), None, errors, &level()).unwrap().relative;
        assert_eq!(relative, Err(NoAnswer::ZeroControl));
    }
    let cluster = Cluster { sum: 0.0, weight: 1_000.0 };
    let slots = vec![SlotPair { control: cluster, treatment: cluster }; 20];
    let found = switchback(&slots, Numbers::Events, 0, &mut || 0).unwrap();
    let wanted = 2.0 * (3.0_f64 / 20_000.0).powi(2);
    assert!((found.estimate.variance / wanted - 1.0).abs() < 1e-12 && found.p == 1.0, "{found:?}");
    assert_eq!(switchback(&slots, Numbers::Any, 0, &mut || 0), Err(NoAnswer::NoVariance));
    let (low_control, low_treatment, high_control, high_treatment) = (cluster, cluster, cluster, cluster);
    let pairs = vec![SaturationPair { low_control, low_treatment, high_control, high_treatment }; 20];
    let found = saturation(&pairs, Numbers::Events, &level()).unwrap();
    assert!((found.total.estimate.variance / wanted - 1.0).abs() < 1e-12, "{found:?}");
}

/// Segments sent again, of all that were sent: none.
#[test]
fn a_ratio_of_none_passes() {
    let mut sent = CoMoments::new(2);
    (0..1_000).for_each(|flow| sent.add(&[0.0, f64::from(10 + flow % 7)]).unwrap());
    let kind = Kind::Ratio { numerator: 0, denominator: 1 };
    let found = contrast(&sent, &sent, kind, None, Errors::Independent, &level()).unwrap();
    let wanted = 2.0 * (2.0 / sent.sum(1).unwrap()).powi(2);
    assert!((found.absolute.estimate.variance / wanted - 1.0).abs() < 1e-12, "{found:?}");
}

#[test]
fn a_margin_within_has_an_answer_where_the_control_has_none() {
    let within = Margin::Within { share: 0.05, or: 0.001 };
    let ask = |control, treatment| ask(&control, &treatment, Errors::Independent, within);
    let none = ask(of(20_000, 0), of(20_000, 0));
    assert_eq!((none.standing, none.margin), (Standing::Pass, 0.001));
    // One in ten thousand more is within one in a thousand, though it is twice as many.
    assert_eq!(ask(of(1_000_000, 100), of(1_000_000, 200)).standing, Standing::Pass);
    // One in five hundred more is neither within that nor within 5%.
    assert_eq!(ask(of(1_000_000, 100), of(1_000_000, 2_100)).standing, Standing::Fail);
    // Of a tenth the share of it is the margin.
    let tenth = ask(of(1_000_000, 100_000), of(1_000_000, 102_500));
    assert_eq!((tenth.standing, tenth.margin), (Standing::Pass, 0.05));
    assert_eq!(ask(of(1_000_000, 100_000), of(1_000_000, 110_000)).standing, Standing::Fail);
}

proptest! {
    #[test]
    fn an_event_more_never_makes_it_easier(
        control in 300..100_000_u64, treatment in 300..100_000_u64, seen in 0..300_u64, more in 0..299_u64,
    ) {
        let at = |events| alone((control, seen.min(control)), (treatment, events), 0.01).harm_at_most;
        prop_assert!(at(more + 1) > at(more), "{} {}", at(more), at(more + 1));
    }

    /// Of many events nothing is left of it.
    #[test]
    fn many_events_are_as_they_are(units in 100_000..1_000_000_u64, percent in 1..100_u64) {
        let (control, treatment) = (of(units, units * percent / 100), of(units, units * percent / 101));
        let kind = Kind::Proportion(0);
        let with = contrast(&control, &treatment, kind, None, Errors::Independent, &level()).unwrap();
        let plain = crate::contrast(&control, &treatment, kind, None, Errors::Independent, &level()).unwrap();
        let (with, plain) = (with.absolute.estimate, plain.absolute.estimate);
        prop_assert_eq!(with.effect, plain.effect);
        prop_assert!(with.variance > plain.variance && with.variance < plain.variance * 1.005);
    }
}

/// SplitMix64, as an uniform number between 0 and 1.
struct Random(u64);

impl Random {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed ^ (mixed >> 31)) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// How many of so many units have an event, each with the same probability: from one to the next.
    fn events(&mut self, units: u64, rate: f64) -> u64 {
        let (mut at, mut events) = (0.0, 0);
        if rate == 0.0 {
            return 0;
        }
        loop {
            at += (self.share().ln() / (-rate).ln_1p()).floor() + 1.0;
            if at > units as f64 {
                return events;
            }
            events += 1;
        }
    }
}

/// As many units as there are at each of 50 looks.
fn looks(first: u64, last: u64) -> Vec<u64> {
    let step = (last as f64 / first as f64).powf(1.0 / 49.0);
    (0..50).map(|look| (first as f64 * step.powi(look)) as u64).collect()
}

fn share(runs: u64, mut passes: impl FnMut(&mut Random) -> bool) -> f64 {
    (0..runs).filter(|run| passes(&mut Random(run * 0x1_0001))).count() as f64 / runs as f64
}

/// Experiments in which the treatment does the harm that is just no longer tolerated, looked at fifty times.
#[test]
fn a_harm_of_the_margin_does_not_pass() {
    for margin in [0.05, 0.01, 0.0005] {
        for (of_control, ratio) in [(0.0, 1), (0.0, 9), (0.001, 1), (0.001, 9)] {
            let passed = share(1_000, |random| {
                let (mut before, mut seen) = (0, (0, 0));
                looks(300, (60.0 / margin) as u64).into_iter().any(|units| {
                    seen.0 += random.events((units - before) * ratio, of_control);
                    seen.1 += random.events(units - before, of_control + margin);
                    before = units;
                    alone((units * ratio, seen.0), (units, seen.1), margin).standing == Standing::Pass
                })
            });
            assert!(passed <= 0.05, "margin {margin}, control {of_control}, 1 in {}: {passed}", ratio + 1);
        }
    }
}

/// The same of clusters with rates of their own, exponential about the mean: a few of them have most of the events.
#[test]
fn a_harm_of_the_margin_does_not_pass_over_clusters() {
    const MARGIN: f64 = 0.02;
    for count in [5_usize, 10, 40] {
        let passed = share(400, |random| {
            let rates: Vec<f64> = (0..count).map(|_| (-random.share().ln() * MARGIN).min(1.0)).collect();
            let (mut before, mut seen) = (0, vec![0; count]);
            looks(4, 100 * 50 / count as u64).into_iter().any(|units| {
                seen.iter_mut().zip(&rates).for_each(|(seen, rate)| *seen += random.events(units - before, *rate));
                before = units;
                let treatment: Vec<_> = seen.iter().map(|events| of(units, *events)).collect();
                let control = vec![of(units, 0); count];
                let errors = Errors::Clustered { control: &control, treatment: &treatment };
                let (whole, all) = (units * count as u64, seen.iter().sum());
                ask(&of(whole, 0), &of(whole, all), errors, Margin::Absolute(MARGIN)).standing == Standing::Pass
            })
        });
        assert!(passed <= 0.075, "{count} clusters: {passed}");
    }
}
