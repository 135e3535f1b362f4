//! What is said of an experiment, for people who own a service and not a textbook.

use sockpilot_policy::{
    measure::{Role, Transform},
    model::Unit,
    parameter::PARAMETERS,
};
use sockpilot_proto::v1;
use sockpilot_stats::{
    Estimate, Level, arm,
    ramp::{RampPoint, ramp},
};

use crate::{
    ALPHA_OF_CHECKS,
    effect::{clusters, kind, moments, stage},
    evidence::Evidence,
    judge::Judged,
};

/// Parameters by which a connection takes from others at a shared bottleneck, or leaves to them.
const SHARED: [&str; 12] = [
    "congestion_control",
    "initial_cwnd_packets",
    "cwnd_clamp_packets",
    "initial_receive_window_packets",
    "max_pacing_rate_bytes_per_s",
    "send_buffer_bytes",
    "receive_buffer_bytes",
    "window_clamp_bytes",
    "min_rto_ms",
    "max_rto_ms",
    "ecn",
    "base_rtt_us",
];

/// What the effects are effects of.
#[must_use]
pub fn estimand(evidence: &Evidence) -> String {
    let horizon_s = evidence.comparison.horizon_s;
    let what = match evidence.comparison.unit {
        Unit::Flow => {
            "the difference between connections that are treated and others at the same time that are not".to_owned()
        }
        Unit::PeerPrefix { ipv4_bits, ipv6_bits } => format!(
            "the difference between peers' networks (/{ipv4_bits}, /{ipv6_bits}) that are treated and others at the same time that are not"
        ),
        Unit::Node => {
            "the difference between nodes that are treated and others at the same time that are not".to_owned()
        }
        Unit::TimeSlot { slot_s, washout_s } => format!(
            "the difference between treating everybody and nobody, by slots of {slot_s} s, of which the first {washout_s} s are left out"
        ),
        Unit::SaturationPair { low_bp, high_bp } => format!(
            "the total effect: what connections get that are treated where {}% are, less what those get that are not where {}% are",
            f64::from(high_bp) / 100.0,
            f64::from(low_bp) / 100.0
        ),
    };
    format!("{what}; as it is {horizon_s} s after they began, or at their end if that is before")
}

/// What else is to be known.
#[must_use]
pub fn warnings(evidence: &Evidence, checks: &[v1::ShareCheck], judged: &[Judged]) -> Vec<String> {
    let mut warnings = vec![];
    let by_connection = matches!(evidence.comparison.unit, Unit::Flow | Unit::PeerPrefix { .. });
    let shared = shared_parameters(evidence);
    if by_connection && !shared.is_empty() {
        warnings.push(format!(
            "{} what other connections get at a shared bottleneck: the difference between the arms may be won from the control, and \
             vanish when all have it. Write `unit: UNIT_SATURATION_PAIR` (or UNIT_TIME_SLOT; UNIT_NODE, where nodes share no bottleneck) to see what \
             everybody would get.",
            listed(&shared, "changes", "change")
        ));
    }
    warnings.extend(checks.iter().filter(|check| check.mismatch).map(|check| {
        format!(
            "The arms' shares of connections {} are off by {:.2}% of all (p = {:.2e}).",
            check.stage,
            check.deviation * 100.0,
            check.p
        )
    }));
    let (total, unfinished) = (evidence.attempts(), evidence.unfinished());
    if unfinished > total / 10 {
        warnings.push(format!(
            "{:.0}% of the connections were still open at the horizon: what they did later is not in the results. A longer \
             `horizon_s` sees more of it.",
            unfinished as f64 / total as f64 * 100.0
        ));
    }
    if evidence.comparison.measures.iter().all(|measure| measure.role != Role::Success) && !evidence.is_aa() {
        warnings.push("No measure has the role of success, so nothing can be shipped by a verdict.".to_owned());
    }
    if judged.iter().any(|judged| judged.measure.role != Role::Diagnostic && judged.compared.is_err()) {
        warnings.push("Of some measures that decide nothing can be said yet; the table says why.".to_owned());
    }
    if let Unit::TimeSlot { slot_s, .. } = evidence.comparison.unit {
        warnings.push(format!(
            "Slots of {slot_s} s are by the fleet's time; a node whose clock is told late may be in the wrong arm at their edges, \
             which the washout covers."
        ));
        if evidence.clocks_off > 0 {
            let nodes = if evidence.clocks_off == 1 {
                "1 node is".to_owned()
            } else {
                format!("{} nodes are", evidence.clocks_off)
            };
            warnings.push(format!(
                "{nodes} left out because of a clock that is off by more than 2 s; `sockpilot nodes` shows which. Set it right, so that \
                 everybody is in the results."
            ));
        }
    }
    warnings
}

