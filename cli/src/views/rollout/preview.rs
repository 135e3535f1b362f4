//! What a rollout would do.

use super::{COLUMNS, gates};
use crate::format::{self, count};
use crate::table::{Table, one_line};
use crate::views::amount;
use crate::views::documents::plans;
use sockpilot_proto::v1;

/// Of a wave so many nodes are named; the messages have the rest.
const NAMED_MAX: usize = 12;

/// Waves with their nodes, what changes, for how many connections, and how long the gates take.
pub fn one(rollout: &v1::Rollout) -> String {
    let preview = rollout.preview.clone().unwrap_or_default();
    let plan = rollout.plan.clone().unwrap_or_default();
    let before = match rollout.good_revision {
        0 => "nothing".to_owned(),
        good => format!("{}@{good}", rollout.policy),
    };
    let what = format!("{}@{} in the place of {before}", rollout.policy, rollout.revision);
    let mut text = one_line(&format!("{what}, by {}@{}:", plan.name, plan.revision)) + "\n\n";
    text.push_str(&waves(&plan, &preview.waves));
    text.push_str(&format!("\n{}", flows(preview.flows.as_ref())));
    if !preview.differences.is_empty() {
        text.push_str("\nWhat changes:\n");
        preview.differences.iter().for_each(|line| text.push_str(&format!("  {}\n", one_line(line))));
    }
    if !preview.gates.is_empty() {
        text.push_str(&format!("\nAt the present traffic:\n\n{}", gates::expected(&preview.gates)));
    }
    text
}

fn waves(plan: &v1::RolloutPlan, waves: &[v1::PreviewWave]) -> String {
    let mut table = Table::new(&[">WAVE", "FOR", "CONNECTIONS", ">BAKE TIME", ">NODES", "THESE"]);
    for wave in waves {
        let planned = (wave.wave as usize).checked_sub(1).and_then(|index| plan.waves.get(index));
        table.row(vec![
            wave.wave.to_string(),
            format::or_none(&wave.selector),
            planned.map(|planned| plans::steps(planned).join(", then ")).unwrap_or_default(),
            format::duration(planned.and_then(|planned| planned.bake_time.as_ref())),
            wave.node_count.to_string(),
            named(wave),
        ]);
    }
    table.render()
}

/// `a, b and 990 more`
fn named(wave: &v1::PreviewWave) -> String {
    let names: Vec<&str> =
        wave.nodes.iter().take(NAMED_MAX).map(|name| name.strip_prefix("nodes/").unwrap_or(name)).collect();
    match (wave.node_count as usize).saturating_sub(names.len()) {
        0 => names.join(", "),
        rest if names.is_empty() => format!("{rest} that are not named"),
        rest => format!("{} and {rest} more, which -o json names", names.join(", ")),
    }
}

fn flows(flows: Option<&v1::PreviewFlows>) -> String {
    let text = match flows {
        None => "No connections were recorded in the last hour; how many it touches is not known.".to_owned(),
        Some(flows) => {
            let [share, lower, upper] =
                [flows.touched_share, flows.lower, flows.upper].map(|share| amount::value(share, ""));
            let samples = count(flows.samples as usize, "recorded connection");
            format!("Touches {share} of the last hour's connections (from {lower} to {upper}, by {samples}).")
        }
    };
    format::wrapped(&text, COLUMNS)
}
