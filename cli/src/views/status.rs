//! Who runs which revision, and what became of its values.

use crate::format;
use crate::table::{Table, one_line};
use sockpilot_proto::v1::{
    EffectiveOnNodes, EffectiveValue, LayerState, LayerStatus, Member, RuleViolation, target::Kind,
};

/// In the order of the columns.
const STATES: [LayerState; 4] =
    [LayerState::InForce, LayerState::Pending, LayerState::Rejected, LayerState::Unavailable];

/// A line for each assignment, and each revision that nodes still have to do with; then values that are not as asked for, and
/// every rejection.
pub fn table(statuses: &[LayerStatus]) -> String {
    let mut table = Table::new(&[
        "NAME",
        ">REVISION",
        "FOR",
        ">IN FORCE",
        ">PENDING",
        ">REJECTED",
        ">UNAVAILABLE",
        "SINCE",
        "BY",
        "REASON",
    ]);
    for status in statuses {
        for row in rows(status) {
            table.row(row);
        }
    }
    table.render() + &waves(statuses) + &differences(statuses) + &caveats(statuses) + &rejections(statuses)
}

fn rows(status: &LayerStatus) -> Vec<Vec<String>> {
    let counts = |revision: u64| {
        STATES.map(|state| {
            let matching = status.counts.iter().filter(|count| count.revision == revision && count.state() == state);
            matching.map(|count| u64::from(count.nodes)).sum::<u64>().to_string()
        })
    };
    let mut rows = Vec::new();
    let mut row = |revision: u64, target: String, since: String, by: String, reason: String| {
        let mut cells = vec![status.name.clone(), revision.to_string(), target];
        cells.extend(counts(revision));
        cells.extend([since, by, reason]);
        rows.push(cells);
    };
    let mut seen = Vec::new();
    for assignment in &status.assignments {
        seen.push(assignment.revision);
        row(
            assignment.revision,
            format::target(assignment.target.as_ref()),
            format::time(assignment.start_time.as_ref()),
            format::or_none(&assignment.actor),
            assignment.reason.clone(),
        );
    }
    let nobody = |revision: &u64| {
        (*revision, "nobody".to_owned(), format::NONE.to_owned(), format::NONE.to_owned(), String::new())
    };
    let mut others: Vec<u64> = status.counts.iter().map(|count| count.revision).collect();
    if status.assignments.is_empty() {
        others.push(status.latest_revision);
    }
    others.sort_unstable();
    others.dedup();
    for (revision, target, since, by, reason) in others.iter().filter(|r| !seen.contains(r)).map(nobody) {
        row(revision, target, since, by, reason);
    }
    rows
}

/// Of each canary that has several waves, how far each has come.
fn waves(statuses: &[LayerStatus]) -> String {
    let mut text = String::new();
    for status in statuses {
        for assignment in &status.assignments {
            let Some(Kind::Waves(waves)) = assignment.target.as_ref().and_then(|target| target.kind.as_ref()) else {
                continue;
            };
            let mut table = Table::new(&[">WAVE", "FOR", ">IN FORCE", ">PENDING", ">REJECTED", ">UNAVAILABLE"]);
            for (wave, selector) in (1..).zip(&waves.selectors) {
                let mut cells = vec![wave.to_string(), format::selector(selector)];
                cells.extend(STATES.map(|state| {
                    let of = status.wave_counts.iter().filter(|count| count.wave == wave && count.state() == state);
                    of.map(|count| u64::from(count.nodes)).sum::<u64>().to_string()
                }));
                table.row(cells);
            }
            text.push_str(&format!("\n{}@{} by wave:\n{}", status.name, assignment.revision, table.render()));
        }
    }
    text
}

/// The nodes of a canary.
pub fn members(members: &[Member]) -> String {
    let mut table = Table::new(&[">WAVE", "NODE", ">REVISION", "STATE"]);
    for member in members {
        let state = match member.state() {
            LayerState::Unspecified => format::NONE,
            LayerState::Pending => "pending",
            LayerState::InForce => "in force",
            LayerState::Rejected => "rejected",
            LayerState::Unavailable => "unavailable",
        };
        table.row(vec![member.wave.to_string(), member.node.clone(), member.revision.to_string(), state.to_owned()]);
    }
    table.render()
}

