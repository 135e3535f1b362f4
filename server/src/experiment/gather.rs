//! Puts together what a verdict is drawn from.

use std::collections::BTreeMap;

use sockpilot_outcomes::Measured;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::{cell::measured_to_proto, v1};

use super::{SETTLE_S, slots};
use crate::{
    change::document::Document,
    clock::second,
    store::{Error, Result, connection::PgConnection, control, experiment, experiment::Run, layer, node},
};

/// Epochs of a ramp that are looked at beside the one that is asked for.
const EARLIER_MAX: i64 = 8;

/// What is known of an epoch now: the one that runs, or ran last, if none is named.
///
/// # Errors
/// If there is no such experiment or epoch, or the database fails.
pub async fn evidence(conn: &mut PgConnection, name: &LayerName, revision: u64) -> Result<v1::Evidence> {
    let ran = experiment::run(&mut *conn, name, revision).await?;
    let revision = match (&ran, revision) {
        (Some(run), _) => Some(run.revision.cast_unsigned()),
        (None, 0) => None,
        (None, revision) => Some(revision),
    };
    let document = layer::document(&mut *conn, name, revision).await?;
    let number = document.revision();
    let planned_s = planned(&document);
    let design = design(document, name).ok_or_else(|| Error::NotFound { name: name.to_string() })?;
    let now_s = control::now(&mut *conn).await?.timestamp();
    let Run { from_s, until_s, ends_s, .. } =
        ran.unwrap_or(Run { revision: number.cast_signed(), from_s: now_s, until_s: None, ends_s: None });
    let horizon_s = if design.horizon_s == 0 { sockpilot_policy::model::HORIZON_S } else { design.horizon_s };
    let settled_s = now_s - i64::from(horizon_s) - SETTLE_S;
    let to_s = until_s.map_or(settled_s, |until_s| until_s.min(settled_s)).max(from_s);
    let mut found = experiment::measured(&mut *conn, name, number.cast_signed(), to_s).await?;
    let (mut earlier, mut clocks_off) = (vec![], 0);
    match v1::Unit::try_from(design.unit) {
        Ok(v1::Unit::TimeSlot) => {
            slots::bound(&mut found);
            clocks_off = u32::try_from(node::clocks_off(&mut *conn).await?).unwrap_or(u32::MAX);
        }
        // It has all shares at the same time.
        Ok(v1::Unit::SaturationPair) => {}
        _ => {
            for before in experiment::earlier(&mut *conn, name, number.cast_signed(), EARLIER_MAX).await? {
                earlier.extend(shares_before(&mut *conn, name, before, &design, to_s).await?);
            }
        }
    }
    let planned_end = ends_s.or_else(|| planned_s.map(|duration_s| from_s + i64::from(duration_s)));
    Ok(v1::Evidence {
        experiment: name.to_string(),
        revision: number,
        arms: arms(&design, &found),
        design: Some(design),
        from_time: Some(second(from_s)),
        to_time: Some(second(to_s)),
        planned_end: planned_end.map(|end_s| second(end_s - i64::from(horizon_s) - SETTLE_S)),
        least_share_p: experiment::least_share_p(conn, name, number.cast_signed()).await?,
        earlier,
        clocks_off,
    })
}

/// The design, as nodes get it; `None`: it is no experiment.
fn design(document: Document, name: &LayerName) -> Option<v1::ExperimentLayer> {
    let revision = document.revision();
    match document.into_layer(name, revision).body {
        Some(v1::layer::Body::Experiment(design)) => Some(design),
        _ => None,
    }
}

fn planned(document: &Document) -> Option<u32> {
    match document {
        Document::Experiment(v1::Experiment { duration_s, .. }) if *duration_s > 0 => Some(*duration_s),
        _ => None,
    }
}

fn arms(design: &v1::ExperimentLayer, found: &BTreeMap<String, Measured>) -> Vec<v1::ArmEvidence> {
    let arm = |arm: &v1::Arm| v1::ArmEvidence {
        arm: arm.name.clone(),
        measured: found.get(&arm.name).map(measured_to_proto),
    };
    design.arms.iter().map(arm).collect()
}

/// What an earlier epoch says, if it differs in the arms' shares only.
async fn shares_before(
    conn: &mut PgConnection,
    name: &LayerName,
    revision: i64,
    now: &v1::ExperimentLayer,
    to_s: i64,
) -> Result<Option<v1::EarlierShares>> {
    let document = layer::document(&mut *conn, name, Some(revision.cast_unsigned())).await?;
    let Some(before) = design(document, name) else { return Ok(None) };
    let weights_bp: Vec<u32> = before.arms.iter().map(|arm| arm.weight_bp).collect();
    let without_shares = |design: &v1::ExperimentLayer| {
        let plain = |arm: &v1::Arm| v1::Arm { weight_bp: 0, first_bucket: None, ..arm.clone() };
        v1::ExperimentLayer { arms: design.arms.iter().map(plain).collect(), ..design.clone() }
    };
    if without_shares(&before) != without_shares(now) {
        return Ok(None);
    }
    let found = experiment::measured(conn, name, revision, to_s).await?;
    let arms = arms(&before, &found);
    Ok((!found.is_empty()).then(|| v1::EarlierShares { revision: revision.cast_unsigned(), weights_bp, arms }))
}
