//! Errors as gRPC says them: one place, every case.

use std::error::Error as _;

use sockpilot_policy::fault::{Fault, Faults};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

use crate::{
    change::{plan::ChangeRefusal, zones},
    fleet::node::Holder,
    metrics::Metrics,
    store::Error,
};

/// Details of a status travel in HTTP/2 trailers, of which many clients take 16 KiB, base64 and all.
const DETAILS_BYTES_MAX: usize = 8 << 10;
/// For people who see no details.
const MESSAGE_FAULTS_MAX: usize = 5;
const MESSAGE_DESCRIPTION_CHARS_MAX: usize = 200;

/// The answer to a request with faults: all of them, as far as a client can take them.
pub fn invalid(faults: &Faults) -> Status {
    let faults = faults.as_slice();
    let mut room = DETAILS_BYTES_MAX;
    let fits = |fault: &&Fault| {
        let bytes = fault.field.len() + fault.description.len() + 16;
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    let mut violations: Vec<_> = faults
        .iter()
        .take_while(fits)
        .map(|fault| FieldViolation::new(fault.field.as_str(), fault.description.as_str()))
        .collect();
    let left_out = faults.len() - violations.len();
    if left_out > 0 {
        let description = format!("{left_out} more faults are not listed; mend these and ask again");
        violations.push(FieldViolation::new("", description));
    }
    Status::with_error_details(Code::InvalidArgument, summary(faults), ErrorDetails::with_bad_request(violations))
}

fn summary(faults: &[Fault]) -> String {
    let line = |fault: &Fault| fault.to_string().chars().take(MESSAGE_DESCRIPTION_CHARS_MAX).collect::<String>();
    if let [one] = faults {
        return line(one);
    }
    let mut message = format!("the request has {} faults", faults.len());
    for fault in faults.iter().take(MESSAGE_FAULTS_MAX) {
        message = format!("{message}\n- {}", line(fault));
    }
    if faults.len() > MESSAGE_FAULTS_MAX { format!("{message}\n- see the details for the others") } else { message }
}

/// The answer to a request with one fault.
pub fn invalid_field(field: &str, description: impl Into<String>) -> Status {
    invalid(&Faults::one(field, description))
}

/// The answer when the store did not do it.
pub fn of_store(error: Error) -> Status {
    if error.is_unavailable() {
        tracing::debug!(error = &error as &dyn std::error::Error, "call answered UNAVAILABLE");
        return Status::unavailable("the database is away; send the request again after a while");
    }
    match error {
        Error::Refused { name, refusal } => of_refusal(&name, &refusal),
        Error::NotFound { name } => missing(&name),
        Error::Invalid { faults } => invalid(&faults),
        Error::Conflicts { conflicts } => of_conflicts(conflicts),
        Error::Overtaken { .. } => Status::aborted(error.to_string()),
        Error::Forbidden { ref name, ref violations } => of_obstacles(name, violations, error.to_string()),
        Error::RequestIdReused => {
            invalid_field("request_id", "was used for another request; make a new one for each change")
        }
        Error::HeldByOther { .. } => Status::failed_precondition(error.to_string()),
        Error::ReportBackwards { field, before, after } => invalid_field(
            field,
            format!("goes back from {before} to {after}; totals of a boot id only grow, so make a new boot id"),
        ),
        Error::TooManyPartitions { .. } => Status::resource_exhausted(error.to_string()),
        // Background tasks only: no call acts as the leader.
        Error::Deposed { .. }
        | Error::Database { .. }
        | Error::Migration { .. }
        | Error::Setting { .. }
        | Error::Standby { .. }
        | Error::Restarted
        | Error::Silent
        | Error::Corrupt { .. } => {
            let source = error.source().map(ToString::to_string);
            tracing::error!(%error, source, "call answered INTERNAL");
            Status::internal("the database did not do it; the server's log says why")
        }
    }
}

/// The answer to a daemon whose node id another one has.
pub fn held(node_id: &str, Holder { address, last_contact_s }: &Holder) -> Status {
    let name = format!("nodes/{node_id}");
    let message = format!(
        "{name} is another daemon, at {address}, whose last contact was {last_contact_s:.0} s ago; give this one an id of its own by --node-id"
    );
    let details = resource(&name, "is held by another daemon");
    Status::with_error_details(Code::AlreadyExists, message, details)
}

fn of_refusal(name: &str, refusal: &ChangeRefusal) -> Status {
    let message = format!("{name}: {refusal}");
    match refusal {
        ChangeRefusal::Missing => missing(name),
        ChangeRefusal::NoRevision(revision) => missing(&format!("{name}@{revision}")),
        ChangeRefusal::Exists => {
            Status::with_error_details(Code::AlreadyExists, message, resource(name, "exists already"))
        }
        ChangeRefusal::Etag { now: _ } | ChangeRefusal::Gone => Status::aborted(message),
        ChangeRefusal::Unconfirmed { revision: _, why: _ } => {
            precondition("CONFIRMATION", vec![(name.to_owned(), refusal.to_string())], message)
        }
        ChangeRefusal::OutOfBounds => Status::permission_denied(message),
        ChangeRefusal::State(description) => {
            precondition("ASSIGNMENT", vec![(name.to_owned(), description.clone())], message)
        }
    }
}

/// Each with its kind: FREEZE, LOCK, BLAST_RADIUS, APPROVAL or STATE.
fn of_obstacles(name: &str, obstacles: &[(&'static str, String)], message: String) -> Status {
    let violation = |(kind, why): &(&'static str, String)| PreconditionViolation::new(*kind, name, why.as_str());
    let details = ErrorDetails::with_precondition_failure(obstacles.iter().map(violation).collect::<Vec<_>>());
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

fn of_conflicts(mut conflicts: Vec<(String, String)>) -> Status {
    let all = conflicts.len();
    let message = format!("nothing was restored, because {all} of the backup are otherwise here");
    let mut room = DETAILS_BYTES_MAX;
    let fits = |(name, why): &&(String, String)| {
        let bytes = name.len() + why.len() + 32;
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    let listed = conflicts.iter().take_while(fits).count();
    if listed < all {
        conflicts.truncate(listed);
        conflicts.push((String::new(), format!("{} more are not listed", all - listed)));
    }
    let shown = conflicts.iter().take(MESSAGE_FAULTS_MAX).map(|(name, why)| format!("\n- {name} {why}"));
    let message = shown.fold(message, |message, line| message + &line);
    precondition("RESTORE", conflicts, message)
}

/// The state forbids it: what of it, each with a description.
fn precondition(kind: &str, subjects: Vec<(String, String)>, message: String) -> Status {
    let violation = |(subject, description)| PreconditionViolation::new(kind, subject, description);
    let violations: Vec<_> = subjects.into_iter().map(violation).collect();
    let details = ErrorDetails::with_precondition_failure(violations);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

fn missing(name: &str) -> Status {
    Status::with_error_details(Code::NotFound, format!("{name} does not exist"), resource(name, "does not exist"))
}

fn resource(name: &str, description: &str) -> ErrorDetails {
    let kind = match name.split('/').next() {
        Some("policies") => "sockpilot.v1.Policy",
        Some("experiments") => "sockpilot.v1.Experiment",
        Some(zones::NAME) => "sockpilot.v1.ZoneMap",
        Some("nodes") => "sockpilot.v1.Node",
        Some("rollouts") => "sockpilot.v1.Rollout",
        Some("rolloutPlans") => "sockpilot.v1.RolloutPlan",
        _ => "",
    };
    ErrorDetails::with_resource_info(kind, name, "", description)
}

/// A message over the size limit is refused by the transport with OUT_OF_RANGE, which nothing else here answers; callers shall see
/// INVALID_ARGUMENT as for any other fault of a request.
pub fn name_oversized<B: Default>(metrics: &Metrics, response: http::Response<B>) -> http::Response<B> {
    let oversized = response.headers().get("grpc-status").is_some_and(|code| code == "11");
    if !oversized {
        return response;
    }
    metrics.refused("size");
    let problem = Status::from_header_map(response.headers()).map(|status| status.message().to_owned());
    let problem = problem.unwrap_or_else(|| "the message is too large".to_owned());
    invalid_field("", format!("{problem}; send less at once")).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: Error) -> Code {
        of_store(error).code()
    }

    fn refused(refusal: ChangeRefusal) -> Error {
        Error::Refused { name: "policies/p".to_owned(), refusal }
    }

    #[test]
    fn each_error_has_its_code() {
        assert_eq!(code(refused(ChangeRefusal::Missing)), Code::NotFound);
        assert_eq!(code(refused(ChangeRefusal::NoRevision(3))), Code::NotFound);
        assert_eq!(code(refused(ChangeRefusal::Exists)), Code::AlreadyExists);
        assert_eq!(code(refused(ChangeRefusal::Etag { now: String::new() })), Code::Aborted);
        assert_eq!(code(refused(ChangeRefusal::Gone)), Code::Aborted);
        assert_eq!(
            code(refused(ChangeRefusal::Unconfirmed { revision: 1, why: String::new() })),
            Code::FailedPrecondition
        );
        assert_eq!(code(refused(ChangeRefusal::State(String::new()))), Code::FailedPrecondition);
        assert_eq!(code(Error::RequestIdReused), Code::InvalidArgument);
        let database = |source| Error::Database { operation: "test", source };
        assert_eq!(code(database(sqlx::Error::PoolTimedOut)), Code::Unavailable);
        assert_eq!(code(database(sqlx::Error::RowNotFound)), Code::Internal);
    }

    #[test]
    fn many_faults_fit_into_trailers() {
        let mut faults = sockpilot_policy::fault::Collector::at("policy");
        for index in 0..1_000 {
            faults.add_at(&format!("rules[{index}].name"), "is \"Ä\", which is no id; use a-z, 0-9 and '-'".repeat(3));
        }
        let status = invalid(&faults.finish(()).expect_err("faults"));
        assert!(status.details().len() < 12 << 10, "{}", status.details().len());
        assert!(status.message().len() < 2 << 10, "{}", status.message().len());
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("faults").field_violations;
        assert_eq!(violations[0].field, "policy.rules[0].name");
        assert!(violations.last().is_some_and(|last| last.description.contains("more faults")));
    }

    #[test]
    fn says_which_resource() {
        let status = of_store(refused(ChangeRefusal::NoRevision(3)));
        let info = status.get_error_details().resource_info().cloned().expect("resource info");
        assert_eq!((info.resource_type.as_str(), info.resource_name.as_str()), ("sockpilot.v1.Policy", "policies/p@3"));
    }
}
