//! Caps, from what was seen.

use sockpilot_judge::{Evidence, freeze::freeze};
use sockpilot_outcomes::Sums;
use sockpilot_policy::measure::{Measure, Quantity, Role, Transform};
use sockpilot_proto::v1::{self, MeasureRole, Unit, measure};
use sockpilot_stats::CoMoments;

use crate::made::{design, evidence, measure as measured_by};

fn nothing() -> Evidence {
    Evidence::read(&evidence(design(Unit::Flow), vec![None, None])).expect("evidence")
}

fn plain(quantity: Quantity) -> Measure {
    Measure::of(quantity, Role::Success)
}

fn cap(frozen: &v1::FreezeExperimentResponse, at: usize) -> Option<f64> {
    match frozen.measures[at].transform {
        Some(measure::Transform::Cap(cap)) => Some(cap),
        _ => None,
    }
}

#[test]
fn a_cap_is_where_the_tail_begins() {
    let mut seen = Sums::default();
    (1..=1_000).for_each(|ms| seen.distributions.srtt_us.add(f64::from(ms) * 1_000.0));
    let log = Measure { transform: Transform::Log, ..plain(Quantity::SrttUs) };
    let at_most = Measure { transform: Transform::AtMost(5.0), ..plain(Quantity::SrttUs) };
    let measures = [plain(Quantity::SrttUs), plain(Quantity::QueueingUs), log, at_most, plain(Quantity::DurationUs)];
    let frozen = freeze(&measures, &seen, &nothing());
    for at in [0, 1] {
        assert!((990_000.0..=1_010_000.0).contains(&cap(&frozen, at).expect("a cap")), "{frozen:?}");
    }
    assert!(frozen.notes[1].contains("of srtt_us, of which it is a part"), "{frozen:?}");
    assert_eq!(frozen.measures[2].transform, Some(measure::Transform::Log(true)));
    assert_eq!(frozen.measures[3].transform, Some(measure::Transform::AtMost(5.0)));
    assert!(frozen.notes[3].contains("of 1000 connections half had a srtt_us of at most 50"), "{frozen:?}");
    assert!(cap(&frozen, 4).is_none() && frozen.notes[4].contains("run this as an A/A first"), "{frozen:?}");
}

/// What has no distribution is capped by what an A/A has measured: hardly more than one in a hundred can be above.
#[test]
fn an_a_a_caps_what_has_no_distribution() {
    let mut layer = design(Unit::Flow);
    layer.measures =
        vec![measured_by("bytes_sent", MeasureRole::Success), measured_by("delivery_rate_bps", MeasureRole::Success)];
    let (mut attempts, mut established) = (CoMoments::new(1), CoMoments::new(4));
    let mut values = vec![];
    for at in 0..10_000_u32 {
        // Pareto, without a variance; the rate is known of every fourth.
        let bytes = 1_000.0 * (10_000.0 / f64::from(at + 1)).sqrt();
        let known = f64::from(u8::from(at % 4 == 0));
        attempts.add(&[1.0]).expect("a row");
        established.add(&[bytes, 500.0 * known, known, 0.0]).expect("a row");
        values.push(bytes);
    }
    let message = |moments: CoMoments| Some(v1::CoMoments { count: moments.count, mean: moments.mean, m2: moments.m2 });
    let measured =
        v1::Measured { attempts: message(attempts), established: message(established), ..v1::Measured::default() };
    let aa = Evidence::read(&evidence(layer, vec![Some(measured), None])).expect("evidence");
    let measures = [
        plain(Quantity::BytesSent),
        plain(Quantity::DeliveryRateBps),
        plain(Quantity::Retransmits),
        plain(Quantity::Reset),
    ];
    let frozen = freeze(&measures, &Sums::default(), &aa);
    let bytes = cap(&frozen, 0).expect("a cap");
    let above = values.iter().filter(|value| **value > bytes).count();
    assert!((1..=100).contains(&above), "{above} of 10,000 are above {bytes}");
    let rate = cap(&frozen, 1).expect("a cap");
    assert!((500.0..=510.0).contains(&rate), "where it is known it is always 500: {rate}");
    assert!(frozen.notes[1].contains("of 2500 measured connections"), "{frozen:?}");
    assert!(
        cap(&frozen, 2).is_none() && frozen.notes[2].contains("run this as an A/A first, without a cap"),
        "{frozen:?}"
    );
    assert!(cap(&frozen, 3).is_none() && frozen.notes[3].contains("a yes or no needs no cap"), "{frozen:?}");
}
