//! `experiment`

use super::{warn, watch};
use crate::api::Change;
use crate::args::{Experiment, ExperimentChange, Format, Results};
use crate::client::Client;
use crate::document::Document;
use crate::failure::Failure;
use crate::name::LayerName;
use crate::output::{self, print};
use crate::views::{self, experiment as view};
use prost::Message;
use sockpilot_proto::v1;
use std::time::Duration;

/// Between two looks at results, for which the server goes through all that was measured.
const PERIOD: Duration = Duration::from_secs(5);

/// Verdicts among which one to be drawn again is looked for.
const VERDICTS_MAX: usize = 10_000;

/// Draws a verdict again.
fn replayed(verdict: &v1::RecordedVerdict) -> Result<String, Failure> {
    let evidence = verdict.evidence.clone().unwrap_or_default();
    let again = sockpilot_judge::judge(&evidence).map_err(|error| Failure::Input(error.to_string()))?;
    let recorded = verdict.results.clone().unwrap_or_default();
    if again.encode_to_vec() != recorded.encode_to_vec() {
        let why = "was drawn by another version, or is not what was drawn: the same evidence gives other results here";
        return Err(Failure::Input(format!("{} {why}", verdict.name)));
    }
    let kind = again.verdict.unwrap_or_default().kind();
    let kind = kind.as_str_name().trim_start_matches("VERDICT_KIND_").replace('_', " ");
    Ok(format!("{}: {kind}, drawn again to the same bytes.\n", verdict.name))
}

/// Does what the command line says.
pub async fn run(experiment: &Experiment, client: &Client, format: Format) -> Result<(), Failure> {
    match experiment {
        Experiment::Start(start) => {
            let (etag, change) = parts(&start.change);
            let revision = revision(&start.name, start.revision)?;
            show_changed(client.start(&start.name, revision, etag, &change).await?, format, &change)
        }
        Experiment::Stop(stop) => {
            let (etag, change) = parts(&stop.change);
            show_changed(client.stop(&stop.name, etag, &change).await?, format, &change)
        }
        Experiment::Extend(extend) => {
            let (etag, change) = parts(&extend.change);
            let duration_s = extend.duration_s.unwrap_or_default();
            show_changed(client.extend(&extend.name, duration_s, etag, &change).await?, format, &change)
        }
        Experiment::Conclude(conclude) => {
            let (etag, change) = parts(&conclude.change);
            let change = Change { force: conclude.force, ..change };
            let shipped = conclude.ship.as_deref().zip(conclude.policy.as_ref());
            let answer = client.conclude(&conclude.name, shipped, etag, &change).await?;
            for notes in [
                answer.experiment.as_ref().and_then(|e| e.notes.as_ref()),
                answer.policy.as_ref().and_then(|p| p.notes.as_ref()),
            ]
            .into_iter()
            .flatten()
            {
                warn(&notes.warnings);
            }
            print(&output::message(format, "ConcludeExperimentResponse", &answer, |a| {
                view::concluded(a, change.validate_only)
            }))
        }
        Experiment::Results(results) => show_results(results, client, format).await,
        Experiment::Verdicts(verdicts) => {
            let answer = client.verdicts(&verdicts.name, verdicts.limit as usize).await?;
            print(&output::message(format, "ListVerdictsResponse", &answer, view::verdicts))
        }
        Experiment::Replay(replay) => {
            let found = client.verdicts(&replay.name, VERDICTS_MAX).await?.verdicts;
            let name = replay.number.map(|number| format!("{}/verdicts/{number}", replay.name.resource()));
            let verdict = found.into_iter().find(|verdict| name.as_ref().is_none_or(|name| verdict.name == *name));
            let verdict = verdict
                .ok_or_else(|| Failure::Input("no such verdict; see `sockpilot experiment verdicts`".to_owned()))?;
            print(&replayed(&verdict)?)
        }
        Experiment::Power(power) => {
            let answer = client.power(&power.name, (power.effect, power.power), power.from.as_ref()).await?;
            print(&output::message(format, "ExperimentPower", &answer, |a| view::power(a, power.effect, power.power)))
        }
        Experiment::Freeze(freeze) => {
            let answer = client.freeze(&freeze.name, freeze.from.as_ref()).await?;
            print(&output::message(format, "FreezeExperimentResponse", &answer, view::frozen))
        }
    }
}

fn parts(change: &ExperimentChange) -> (&str, Change) {
    (&change.etag, Change::from(&change.common))
}

/// The one that is named, in the name or beside it; 0 for none.
pub fn revision(name: &LayerName, beside: Option<u64>) -> Result<u64, Failure> {
    match (name.revision, beside) {
        (Some(a), Some(b)) if a != b => Err(Failure::Input(format!("{name} and --revision {b} are two revisions"))),
        (a, b) => Ok(a.or(b).unwrap_or_default()),
    }
}

fn show_changed(answer: v1::Experiment, format: Format, change: &Change) -> Result<(), Failure> {
    warn(&answer.notes.clone().unwrap_or_default().warnings);
    let line = view::changed(&answer, change.validate_only);
    print(&output::document(format, &Document::Experiment(answer), |_| line))
}

async fn show_results(asked: &Results, client: &Client, format: Format) -> Result<(), Failure> {
    let revision = revision(&asked.name, asked.revision)?;
    let shown = |results: &v1::ExperimentResults| {
        output::message(format, "ExperimentResults", results, |results| view::results(results, asked.at_end))
    };
    if asked.watch {
        let look = async || {
            let results = client.results(&asked.name, revision).await?;
            Ok(watch::Look { text: shown(&results), is_last: false })
        };
        return watch::run(look, PERIOD, format).await;
    }
    let results = client.results(&asked.name, revision).await?;
    if let Some(file) = &asked.html {
        std::fs::write(file, views::report::html(&results))
            .map_err(|error| Failure::Input(format!("{} cannot be written: {error}", file.display())))?;
        eprintln!("{}: written", file.display());
    }
    print(&shown(&results))
}
