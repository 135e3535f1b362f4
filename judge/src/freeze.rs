//! Caps for measures with heavy tails, from what was seen before the start. Sums cannot be capped afterwards.

use sockpilot_outcomes::Sums;
use sockpilot_policy::measure::{Measure, Quantity, Transform};
use sockpilot_proto::{convert::measure_to_proto, v1};

/// The measures with caps: of those that are the mean of a quantity itself, whose tail may be heavy, the cap is the 99th percentile of
/// what was seen, rounded up.
#[must_use]
pub fn freeze(measures: &[Measure], seen: &Sums) -> v1::FreezeExperimentResponse {
    let (mut frozen, mut notes) = (vec![], vec![]);
    for measure in measures {
        let (measure, note) = one(measure, seen);
        notes.push(format!("{measure}: {note}"));
        frozen.push(measure_to_proto(&measure));
    }
    v1::FreezeExperimentResponse { measures: frozen, notes }
}

fn one(measure: &Measure, seen: &Sums) -> (Measure, String) {
    let distribution = match measure.quantity {
        Quantity::SrttUs => &seen.distributions.srtt_us,
        Quantity::DurationUs => &seen.distributions.duration_us,
        Quantity::HandshakeUs => &seen.distributions.connect_time_us,
        _ => return (*measure, "is left as it is; no distribution of it is kept".to_owned()),
    };
    if measure.per.is_some() || !matches!(measure.transform, Transform::Itself | Transform::Cap(_)) {
        return (*measure, "is left as it is; a logarithm, a threshold or a ratio needs no cap".to_owned());
    }
    let summary = distribution.summary();
    if summary.count == 0 {
        return (*measure, "is left as it is; nothing was seen of it yet".to_owned());
    }
    let cap = rounded_up(summary.p99);
    let note = format!("capped at the 99th percentile of {} connections", summary.count);
    (Measure { transform: Transform::Cap(cap), ..*measure }, note)
}

/// To two digits: what is frozen is read by people.
fn rounded_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    (value / unit).ceil() * unit
}

#[cfg(test)]
mod tests {
    use sockpilot_policy::measure::Role;

    use super::*;

    #[test]
    fn a_cap_is_where_the_tail_begins() {
        let mut seen = Sums::default();
        (1..=1_000).for_each(|ms| seen.distributions.srtt_us.add(f64::from(ms) * 1_000.0));
        let plain = Measure::of(Quantity::SrttUs, Role::Success);
        let log = Measure { transform: Transform::Log, ..plain };
        let frozen = freeze(&[plain, log], &seen);
        let Some(v1::measure::Transform::Cap(cap)) = frozen.measures[0].transform else { panic!("{frozen:?}") };
        assert!((990_000.0..=1_010_000.0).contains(&cap), "{cap}");
        assert_eq!(frozen.measures[1].transform, Some(v1::measure::Transform::Log(true)));
    }
}
