//! An authority that signs certificates, for fleets without a PKI of their own.

use std::{
    net::IpAddr,
    path::Path,
    str,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::{
    files::{self, FileError},
    name::{Name, Who, domain_name},
};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// What was asked for.
    #[error("the request to sign cannot be read, or is not signed by its own key")]
    Request,
    /// The rest.
    #[error("the certificate could not be made")]
    Make(#[source] rcgen::Error),
}

/// A certificate and its key, in PEM. The key is not shown.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

/// An authority: its certificate, and the key that it signs with.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// From when until when something is valid.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// Now.
    pub now: SystemTime,
    /// For how long.
    pub life: Duration,
}

impl Validity {
    fn set(self, params: &mut CertificateParams) {
        params.not_before = self.now.into();
        params.not_after = (self.now + self.life).into();
    }
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn create(domain: &str, validity: Validity) -> Result<Issued, SignError> {
        let key = KeyPair::generate().map_err(SignError::Make)?;
        let mut params = CertificateParams::default();
        validity.set(&mut params);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // With the time, so that an authority that follows another is told from it.
        let since = validity.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        params.distinguished_name = common_name(&format!("sockpilot {domain} {since}"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}")).map_err(SignError::Make)?];
        let certificate = params.self_signed(&key).map_err(SignError::Make)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Reads one: the key, and of `certificates` the one that is its.
    ///
    /// # Errors
    /// If a file will not do, or none of the certificates is of the key.
    pub fn read(certificates: &Path, key: &Path) -> Result<Self, FileError> {
        let pem = files::read(key)?;
        let pair = str::from_utf8(&pem).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        let pair = pair.ok_or_else(|| FileError::content(key, "no private key in PEM that can sign"))?;
        let public = pair.subject_public_key_info();
        let of_key = |certificate: &CertificateDer<'_>| {
            use x509_parser::prelude::{FromDer, X509Certificate};
            X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.public_key().raw == public)
        };
        let found = files::certificates(certificates)?.into_iter().find(of_key);
        let what = || format!("no certificate of the key in {}", key.display());
        let found = found.ok_or_else(|| FileError::content(certificates, what()))?;
        let issuer = Issuer::from_ca_cert_der(&found, pair)
            .map_err(|error| FileError::content(certificates, format!("an authority that cannot be used ({error})")))?;
        Ok(Self { issuer })
    }

    /// A certificate with a new key. `hosts` are names and addresses under which a server is found.
    ///
    /// # Errors
    /// If a host is none.
    pub fn issue(&self, name: &Name, hosts: &[String], validity: Validity) -> Result<Issued, SignError> {
        let key = KeyPair::generate().map_err(SignError::Make)?;
        let certificate = self.sign(&key, name, hosts, validity)?;
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// Signs the key of a request. Nothing else of what the request asks for is looked at: the name is what the caller says.
    ///
    /// # Errors
    /// If it is no request.
    pub fn sign_request(&self, request_der: &[u8], name: &Name, validity: Validity) -> Result<String, SignError> {
        let request = CertificateSigningRequestDer::from(request_der);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(|_| SignError::Request)?;
        self.sign(&request.public_key, name, &[], validity)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        name: &Name,
        hosts: &[String],
        validity: Validity,
    ) -> Result<String, SignError> {
        let mut params = CertificateParams::new(hosts).map_err(SignError::Make)?;
        validity.set(&mut params);
        params.subject_alt_names.push(uri(&name.to_string()).map_err(SignError::Make)?);
        params.distinguished_name = common_name(match &name.who {
            Who::Node { id, .. } => id,
            Who::Person { name, .. } => name,
            Who::Server => "sockpilot-server",
        });
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match name.who {
            Who::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Who::Node { .. } | Who::Person { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer).map_err(SignError::Make)?.pem())
    }
}

/// A new key, and the request to sign it, in DER. The key is in PEM, and never leaves who made it.
///
/// # Errors
/// If there is no randomness.
pub fn request() -> Result<(String, Vec<u8>), SignError> {
    let key = KeyPair::generate().map_err(SignError::Make)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(SignError::Make)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

/// Whether a server can be found under this name or address.
#[must_use]
pub fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // At most 64 characters; nobody reads more than the URI.
    name.push(DnType::CommonName, text.chars().take(64).collect::<String>());
    name
}

/// The trust domain of an authority that [`Authority::create`] has made.
#[must_use]
pub fn domain(certificate: &CertificateDer<'_>) -> Option<String> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://").and_then(|domain| domain_name(domain).ok()),
        _ => None,
    })
}
