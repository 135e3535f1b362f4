//! What is turned off.

use crate::format;
use crate::table::{Table, one_line};
use sockpilot_proto::v1::KillSwitch;

/// A line for each switch.
pub fn table(switches: &[KillSwitch]) -> String {
    let mut table = Table::new(&["OFF", "SINCE", "BY", "REASON"]);
    for switch in switches {
        let since = format::time(switch.time.as_ref());
        table.row(vec![named(switch).to_owned(), since, format::or_none(&switch.actor), switch.reason.clone()]);
    }
    table.render()
}

/// What stands beneath something else: what is off is not in force, whatever else is said.
pub fn notice(switches: &[KillSwitch]) -> String {
    if switches.is_empty() { String::new() } else { format!("\n{}", table(switches)) }
}

/// What has become of it.
pub fn changed(switch: &KillSwitch, validate_only: bool) -> String {
    let state = if switch.off { "off" } else { "on" };
    let is = if validate_only { "would be" } else { "is" };
    one_line(&format!("{}: {is} {state}", named(switch))) + "\n"
}

/// `everything` is what nobody has named.
pub fn named(switch: &KillSwitch) -> &str {
    if switch.target == "-" { "everything" } else { &switch.target }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(target: &str) -> KillSwitch {
        KillSwitch {
            target: target.to_owned(),
            off: true,
            reason: "it\nhurts".to_owned(),
            actor: "ann@desk".to_owned(),
            time: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 }),
        }
    }

    #[test]
    fn what_is_off_stands_beneath_what_else_is_said() {
        assert_eq!(notice(&[]), "");
        assert_eq!(
            notice(&[switch("policies/web"), switch("-")]),
            "\nOFF           SINCE                 BY        REASON\n\
             policies/web  2026-03-01T12:00:00Z  ann@desk  it hurts\n\
             everything    2026-03-01T12:00:00Z  ann@desk  it hurts\n"
        );
    }

    #[test]
    fn a_switch_says_where_it_stands() {
        assert_eq!(changed(&switch("-"), true), "everything: would be off\n");
        assert_eq!(changed(&KillSwitch { off: false, ..switch("policies/web") }, false), "policies/web: is on\n");
    }
}