fn shared_parameters(evidence: &Evidence) -> Vec<String> {
    let arms = &evidence.comparison.arms;
    let first = arms.first();
    let differs =
        |slot: usize| arms.iter().any(|arm| first.is_some_and(|first| first.set.get(slot) != arm.set.get(slot)));
    let named =
        PARAMETERS.iter().enumerate().filter(|(slot, parameter)| differs(*slot) && SHARED.contains(&parameter.name));
    named.map(|(_, parameter)| parameter.name.to_owned()).collect()
}

/// How the control moves with the treatment's share over the epochs of a ramp, if it does beyond chance: at the level of all looks and all
/// measures that decide together.
#[must_use]
pub fn drift(evidence: &Evidence) -> Option<String> {
    if evidence.arms.len() != 2 || evidence.earlier.is_empty() {
        return None;
    }
    // Slots have one share; pairs of groups tell what the control gets by themselves.
    if matches!(evidence.comparison.unit, Unit::TimeSlot { .. } | Unit::SaturationPair { .. }) {
        return None;
    }
    let (control, treatment) = (evidence.control(), 1 - evidence.control());
    let measures = evidence.comparison.measures.iter().enumerate();
    let deciding: Vec<_> = measures.filter(|(_, measure)| measure.role != Role::Diagnostic).collect();
    let level = Level::new(ALPHA_OF_CHECKS, Level::TUNING).ok()?.divided(deciding.len());
    for (index, measure) in deciding {
        let estimator = *evidence.columns.estimators.get(index)?;
        let value = |measured| -> Option<Estimate> {
            let clusters = clusters(evidence.comparison.unit, stage(estimator), measured);
            let moments = moments(measured, stage(estimator));
            Some(arm(moments, kind(measure, estimator), clusters.as_deref(), &level).ok()?.estimate)
        };
        let share = |weights: &[u32]| {
            let (own, all) =
                (f64::from(*weights.get(treatment)?), weights.iter().map(|bp| f64::from(*bp)).sum::<f64>());
            (all > 0.0).then_some(own / all)
        };
        let now: Vec<u32> = evidence.arms.iter().map(|arm| arm.arm.weight_bp).collect();
        let point = |weights: &[u32], control, treatment| {
            Some(RampPoint { share: share(weights)?, control: value(control)?, treatment: value(treatment)? })
        };
        let mut points: Vec<RampPoint> = evidence
            .earlier
            .iter()
            .filter_map(|earlier| {
                point(&earlier.weights_bp, earlier.measured.get(control)?, earlier.measured.get(treatment)?)
            })
            .collect();
        points.extend(point(&now, &evidence.arms[control].measured, &evidence.arms[treatment].measured));
        let Ok(found) = ramp(&points, &level) else { continue };
        let drift = found.drift;
        if drift.sequence_p < level.alpha() {
            return Some(format!(
                "With the treatment's share the control itself has moved: {measure} by {:+.4} from none to all treated (p = {:.1e}). By \
                 that, treating everybody would change it by {:+.4} (standard error {:.4}), which is not what the arms differ by.",
                drift.estimate.effect, drift.sequence_p, found.total, found.total_error
            ));
        }
    }
    None
}

/// One measure in a sentence.
#[must_use]
pub fn finding(evidence: &Evidence, judged: &Judged) -> String {
    let arm = &evidence.arms[judged.arm].arm.name;
    let Ok(compared) = &judged.compared else { return format!("Of {} nothing can be said.", judged.measure) };
    let absolute = &compared.contrast.absolute;
    let of = |value: f64| match (judged.measure.transform, &compared.contrast.relative) {
        (Transform::Log, _) => format!("{:+.1}%", value.exp_m1() * 100.0),
        (_, Ok(_)) if compared.contrast.control != 0.0 => {
            format!("{:+.1}%", value / compared.contrast.control.abs() * 100.0)
        }
        _ => format!("{value:+.4}"),
    };
    let (effect, lower, upper) = (absolute.estimate.effect, absolute.sequence.lower, absolute.sequence.upper);
    let word = match judged.standing {
        v1::Standing::Better => "is better",
        v1::Standing::Worse => "is worse",
        v1::Standing::WithinMargin => "is within its margin",
        v1::Standing::Open | v1::Standing::Unspecified => "is open",
    };
    // Of few connections the sequence says nothing yet.
    if !(lower.is_finite() && upper.is_finite()) {
        return format!(
            "{} {word} with {arm}: {} so far, of too few to say how sure that is.",
            judged.measure,
            of(effect)
        );
    }
    format!("{} {word} with {arm}: {}, between {} and {}.", judged.measure, of(effect), of(lower), of(upper))
}

