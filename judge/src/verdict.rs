//! What to do: ship, do not ship, keep running, or none of these because what was measured does not answer the question.

use sockpilot_policy::measure::{Role, Transform};
use sockpilot_proto::v1::{self, VerdictKind};
use sockpilot_stats::{
    Level, NoAnswer, Sides,
    power::{Design, Test, more_needed},
};

use crate::{
    ALPHA,
    evidence::Evidence,
    judge::{Judged, STAGES, is_of_established},
    words::{self, joined},
};

/// An effect that is worth waiting for, as a share of the control's value.
const EFFECT: f64 = 0.05;
/// With which probability it is to be found.
const POWER: f64 = 0.8;

/// The verdict. `drift` says how the control moves with the treatment's share, if it does.
#[must_use]
pub fn of(evidence: &Evidence, checks: &[v1::ShareCheck], judged: &[Judged], drift: Option<&str>) -> v1::Verdict {
    if evidence.attempts() == 0 {
        return verdict(
            VerdictKind::NoData,
            "No connection of this epoch has been measured yet: none matched, none is older than the horizon, or no node has \
             reported. Look at `sockpilot status` for the nodes that have it in force, and at the match."
                .to_owned(),
        );
    }
    if let Some(check) = checks.iter().find(|check| check.mismatch && check.stage == STAGES[0]) {
        return verdict(VerdictKind::Invalid, words::share_mismatch(evidence, check));
    }
    if evidence.is_aa() {
        return aa(evidence, judged);
    }
    // What one arm has lost may be why measures of the rest look worse, or better: those that count all are believed.
    let lost = checks.iter().find(|check| check.mismatch);
    let believed = |judged: &Judged| lost.is_none() || !is_of_established(evidence, &judged.measure);
    let worse = |judged: &&Judged| {
        judged.standing == v1::Standing::Worse && judged.measure.role != Role::Diagnostic && believed(judged)
    };
    let harmed: Vec<&Judged> = judged.iter().filter(worse).collect();
    let harmless: Vec<usize> = arms(judged).filter(|arm| harmed.iter().all(|judged| judged.arm != *arm)).collect();
    if harmless.is_empty() && !harmed.is_empty() {
        let reasons = joined(harmed.iter().map(|judged| words::finding(evidence, judged)));
        return verdict(VerdictKind::DoNotShip, format!("{reasons} Stop it, or leave things as they are."));
    }
    if let Some(lost) = lost.filter(|_| depends_on_survivors(evidence)) {
        return verdict(VerdictKind::Invalid, words::survivors(lost));
    }
    if let Some(drift) = drift {
        return verdict(
            VerdictKind::Invalid,
            format!("{drift} What the arms differ by is then not what everybody would get."),
        );
    }
    let ready = |arm: &usize| is_ready(judged, *arm);
    if let Some(arm) =
        harmless.iter().copied().filter(ready).min_by(|a, b| least_p(judged, *a).total_cmp(&least_p(judged, *b)))
    {
        return ship(evidence, judged, arm);
    }
    if evidence.planned_end_s.is_some_and(|end_s| evidence.to_s >= end_s) {
        return verdict(VerdictKind::Inconclusive, words::inconclusive(evidence, judged));
    }
    let needed_s = needed_s(evidence, judged);
    v1::Verdict {
        needed_s: needed_s.unwrap_or_default(),
        ..verdict(VerdictKind::KeepRunning, words::keep_running(evidence, judged, needed_s))
    }
}

fn verdict(kind: VerdictKind, reason: String) -> v1::Verdict {
    v1::Verdict { kind: kind.into(), arm: String::new(), reason, needed_s: 0 }
}

fn arms(judged: &[Judged]) -> impl Iterator<Item = usize> {
    let mut arms: Vec<usize> = judged.iter().map(|judged| judged.arm).collect();
    arms.sort_unstable();
    arms.dedup();
    arms.into_iter()
}

