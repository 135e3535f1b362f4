//! Answers about an experiment that are not its results.

use super::headline;
use crate::format::{self, NONE};
use crate::schema;
use crate::table::{Table, one_line};
use crate::tree::Tree;
use crate::views::amount;
use sockpilot_proto::v1::{self, ExperimentState};

/// What has become of it, in one line.
pub fn changed(experiment: &v1::Experiment, validate_only: bool) -> String {
    let v1::Experiment { name, revision, .. } = experiment;
    let would = if validate_only { "would be " } else { "" };
    let state = match (experiment.state(), &experiment.end_time) {
        (ExperimentState::Running, Some(end)) => format!("{would}running until {}", format::time(Some(end))),
        (ExperimentState::Running, None) => format!("{would}running until it is stopped"),
        (ExperimentState::Stopped, _) => format!("{would}stopped"),
        (ExperimentState::Concluded, _) => format!("{would}concluded"),
        (ExperimentState::Draft, _) => format!("{would}a draft"),
        (ExperimentState::Unspecified, _) => if validate_only { "would be changed" } else { "changed" }.to_owned(),
    };
    let planned = match (experiment.state(), experiment.duration_s) {
        (ExperimentState::Running, _) | (_, 0) => String::new(),
        (_, seconds) => format!("; planned for {}", amount::seconds(f64::from(seconds))),
    };
    one_line(&format!("{name}@{revision}: {state}{planned}")) + "\n"
}

/// How it ended.
pub fn concluded(answer: &v1::ConcludeExperimentResponse, validate_only: bool) -> String {
    let experiment = answer.experiment.clone().unwrap_or_default();
    let results = answer.verdict.as_ref().and_then(|recorded| recorded.results.clone()).unwrap_or_default();
    let verdict = results.verdict.unwrap_or_default();
    let would = if validate_only { "would be concluded" } else { "concluded" };
    let mut text = format!("{}: {would}; the verdict: {}\n", one_line(&experiment.name), headline(&verdict));
    text.push_str(&format::wrapped(&verdict.reason, super::COLUMNS));
    match &answer.policy {
        None => text.push_str("Nothing is shipped.\n"),
        Some(v1::Policy { name, revision, .. }) => {
            let arm = &experiment.shipped_arm;
            let is = if validate_only { "would be" } else { "is" };
            text.push_str(&one_line(&format!("Arm {arm} {is} the first rule of {name}@{revision}, for nobody yet.")));
            text.push('\n');
            if !validate_only {
                let next = format!("sockpilot rollout create {name}@{revision}");
                text.push_str(&one_line(&format!("Roll it out with: {next}")));
                text.push('\n');
            }
        }
    }
    text
}

/// A line for each verdict.
pub fn verdicts(answer: &v1::ListVerdictsResponse) -> String {
    let mut table = Table::new(&[">NUMBER", "TIME", ">REVISION", "VERDICT", ">BEGUN", "REASON"]);
    for recorded in &answer.verdicts {
        let results = recorded.results.clone().unwrap_or_default();
        let verdict = results.verdict.unwrap_or_default();
        let begun = results.arms.iter().fold(0_u64, |sum, arm| sum.saturating_add(arm.attempts));
        table.row(vec![
            recorded.name.rsplit('/').next().unwrap_or_default().to_owned(),
            format::time(recorded.time.as_ref()),
            results.revision.to_string(),
            headline(&verdict),
            begun.to_string(),
            verdict.reason.clone(),
        ]);
    }
    table.render()
}

/// What it takes to find an effect.
pub fn power(answer: &v1::ExperimentPower, effect_bp: u32, power_percent: u32) -> String {
    let mut text = format!(
        "To find an effect of {} with a probability of {power_percent}%, at {} connections of both arms a second:\n\n",
        format::share(effect_bp),
        amount::number(answer.units_per_s)
    );
    let mut table =
        Table::new(&["MEASURE", "ARM", ">UNITS", ">TAKES", ">UNITS", ">TAKES AT END", ">FOUND NOW", "NOTE"]);
    for measure in &answer.measures {
        let answered = measure.no_answer.is_empty();
        let cell = |text: String| if answered { text } else { NONE.to_owned() };
        table.row(vec![
            measure.title.clone(),
            measure.arm.clone(),
            cell(amount::number(measure.units)),
            cell(amount::seconds(measure.duration_s)),
            cell(amount::number(measure.units_at_end)),
            cell(amount::seconds(measure.duration_at_end_s)),
            cell(amount::relative(measure.detectable_now)),
            if answered { String::new() } else { format!("no answer: {}", measure.no_answer) },
        ]);
    }
    text.push_str(&table.render());
    text.push_str(
        "\nTAKES is for looking at any time; TAKES AT END for one look, at the planned end. FOUND NOW is the least effect that can be\n\
         found with what there is now.\n",
    );
    if !answer.source.is_empty() {
        text.push_str(&format::wrapped(&format!("Variances: {}", answer.source), super::COLUMNS));
    }
    text
}

/// YAML for the document, with what was done as comments.
pub fn frozen(answer: &v1::FreezeExperimentResponse) -> String {
    let notes: String = answer.notes.iter().map(|note| format!("# {}\n", one_line(note))).collect();
    let measures = v1::FreezeExperimentResponse { measures: answer.measures.clone(), notes: Vec::new() };
    match Tree::from_message(&schema::dynamic("FreezeExperimentResponse", &measures)) {
        Tree::Map(fields) if fields.is_empty() => format!("{notes}measures: []\n"),
        tree => notes + &tree.to_yaml(),
    }
}
