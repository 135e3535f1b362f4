//! Draws a verdict, and notes it with all that it was drawn from.

use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;

use sockpilot_judge::judge;

use super::gather;
use crate::store::{Error, Result, connection::PgConnection, experiment};

/// A verdict that stays as it is, is noted again so often: with what it was drawn from.
const AGAIN_S: f64 = 3_600.0;

/// What is known of an experiment, and if that is another verdict than the last one (or `always`), its row: number and time.
pub async fn draw(
    conn: &mut PgConnection,
    name: &LayerName,
    always: bool,
) -> Result<(v1::ExperimentResults, Option<v1::RecordedVerdict>)> {
    let evidence = gather::evidence(&mut *conn, name, 0).await?;
    let results = judge(&evidence).map_err(|error| Error::corrupt(name.to_string(), error))?;
    let revision = evidence.revision.cast_signed();
    let least: Vec<f64> = results.share_checks.iter().map(|check| check.p).collect();
    if !least.is_empty() && least != evidence.least_share_p {
        experiment::note_look(&mut *conn, name, revision, &least).await?;
    }
    let verdict = results.verdict.clone().unwrap_or_default();
    let last = experiment::last_verdict(&mut *conn, name, revision).await?;
    let same =
        last.is_some_and(|(kind, arm, age_s)| i32::from(kind) == verdict.kind && arm == verdict.arm && age_s < AGAIN_S);
    if same && !always {
        return Ok((results, None));
    }
    let noted = experiment::note_verdict(conn, name, &evidence, &results).await?;
    tracing::info!(experiment = %name, kind = verdict.kind().as_str_name(), arm = verdict.arm, "verdict drawn");
    let recorded = experiment::recorded(name, noted, evidence, results.clone());
    Ok((results, Some(recorded)))
}
