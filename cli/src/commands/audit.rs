//! `audit`: the log as it is, and whether it is still what it was.

use crate::args::{Audit, AuditTask, Format, Verify};
use crate::client::Client;
use crate::failure::Failure;
use crate::format;
use crate::output::{self, print};
use crate::schema;
use crate::views;
use prost_reflect::DynamicMessage;
use sockpilot_audit::Chain;
use sockpilot_proto::v1;
use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::Path;

/// Does what the command line says.
pub async fn run(audit: Audit, client: &Client, format: Format) -> Result<(), Failure> {
    match audit.task {
        None => {
            let answer = client.audit(audit.name.unwrap_or_default(), audit.limit as usize).await?;
            super::warn(&answer.warnings);
            print(&output::message(format, "ListAuditEntriesResponse", &answer, |answer| {
                views::audit::table(&answer.entries, audit.differences)
            }))
        }
        Some(AuditTask::Verify(verify)) => self::verify(verify, client, format).await,
        Some(AuditTask::Export) => client.audit_from_first(|entry| print(&line(&entry))).await,
        Some(AuditTask::Head) => {
            let newest = client.audit(String::new(), 1).await?.entries.pop();
            let head = newest.map_or_else(sockpilot_audit::Head::of_nothing, |entry| sockpilot_audit::Head {
                sequence: entry.sequence,
                hash: entry.hash,
            });
            print(&format!("{head}\n"))
        }
    }
}

fn line(entry: &v1::AuditEntry) -> String {
    output::message(Format::Jsonl, "AuditEntry", entry, |_| String::new())
}

async fn verify(verify: Verify, client: &Client, format: Format) -> Result<(), Failure> {
    let Verify { file, heads } = verify;
    let noted = heads.len();
    let mut chain = Chain::through(heads);
    let mut times = None;
    let mut take = |entry: v1::AuditEntry| {
        chain.take(&entry).map_err(broken)?;
        let (first, _) = times.get_or_insert((entry.time, entry.time));
        times = Some((*first, entry.time));
        Ok(())
    };
    match &file {
        Some(path) => entries_of(path, &mut take)?,
        None => client.audit_from_first(take).await?,
    }
    let head = chain.end().map_err(broken)?;
    if format != Format::Table {
        return print(&format!("{}\n", serde_json::json!({ "entries": head.sequence, "head": head.to_string() })));
    }
    let from_to = times.map_or_else(String::new, |(first, last)| {
        format!(", from {} to {}", format::time(first.as_ref()), format::time(last.as_ref()))
    });
    let told = match noted {
        0 => {
            "note the head elsewhere; verified with it (--head), the log shows also whether its newest entries were removed, or all rewritten"
        }
        1 => "the head that was noted is in it",
        _ => "the heads that were noted are in it",
    };
    let entries = match head.sequence {
        1 => "1 entry".to_owned(),
        number => format!("{number} entries"),
    };
    print(&format!("{entries}{from_to}: none was changed, removed or inserted\n{told}\nhead {head}\n"))
}

fn broken(why: sockpilot_audit::Broken) -> Failure {
    Failure::Tampered(why.to_string())
}

/// Reads what `audit export` printed.
fn entries_of(path: &Path, take: &mut impl FnMut(v1::AuditEntry) -> Result<(), Failure>) -> Result<(), Failure> {
    let fault = |why: String| Failure::Input(format!("{}: {why}", path.display()));
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(|error| fault(error.to_string()))?))
    };
    for (number, line) in (1..).zip(reader.lines()) {
        let line = line.map_err(|error| fault(error.to_string()))?;
        let entry = read(&line).map_err(|why| fault(format!("line {number} is no entry of the audit log: {why}")))?;
        take(entry)?;
    }
    Ok(())
}

fn read(line: &str) -> Result<v1::AuditEntry, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let message = DynamicMessage::deserialize(schema::message("AuditEntry"), &mut json);
    let message = message.map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    message.transcode_to().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;

    #[test]
    fn a_line_is_read_as_it_was_printed() {
        let entry = v1::AuditEntry {
            sequence: 7,
            time: Some(Timestamp { seconds: 1_772_366_400, nanos: 120_003_000 }),
            actor: "ann\u{2028}\"\n".to_owned(),
            request_json: "{\"a\": 1e400}".to_owned(),
            ..v1::AuditEntry::default()
        };
        let line = line(&entry);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert_eq!(read(line.trim_end()), Ok(entry));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for line in ["", "{", "[]", "{\"sequence\":\"1\"} {}", "{\"secuence\":\"1\"}"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
