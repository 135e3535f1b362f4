//! Intervals hold the true share as often as they say, of flows that are recorded as nodes record them: up to 32 of a report that a layer
//! matched, one in a hundred of the others.

use super::*;

/// Knuth's MMIX generator; its high bits are good.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() * bound as f64) as usize
    }
}

/// Traffic of some time: in each report so many connections that a layer matched, and so many that none did, of which these shares are
/// touched.
struct Traffic {
    reports: usize,
    matched: (usize, f64),
    unmatched: (usize, f64),
}

/// What is recorded of it, and the true share.
fn record(traffic: &Traffic, random: &mut Random) -> (Tally, f64) {
    let (mut recorded, mut touched, mut all) = (Tally::default(), 0_u32, 0_u32);
    for _ in 0..traffic.reports {
        // All the same load would be too easy.
        let many = 1 + random.below(2 * traffic.matched.0);
        let mut matched: Vec<bool> = (0..many).map(|_| random.next() < traffic.matched.1).collect();
        let others: Vec<bool> = (0..traffic.unmatched.0).map(|_| random.next() < traffic.unmatched.1).collect();
        for is_touched in matched.iter().chain(&others) {
            (all, touched) = (all + 1, touched + u32::from(*is_touched));
        }
        let keep = many.min(32);
        for place in 0..keep {
            let other = place + random.below(many - place);
            matched.swap(place, other);
            recorded.add(1, matched[place], many as f64 / keep as f64);
        }
        others.into_iter().filter(|_| random.next() < 0.01).for_each(|is_touched| recorded.add(0, is_touched, 100.0));
    }
    (recorded, f64::from(touched) / f64::from(all))
}

#[test]
fn intervals_hold_the_truth() {
    const RUNS: u32 = 500;
    for (name, reports, matched, unmatched) in [
        ("some of both", 20, (100, 0.2), (500, 0.1)),
        ("a few of many", 20, (100, 0.03), (1_000, 0.005)),
        ("all that is matched, nothing else", 20, (50, 1.0), (500, 0.0)),
        ("nothing that is matched", 20, (50, 0.0), (500, 0.05)),
        ("few flows", 5, (60, 0.3), (300, 0.3)),
        ("little is matched", 20, (3, 0.5), (700, 0.02)),
    ] {
        let (mut random, traffic) = (Random(7), Traffic { reports, matched, unmatched });
        let (mut held, mut length, mut error, mut squares) = (0_u32, 0.0, 0.0, 0.0);
        for _ in 0..RUNS {
            let (tally, truth) = record(&traffic, &mut random);
            let v1::TouchedShare { share, standard_error, lower, upper, .. } = tally.share();
            held += u32::from((lower..=upper).contains(&truth));
            (length, error) = (length + upper - lower, error + standard_error.powi(2));
            squares += (share - truth).powi(2);
        }
        let runs = f64::from(RUNS);
        let (held, length, error) = (f64::from(held) / runs, length / runs, (error / runs).sqrt());
        let deviation = (squares / runs).sqrt();
        println!("{name}: held {held:.3}, length {length:.4}, standard error {error:.5} for {deviation:.5}");
        // 95%, less three standard deviations of so many runs.
        assert!(held > 0.92, "{name}: held in {held}");
        assert!(length < 0.4, "{name}: an interval of {length} says nothing");
        assert!((0.85..1.3).contains(&(error / deviation)), "{name}: standard error {error} for {deviation}");
    }
}

#[test]
fn a_part_that_was_recorded_as_a_whole_has_no_limits_but_itself() {
    let mut part = Part::default();
    (0..7).for_each(|_| part.add(1.0));
    assert_eq!(part.limits(0.0), (7.0, 7.0));
    let (lower, upper) = Part::default().limits(99.0);
    assert!(lower.abs() < 1e-9 && (upper / 99.0 - Z * Z).abs() < 1e-9, "{lower} {upper}");
}
