//! Errors as gRPC says them: one place, every case.

use std::error::Error as _;

use sockpilot_policy::fault::Faults;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

use crate::{change::Refusal, store::Error};

/// The answer to a request with faults.
pub fn invalid(faults: &Faults) -> Status {
    let violations: Vec<_> = faults
        .as_slice()
        .iter()
        .map(|fault| FieldViolation::new(fault.field.as_str(), fault.description.as_str()))
        .collect();
    let message = match faults.as_slice() {
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more, see the details)", rest.len()),
        [] => "the request is unsound".to_owned(),
    };
    Status::with_error_details(Code::InvalidArgument, message, ErrorDetails::with_bad_request(violations))
}

/// The answer to a request with one fault.
pub fn invalid_field(field: &str, description: impl Into<String>) -> Status {
    invalid(&Faults::one(field, description))
}

/// The answer when the store did not do it.
pub fn of_store(error: Error) -> Status {
    if error.is_unavailable() {
        tracing::debug!(error = &error as &dyn std::error::Error, "answered UNAVAILABLE");
        return Status::unavailable("the database is away; send the request again after a while");
    }
    match error {
        Error::Refused { name, refusal } => of_refusal(&name, &refusal),
        Error::NotFound { name } => missing(&name),
        Error::RequestIdReused => {
            invalid_field("request_id", "was used for another request; make a new one for each change")
        }
        Error::ReportBackwards { field, before, after } => invalid_field(
            field,
            format!("goes back from {before} to {after}; totals of a boot id only grow, so make a new boot id"),
        ),
        Error::Database { .. } | Error::Migration { .. } | Error::Corrupt { .. } => {
            let source = error.source().map(ToString::to_string);
            tracing::error!(%error, source, "answered INTERNAL");
            Status::internal("the database did not do it; the server's log says why")
        }
    }
}

fn of_refusal(name: &str, refusal: &Refusal) -> Status {
    let message = format!("{name}: {refusal}");
    match refusal {
        Refusal::Missing => missing(name),
        Refusal::NoRevision(revision) => missing(&format!("{name}@{revision}")),
        Refusal::Exists => Status::with_error_details(Code::AlreadyExists, message, resource(name, "exists already")),
        Refusal::Etag { now: _ } => Status::aborted(message),
        Refusal::State(description) => {
            let violation = PreconditionViolation::new("ASSIGNMENT", name, description.as_str());
            Status::with_error_details(
                Code::FailedPrecondition,
                message,
                ErrorDetails::with_precondition_failure(vec![violation]),
            )
        }
    }
}

fn missing(name: &str) -> Status {
    Status::with_error_details(Code::NotFound, format!("{name} does not exist"), resource(name, "does not exist"))
}

fn resource(name: &str, description: &str) -> ErrorDetails {
    let kind = match name.split('/').next() {
        Some("policies") => "sockpilot.v1.Policy",
        Some("experiments") => "sockpilot.v1.Experiment",
        Some("nodes") => "sockpilot.v1.Node",
        _ => "",
    };
    ErrorDetails::with_resource_info(kind, name, "", description)
}

/// A message over the size limit is refused by the transport with OUT_OF_RANGE, which nothing else here answers; callers shall see
/// INVALID_ARGUMENT as for any other fault of a request.
pub fn name_oversized<B: Default>(response: http::Response<B>) -> http::Response<B> {
    let oversized = response.headers().get("grpc-status").is_some_and(|code| code == "11");
    if !oversized {
        return response;
    }
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

    fn refused(refusal: Refusal) -> Error {
        Error::Refused { name: "policies/p".to_owned(), refusal }
    }

    #[test]
    fn each_error_has_its_code() {
        assert_eq!(code(refused(Refusal::Missing)), Code::NotFound);
        assert_eq!(code(refused(Refusal::NoRevision(3))), Code::NotFound);
        assert_eq!(code(refused(Refusal::Exists)), Code::AlreadyExists);
        assert_eq!(code(refused(Refusal::Etag { now: String::new() })), Code::Aborted);
        assert_eq!(code(refused(Refusal::State(String::new()))), Code::FailedPrecondition);
        assert_eq!(code(Error::RequestIdReused), Code::InvalidArgument);
        let database = |source| Error::Database { operation: "test", source };
        assert_eq!(code(database(sqlx::Error::PoolTimedOut)), Code::Unavailable);
        assert_eq!(code(database(sqlx::Error::RowNotFound)), Code::Internal);
    }

    #[test]
    fn says_which_resource() {
        let status = of_store(refused(Refusal::NoRevision(3)));
        let info = status.get_error_details().resource_info().cloned().expect("resource info");
        assert_eq!((info.resource_type.as_str(), info.resource_name.as_str()), ("sockpilot.v1.Policy", "policies/p@3"));
    }
}
