//! What came of the connections.

use crate::format::{self, NONE};
use crate::table::Table;
use sockpilot_proto::v1::{Direction, FlowCounts, OutcomeRow, Quantiles, QueryOutcomesResponse, SizeClass};

/// A line for each choice: an `ARM` or a `RULE`.
pub fn table(answer: &QueryOutcomesResponse, choice: &str, by_size: bool) -> String {
    let mut headings = vec![">REV", choice, "DIRECTION"];
    if by_size {
        headings.push("SIZE");
    }
    headings.extend([">FLOWS", ">SHARE", ">ESTAB", ">FAILED", ">RESET", ">TIMEOUT", ">STILL OPEN"]);
    headings.extend([">CONNECT P50", ">P99", ">SRTT P50", ">CWND P50", ">LASTED P50", ">RETRANS", ">SYN RETR"]);
    let mut table = Table::new(&headings);
    for row in &answer.rows {
        let counts = row.counts.unwrap_or_default();
        let mut cells = vec![row.revision.to_string(), row.choice.clone(), direction(row.direction()).to_owned()];
        if by_size {
            cells.push(size(row.size_class()).to_owned());
        }
        cells.extend([counts.flows.to_string(), share(row, answer)]);
        let FlowCounts { established, failed, reset, timed_out, still_open, .. } = counts;
        cells.extend([established, failed, reset, timed_out, still_open].map(|n| n.to_string()));
        cells.extend([
            quantile(row.connect_time_us.as_ref(), |q| format::micros(q.p50)),
            quantile(row.connect_time_us.as_ref(), |q| format::micros(q.p99)),
            quantile(row.srtt_us.as_ref(), |q| format::micros(q.p50)),
            quantile(row.established_cwnd.as_ref(), |q| format!("{:.0}", q.p50)),
            quantile(row.duration_us.as_ref(), |q| format::micros(q.p50)),
            if counts.segments_out == 0 { NONE.to_owned() } else { format::percent(row.retransmit_ratio) },
            counts.syn_retransmits.to_string(),
        ]);
        table.row(cells);
    }
    table.render()
}

/// Among the flows that could have had another choice: those of the same revision, direction and size class.
fn share(row: &OutcomeRow, answer: &QueryOutcomesResponse) -> String {
    let key = |row: &OutcomeRow| (row.revision, row.direction, row.size_class);
    let flows = |row: &OutcomeRow| row.counts.map_or(0, |counts| counts.flows);
    let all: u64 = answer.rows.iter().filter(|other| key(other) == key(row)).map(flows).sum();
    if all == 0 { NONE.to_owned() } else { format!("{:.1}%", flows(row) as f64 / all as f64 * 100.0) }
}

fn quantile(quantiles: Option<&Quantiles>, show: impl Fn(&Quantiles) -> String) -> String {
    quantiles.filter(|quantiles| quantiles.count > 0).map_or_else(|| NONE.to_owned(), show)
}

/// A direction in one word.
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Unspecified => NONE,
        Direction::Active => "active",
        Direction::Passive => "passive",
    }
}

fn size(class: SizeClass) -> &'static str {
    match class {
        SizeClass::Unspecified => NONE,
        SizeClass::Small => "small",
        SizeClass::Medium => "medium",
        SizeClass::Large => "large",
        SizeClass::Huge => "huge",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantiles(p50: f64, p99: f64) -> Option<Quantiles> {
        Some(Quantiles { count: 10, p50, p99, ..Quantiles::default() })
    }

    fn row(choice: &str, flows: u64, failed: u64) -> OutcomeRow {
        OutcomeRow {
            revision: 1,
            choice: choice.to_owned(),
            direction: Direction::Active.into(),
            counts: Some(FlowCounts {
                flows,
                established: flows - failed,
                failed,
                segments_out: flows * 10,
                syn_retransmits: 7,
                still_open: 3,
                ..FlowCounts::default()
            }),
            connect_time_us: quantiles(40_300.0, 1_041_000.0),
            srtt_us: quantiles(40_100.0, 41_000.0),
            established_cwnd: quantiles(10.04, 10.04),
            duration_us: quantiles(120_000.0, 4e6),
            retransmit_ratio: 0.0123,
            ..OutcomeRow::default()
        }
    }

    #[test]
    fn arms_stand_side_by_side() {
        let answer =
            QueryOutcomesResponse { rows: vec![row("control", 900, 2), row("fast", 100, 0)], warnings: vec![] };
        assert_eq!(
            table(&answer, "ARM", false),
            "\
REV  ARM      DIRECTION  FLOWS  SHARE  ESTAB  FAILED  RESET  TIMEOUT  STILL OPEN  CONNECT P50    P99  SRTT P50  CWND P50  LASTED P50  RETRANS  SYN RETR
  1  control  active       900  90.0%    898       2      0        0           3       40.3ms  1.04s    40.1ms        10       120ms    1.23%         7
  1  fast     active       100  10.0%    100       0      0        0           3       40.3ms  1.04s    40.1ms        10       120ms    1.23%         7
"
        );
    }

    #[test]
    fn what_was_not_seen_is_a_dash() {
        let empty = OutcomeRow { revision: 2, choice: "far".to_owned(), ..OutcomeRow::default() };
        let text = table(&QueryOutcomesResponse { rows: vec![empty], warnings: vec![] }, "RULE", true);
        let line: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(line, ["2", "far", "-", "-", "0", "-", "0", "0", "0", "0", "0", "-", "-", "-", "-", "-", "-", "0"]);
    }
}
