//! Whatever comes in: an answer or a refusal, the same twice, and never a yes out of nothing.

use proptest::{collection::vec, prelude::*};
use prost::Message;
use sockpilot_judge::{Evidence, judge, power};
use sockpilot_proto::v1::{self, Unit, VerdictKind};

use crate::made::{assert_readable, clusters, evidence, flows, made, over};

pub fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(-0.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::MIN_POSITIVE),
        Just(1e18),
        Just(-1e18),
        Just(1e300),
        0.0..10.0,
        -1e6..1e6_f64,
    ]
}

pub fn count() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(2), Just(u64::MAX), Just(u64::MAX - 1), 0..1_000_000_u64]
}

pub fn moments(dimension: usize) -> impl Strategy<Value = v1::CoMoments> {
    let triangle = dimension * (dimension + 1) / 2;
    // Half of them with a diagonal only, which the checks let pass.
    (count(), vec(number(), dimension), vec(number(), triangle), any::<bool>()).prop_map(
        move |(count, mean, mut m2, diagonal)| {
            if diagonal {
                for i in 0..dimension {
                    (0..i).for_each(|j| m2[i * (i + 1) / 2 + j] = 0.0);
                    m2[i * (i + 1) / 2 + i] = m2[i * (i + 1) / 2 + i].abs();
                }
            }
            v1::CoMoments { count, mean, m2 }
        },
    )
}

fn group() -> impl Strategy<Value = v1::MeasuredGroup> {
    (0..300_u32, count(), count(), number(), vec(number(), 3)).prop_map(
        |(group, attempts, established, sum, established_sums)| v1::MeasuredGroup {
            group,
            attempts,
            established,
            attempt_sums: vec![sum],
            established_sums,
        },
    )
}

fn measured() -> impl Strategy<Value = Option<v1::Measured>> {
    let groups = prop_oneof![3 => Just(vec![]), 1 => vec(group(), 0..12)];
    let some = (moments(1), moments(3), count(), groups).prop_map(|(attempts, established, unfinished, groups)| {
        // As large as what it is a part of, so that many of them pass the checks.
        let unfinished = unfinished.min(attempts.count);
        let established = v1::CoMoments { count: established.count.min(attempts.count), ..established };
        let (attempts, established) = (Some(attempts), Some(established));
        Some(v1::Measured { attempts, established, unfinished, groups })
    });
    prop_oneof![1 => Just(None), 9 => some]
}

fn unit() -> impl Strategy<Value = Unit> {
    prop_oneof![
        Just(Unit::Flow),
        Just(Unit::Node),
        Just(Unit::PeerPrefix),
        Just(Unit::TimeSlot),
        Just(Unit::SaturationPair)
    ]
}

fn any_evidence() -> impl Strategy<Value = v1::Evidence> {
    let times = (any::<i64>(), any::<i64>(), proptest::option::of(any::<i64>()));
    (unit(), vec(measured(), 2), times, vec(number(), 0..4)).prop_map(|(unit, arms, (from, to, end), least)| {
        let second = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        v1::Evidence {
            from_time: Some(second(from)),
            to_time: Some(second(to)),
            planned_end: end.map(second),
            least_share_p: least,
            ..evidence(crate::made::design(unit), arms)
        }
    })
}

/// Judged twice, and again after it has been to a database and back: the same bytes.
fn the_same_twice(evidence: &v1::Evidence) -> Option<v1::ExperimentResults> {
    let first = judge(evidence);
    let bytes = evidence.encode_to_vec();
    let read = v1::Evidence::decode(bytes.as_slice()).expect("what was written is read");
    assert_eq!(read.encode_to_vec(), bytes);
    let again = judge(&read);
    assert_eq!(first.is_ok(), again.is_ok());
    let (first, again) = (first.ok()?, again.ok()?);
    assert_eq!(first.encode_to_vec(), again.encode_to_vec());
    Some(first)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn anything_is_judged_or_refused(evidence in any_evidence()) {
        let Some(results) = the_same_twice(&evidence) else { return Ok(()) };
        let verdict = results.verdict.expect("a verdict");
        assert_readable(&verdict);
        let attempts: Vec<u64> = results.arms.iter().map(|arm| arm.attempts).collect();
        prop_assert_eq!(verdict.kind() == VerdictKind::NoData, attempts.iter().all(|attempts| *attempts == 0));
        if verdict.kind() == VerdictKind::Ship {
            prop_assert!(attempts.iter().all(|attempts| *attempts >= 5), "a yes out of nothing: {:?}", verdict);
        }
        for row in &results.measures {
            prop_assert_eq!(row.absolute.is_none(), !row.no_answer.is_empty(), "{:?}", row);
            let of = row.absolute.into_iter().chain(row.relative);
            prop_assert!(of.into_iter().all(|effect| !effect.effect.is_nan() && (0.0..=1.0).contains(&effect.p)), "{:?}", row);
        }
        let read = Evidence::read(&evidence).expect("it was judged");
        let question = power::PowerQuestion { effect: 0.05, power: 0.8 };
        let _ = power::power(&read, question, String::new());
    }

    /// Without a difference there is no yes, however many connections there are.
    #[test]
    fn no_difference_is_no_yes(n in 2..10_000_000_u64, lost in 0..100_u64, us in 1.0..1e7_f64, ended: bool) {
        let same = made(n, n - lost.min(n), us);
        let found = flows(same, same);
        let found = if ended { over(found) } else { found };
        let results = the_same_twice(&found).expect("sound");
        let kind = results.verdict.expect("a verdict").kind();
        prop_assert_eq!(kind, if ended { VerdictKind::Inconclusive } else { VerdictKind::KeepRunning });
    }
}

#[test]
fn every_unit_is_the_same_twice() {
    for unit in [Unit::Node, Unit::PeerPrefix, Unit::TimeSlot, Unit::SaturationPair] {
        for us in [700.0, 1_000.0, 1_300.0] {
            let found = clusters(unit, 40, made(1_000, 990, 1_000.0), made(1_000, 990, us));
            assert!(the_same_twice(&found).is_some(), "{unit:?}");
        }
    }
}

/// Sums of something else, or of what cannot be, are refused with the arm's name.
#[test]
fn what_contradicts_itself_is_refused() {
    let sound = flows(made(1_000, 990, 1_000.0), made(1_000, 990, 1_000.0));
    assert!(judge(&sound).is_ok());
    let spoiled = |spoil: fn(&mut v1::Measured)| {
        let mut evidence = sound.clone();
        spoil(evidence.arms[1].measured.as_mut().expect("some"));
        evidence
    };
    let cases: [fn(&mut v1::Measured); 7] = [
        |measured| measured.attempts.as_mut().expect("some").mean.push(1.0),
        |measured| measured.attempts.as_mut().expect("some").mean[0] = f64::NAN,
        |measured| measured.established.as_mut().expect("some").m2[0] = -1.0,
        |measured| measured.established.as_mut().expect("some").m2[1] = 1e12,
        |measured| measured.established.as_mut().expect("some").count = 1_001,
        |measured| measured.unfinished = 1_001,
        |measured| *measured = v1::Measured { attempts: measured.attempts.clone(), ..v1::Measured::default() },
    ];
    for (number, spoil) in cases.into_iter().enumerate() {
        let error = judge(&spoiled(spoil)).expect_err(&format!("case {number}"));
        assert!(error.to_string().contains("of arm treatment"), "{number}: {error}");
    }
    let none = v1::Evidence { design: None, ..sound };
    assert!(judge(&none).is_err());
}
