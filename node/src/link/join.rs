//! Certificates from the server: the first for a one-time token, each later one for the one before.

use std::time::{Duration, SystemTime};

use sockpilot_identity::{
    authority::{self, SignError},
    peer::Peer,
};
use sockpilot_proto::v1::{self, join_service_client::JoinServiceClient};
use sockpilot_settings::secret::Secret;
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No key could be made.
    #[error("no key could be made")]
    Key(#[source] SignError),
    /// The server gave none.
    #[error("{}: {}", .0.code(), .0.message())]
    Server(Box<Status>),
    /// It does not answer.
    #[error("the server does not answer")]
    Silent,
}

/// A certificate, its key, and the authorities that the server believes; PEM. The key is not shown.
pub struct Signed {
    pub key: String,
    pub certificate: String,
    pub authorities: String,
}

/// Asks for a certificate, for a token.
///
/// # Errors
/// Why there is none.
pub async fn join(channel: Channel, token: &Secret, node_id: &str) -> Result<Signed, JoinError> {
    let (key, request) = authority::request().map_err(JoinError::Key)?;
    let (token, node_id) = (token.reveal().to_owned(), node_id.to_owned());
    let request = v1::JoinRequest { token, node_id, signing_request: request.into() };
    let mut client = JoinServiceClient::new(channel);
    let answer = timeout(ANSWER_MAX, client.join(request)).await.map_err(|_| JoinError::Silent)?;
    signed(key, answer.map_err(|status| JoinError::Server(Box::new(status)))?.into_inner())
}

/// Asks for the next certificate, for the present one.
///
/// # Errors
/// Why there is none.
pub async fn renew(channel: Channel) -> Result<Signed, JoinError> {
    let (key, request) = authority::request().map_err(JoinError::Key)?;
    let request = v1::RenewRequest { signing_request: request.into() };
    let mut client = JoinServiceClient::new(channel);
    let answer = timeout(ANSWER_MAX, client.renew(request)).await.map_err(|_| JoinError::Silent)?;
    signed(key, answer.map_err(|status| JoinError::Server(Box::new(status)))?.into_inner())
}

fn signed(key: String, answer: v1::JoinResponse) -> Result<Signed, JoinError> {
    let v1::JoinResponse { certificate, authorities } = answer;
    Ok(Signed { key, certificate, authorities })
}

/// Whether two thirds of a certificate's life are over.
#[must_use]
pub fn is_due(peer: &Peer, now: SystemTime) -> bool {
    let life = peer.not_after.duration_since(peer.not_before).unwrap_or_default();
    now >= peer.not_before + life * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let name = "spiffe://d/node/n".parse().expect("a name");
        let peer = Peer { name, not_before: at(1_000), not_after: at(1_300) };
        assert!(!is_due(&peer, at(1_199)) && is_due(&peer, at(1_200)) && is_due(&peer, at(9_999)));
    }
}
