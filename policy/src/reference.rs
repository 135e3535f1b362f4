//! What is generated from the table of parameters: the wire message and the reference page. Tests keep both fresh.

use std::fmt::Write;

use crate::{
    measure::{Better, Quantity, Stage},
    parameter::{
        Action, Kind, PARAMETERS, Parameter, Phase, Question, TooLate,
        sysctl::{Part, Sysctl},
    },
};

/// `parameters.proto`.
#[must_use]
pub fn parameters_proto() -> String {
    let mut text = String::from(
        "// Generated from the table in policy/src/parameter.rs: change it there, then run the tests with\n\
         // SOCKPILOT_UPDATE=1 to write this file anew.\n\
         syntax = \"proto3\";\n\npackage sockpilot.v1;\n\n\
         // What a connection gets. Absent fields are left to lower layers and to the kernel.\nmessage Parameters {\n",
    );
    for parameter in PARAMETERS {
        let kind = match parameter.kind {
            Kind::Number { .. } => "uint32",
            Kind::On | Kind::Switch => "bool",
            Kind::Name => "string",
        };
        let _ = writeln!(text, "  // {} {}", parameter.summary, range(parameter));
        let _ = writeln!(
            text,
            "{}",
            format!("  // {} Set {}.", parameter.kernel_note, moment(parameter)).replace("//  ", "// ")
        );
        let names: Vec<_> = parameter.sysctls.iter().map(|sysctl| sysctl.name).collect();
        if !names.is_empty() {
            let _ = writeln!(text, "  // Of the connection's network namespace take part: {}.", names.join(", "));
        }
        for (end, too_late) in too_late(parameter) {
            let _ = writeln!(text, "  // Too late at {end} ends: {too_late}");
        }
        let open = if is_live(parameter) { " Open connections can get it too (`Rule.apply_to`)." } else { "" };
        let _ = writeln!(text, "  // Linux {} or newer.{open}", since(parameter));
        let _ = writeln!(text, "  optional {kind} {} = {};", parameter.name, parameter.number);
    }
    text.push_str("}\n");
    text
}

/// `docs/parameters.md`.
#[must_use]
pub fn parameters_page() -> String {
    let mut text = String::from(
        "# Parameters\n\nGenerated from the table in `policy/src/parameter.rs`. Values are in real units; what a node's kernel makes \
         of them\n(rounding, caps) is read back and reported by `sockpilot status` and `sockpilot nodes` as the effective value.\n\n\
         Where *open* says yes, a rule with `apply_to: new_and_established` changes connections that are open already, and puts\n\
         back what was there when it is withdrawn (Linux 5.16).\n\n\
         | field | value | set | open | Linux | what it does | what the kernel makes of it |\n|---|---|---|---|---|---|---|\n",
    );
    for parameter in PARAMETERS {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            parameter.name,
            range(parameter).trim_end_matches('.'),
            moment(parameter),
            if is_live(parameter) { "yes" } else { "no" },
            since(parameter),
            parameter.summary,
            parameter.kernel_note
        );
    }
    let _ = write!(text, "{SYSCTLS}");
    for parameter in PARAMETERS {
        for Sysctl { name, since, part, effect } in parameter.sysctls {
            let since = since.map_or_else(|| "any".to_owned(), |(major, minor)| format!("{major}.{minor}"));
            let part = match part {
                Part::Default => "its default".to_owned(),
                Part::Computed => "computed".to_owned(),
                Part::While(value) => format!("reported while {value}"),
                Part::Beside => "beside it".to_owned(),
            };
            let _ = writeln!(text, "| `{}` | `{name}` | {since} | {part} | {effect} |", parameter.name);
        }
    }
    let _ = write!(text, "{TOO_LATE}");
    for parameter in PARAMETERS {
        for (end, too_late) in too_late(parameter) {
            let _ = writeln!(text, "| `{}` | {end} | {too_late} |", parameter.name);
        }
    }
    text
}

