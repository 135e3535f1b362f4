use proptest::prelude::*;
use sockpilot_policy::{
    layout::{FlowRecord, Reported},
    measure::{Measure, Role},
};

use super::*;
use crate::testing::record;

const S: u64 = 1_000_000_000;

fn columns() -> Columns {
    let of = |quantity| Measure::of(quantity, Role::Diagnostic);
    Columns::of(&[of(Quantity::Connected), of(Quantity::SrttUs), of(Quantity::BytesSent)])
}

fn at(end_ns: u64, still_open: u32, reported_ns: u64) -> FlowRecord {
    let reported = Reported { end_ns: reported_ns, ..Reported::default() };
    FlowRecord { start_ns: S, established_ns: S + 1, end_ns, still_open, reported, ..record() }
}

#[test]
fn a_connection_is_measured_once() {
    let due = |record: FlowRecord| is_due(&Flow::of(&record), 60 * S);
    assert!(due(at(2 * S, 0, 0)), "ended before the horizon");
    assert!(!due(at(11 * S, 1, 0)), "open, before the horizon");
    assert!(due(at(71 * S, 1, 11 * S)), "open, first look after the horizon");
    assert!(!due(at(81 * S, 1, 71 * S)), "open, a later look");
    assert!(!due(at(99 * S, 0, 71 * S)), "its end, when it was looked at after the horizon");
    assert!(due(at(99 * S, 0, 11 * S)), "its end, when no look came after the horizon");
}

#[test]
fn who_connects_late_or_never_is_counted() {
    let mut measured = Measured::default();
    let late = FlowRecord { established_ns: 62 * S, ..at(70 * S, 0, 0) };
    let never = FlowRecord { established_ns: 0, ..at(70 * S, 1, 0) };
    for record in [at(2 * S, 0, 0), at(90 * S, 1, 0), late, never] {
        measured.add(&columns(), &Flow::of(&record), 60 * S, None);
    }
    assert_eq!((measured.attempts.count, measured.established.count, measured.unfinished), (4, 2, 3));
    assert_eq!(measured.attempts.mean(0), Some(0.5));
    assert_eq!(measured.clone().checked(), Ok(measured));
}

#[test]
fn delivery_is_no_rate_where_the_application_had_nothing_to_send() {
    let sampled = FlowRecord { rate_delivered: 10, rate_interval_us: 1_000, ..at(2 * S, 0, 0) };
    let rate = |record| value(Quantity::DeliveryRateBps, &Flow::of(&record), 60 * S);
    assert_eq!(rate(sampled), Some(14_480_000.0));
    assert_eq!(rate(FlowRecord { rate_app_limited: 1, ..sampled }), None);
    assert_eq!(rate(FlowRecord { rate_delivered: 0, ..sampled }), None);
}

#[test]
fn bad_ends_and_durations_by_size() {
    let of = |quantity, record: FlowRecord| value(quantity, &Flow::of(&record), 60 * S);
    let plain = at(3 * S, 0, 0);
    assert_eq!(of(Quantity::BadEnd, plain), Some(0.0));
    assert_eq!(of(Quantity::BadEnd, FlowRecord { error: libc::ECONNRESET as u32, ..plain }), Some(1.0));
    let sizes = [Quantity::DurationSmallUs, Quantity::DurationMediumUs, Quantity::DurationLargeUs];
    for (bytes_sent, expected) in [(1_000, 0), (100_000, 1), (1_000_000, 2), (1_000_001, 3)] {
        let record = FlowRecord { bytes_sent, ..plain };
        for (at, quantity) in sizes.into_iter().enumerate() {
            assert_eq!(of(quantity, record), (at == expected).then_some(2e6), "{bytes_sent}");
        }
    }
}

