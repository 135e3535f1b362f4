//! The replicas of the server.

use crate::format::{self, NONE};
use crate::table::Table;
use sockpilot_proto::v1::{self, task::Scope};

/// A line for each task of each server.
pub fn tasks(servers: &[v1::Server]) -> String {
    let mut table = Table::new(&[
        "SERVER",
        "LEADER",
        "LAST CONTACT",
        "TASK",
        "RUN BY",
        ">PERIOD",
        "LAST RUN",
        ">TOOK",
        ">RUNS",
        ">FAILED",
        "RESULT",
    ]);
    for server in servers {
        for task in &server.tasks {
            table.row(vec![
                format!("{} {}", server.host, server.address),
                if server.leader { "yes" } else { "no" }.to_owned(),
                format::time(server.last_contact_time.as_ref()),
                task.name.clone(),
                scope(task.scope()).to_owned(),
                format::micros(task.period_ms as f64 * 1e3),
                format::time(task.last_start_time.as_ref()),
                task.last_start_time.map_or_else(|| NONE.to_owned(), |_| format::micros(task.last_duration_us as f64)),
                task.runs.to_string(),
                task.failures.to_string(),
                result(task),
            ]);
        }
    }
    table.render()
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Unspecified => NONE,
        Scope::Server => "each server",
        Scope::Fleet => "the leader",
    }
}

fn result(task: &v1::Task) -> String {
    match (&task.running_since_time, task.last_start_time, task.last_error.as_str()) {
        (Some(since), _, _) => format!("running since {}", format::time(Some(since))),
        (None, None, _) => "has not run yet".to_owned(),
        (None, Some(_), "") => format::or_none(&task.last_result),
        (None, Some(_), error) => format!("failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;

    #[test]
    fn a_task_is_one_line() {
        let noon = Some(Timestamp { seconds: 1_772_366_400, nanos: 0 });
        let task = |name: &str| v1::Task { name: name.to_owned(), period_ms: 2_000, runs: 3, ..v1::Task::default() };
        let ran = v1::Task { last_start_time: noon, last_duration_us: 850, ..task("refresh") };
        let tasks = vec![
            v1::Task { scope: Scope::Server.into(), last_result: "generation 7".to_owned(), ..ran.clone() },
            v1::Task { scope: Scope::Fleet.into(), last_error: "database\naway".to_owned(), failures: 1, ..ran },
            v1::Task { running_since_time: noon, ..task("janitor") },
            task("late"),
        ];
        let (host, address) = ("web1".to_owned(), "10.0.0.5:7460".to_owned());
        let server =
            v1::Server { host, address, leader: true, last_contact_time: noon, tasks, ..v1::Server::default() };
        let text = super::tasks(&[server]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].contains("each server") && lines[1].ends_with("generation 7"), "{text}");
        assert!(lines[2].contains("the leader") && lines[2].ends_with("failed: database away"), "{text}");
        assert!(lines[3].ends_with("running since 2026-03-01T12:00:00Z"), "{text}");
        assert!(lines[4].ends_with("has not run yet"), "{text}");
    }
}
