//! `restore`: the whole file is read before anything is sent, and the server restores all or nothing.

use crate::api::Change;
use crate::args::{Format, Restore};
use crate::backup::{self, BackupEntry};
use crate::client::Client;
use crate::commands::sources::{self, problem_line};
use crate::failure::Failure;
use crate::format::count;
use crate::output::{self, print};
use crate::table::one_line;
use sockpilot_proto::v1::{RestoreBackupResponse, RestoreResult};

/// Longest file: somewhat more than a server takes, which says so.
const BYTES_MAX: u64 = 1 << 30;

/// Puts a backup back.
pub async fn run(restore: &Restore, client: &Client, format: Format) -> Result<(), Failure> {
    let (file, text) = sources::read_at_most(&restore.file, BYTES_MAX)?;
    let entries = backup::read(&text).map_err(|problems| {
        let faults: Vec<String> = problems.iter().map(|problem| problem_line(&file, problem)).collect();
        sources::refused(&faults)
    })?;
    let change = Change::from(&restore.change);
    let items = entries.iter().map(|entry| entry.item.clone()).collect();
    let answer = client.restore(items, &change).await.map_err(|failure| in_file(&file, &entries, failure))?;
    print(&output::message(format, "RestoreBackupResponse", &answer, |answer| lines(answer, change.validate_only)))
}

fn lines(answer: &RestoreBackupResponse, validate_only: bool) -> String {
    let mut text = String::new();
    for one in &answer.restored {
        let verb = match (one.result(), validate_only) {
            (RestoreResult::Created, false) => "restored",
            (RestoreResult::Created, true) => "would be restored",
            (RestoreResult::Revived, false) => "restored, it was deleted here",
            (RestoreResult::Revived, true) => "would be restored, it is deleted here",
            (RestoreResult::Unchanged | RestoreResult::Unspecified, _) => "unchanged",
        };
        let name = if one.revision > 0 { format!("{}@{}", one.name, one.revision) } else { one.name.clone() };
        text.push_str(&one_line(&format!("{name}: {verb}")));
        text.push('\n');
        if !one.note.is_empty() {
            text.push_str(&format!("  {}\n", one_line(&one.note)));
        }
    }
    text
}

/// A refusal with the places in the file.
fn in_file(file: &str, entries: &[BackupEntry], failure: Failure) -> Failure {
    let Failure::Refused(mut refusal) = failure else { return failure };
    if !refusal.violations.iter().any(|(field, _)| field.starts_with("items[")) {
        // About what is here, each with its name.
        refusal.message.truncate(refusal.message.find('\n').unwrap_or(refusal.message.len()));
        return Failure::Refused(refusal);
    }
    let lines: Vec<String> = refusal
        .violations
        .drain(..)
        .map(|(field, description)| problem_line(file, &backup::locate(entries, &field, &description)))
        .collect();
    refusal.message =
        format!("refused for {}, nothing was restored\n  {}", count(lines.len(), "fault"), lines.join("\n  "));
    Failure::Refused(refusal)
}
