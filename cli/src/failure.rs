//! Why a command failed: one clear sentence, and an exit code that scripts can rely on.

use std::error::Error;
use std::fmt;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The server said no.
    Refused(ServerRefusal),
    /// The command or a file is wrong; nothing was sent.
    Input(String),
    /// The server did not answer, or cannot answer now.
    Unreachable(String),
    /// What was to be printed could not be.
    Output(std::io::Error),
    /// The audit log is not what it was.
    Tampered(String),
    /// Something does not work; what, has been printed.
    Unwell,
    /// A rollout that was waited for did not complete.
    Rollout(NotCompleted, String),
}

/// How a rollout ended that did not complete; each has an exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCompleted {
    RolledBack = 4,
    /// Paused, or a draft.
    WaitsForPerson = 5,
    Superseded = 6,
    /// It goes on.
    TimedOut = 7,
    RollbackFailed = 8,
}

impl Failure {
    /// 1 refused, 2 wrong input, 3 unreachable; 4 to 8 as [`NotCompleted`]; 9 the audit log.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Output(_) | Self::Unwell => 1,
            Self::Input(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Rollout(how, _) => *how as u8,
            Self::Tampered(_) => 9,
        }
    }

    /// With a line more.
    pub fn with(self, line: &str) -> Self {
        match self {
            Self::Refused(refusal) => {
                Self::Refused(ServerRefusal { message: format!("{}\n{line}", refusal.message), ..refusal })
            }
            Self::Input(text) => Self::Input(format!("{text}\n{line}")),
            Self::Unreachable(text) => Self::Unreachable(format!("{text}\n{line}")),
            Self::Output(_) | Self::Unwell => self,
            Self::Tampered(text) => Self::Tampered(format!("{text}\n{line}")),
            Self::Rollout(how, text) => Self::Rollout(how, format!("{text}\n{line}")),
        }
    }

    /// From the answer of a server at an address.
    pub fn from_status(status: &Status, server: &str) -> Self {
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => {
                Self::Unreachable(format!("the server at {server} is not available: {}", deepest(status)))
            }
            Code::Unimplemented => Self::Refused(ServerRefusal {
                code: Code::Unimplemented,
                message: format!("{server} does not know this call; is it a sockpilot server of this version?"),
                violations: Vec::new(),
            }),
            code => {
                let violations = violations(status);
                let mut message = message(status);
                if !violations.is_empty() {
                    // What follows is for those who see no details.
                    message.truncate(message.find('\n').unwrap_or(message.len()));
                }
                Self::Refused(ServerRefusal { code, message, violations })
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Input(text) | Self::Unreachable(text) | Self::Rollout(_, text) => f.write_str(text),
            Self::Tampered(why) => write!(f, "the audit log is not what it was: {why}"),
            Self::Unwell => f.write_str("something does not work"),
            Self::Output(error) => write!(f, "the output cannot be written: {error}"),
        }
    }
}

/// What a server said when it said no.
#[derive(Debug, Clone)]
pub struct ServerRefusal {
    /// The gRPC code.
    pub code: Code,
    /// The sentence.
    pub message: String,
    /// Fields (or subjects) and what is wrong with them.
    pub violations: Vec<(String, String)>,
}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)?;
        for (field, description) in &self.violations {
            match field.as_str() {
                // The sentence may be about the only violation.
                _ if self.message.contains(description) => {}
                "" => write!(f, "\n  {description}")?,
                field => write!(f, "\n  {field}: {description}")?,
            }
        }
        Ok(())
    }
}

fn message(status: &Status) -> String {
    let subject = status.get_details_resource_info().map(|info| info.resource_name).unwrap_or_default();
    match (status.message(), status.code()) {
        ("", Code::NotFound) if !subject.is_empty() => format!("{subject} does not exist"),
        ("", Code::AlreadyExists) if !subject.is_empty() => format!("{subject} exists already"),
        ("", code) => code.description().to_owned(),
        (text, _) => text.to_owned(),
    }
}

fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let fields = details.bad_request().into_iter().flat_map(|bad| &bad.field_violations);
    let conditions = details.precondition_failure().into_iter().flat_map(|failure| &failure.violations);
    fields
        .map(|violation| (violation.field.clone(), violation.description.clone()))
        .chain(conditions.map(|violation| (violation.subject.clone(), violation.description.clone())))
        .collect()
}

/// The innermost cause: of a failed connection it says what really happened.
fn deepest(status: &Status) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn failure(status: &Status) -> Failure {
        Failure::from_status(status, "http://here")
    }

    #[test]
    fn field_violations_follow_the_sentence() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("policy.rules", "is empty")
            .add_bad_request_violation("policy.name", "is odd");
        let status = Status::with_error_details(Code::InvalidArgument, "2 faults", details);
        assert_eq!(failure(&status).to_string(), "2 faults\n  policy.rules: is empty\n  policy.name: is odd");
        assert_eq!(failure(&status).exit_code(), 1);
    }

    #[test]
    fn nothing_is_said_twice() {
        let details = ErrorDetails::with_bad_request_violation("name", "is odd");
        let status = Status::with_error_details(Code::InvalidArgument, "name: is odd", details);
        assert_eq!(failure(&status).to_string(), "name: is odd");
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("a", "is odd").add_bad_request_violation("", "3 more are not listed");
        let status = Status::with_error_details(Code::InvalidArgument, "4 faults\n- a: is odd", details);
        assert_eq!(failure(&status).to_string(), "4 faults\n  a: is odd\n  3 more are not listed");
    }

    #[test]
    fn preconditions_are_shown_too() {
        let details = ErrorDetails::with_precondition_failure_violation("CANARY", "policies/x", "has no canary");
        let status = Status::with_error_details(Code::FailedPrecondition, "cannot promote", details);
        assert_eq!(failure(&status).to_string(), "cannot promote\n  policies/x: has no canary");
    }

    #[test]
    fn a_missing_resource_is_named_even_without_a_sentence() {
        let details = ErrorDetails::with_resource_info("Policy", "policies/x", "", "");
        let status = Status::with_error_details(Code::NotFound, "", details);
        assert_eq!(failure(&status).to_string(), "policies/x does not exist");
    }

    #[test]
    fn exit_codes_tell_an_absent_server_from_a_refusal() {
        assert_eq!(failure(&Status::unavailable("database away")).exit_code(), 3);
        assert_eq!(failure(&Status::deadline_exceeded("")).exit_code(), 3);
        assert_eq!(failure(&Status::aborted("")).exit_code(), 1);
        assert_eq!(Failure::Input(String::new()).exit_code(), 2);
        assert_eq!(
            failure(&Status::unavailable("database away")).to_string(),
            "the server at http://here is not available: database away"
        );
    }
}
