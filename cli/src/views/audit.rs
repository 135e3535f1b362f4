//! The audit log.

use crate::format::{self, NONE};
use crate::table::Table;
use serde_json::Value;
use sockpilot_proto::v1;
use std::fmt::Write;

/// A line for each change; with what it made different below it, if that is wanted.
pub fn table(entries: &[v1::AuditEntry], differences: bool) -> String {
    let mut table = Table::new(&["TIME", "WHO", "WHAT", "NAME", ">REVISION", ">GENERATION", "REASON"]);
    for entry in entries {
        table.row(vec![
            format::time(entry.time.as_ref()),
            entry.actor.clone(),
            entry.method.clone(),
            entry.name.clone(),
            if entry.revision == 0 { NONE.to_owned() } else { entry.revision.to_string() },
            entry.generation.to_string(),
            entry.reason.clone(),
        ]);
    }
    let rendered = table.render();
    if !differences {
        return rendered;
    }
    let mut lines = rendered.lines();
    let mut text = lines.next().map(|head| format!("{head}\n")).unwrap_or_default();
    for (line, entry) in lines.zip(entries) {
        let _ = writeln!(text, "{line}\n{}", difference(&entry.difference_json));
    }
    text
}

/// A line for each path.
fn difference(json: &str) -> String {
    let Ok(Value::Array(entries)) = serde_json::from_str(json) else { return format!("  {json}\n") };
    let mut text = String::new();
    for entry in &entries {
        let of = |key: &str| match (entry.get(key), entry.get(format!("{key}_bytes"))) {
            (Some(value), _) => value.to_string(),
            (None, Some(bytes)) => format!("({bytes} bytes)"),
            (None, None) => NONE.to_owned(),
        };
        let _ = match entry.get("paths_left_out") {
            Some(number) => writeln!(text, "  and {number} more"),
            None => {
                let path = entry.get("path").and_then(Value::as_str).filter(|path| !path.is_empty()).unwrap_or("all");
                writeln!(text, "  {path}: {} → {}", of("before"), of("after"))
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;

    fn entry() -> v1::AuditEntry {
        v1::AuditEntry {
            time: Some(Timestamp { seconds: 1_772_366_400, nanos: 0 }),
            actor: "ann@desk".to_owned(),
            method: "RollbackRevision".to_owned(),
            name: "policies/web".to_owned(),
            revision: 2,
            reason: "p99 up\nsee graph".to_owned(),
            generation: 12,
            difference_json: "[{\"path\":\"everyone\",\"before\":1,\"after\":2},{\"path\":\"x\",\"after_bytes\":9000},\
                              {\"paths_left_out\":3}]"
                .to_owned(),
            ..v1::AuditEntry::default()
        }
    }

    const LINE: &str = "TIME                  WHO       WHAT              NAME          REVISION  GENERATION  REASON\n\
         2026-03-01T12:00:00Z  ann@desk  RollbackRevision  policies/web         2          12  p99 up see graph\n";

    #[test]
    fn an_entry_is_one_line() {
        assert_eq!(table(&[entry()], false), LINE);
    }

    #[test]
    fn differences_stand_below() {
        let below = "  everyone: 1 → 2\n  x: - → (9000 bytes)\n  and 3 more\n\n";
        assert_eq!(table(&[entry()], true), format!("{LINE}{below}"));
    }
}