const SYSCTLS: &str = "\n## Settings of the connection's network namespace\n\n\
    A value acts together with sysctls, and each connection meets those of its own network namespace. A node reads what *computed*\n\
    and *reported* say from the daemon's own namespace when a policy comes into force, computes from it (`syn_retries: 6` makes ten\n\
    retransmissions where four linear timeouts come first), and says so with the effective value in `sockpilot status` and\n\
    `explain`. Connections in other namespaces may meet other values: those of containers often do. *Its default* is what a\n\
    socket has where the parameter is not set. Timers fire up to two timer ticks late, and that adds up.\n\n\
    | field | sysctl | Linux | how | what it does |\n|---|---|---|---|---|\n";

const TOO_LATE: &str = "\n## What comes too late\n\n\
    A connecting end is set up when connect() has chosen route and addresses and the SYN is not yet made; so the SYN has what\n\
    is set *before the SYN is sent*, with its window and window scale. An accepting end is set up when its handshake is over. An\n\
    option that a program sets before connect() or listen() may therefore do more than the same value by policy:\n\n\
    | field | end | what has been decided before |\n|---|---|---|\n";

/// What has been decided already when a parameter is set, by end.
fn too_late(parameter: &Parameter) -> impl Iterator<Item = (&'static str, &'static str)> {
    let TooLate { active, passive } = parameter.too_late;
    [("connecting", active), ("accepting", passive)].into_iter().filter(|(_, text)| !text.is_empty())
}

/// Whether open connections can get it too.
fn is_live(parameter: &Parameter) -> bool {
    matches!(parameter.action, Action::Option { phases, .. } if phases & Phase::Live as u8 != 0)
}

fn since(parameter: &Parameter) -> String {
    let (major, minor) = parameter.since;
    format!("{major}.{minor}")
}

fn range(parameter: &Parameter) -> String {
    match parameter.kind {
        Kind::Number { unit, min, max } => format!("{min} to {max} {unit}."),
        Kind::On => "Only `true`.".to_owned(),
        Kind::Switch => "`true` or `false`.".to_owned(),
        Kind::Name => "1 to 15 characters.".to_owned(),
    }
}

fn moment(parameter: &Parameter) -> String {
    match parameter.action {
        Action::Reply(Question::SynTimeout) => "when the SYN is sent".to_owned(),
        Action::Reply(Question::SynAckTimeout) => "when the SYN-ACK is sent".to_owned(),
        Action::Reply(Question::ReceiveWindow | Question::Ecn) => "in the handshake, at either end".to_owned(),
        Action::Reply(Question::BaseRtt) => "whenever asked".to_owned(),
        Action::ReflectTrafficClass => "when established (passive end)".to_owned(),
        Action::Option { phases, .. } => {
            let moments = [
                (Phase::Connect, "before the SYN is sent"),
                (Phase::ActiveEstablished, "when established (active end)"),
                (Phase::PassiveEstablished, "when established (passive end)"),
            ];
            let named: Vec<_> =
                moments.into_iter().filter(|(phase, _)| phases & *phase as u8 != 0).map(|(_, text)| text).collect();
            named.join(", ")
        }
    }
}

/// `docs/experiments.md`.
#[must_use]
pub fn experiments_page() -> String {
    let mut text = EXPERIMENTS.to_owned();
    for quantity in Quantity::ALL {
        let of = match quantity.stage() {
            Stage::Attempts => "begun",
            Stage::Established => "established",
        };
        let known = if quantity.is_always_known() { "" } else { ", where known" };
        let unit = if quantity.unit().is_empty() { "yes or no" } else { quantity.unit() };
        let better = match quantity.better() {
            Better::Higher => "more",
            Better::Lower => "less",
        };
        let (name, summary) = (quantity.name(), quantity.summary());
        let _ = writeln!(text, "| `{name}` | {unit} | {of}{known} | {better} | {summary} |");
    }
    text
}

const EXPERIMENTS: &str = "# Experiments

The table at the end is generated from `policy/src/measure.rs`; all of this page stands in `policy/src/reference.rs`.

An experiment compares **arms** on the connections that match. It is a design, of which every change starts a new **epoch**; words
(description, owner, planned duration), which change beside it; and a lifecycle: draft, running, stopped, concluded.

## What is randomised

