//! What a certificate says of whoever shows it, once TLS has found it sound.

use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::name::Name;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is for.
    pub name: Name,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

/// Why a sound certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nameless {
    /// It is none.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// Not one URI.
    #[error(
        "the certificate has {0} URIs as names; it must have one, spiffe://DOMAIN/node/NODE or spiffe://DOMAIN/person/NAME"
    )]
    Uris(usize),
    /// Its URI is none of ours.
    #[error("{0}")]
    Other(String),
}

impl Peer {
    /// Reads the certificate itself, the first of the chain.
    ///
    /// # Errors
    /// If it names nobody.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Nameless> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Nameless::Unreadable)?;
        let names = parsed.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        });
        let uris: Vec<_> = names
            .flatten()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris.as_slice() else { return Err(Nameless::Uris(uris.len())) };
        let name = uri.parse().map_err(Nameless::Other)?;
        let validity = parsed.validity();
        let [not_before, not_after] = [validity.not_before, validity.not_after].map(|time| time_of(time.timestamp()));
        Ok(Self { name, not_before, not_after })
    }
}

fn time_of(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