/// An A/A has nothing to ship: it finds nothing, or something is wrong with how it is measured.
fn aa(evidence: &Evidence, judged: &[Judged]) -> v1::Verdict {
    let found: Vec<_> = judged.iter().filter(|judged| judged.corrected_p < ALPHA && judged.compared.is_ok()).collect();
    if !found.is_empty() {
        let found = joined(found.into_iter().map(|judged| words::finding(evidence, judged)));
        return verdict(
            VerdictKind::Invalid,
            format!(
                "The arms do the same, and yet differ: {found} Something other than the arms tells their connections apart; \
                 find it before an experiment like this one is believed."
            ),
        );
    }
    let over = evidence.planned_end_s.is_some_and(|end_s| evidence.to_s >= end_s);
    let kind = if over { VerdictKind::Inconclusive } else { VerdictKind::KeepRunning };
    verdict(
        kind,
        "The arms do the same, and no difference was found, as it should be: an A/A has nothing to ship.".to_owned(),
    )
}

/// Whether anything that decides is of connections that were established.
fn depends_on_survivors(evidence: &Evidence) -> bool {
    let deciding = evidence.comparison.measures.iter().filter(|measure| measure.role != Role::Diagnostic);
    deciding.into_iter().any(|measure| is_of_established(evidence, measure))
}

fn is_ready(judged: &[Judged], arm: usize) -> bool {
    let mut of_arm = judged.iter().filter(|judged| judged.arm == arm);
    let better =
        of_arm.clone().any(|judged| judged.measure.role == Role::Success && judged.standing == v1::Standing::Better);
    better
        && of_arm.all(|judged| match judged.measure.role {
            Role::Guardrail { .. } => judged.standing == v1::Standing::WithinMargin,
            Role::Success | Role::Diagnostic => true,
        })
}

fn least_p(judged: &[Judged], arm: usize) -> f64 {
    judged.iter().filter(|judged| judged.arm == arm).map(|judged| judged.corrected_p).fold(1.0, f64::min)
}

fn ship(evidence: &Evidence, judged: &[Judged], arm: usize) -> v1::Verdict {
    let of_arm = |judged: &&Judged| judged.arm == arm;
    let better = judged.iter().filter(of_arm).filter(|judged| judged.standing == v1::Standing::Better);
    let better = joined(
        better.filter(|judged| judged.measure.role == Role::Success).map(|judged| words::finding(evidence, judged)),
    );
    let guarded = judged.iter().filter(of_arm).filter(|judged| matches!(judged.measure.role, Role::Guardrail { .. }));
    let guarded: Vec<_> = guarded.map(|judged| judged.measure.to_string()).collect();
    let guarded = if guarded.is_empty() {
        "No guardrail was set.".to_owned()
    } else {
        format!("{} not become worse by more than the margin.", words::listed(&guarded, "has", "have"))
    };
    v1::Verdict {
        arm: evidence.arms[arm].arm.name.to_string(),
        ..verdict(VerdictKind::Ship, format!("{better} {guarded}"))
    }
}

/// How much longer it takes to find an effect worth waiting for, for what decides and is open yet.
fn needed_s(evidence: &Evidence, judged: &[Judged]) -> Option<u64> {
    let level = Level::new(ALPHA, Level::TUNING).ok()?;
    let design = Design { level, sides: Sides::Two, test: Test::Sequential, share: 0.5, design_effect: 1.0 };
    let more = |judged: &Judged| -> Result<f64, NoAnswer> {
        let contrast = &judged.compared.as_ref().map_err(|why| *why)?.contrast;
        let effect = match judged.measure.transform {
            Transform::Log => EFFECT.ln_1p(),
            _ if contrast.control == 0.0 => return Err(NoAnswer::ZeroControl),
            _ => EFFECT * contrast.control.abs(),
        };
        more_needed(&contrast.absolute.estimate, effect, POWER, &design)
    };
    let open =
        judged.iter().filter(|judged| judged.measure.role != Role::Diagnostic && judged.standing == v1::Standing::Open);
    let times = open.map(more).collect::<Result<Vec<_>, _>>().ok()?.into_iter().fold(0.0, f64::max);
    let needed_s = times * evidence.duration_s() as f64;
    (needed_s.is_finite() && needed_s < 1e10).then_some(needed_s.ceil() as u64)
}
