//! The circuit breaker: its constants, and how often it acts without harm and how soon with it, through the very function of the
//! kernel program.

use sockpilot_policy::breaker::{End, NAT, STEPS, threshold, trips};

/// The splitmix64 generator.
struct Random(u64);

impl Random {
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// After how many bad ends the breaker acts, if it does within so many, where the canary's connections end badly so many times as
    /// often as the control's.
    fn run(&mut self, rate: f64, threshold: u32, bad_ends: u64) -> Option<u64> {
        let mut canary = 0;
        (1..=bad_ends).find(|end| {
            canary += u64::from(self.share() < rate / (1.0 + rate));
            trips(canary, end - canary, threshold)
        })
    }
}

/// The logarithms of the likelihood ratios, rounded down, so that the sum of what they stand for is at most that of the exact ones: 2.
#[test]
fn steps_are_those_of_the_alternatives() {
    for ((up, down), rate) in STEPS.into_iter().zip([1.5_f64, 3.0, 10.0]) {
        let q = rate / (1.0 + rate);
        let units = |share: f64| ((share / 0.5).ln() * f64::from(NAT)).floor() as i64;
        assert_eq!((units(q), units(1.0 - q)), (up as i64, -(down as i64)), "rate x {rate}");
        let back = |steps: i64| (steps as f64 / f64::from(NAT)).exp();
        assert!(back(up as i64) + back(-(down as i64)) <= 2.0);
    }
}

#[test]
fn the_threshold_is_a_third_of_the_probability_for_each_alternative() {
    assert_eq!(threshold(1_000), (3_000_f64.ln() * 1024.0).ceil() as u32);
    assert_eq!(threshold(0), 0);
    assert!(!trips(u64::from(u32::MAX), 0, 0), "no breaker");
    // e^(14 * 0.5978) is beyond 3,000, e^(13 * 0.5978) is not.
    assert_eq!((1..).find(|&canary| trips(canary, 0, threshold(1_000))), Some(14));
    assert!(!trips(0, 1_000_000, threshold(1_000)));
}

/// Not by simulation but exactly: the probability of every number of the canary's bad ends among so many, of those runs that have not tripped.
#[test]
fn without_harm_it_acts_no_oftener_than_promised() {
    for ppm in [1_000, 10_000] {
        let (threshold, mut tripped) = (threshold(ppm), 0.0);
        let mut share = vec![1.0_f64];
        for ends in 1..=3_000_u64 {
            let halves = |canary: usize| share.get(canary).copied().unwrap_or_default() / 2.0;
            let next = (0..=ends as usize).map(|canary| halves(canary) + canary.checked_sub(1).map_or(0.0, halves));
            let mut next: Vec<_> = next.collect();
            // More bad ends in the canary trip the sooner.
            for canary in (0..=ends).rev().take_while(|&canary| trips(canary, ends - canary, threshold)) {
                tripped += std::mem::take(&mut next[canary as usize]);
            }
            share = next;
        }
        let promised = f64::from(ppm) / 1e6;
        assert!(tripped <= promised, "{tripped} of {promised}");
        assert!(tripped > promised / 2.0, "the bound is not that loose: {tripped} of {promised}");
    }
}

#[test]
fn without_harm_it_seldom_acts_and_with_harm_soon() {
    let mut random = Random(1);
    for ppm in [10_000, 100_000] {
        let false_trips = (0..2_000).filter(|_| random.run(1.0, threshold(ppm), 1_000).is_some()).count();
        let most = 2_000.0 * f64::from(ppm) / 1e6;
        assert!((false_trips as f64) <= most, "{false_trips} of 2000 at {ppm} ppm");
        assert!(false_trips > 0, "the bound is not that loose");
    }
    for (rate, least, most) in [(2.0, 120, 180), (5.0, 24, 35), (20.0, 13, 15)] {
        let mut ends: Vec<_> =
            (0..501).map(|_| random.run(rate, threshold(1_000), 10_000).expect("in the end it acts")).collect();
        ends.sort_unstable();
        assert!((least..=most).contains(&ends[250]), "x {rate}: after {} bad ends", ends[250]);
    }
}

#[test]
fn what_ends_badly() {
    let well = End { established: true, old_state: 9, error: 0, segments_out: 9, rtos: 3 };
    assert!(!well.is_bad());
    let never = End { established: false, old_state: 2, error: 111, ..well };
    assert!(never.is_bad() && never.failed());
    assert!(!End { error: 0, ..never }.is_bad(), "the program gave it up itself");
    assert!(End { error: 0, segments_out: 0, ..never }.is_bad(), "nothing could be sent");
    assert!(End { error: 104, ..well }.reset() && End { error: 110, ..well }.timed_out());
    assert!(End { rtos: 4, ..well }.is_bad());
    assert!(End { old_state: 1, ..well }.is_bad(), "ended without a FIN");
    assert!(End { old_state: 1, error: 110, ..well }.timed_out() && !End { old_state: 1, error: 110, ..well }.reset());
}
