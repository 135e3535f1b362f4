//! What is generated from the table of parameters: the wire message and the reference page. Tests keep both fresh.

use std::fmt::Write;

use crate::parameter::{
    Action, Kind, PARAMETERS, Parameter, Phase, Question, TooLate,
    sysctl::{Part, Sysctl},
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
