//! What a change would do to recorded connections.

use crate::format::{self, NONE, count, percent};
use crate::table::{Table, one_line};
use sockpilot_proto::v1::{
    Breakdown, BreakdownRow, ParameterChange, SimulateChangeResponse, Simulation, SimulationDimension, SimulationNote,
    TouchedShare,
};

/// Rows of a breakdown, but of round-trip times, which have few classes; all are in the JSON.
const ROWS_MAX: usize = 6;

/// What a server answers.
pub fn answer(what: &str, answer: &SimulateChangeResponse) -> String {
    let simulation = answer.simulation.clone().unwrap_or_default();
    let mut text = self::simulation(what, &simulation);
    if answer.cut {
        let from = format::time(simulation.first_time.as_ref());
        let asked = format::time(answer.start_time.as_ref());
        text.push_str(&format!(
            "\nNot all of it: asked from {asked} on; recorded connections are used, or kept, from {from} on only.\n"
        ));
    }
    text
}

/// First how many are touched, then what changes, then who they are.
pub fn simulation(what: &str, simulation: &Simulation) -> String {
    let Simulation { total, changes, changes_left_out, breakdowns, notes, first_time, last_time } = simulation;
    let total = total.unwrap_or_default();
    let mut text = headline(what, &total);
    if total.recorded > 0 {
        let (first, last) = (format::time(first_time.as_ref()), format::time(last_time.as_ref()));
        let flows = count(usize::try_from(total.recorded).unwrap_or(usize::MAX), "recorded connection");
        text.push_str(&format!("From {flows} that ended from {first} to {last}.\n"));
    }
    if !changes.is_empty() {
        text.push('\n');
        text.push_str(&self::changes(changes));
    }
    if *changes_left_out > 0 {
        text.push_str(&format!("and {changes_left_out} more changes of few connections\n"));
    }
    if total.recorded_touched > 0 {
        text.extend(breakdowns.iter().map(breakdown));
    }
    if !notes.is_empty() {
        text.push_str("\nWhat else is to be known:\n");
    }
    text.extend(notes.iter().map(note));
    text
}

fn headline(what: &str, total: &TouchedShare) -> String {
    if total.recorded == 0 {
        return one_line(&format!("{what}: no recorded connection, so nothing is known")) + "\n";
    }
    let TouchedShare { connections, touched, share, .. } = total;
    let line = format!(
        "{what} would touch {} of connections{}: {touched:.0} of {connections:.0}",
        percent(*share),
        between(total)
    );
    one_line(&line) + "\n"
}

/// Nothing where every connection was recorded.
fn between(share: &TouchedShare) -> String {
    let TouchedShare { lower, upper, .. } = share;
    if lower == upper { String::new() } else { format!(" (between {} and {})", percent(*lower), percent(*upper)) }
}

fn cells(share: Option<&TouchedShare>) -> [String; 3] {
    let share = share.copied().unwrap_or_default();
    [
        format!("{:.0}", share.touched),
        percent(share.share),
        format!("[{}, {}]", percent(share.lower), percent(share.upper)),
    ]
}

fn changes(changes: &[ParameterChange]) -> String {
    let mut table = Table::new(&["PARAMETER", ">NOW", ">THEN", ">CONNECTIONS", ">SHARE", ">FROM, TO"]);
    for ParameterChange { parameter, before, after, share } in changes {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| NONE.to_owned());
        let [touched, part, interval] = cells(share.as_ref());
        table.row(vec![parameter.clone(), value(before), value(after), touched, part, interval]);
    }
    table.render()
}

/// The rows with most touched connections.
fn breakdown(breakdown: &Breakdown) -> String {
    let heading = match breakdown.dimension() {
        SimulationDimension::Unspecified => return String::new(),
        SimulationDimension::Zones => "ZONES",
        SimulationDimension::Port => "PORT",
        SimulationDimension::Service => "SERVICE",
        SimulationDimension::Rtt => "ROUND TRIP",
        SimulationDimension::Node => "NODE",
    };
    let rows_max = if breakdown.dimension() == SimulationDimension::Rtt { usize::MAX } else { ROWS_MAX };
    let mut table = Table::new(&[heading, ">ALL", ">TOUCHED", ">SHARE", ">FROM, TO"]);
    for BreakdownRow { key, keys, share } in breakdown.rows.iter().take(rows_max) {
        let [touched, part, interval] = cells(share.as_ref());
        let key = if key.is_empty() { format!("{keys} others") } else { key.clone() };
        let all = share.map_or(0.0, |share| share.connections);
        table.row(vec![key, format!("{all:.0}"), touched, part, interval]);
    }
    let more: u32 = breakdown.rows.iter().skip(rows_max).map(|row| row.keys).sum();
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    format!("\n{}{more}", table.render())
}