| `unit` | one arm for | take it for | its errors are by |
|---|---|---|---|
| `UNIT_FLOW` | each connection | what one connection hardly takes from another: timers of the handshake | connection |
| `UNIT_PEER_PREFIX` | all connections of a node with one network of peers (`peer_prefix`) | what peers remember | group of networks |
| `UNIT_NODE` | all connections of a node | what connections of a node share | group of nodes |
| `UNIT_TIME_SLOT` | everybody, slot by slot (`time_slot`) | what all share: one bottleneck | pair of slots, by permutation |
| `UNIT_SATURATION_PAIR` | each connection; few on one half of the nodes, most on the other (`saturation_pair`) | what connections take from each other at a bottleneck | pair of groups of nodes |

At a shared bottleneck a difference between connections may be won from the control, and vanish when all have it: a design by connections
of such a parameter says so in its results, and the last two units tell what everybody would get.

Buckets are a hash of salt and unit, so anyone can say afterwards which arm a connection had: `sockpilot explain`. Experiments that must
not overlap have one `salt` (they are a group) and own buckets that do not (`first_bucket`); what would run and own a bucket of another of its
group, on the same connections, is refused, with the place that is free. All others are independent. An arm that grows or goes moves nobody else.

Slots of time are by the fleet's clock. What a node measures of them is left out, and told of, while its own clock is off by more than 2 s; so is a
connection that turns out to have begun in another slot than the one whose arm it got.

## What is measured

A connection is measured once, by its node: with what it had at its end or `horizon_s` after it began, whichever was first. Connections
that are slow, hang or fail are in like all others. Results are about connections whose horizon has passed, so no arm looks good
because its slow ones are not back yet, and one may look at any time.

A measure is a quantity, what is made of it (nothing; `cap`; `log`; `at_most`), possibly `per` another one, and a role: `SUCCESS` is to
become better, `GUARDRAIL` must be shown not to become worse by more than its margin, `DIAGNOSTIC` is to understand by. Caps are fixed
before the start: `sockpilot experiment freeze` takes them from the outcomes of a policy (`--from`) or of the experiment itself, the 99th percentile
where these have a distribution (`srtt_us`, `duration_us`, `handshake_us`, and what is a part of them), else from what an A/A has measured, where at
most one in a hundred can be above (mean and 9.95 standard deviations). What needs none (logarithms, ratios, thresholds, yes or no) it leaves, and
says so. Without measures, an experiment gets what makes sense for what its arms set.

## What is said

- Intervals and p-values are valid at every look together (asymptotic confidence sequences). What is valid at the planned end only is
  called so, and decides nothing.
- The arms' shares are tested at three stages (begun, established, ended), sequentially, and only a mismatch that is large enough to matter
  counts. Wrong shares from the start make a verdict invalid; wrong shares later say that one arm has lost connections.
- Where the handshake is over before an arm acts, chance differences of its round-trip time are taken out (CUPED), if the arms are alike in it.
- Success measures are corrected for their number (Holm), guardrails are not.
- None of many is data: of what counts events (failed connections, resets, segments sent again) each arm counts as if two events more, over
  clusters three, might have been seen. So a guardrail passes where nothing ever happened, once there are enough connections, and not before:
  about 9 of each arm by the margin. The margin is a share of the control's value, and of events rarer than one in a hundred that share
  of one in a hundred: with 5%, one more in 2,000, for which it takes about 18,000 connections of each arm without any. What only whole nodes
  have cannot be seen by few: of 30 nodes without an event it may still be one in ten (`stats/src/events.rs` says how sure this is).

| verdict | when |
|---|---|
| SHIP | a success measure is better, and every guardrail within its margin |
| DO NOT SHIP | a success measure is worse, or a guardrail by more than its margin |
| KEEP RUNNING | not known yet; how long it takes to find 5% at the present traffic |
| INVALID | the arms lack their shares, connections were lost, the control moves with the treatment, or an A/A found something |
| INCONCLUSIVE | it ran as planned, and it is not known; never a yes |
| NO DATA | nothing was measured; none of many that was established is data |

Every verdict is kept with what it was drawn from; `sockpilot experiment replay` draws it again to the same bytes.

## Switching a policy off for some

With `withholds: policies/NAME`, connections of the arms that say `withholds: true` do not get that policy: a holdback. With `duration_s` it
ends by itself, in the kernel, also where server and daemon are gone.

## Quantities

| quantity | unit | of connections | good is | what it is |
|---|---|---|---|---|
";
