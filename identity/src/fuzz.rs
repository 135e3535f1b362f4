//! What somebody shows before it is known who they are.

use std::time::{Duration, SystemTime};

use sockpilot_fuzz::{Bound, Shape, Target};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    authority::{self, Authority, Validity},
    name::Name,
    peer::Peer,
};

const KIB: usize = 1 << 10;
const NAMES: [&str; 3] = [
    "spiffe://fleet.example/server",
    "spiffe://fleet.example/node/web-1/label/role/edge/label/zone/a",
    "spiffe://fleet.example/person/ann/role/operator",
];

fn authority() -> (Authority, Validity) {
    let directory = tempfile::tempdir().expect("a directory");
    let validity =
        Validity { now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000), life: Duration::from_secs(3_600) };
    let issued = Authority::create("fleet.example", validity).expect("randomness");
    let [certificate, key] = ["ca.pem", "key.pem"].map(|name| directory.path().join(name));
    std::fs::write(&certificate, &issued.certificate).expect("written");
    std::fs::write(&key, &issued.key).expect("written");
    (Authority::read(&certificate, &key).expect("sound"), validity)
}

/// Certificates, as if TLS had found them sound already.
///
/// What the parser makes of an extension is a few hundred bytes.
#[test]
fn fuzz_identity_certificate() {
    let (authority, validity) = authority();
    let seed = |name: &str| {
        let issued =
            authority.issue(&name.parse().expect("a name"), &["a.example".to_owned()], validity).expect("issued");
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM").to_vec()
    };
    let seeds = NAMES.iter().enumerate().map(|(number, name)| (number.to_string(), seed(name)));
    let target = Target::new("identity-certificate", Shape::Bytes, Bound { per_byte: 500, fixed: 64 * KIB });
    target.seeds(seeds).run(|bytes| Peer::of(&CertificateDer::from_slice(bytes)).is_ok());
}

/// Requests to sign, of who has but a token.
#[test]
fn fuzz_identity_signing_request() {
    let (authority, validity) = authority();
    let (_, request) = authority::request().expect("a key");
    let name: Name = NAMES[1].parse().expect("a name");
    let target = Target::new("identity-signing-request", Shape::Bytes, Bound { per_byte: 500, fixed: 128 * KIB });
    target.seed("one", request).run(|bytes| authority.sign_request(bytes, &name, validity).is_ok());
}

/// Names, which read back as they were written.
///
/// A fault shows the name escaped, where a sign is up to ten, twice.
#[test]
fn fuzz_identity_name() {
    let seeds = NAMES.iter().enumerate().map(|(number, name)| (number.to_string(), *name));
    Target::new("identity-name", Shape::Text, Bound { per_byte: 100, fixed: 4 * KIB }).seeds(seeds).run(|bytes| {
        let Ok(name) = std::str::from_utf8(bytes).map_err(drop).and_then(|text| text.parse::<Name>().map_err(drop))
        else {
            return false;
        };
        assert_eq!(name.to_string().parse(), Ok(name));
        true
    });
}