fn note(note: &SimulationNote) -> String {
    let SimulationNote { recorded, connections, description } = note;
    let flows = count(usize::try_from(*recorded).unwrap_or(usize::MAX), "recorded connection");
    let stand = if *connections > 0.0 { format!(" (of {connections:.0})") } else { String::new() };
    one_line(&format!("  {flows}{stand}: {description}")) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;

    fn share(connections: f64, touched: f64) -> Option<TouchedShare> {
        let share = touched / connections;
        let (lower, upper) = (share - 0.01, share + 0.01);
        Some(TouchedShare {
            connections,
            touched,
            recorded: 9,
            recorded_touched: 3,
            share,
            lower,
            upper,
            ..Default::default()
        })
    }

    fn row(key: &str, keys: u32) -> BreakdownRow {
        BreakdownRow { key: key.to_owned(), keys, share: share(100.0, 20.0) }
    }

    #[test]
    fn an_answer_says_how_many_what_and_who() {
        let change = ParameterChange {
            parameter: "initial_cwnd_packets".to_owned(),
            before: None,
            after: Some("40".to_owned()),
            share: share(1_000.0, 200.0),
        };
        let ports = (0..6).map(|n| row(&format!("remote {n}"), 1)).chain([row("", 7)]).collect();
        let time = |seconds| Some(Timestamp { seconds, nanos: 7 });
        let simulation = Simulation {
            total: share(1_000.0, 200.0),
            changes: vec![change],
            breakdowns: vec![
                Breakdown {
                    dimension: SimulationDimension::Service.into(),
                    rows: vec![row("/a\u{1b}[2Jb", 1), row("", 3)],
                },
                Breakdown { dimension: SimulationDimension::Port.into(), rows: ports },
            ],
            notes: vec![SimulationNote { recorded: 1, connections: 30.0, description: "are odd".to_owned() }],
            first_time: time(1_772_366_400),
            last_time: time(1_772_366_460),
            ..Simulation::default()
        };
        let response =
            SimulateChangeResponse { simulation: Some(simulation), cut: true, ..SimulateChangeResponse::default() };
        let expected = "\
policies/web would touch 20.00% of connections (between 19.00% and 21.00%): 200 of 1000
From 9 recorded connections that ended from 2026-03-01T12:00:00Z to 2026-03-01T12:01:00Z.

PARAMETER             NOW  THEN  CONNECTIONS   SHARE          FROM, TO
initial_cwnd_packets    -    40          200  20.00%  [19.00%, 21.00%]

SERVICE   ALL  TOUCHED   SHARE          FROM, TO
/a [2Jb   100       20  20.00%  [19.00%, 21.00%]
3 others  100       20  20.00%  [19.00%, 21.00%]

PORT      ALL  TOUCHED   SHARE          FROM, TO
remote 0  100       20  20.00%  [19.00%, 21.00%]
remote 1  100       20  20.00%  [19.00%, 21.00%]
remote 2  100       20  20.00%  [19.00%, 21.00%]
remote 3  100       20  20.00%  [19.00%, 21.00%]
remote 4  100       20  20.00%  [19.00%, 21.00%]
remote 5  100       20  20.00%  [19.00%, 21.00%]
and 7 more

What else is to be known:
  1 recorded connection (of 30): are odd

Not all of it: asked from - on; recorded connections are used, or kept, from 2026-03-01T12:00:00Z on only.
";
        let shown = answer("policies/web", &response);
        assert_eq!(shown, expected);
    }

    #[test]
    fn without_connections_nothing_is_claimed() {
        assert_eq!(
            simulation("policies/a", &Simulation::default()),
            "policies/a: no recorded connection, so nothing is known\n"
        );
        let certain = TouchedShare { connections: 4.0, recorded: 4, ..TouchedShare::default() };
        let text = simulation("policies/a", &Simulation { total: Some(certain), ..Simulation::default() });
        assert!(text.starts_with("policies/a would touch 0.00% of connections: 0 of 4\n"), "{text}");
    }
}
