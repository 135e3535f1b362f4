//! Why a stream to the server has ended.

use std::time::Duration;

use tonic::{Code, Status};

use crate::facts;

/// Four heartbeats of the server.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Why one stream has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the daemon ends")]
    Stopped,
    #[error("this node's kernel does not tell what it can do")]
    Facts(#[source] facts::FactsError),
    #[error("the server closed the stream")]
    Closed,
    #[error("the node has another certificate")]
    Moved,
    #[error("the server was silent for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the server reads no answers")]
    Stuck,
    #[error("what another stream had brought came into force after this one's hello")]
    Outdated,
    #[error("{0}")]
    Held(String),
    #[error("{}: {}", .0.code(), .0.message())]
    Failed(Box<Status>),
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
}

/// What a person can do about a refusal.
pub(super) fn remedy(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated | Code::PermissionDenied => {
            "this node has no certificate that the server takes, or one of another node; see `sockpilot access revocations`, and --node-id, \
             --tls-cert or --join-token-file here"
        }
        Code::Unimplemented => "what answers at this address is no sockpilot server of this version; correct --server",
        _ => "correct what the server complains of: --node-id, --label, or the versions of node and server",
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::AlreadyExists => Self::Held(status.message().to_owned()),
            // The server would say so of the same hello each time.
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented => Self::Refused(Box::new(status)),
            _ => Self::Failed(Box::new(status)),
        }
    }
}
