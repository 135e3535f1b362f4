//! How much callers may ask for, on the command line and in the environment.

use std::time::Duration;

use crate::{
    auth::limits::{Limit, Limits},
    grpc::{CallLimits, door::DoorLimits},
};

/// Each refusal is counted; `docs/security.md` says where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Bounds")]
pub struct Bounds {
    /// How much each person or token may ask for: calls in a second, calls one upon the other, calls at once.
    #[arg(long, env = "SOCKPILOT_PERSON_LIMIT", default_value = "50,500,64", value_name = "PER_S,BURST,AT_ONCE",
        value_parser = limit)]
    person_limit: Limit,
    /// The same of each node, its reports aside.
    #[arg(long, env = "SOCKPILOT_NODE_LIMIT", default_value = "20,200,8", value_name = "PER_S,BURST,AT_ONCE",
        value_parser = limit)]
    node_limit: Limit,
    /// The same of the reports of each node.
    #[arg(long, env = "SOCKPILOT_REPORT_LIMIT", default_value = "20,200,2", value_name = "PER_S,BURST,AT_ONCE",
        value_parser = limit)]
    report_limit: Limit,
    /// The same of each address from which somebody calls who is not known.
    #[arg(long, env = "SOCKPILOT_UNKNOWN_LIMIT", default_value = "2,20,8", value_name = "PER_S,BURST,AT_ONCE",
        value_parser = limit)]
    unknown_limit: Limit,
    /// Reports of all nodes that wait for their turn.
    #[arg(long, env = "SOCKPILOT_REPORTS_MAX", default_value_t = 32, value_name = "NUMBER",
        value_parser = number(1, 10_000))]
    reports_max: u64,
    /// Reports in a second: nodes are told to report so seldom that all who are connected together stay below, at most every minute.
    #[arg(long, env = "SOCKPILOT_REPORTS_PER_S", default_value_t = 500, value_name = "NUMBER",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    reports_per_s: u32,
    /// Connections at the same time at each door.
    #[arg(long, env = "SOCKPILOT_CONNECTIONS_MAX", default_value_t = 20_000, value_name = "NUMBER",
        value_parser = number(1, 10_000_000))]
    connections_max: u64,
    /// Of these, connections of one caller, by certificate or else by address.
    #[arg(long, env = "SOCKPILOT_CONNECTIONS_OF_ONE_MAX", default_value_t = 64, value_name = "NUMBER",
        value_parser = number(1, 10_000_000))]
    connections_of_one_max: u64,
    /// Of these, connections that have not yet shown who they are.
    #[arg(long, env = "SOCKPILOT_HANDSHAKES_MAX", default_value_t = 512, value_name = "NUMBER",
        value_parser = number(1, 10_000_000))]
    handshakes_max: u64,
    /// How long a connection may take to show who it is, and to begin to speak.
    #[arg(long, env = "SOCKPILOT_HANDSHAKE_TIMEOUT", default_value_t = 10, value_name = "SECONDS",
        value_parser = number(1, 300))]
    handshake_timeout: u64,
    /// How long a connection may take nothing of what is sent to it.
    #[arg(long, env = "SOCKPILOT_WRITE_TIMEOUT", default_value_t = 30, value_name = "SECONDS",
        value_parser = number(1, 3_600))]
    write_timeout: u64,
    /// How long a call of a person may take, with its answer on the wire.
    #[arg(long, env = "SOCKPILOT_CALL_TIMEOUT", default_value_t = 600, value_name = "SECONDS",
        value_parser = number(1, 86_400))]
    call_timeout: u64,
    /// How long a report of a node may take.
    #[arg(long, env = "SOCKPILOT_REPORT_TIMEOUT", default_value_t = 60, value_name = "SECONDS",
        value_parser = number(1, 3_600))]
    report_timeout: u64,
    /// Calls at the same time on one connection.
    #[arg(long, env = "SOCKPILOT_STREAMS_MAX", default_value_t = 256, value_name = "NUMBER",
        value_parser = number(1, 100_000))]
    streams_max: u64,
    /// Calls on one connection that were taken back before they were looked at; with more it is ended.
    #[arg(long, env = "SOCKPILOT_RESETS_MAX", default_value_t = 64, value_name = "NUMBER",
        value_parser = number(1, 100_000))]
    resets_max: u64,
    /// KiB of the headers of a call.
    #[arg(long, env = "SOCKPILOT_HEADERS_MAX", default_value_t = 32, value_name = "KIB",
        value_parser = number(8, 1_024))]
    headers_max: u64,
    /// MiB of a message of a person.
    #[arg(long, env = "SOCKPILOT_PERSON_MESSAGE_MAX", default_value_t = 4, value_name = "MIB",
        value_parser = number(1, 64))]
    person_message_max: u64,
    /// MiB of a message of a node.
    #[arg(long, env = "SOCKPILOT_NODE_MESSAGE_MAX", default_value_t = 16, value_name = "MIB",
        value_parser = number(3, 64))]
    node_message_max: u64,
}

impl Bounds {
    /// Of each caller, of each door and of each call.
    pub fn into_limits(self) -> (Limits, DoorLimits, CallLimits) {
        let Self {
            person_limit,
            node_limit,
            report_limit,
            unknown_limit,
            reports_max,
            reports_per_s,
            connections_max,
            connections_of_one_max,
            handshakes_max,
            handshake_timeout,
            write_timeout,
            call_timeout,
            report_timeout,
            streams_max,
            resets_max,
            headers_max,
            person_message_max,
            node_message_max,
        } = self;
        // Within the ranges above.
        let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let of_callers =
            Limits { person: person_limit, node: node_limit, reports: report_limit, unknown: unknown_limit };
        let of_doors = DoorLimits {
            connections_max: number(connections_max),
            connections_of_one_max: number(connections_of_one_max),
            handshakes_max: number(handshakes_max),
            handshake_timeout: Duration::from_secs(handshake_timeout),
            write_timeout: Duration::from_secs(write_timeout),
        };
        let of_calls = CallLimits {
            streams_max: u32::try_from(streams_max).unwrap_or(u32::MAX),
            resets_max: number(resets_max),
            header_bytes_max: number(headers_max) << 10,
            person_message_bytes_max: number(person_message_max) << 20,
            node_message_bytes_max: number(node_message_max) << 20,
            reports_waiting_max: number(reports_max),
            reports_per_s,
            person_timeout: Duration::from_secs(call_timeout),
            node_timeout: Duration::from_secs(report_timeout),
        };
        (of_callers, of_doors, of_calls)
    }
}

fn number(least: u64, most: u64) -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(least..=most)
}

/// Reads `PER_S,BURST,AT_ONCE`.
fn limit(text: &str) -> Result<Limit, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    match numbers.as_deref() {
        Ok([per_s, burst, at_once]) if [per_s, burst, at_once].iter().all(|number| **number > 0) => {
            Ok(Limit::new(*per_s, *burst, *at_once))
        }
        _ => Err("is no limit; write three numbers from 1, as in 50,500,64".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        bounds: Bounds,
    }

    #[test]
    fn what_is_not_said_is_as_documented() {
        let limits = Alone::parse_from(["server"]).bounds.into_limits();
        assert_eq!(limits, (Limits::default(), DoorLimits::default(), CallLimits::default()));
    }
}