/// That the arms have not the shares that they should have.
#[must_use]
pub fn share_mismatch(evidence: &Evidence, check: &v1::ShareCheck) -> String {
    let all = evidence.attempts();
    let shares: u32 = evidence.arms.iter().map(|arm| arm.arm.weight_bp).sum();
    let each = evidence.arms.iter().map(|arm| {
        let (found, wanted) =
            (arm.measured.attempts.count as f64, f64::from(arm.arm.weight_bp) / f64::from(shares.max(1)));
        format!("{} has {:.2}% instead of {:.2}%", arm.arm.name, found / all.max(1) as f64 * 100.0, wanted * 100.0)
    });
    format!(
        "The arms do not have their shares of what was begun: {} (p = {:.1e}). So they differ by more than what they set, and no \
         difference between them can be believed. Look for nodes that hold the epoch back, for records that were lost, and for another \
         layer that tells the same connections apart.",
        each.collect::<Vec<_>>().join(", "),
        check.p
    )
}

/// That one arm has lost connections, and the rest is no fair sample.
#[must_use]
pub fn survivors(check: &v1::ShareCheck) -> String {
    format!(
        "The arms had their shares of what was begun, and no longer have them of what was {}: off by {:.2}% of all (p = {:.1e}). One of \
         them loses connections, so those that are left are no fair sample, and measures of them mislead. Judge it by `connected` and \
         `failed`, which count all.",
        check.stage,
        check.deviation * 100.0,
        check.p
    )
}

/// That it is over and nothing is known.
#[must_use]
pub fn inconclusive(evidence: &Evidence, judged: &[Judged]) -> String {
    format!(
        "It has run as long as planned, and it is not known whether the arms differ. {} Extend it, or take it for an effect too small to \
         be found so.",
        open(evidence, judged)
    )
}

/// That it is not known yet.
#[must_use]
pub fn keep_running(evidence: &Evidence, judged: &[Judged], needed_s: Option<u64>) -> String {
    let wait = match needed_s {
        Some(0) => "There is enough to find an effect of 5%; what there is, is smaller or not sure yet.".to_owned(),
        Some(needed_s) => {
            format!("At the present traffic an effect of 5% will be found in about {}.", duration(needed_s))
        }
        None => "How long it takes is not known yet.".to_owned(),
    };
    format!("{} {wait}", open(evidence, judged))
}

fn open(evidence: &Evidence, judged: &[Judged]) -> String {
    let deciding =
        judged.iter().filter(|judged| judged.measure.role != Role::Diagnostic && judged.standing == v1::Standing::Open);
    let sentences: Vec<_> = deciding.map(|judged| finding(evidence, judged)).collect();
    if sentences.is_empty() { "No measure has the role of success.".to_owned() } else { sentences.join(" ") }
}

/// Sentences one after the other.
#[must_use]
pub fn joined(sentences: impl Iterator<Item = String>) -> String {
    sentences.collect::<Vec<_>>().join(" ")
}

/// `a, b and c have`.
#[must_use]
pub fn listed(names: &[String], one: &str, many: &str) -> String {
    match names {
        [] => String::new(),
        [name] => format!("{name} {one}"),
        [names @ .., last] => format!("{} and {last} {many}", names.join(", ")),
    }
}

/// Roughly, in the unit that people would take.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..120 => (seconds, "seconds"),
        120..7_200 => (seconds.div_ceil(60), "minutes"),
        7_200..172_800 => (seconds.div_ceil(3_600), "hours"),
        _ => (seconds.div_ceil(86_400), "days"),
    };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_from_others_is_a_parameter() {
        for name in SHARED {
            assert!(PARAMETERS.iter().any(|parameter| parameter.name == name), "{name}");
        }
    }
}