#[test]
fn contradictions_are_refused() {
    let mut sound = Measured::default();
    sound.add(&columns(), &Flow::of(&at(2 * S, 0, 0)), 60 * S, Some(7));
    assert_eq!(sound.clone().checked(), Ok(sound.clone()));
    assert!(Measured { unfinished: 2, ..sound.clone() }.checked().is_err());
    let with = |change: fn(&mut GroupSums)| {
        let mut changed = sound.clone();
        change(changed.groups.get_mut(&7).expect("it has the group"));
        changed.checked()
    };
    assert!(with(|sums| sums.attempts = 2).is_err());
    assert!(with(|sums| sums.attempt_sums[0] = f64::NAN).is_err());
    assert!(with(|sums| sums.established_sums.clear()).is_err());
    let mut other = Measured::default();
    let fewer = Columns::of(&[]);
    other.add(&fewer, &Flow::of(&at(2 * S, 0, 0)), 60 * S, None);
    let before = sound.clone();
    assert!(sound.merge(&other).is_err());
    assert_eq!(sound, before, "nothing of it was added");
}

proptest! {
    #[test]
    fn merged_in_any_order_it_is_the_whole(
        flows in prop::collection::vec((1_u32..1 << 30, 0_u64..1 << 40, 0_u32..4, any::<bool>()), 0..40),
        cut in 0_usize..40,
    ) {
        let of = |flows: &[(u32, u64, u32, bool)]| {
            let mut measured = Measured::default();
            for (srtt_us, bytes_sent, group, connects) in flows {
                let established_ns = if *connects { S + 1 } else { 0 };
                let record = FlowRecord { srtt_us: *srtt_us, bytes_sent: *bytes_sent, established_ns, ..at(2 * S, 0, 0) };
                measured.add(&columns(), &Flow::of(&record), 60 * S, Some(*group));
            }
            measured
        };
        let (left, right) = flows.split_at(cut.min(flows.len()));
        let (mut forth, mut back) = (of(left), of(right));
        forth.merge(&of(right)).expect("the same columns");
        back.merge(&of(left)).expect("the same columns");
        let whole = of(&flows);
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0));
        for merged in [forth, back] {
            prop_assert_eq!(merged.attempts.count, whole.attempts.count);
            prop_assert!(close(&merged.established.mean, &whole.established.mean));
            prop_assert!(close(&merged.established.m2, &whole.established.m2));
            for ((_, merged), (_, whole)) in merged.groups.iter().zip(&whole.groups) {
                prop_assert_eq!((merged.attempts, merged.established), (whole.attempts, whole.established));
                prop_assert!(close(&merged.established_sums, &whole.established_sums));
            }
            prop_assert!(merged.checked().is_ok());
        }
    }
}

#[test]
fn how_long_it_took_is_known_of_connections_of_the_size_only() {
    let durations = [Quantity::DurationSmallUs, Quantity::DurationMediumUs, Quantity::DurationLargeUs];
    let of = |bytes_sent| {
        let record = FlowRecord { bytes_sent, ..at(3 * S, 0, 0) };
        durations.map(|quantity| value(quantity, &Flow::of(&record), 60 * S))
    };
    let took = Some(2e6);
    assert_eq!(of(14_600), [took, None, None]);
    assert_eq!(of(14_601), [None, took, None]);
    assert_eq!(of(1_000_000), [None, None, took]);
    assert_eq!(of(1_000_001), [None; 3]);
}

#[test]
fn a_bad_end_is_what_the_breaker_counts() {
    let bad = |record: FlowRecord| value(Quantity::BadEnd, &Flow::of(&record), 60 * S);
    let well = at(3 * S, 0, 0);
    assert_eq!(bad(well), Some(0.0));
    assert_eq!(bad(FlowRecord { error: 104, ..well }), Some(1.0), "reset");
    assert_eq!(bad(FlowRecord { established_ns: 0, error: 111, ..well }), Some(1.0), "refused");
    assert_eq!(bad(FlowRecord { established_ns: 0, error: 0, ..well }), Some(0.0), "given up by the program");
    let open = at(71 * S, 1, 0);
    assert_eq!(bad(open), Some(0.0), "open");
    assert_eq!(bad(FlowRecord { established_ns: 0, ..open }), Some(0.0), "still connecting");
    assert_eq!(bad(FlowRecord { rtos: 4, ..open }), Some(1.0), "open, after four timeouts");
}
