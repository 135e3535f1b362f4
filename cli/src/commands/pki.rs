//! Makes an authority and certificates, on this machine alone.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sockpilot_identity::authority::{Authority, Issued, Validity};
use sockpilot_identity::files::{self, Existing, Readers};
use sockpilot_identity::name::{self, Name, Who};
use sockpilot_settings::labels;

use crate::args::{Make, Pki};
use crate::failure::Failure;
use crate::output::print;

const AUTHORITY_DAYS: u64 = 3_650;
const CERTIFICATE_DAYS: u64 = 90;

/// Makes what is asked for.
pub fn run(pki: &Pki, now: SystemTime) -> Result<(), Failure> {
    let Pki { dir, days, make } = pki;
    let life = |default| Validity { now, life: Duration::from_secs(days.unwrap_or(default) * 86_400) };
    let (file, made) = match make {
        Make::Init { domain } => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Failure::Output)?;
            ("ca".to_owned(), Authority::create(domain, life(AUTHORITY_DAYS)).map_err(failed)?)
        }
        Make::Server { hosts } => ("server".to_owned(), issue(dir, Who::Server, hosts, life(CERTIFICATE_DAYS))?),
        Make::Person { name, role } => {
            let who = Who::Person { name: name.clone(), role: *role };
            (format!("person-{name}"), issue(dir, who, &[], life(CERTIFICATE_DAYS))?)
        }
        Make::Node { node, labels: said } => {
            let id = node.trim_start_matches("nodes/").to_owned();
            let labels = labels::merged(said.iter().cloned()).map_err(Failure::Input)?;
            labels.iter().try_for_each(|(key, value)| name::pinnable(key, value)).map_err(Failure::Input)?;
            (format!("node-{id}"), issue(dir, Who::Node { id, labels }, &[], life(CERTIFICATE_DAYS))?)
        }
    };
    let (certificate, key) = (dir.join(format!("{file}.pem")), dir.join(format!("{file}-key.pem")));
    // An authority that is there is never overwritten: everything that it has signed would be lost.
    let existing = if matches!(make, Make::Init { .. }) { Existing::Kept } else { Existing::Replaced };
    write(&key, &made.key, Readers::Owner, existing)?;
    write(&certificate, &made.certificate, Readers::All, existing)?;
    print(&format!("{}\n{}\n", certificate.display(), key.display()))
}

fn issue(dir: &Path, who: Who, hosts: &[String], validity: Validity) -> Result<Issued, Failure> {
    let authority = Authority::read(&dir.join("ca.pem"), &dir.join("ca-key.pem"));
    let authority = authority.map_err(|error| Failure::Input(format!("{error}; `sockpilot pki init` makes one")))?;
    let domain = domain(dir)?;
    authority.issue(&Name { domain, who }, hosts, validity).map_err(failed)
}

/// The authority's certificate says for which fleet it is.
fn domain(dir: &Path) -> Result<String, Failure> {
    let file = dir.join("ca.pem");
    let certificates = files::certificates(&file).map_err(|error| Failure::Input(error.to_string()))?;
    let domain = certificates.iter().find_map(|certificate| sockpilot_identity::authority::domain(certificate));
    domain.ok_or_else(|| Failure::Input(format!("{} was not made by `sockpilot pki init`", file.display())))
}

fn failed(error: sockpilot_identity::authority::SignError) -> Failure {
    Failure::Input(error.to_string())
}

/// Writes a file, saying which if it cannot.
pub fn write(path: &Path, text: &str, readers: Readers, existing: Existing) -> Result<(), Failure> {
    files::write(path, text, readers, existing).map_err(|error| Failure::Input(format!("{}: {error}", path.display())))
}
