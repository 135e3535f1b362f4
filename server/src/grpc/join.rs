//! `JoinService`: certificates for nodes.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sockpilot_identity::{
    authority::{Authority, SignError, Validity},
    files::{self, FileError, Watched},
    name::{Name, Who},
};
use sockpilot_policy::{fault::Collector, model::Labels, validate};
use sockpilot_proto::v1;
use tonic::{Request, Response, Status};

use super::{
    Api,
    error::{invalid, invalid_field, of_store},
};
use crate::{
    auth::{
        caller::{Caller, Node},
        token,
    },
    store::{Settled, access},
};

/// Signs certificates of nodes.
#[derive(Debug)]
pub struct Signer {
    /// Both files may be replaced, as all others.
    authority: Watched<Authority>,
    authorities: PathBuf,
    domain: String,
    life: Duration,
}

impl Signer {
    /// Reads the key, and its certificate among the authorities.
    ///
    /// # Errors
    /// If a file will not do.
    pub fn open(authorities: &Path, key: &Path, domain: String, life: Duration) -> Result<Self, FileError> {
        let (authorities, key) = (authorities.to_owned(), key.to_owned());
        let (of, by) = (authorities.clone(), key.clone());
        let authority = Watched::new(vec![authorities.clone(), key], move || Authority::read(&of, &by))?;
        Ok(Self { authority, authorities, domain, life })
    }

    fn sign(&self, node: Node, request_der: &[u8]) -> Result<v1::JoinResponse, Status> {
        let Node { id, labels } = node;
        let name = Name { domain: self.domain.clone(), who: Who::Node { id, labels } };
        let validity = Validity { now: SystemTime::now(), life: self.life };
        if let Err(error) = self.authority.refresh() {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, effect = "the one before signs", "issuer's files will not do");
        }
        let certificate =
            self.authority.get().sign_request(request_der, &name, validity).map_err(|error| match error {
                SignError::Request => {
                    invalid_field("signing_request", "is no PKCS #10 request in DER, signed by its own key")
                }
                SignError::Make(error) => failed(&error),
            })?;
        let authorities = files::read(&self.authorities).map_err(|error| failed(&error))?;
        let authorities = String::from_utf8(authorities).map_err(|error| failed(&error))?;
        tracing::info!(%name, "certificate signed");
        Ok(v1::JoinResponse { certificate, authorities })
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(error, "certificate not signed");
    Status::internal("the certificate could not be signed; the server's log says why")
}

fn signer(api: &Api) -> Result<&Signer, Status> {
    let none = "this server signs no certificates; start it with --issuer-key, or bring the node's from elsewhere";
    api.signer.as_deref().ok_or_else(|| Status::unimplemented(none))
}

#[tonic::async_trait]
impl v1::join_service_server::JoinService for Api {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let signer = signer(self)?;
        let v1::JoinRequest { token, node_id, signing_request } = request.into_inner();
        let mut faults = Collector::at("");
        faults.field("node_id", |faults| faults.take(validate::node_id(&node_id)));
        faults.finish(()).map_err(|faults| invalid(&faults))?;
        // What cannot be signed uses no token up.
        signer.sign(Node { id: node_id.clone(), labels: Labels::new() }, &signing_request)?;
        let (hash, id) = (token::hash(token.trim()), node_id.clone());
        let joined = self.store.transact("join", move |conn| {
            let id = id.clone();
            Box::pin(async move { Ok(Settled::Commit(access::join(conn, &hash, &id).await?)) })
        });
        let Some(labels) = joined.await.map_err(of_store)? else {
            self.metrics.refused("join");
            tracing::warn!(node = node_id, "node not let join");
            return Err(Status::unauthenticated(
                "this token lets this node not join: it is none, was used, has run out, or is for another node",
            ));
        };
        signer.sign(Node { id: node_id, labels }, &signing_request).map(Response::new)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let signer = signer(self)?;
        let Some(Caller::Node(node)) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::failed_precondition("without TLS there is nothing to renew"));
        };
        let v1::RenewRequest { signing_request } = request.into_inner();
        signer.sign(node, &signing_request).map(Response::new)
    }
}