fn differences(statuses: &[LayerStatus]) -> String {
    let mut text = String::new();
    for status in statuses {
        let mut revision = None;
        for EffectiveOnNodes { revision: of, value, nodes } in &status.effective {
            let value = value.clone().unwrap_or_default();
            let EffectiveValue { layer: _, field, requested, effective, note, caveats: _ } = value;
            if effective == requested {
                continue;
            }
            if revision.replace(of) != Some(of) {
                text.push_str(&format!("\n{}@{of} has other values than were asked for:\n", status.name));
            }
            let line = format!("{field}: {effective} instead of {requested} on {}: {note}", number_of(*nodes));
            text.push_str(&format!("  {}\n", one_line(&line)));
        }
    }
    text
}

/// What else takes part in what values do, and what comes too late.
fn caveats(statuses: &[LayerStatus]) -> String {
    let mut text = String::new();
    for status in statuses {
        let mut revision = None;
        for EffectiveOnNodes { revision: of, value, nodes } in &status.effective {
            let Some(EffectiveValue { field, caveats, .. }) = value else { continue };
            for caveat in caveats {
                if revision.replace(of) != Some(of) {
                    text.push_str(&format!("\n{}@{of}, what else holds of its values:\n", status.name));
                }
                let line = match field.as_str() {
                    "" => format!("on {}: {caveat}", number_of(*nodes)),
                    field => format!("{field} on {}: {caveat}", number_of(*nodes)),
                };
                text.push_str(&format!("  {}\n", one_line(&line)));
            }
        }
    }
    text
}

fn number_of(nodes: u32) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

