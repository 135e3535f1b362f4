//! What is generated from the table of quantities: the wire messages and the reference page. Tests keep both fresh.

use std::fmt::Write;

use crate::{Aggregate, QUANTITIES, Quantity, Unit};

fn sums() -> impl Iterator<Item = &'static Quantity> {
    QUANTITIES.iter().filter(|quantity| matches!(quantity.aggregate, Aggregate::Sum(_)))
}

fn distributions() -> impl Iterator<Item = &'static Quantity> {
    QUANTITIES.iter().filter(|quantity| matches!(quantity.aggregate, Aggregate::Distribution(_)))
}

/// Numbers of the fields of an `OutcomeRow` are these many below those of a `FlowCell`.
const ROW_NUMBERS_BELOW: u32 = 3;
/// What follows from the counts has the numbers from here on that no distribution will ever have.
const ROW_RATIO: u32 = 10;

/// `outcomes.proto`.
#[must_use]
pub fn outcomes_proto() -> String {
    let mut text = String::from(HEAD);
    text.push_str("// What adds up.\nmessage FlowCounts {\n");
    for quantity in sums() {
        field(&mut text, "uint64", quantity, quantity.number);
    }
    text.push_str(CELL);
    for quantity in distributions() {
        field(&mut text, "Distribution", quantity, quantity.number);
    }
    text.push_str(MEASURED);
    text.push_str(ROW);
    for quantity in distributions() {
        // What it is stands at the cell.
        let number = quantity.number - ROW_NUMBERS_BELOW;
        let number = if number >= ROW_RATIO { number + 1 } else { number };
        let _ = writeln!(text, "  Quantiles {} = {number};", quantity.name);
    }
    let _ =
        write!(text, "  // Retransmitted segments by sent segments.\n  double retransmit_ratio = {ROW_RATIO};\n}}\n");
    text
}

fn field(text: &mut String, kind: &str, quantity: &Quantity, number: u32) {
    let Quantity { name, unit, summary, of, since, .. } = quantity;
    let since = since.map_or_else(String::new, |(major, minor)| format!(" Linux {major}.{minor} or newer."));
    let of = if *of == "all" { String::new() } else { format!(" Of flows that are {of}.") };
    // A unit that the name does not say.
    let unit =
        if name.ends_with("_us") || *unit == Unit::Flows { String::new() } else { format!(" In {}.", unit.name()) };
    let words = format!("{}{of}{unit}{since}", summary.trim());
    for line in wrapped(&words, 120) {
        let _ = writeln!(text, "  // {line}");
    }
    let _ = writeln!(text, "  {kind} {name} = {number};");
}

/// Lines of at most so many characters, broken at spaces.
fn wrapped(words: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `docs/outcomes.md`.
#[must_use]
pub fn outcomes_page() -> String {
    let mut text = String::from(PAGE);
    for quantity in QUANTITIES {
        let Quantity { name, unit, source, of, summary, since, aggregate, number: _ } = quantity;
        let kept = match aggregate {
            Aggregate::Sum(_) => "adds up",
            Aggregate::Distribution(_) => "distribution",
        };
        let since = since.map_or_else(|| "any".to_owned(), |(major, minor)| format!("{major}.{minor}"));
        let summary = summary.trim();
        let _ = writeln!(text, "| `{name}` | {} | {kept} | {of} | `{source}` | {since} | {summary} |", unit.name());
    }
    text
}

const HEAD: &str = "// Generated from the table in outcomes/src/quantity.rs: change it there, then run the tests with
// SOCKPILOT_UPDATE=1 to write this file anew.
syntax = \"proto3\";

package sockpilot.v1;

import \"sockpilot/v1/flow.proto\";
import \"sockpilot/v1/layer.proto\";

";

const CELL: &str = "}

// Sums over the flow records with the same key in one interval. The key is everything before `counts`.
message FlowCell {
  // Seconds since 1970 by the server's clock, as far as the node has heard of it (`Heartbeat.server_time`), a multiple of the
  // interval's length. A cell keeps its interval whatever becomes of any clock.
  uint64 interval_start_s = 1;
  uint32 interval_length_s = 2;
  // `policies/{policy}` or `experiments/{experiment}`; of what is measured of a rollout `rollouts/{rollout}`, with the canary's revision.
  string layer = 3;
  uint64 revision = 4;
  // The rule's or the arm's name.
  string choice = 5;
  Direction direction = 6;
  SizeClass size_class = 7;
  FlowCounts counts = 8;
";

const MEASURED: &str = "  // Instead of all that: what an experiment measures of its connections, each once. `layer` is the experiment, `choice` the
  // arm, the interval that in which the connections began, and the size class unspecified.
  Measured measured = 100;
";

const ROW: &str = "}

// What came of the connections of one choice (a rule of a policy, an arm of an experiment).
message OutcomeRow {
  uint64 revision = 1;
  // The rule's or the arm's name.
  string choice = 2;
  Direction direction = 3;
  SizeClass size_class = 4;
  FlowCounts counts = 5;
";

const PAGE: &str = "# Outcomes

Generated from the table in `outcomes/src/quantity.rs`: what is counted and measured of each end of a connection that a layer
matched. A node folds the kernel's flow records into cells: one for each choice, direction, size class and interval. What adds up is
exact. Of what is distributed, cells keep count, mean, variance and range, and a sketch whose quantiles are within 1% of the true
value. Cells merge over nodes and time without another loss.

The server keeps cells for a time and merges them over all nodes by minute, hour and day, which it keeps longer; see
`sockpilot-server --help` for how long, and for the bound of the disk they may take.

| quantity | unit | kept as | of which flows | field of the record | Linux | what it is |
|---|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_used_once() {
        for of_kind in [sums().collect::<Vec<_>>(), distributions().collect()] {
            let numbers: HashSet<_> = of_kind.iter().map(|quantity| quantity.number).collect();
            assert_eq!(numbers.len(), of_kind.len());
        }
        let names: HashSet<_> = QUANTITIES.iter().map(|quantity| quantity.name).collect();
        assert_eq!(names.len(), QUANTITIES.len());
        // Before them are the fields of the key.
        assert!(distributions().all(|quantity| quantity.number > 8));
    }
}