fn rejections(statuses: &[LayerStatus]) -> String {
    let mut text = String::new();
    for status in statuses {
        for rejection in &status.rejections {
            let instead = match rejection.revision_in_force {
                0 => "has none in force".to_owned(),
                revision => format!("goes on with {}@{revision}", status.name),
            };
            text.push_str(&format!(
                "\n{} refused {}@{} at {} and {instead}:\n",
                one_line(&rejection.node),
                status.name,
                rejection.revision,
                format::time(rejection.time.as_ref())
            ));
            for RuleViolation { layer, field, description } in &rejection.violations {
                // Of a snapshot that was refused as a whole, another layer may be the reason.
                let layer = if *layer == status.name { "" } else { layer };
                let place: Vec<&str> = [layer, field].into_iter().filter(|part| !part.is_empty()).collect();
                text.push_str(&match place.as_slice() {
                    [] => format!("  {}\n", one_line(description)),
                    place => format!("  {}: {}\n", one_line(&place.join(" ")), one_line(description)),
                });
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;
    use sockpilot_proto::v1::{Assignment, Rejection, RevisionCount, Selector, Target, WaveCount, selector, target};

    fn assignment(revision: u64, kind: target::Kind) -> Assignment {
        Assignment {
            revision,
            target: Some(Target { kind: Some(kind) }),
            reason: "try".to_owned(),
            actor: "ann@desk".to_owned(),
            start_time: Some(Timestamp { seconds: 1_772_366_400, nanos: 0 }),
            end_time: None,
        }
    }

    fn count(revision: u64, state: LayerState, nodes: u32) -> RevisionCount {
        RevisionCount { revision, state: state.into(), nodes }
    }

    #[test]
    fn canary_and_everyone_stand_side_by_side_with_what_was_refused() {
        let status = LayerStatus {
            name: "policies/web".to_owned(),
            latest_revision: 3,
            assignments: vec![
                assignment(2, target::Kind::Everyone(target::Everyone {})),
                assignment(3, target::Kind::ShareBp(1_000)),
            ],
            counts: vec![
                count(2, LayerState::InForce, 18),
                count(2, LayerState::Unavailable, 1),
                count(3, LayerState::InForce, 1),
                count(3, LayerState::Rejected, 1),
            ],
            rejections: vec![Rejection {
                node: "nodes/n7".to_owned(),
                revision: 3,
                violations: vec![RuleViolation {
                    layer: "policies/web".to_owned(),
                    field: "rules[0].set.congestion_control".to_owned(),
                    description: "bbr2 is not available here".to_owned(),
                }],
                time: Some(Timestamp { seconds: 1_772_366_460, nanos: 0 }),
                revision_in_force: 2,
            }],
            effective: vec![EffectiveOnNodes {
                revision: 2,
                value: Some(EffectiveValue {
                    layer: "policies/web".to_owned(),
                    field: "rules[0].set.send_buffer_bytes".to_owned(),
                    requested: "1500000".to_owned(),
                    effective: "425984".to_owned(),
                    note: "cut; read back from a socket".to_owned(),
                    caveats: vec![],
                }),
                nodes: 18,
            }],
            ..LayerStatus::default()
        };
        assert_eq!(
            table(&[status]),
            "NAME          REVISION  FOR           IN FORCE  PENDING  REJECTED  UNAVAILABLE  SINCE                 BY        REASON\n\
             policies/web         2  everyone            18        0         0            1  2026-03-01T12:00:00Z  ann@desk  try\n\
             policies/web         3  10% of nodes         1        0         1            0  2026-03-01T12:00:00Z  ann@desk  try\n\
             \n\
             policies/web@2 has other values than were asked for:\n  \
             rules[0].set.send_buffer_bytes: 425984 instead of 1500000 on 18 nodes: cut; read back from a socket\n\
             \n\
             nodes/n7 refused policies/web@3 at 2026-03-01T12:01:00Z and goes on with policies/web@2:\n  \
             rules[0].set.congestion_control: bbr2 is not available here\n"
        );
    }

    #[test]
    fn what_else_holds_of_values_is_said_beside_what_differs() {
        let value = |field: &str, effective: &str, caveat: &str| EffectiveOnNodes {
            revision: 2,
            value: Some(EffectiveValue {
                field: field.to_owned(),
                requested: "6".to_owned(),
                effective: effective.to_owned(),
                note: "four come before".to_owned(),
                caveats: vec![caveat.to_owned()],
                ..EffectiveValue::default()
            }),
            nodes: 1,
        };
        let effective = vec![value("set.syn_retries", "10", "after 100 ms"), value("set.mark", "6", "too late")];
        let status = LayerStatus { name: "policies/web".to_owned(), effective, ..LayerStatus::default() };
        let text = table(&[status]);
        let (_, told) = text.split_once("\n\n").expect("more than the table");
        assert_eq!(
            told,
            "policies/web@2 has other values than were asked for:\n  \
             set.syn_retries: 10 instead of 6 on 1 node: four come before\n\
             \n\
             policies/web@2, what else holds of its values:\n  \
             set.syn_retries on 1 node: after 100 ms\n  \
             set.mark on 1 node: too late\n"
        );
    }

    #[test]
    fn waves_are_counted_one_by_one() {
        let share = |share_bp| Selector { kind: Some(selector::Kind::ShareBp(share_bp)) };
        let waves = target::Waves { selectors: vec![share(100), share(1_000)], salt: "s".to_owned(), flow_share_bp: 0 };
        let count = |wave, state: LayerState, nodes| WaveCount { wave, state: state.into(), nodes };
        let status = LayerStatus {
            name: "policies/web".to_owned(),
            assignments: vec![assignment(3, target::Kind::Waves(waves))],
            wave_counts: vec![count(1, LayerState::InForce, 2), count(2, LayerState::Pending, 17)],
            ..LayerStatus::default()
        };
        let text = table(&[status]);
        let (first, told) = text.split_once("\n\n").expect("more than the table");
        assert!(first.contains("1% of nodes, then 10% of nodes"), "{first}");
        assert_eq!(
            told,
            "policies/web@3 by wave:\n\
             WAVE  FOR           IN FORCE  PENDING  REJECTED  UNAVAILABLE\n   \
             1  1% of nodes          2        0         0            0\n   \
             2  10% of nodes         0       17         0            0\n"
        );
        let member = Member { node: "nodes/n7".to_owned(), wave: 2, revision: 3, state: LayerState::Pending.into() };
        assert_eq!(members(&[member]), "WAVE  NODE      REVISION  STATE\n   2  nodes/n7         3  pending\n");
    }

    #[test]
    fn what_is_for_nobody_is_shown_too() {
        let staged = LayerStatus { name: "policies/a".to_owned(), latest_revision: 1, ..LayerStatus::default() };
        assert!(table(&[staged]).contains("policies/a         1  nobody"));
    }
}
