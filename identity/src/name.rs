//! Names as certificates have them, in the form of SPIFFE:
//!
//! - `spiffe://DOMAIN/node/NODE`, a node's daemon; with labels that are pinned, `spiffe://DOMAIN/node/NODE/label/KEY/VALUE…`
//! - `spiffe://DOMAIN/person/NAME`, a person or a program of theirs; with a role, `spiffe://DOMAIN/person/NAME/role/ROLE`
//! - `spiffe://DOMAIN/server`, a server
//!
//! All stands in one URI, because a SPIFFE certificate has exactly one. Its parts have the letters, digits, `.`, `-` and `_` that
//! SPIFFE allows; a label that has others can be pinned by an operator only.

use std::{fmt, str::FromStr};

use sockpilot_policy::{
    model::Labels,
    validate::{self, LABELS_MAX},
};

const SCHEME: &str = "spiffe://";
/// As SPIFFE bounds it.
const BYTES_MAX: usize = 2_048;
/// Of the name of a person, and of a trust domain.
const PART_BYTES_MAX: usize = 255;

/// What somebody may do. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look.
    Viewer,
    /// Change what nodes enforce.
    Operator,
    /// Say who may do what.
    Admin,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As it stands in certificates, tables and commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("\"{}\" is no role; write viewer, operator or admin", text.escape_debug()))
    }
}

/// Somebody, in a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Under whose authority.
    pub domain: String,
    /// Who.
    pub who: Who,
}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A node's daemon.
    Node {
        /// Its id.
        id: String,
        /// Labels that it has, whatever it says.
        labels: Labels,
    },
    /// A person, or a program of theirs.
    Person {
        /// As they are called.
        name: String,
        /// What they may do; `None`: a table of the server says it.
        role: Option<Role>,
    },
    /// A server.
    Server,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, who } = self;
        write!(f, "{SCHEME}{domain}/")?;
        match who {
            Who::Node { id, labels } => {
                write!(f, "node/{id}")?;
                labels.iter().try_for_each(|(key, value)| write!(f, "/label/{key}/{value}"))
            }
            Who::Person { name, role } => {
                write!(f, "person/{name}")?;
                role.map_or(Ok(()), |role| write!(f, "/role/{role}"))
            }
            Who::Server => f.write_str("server"),
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |why: String| format!("\"{}\" is no name in a certificate: {why}", text.escape_debug());
        if text.len() > BYTES_MAX {
            return Err(format!("a name of {} bytes is too long; the most is {BYTES_MAX}", text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| fault("it must begin with spiffe://".to_owned()))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| fault("it has no path".to_owned()))?;
        domain_name(domain).map_err(fault)?;
        let parts: Vec<_> = path.split('/').collect();
        if let Some(bad) = parts.iter().find(|part| !is_part(part)) {
            return Err(fault(format!("\"{bad}\" has other characters than a-z, A-Z, 0-9, '.', '-' and '_'")));
        }
        let who = match parts.as_slice() {
            ["server"] => Who::Server,
            ["node", id, labels @ ..] => {
                Who::Node { id: validate::node_id(id).map_err(fault)?, labels: pinned(labels).map_err(fault)? }
            }
            ["person", name] => Who::Person { name: person(name).map_err(fault)?, role: None },
            ["person", name, "role", role] => {
                Who::Person { name: person(name).map_err(fault)?, role: Some(role.parse().map_err(fault)?) }
            }
            _ => {
                return Err(fault(
                    "its path is none of node/NODE, person/NAME, person/NAME/role/ROLE, server".to_owned(),
                ));
            }
        };
        Ok(Self { domain: domain.to_owned(), who })
    }
}

/// A trust domain.
///
/// # Errors
/// The fault, with a remedy.
pub fn domain_name(text: &str) -> Result<String, String> {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    if text.is_empty() || text.len() > PART_BYTES_MAX || !text.chars().all(sound) {
        let text = text.escape_debug();
        return Err(format!("\"{text}\" is no trust domain; write a-z, 0-9, '.', '-' and '_', as in fleet.example"));
    }
    Ok(text.to_owned())
}

/// The name of a person.
///
/// # Errors
/// The fault, with a remedy.
pub fn person(text: &str) -> Result<String, String> {
    // An @ stands in no certificate, but in what identity providers call people.
    if !is_part(&text.replace('@', "-")) || text.len() > PART_BYTES_MAX {
        let text = text.escape_debug();
        return Err(format!(
            "\"{text}\" is no name of a person here; write a-z, A-Z, 0-9, '.', '-' and '_', as in ann.smith"
        ));
    }
    Ok(text.to_owned())
}

fn is_part(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.chars().all(sound) && !matches!(text, "." | "..")
}

fn pinned(parts: &[&str]) -> Result<Labels, String> {
    let mut labels = Labels::new();
    for part in parts.chunks(3) {
        let ["label", key, value] = part else { return Err("labels are written as /label/KEY/VALUE".to_owned()) };
        validate::label(key, value)?;
        if labels.insert((*key).to_owned(), (*value).to_owned()).is_some() {
            return Err(format!("label {key} has two values"));
        }
    }
    if labels.len() > LABELS_MAX { Err(format!("it has more than {LABELS_MAX} labels")) } else { Ok(labels) }
}

/// Whether a label can stand in a certificate.
///
/// # Errors
/// If it has characters that cannot, with a remedy.
pub fn pinnable(key: &str, value: &str) -> Result<(), String> {
    if is_part(key) && is_part(value) {
        return Ok(());
    }
    Err(format!(
        "{key}={value} cannot stand in a certificate, where labels have a-z, A-Z, 0-9, '.', '-' and '_'; pin it by `sockpilot access pin`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in [
            "spiffe://fleet.example/server",
            "spiffe://d/node/web-1.eu",
            "spiffe://d/node/web-1/label/role/edge/label/zone/a",
            "spiffe://d/person/ann",
            "spiffe://d/person/Ann.Smith_2/role/operator",
        ] {
            assert_eq!(text.parse::<Name>().map(|name| name.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_name_is_none() {
        for text in [
            "",
            "https://d/server",
            "spiffe://",
            "spiffe://d",
            "spiffe://D/server",
            "spiffe:///server",
            "spiffe://d/",
            "spiffe://d/server/",
            "spiffe://d/server/a",
            "spiffe://d/node",
            "spiffe://d/node/",
            "spiffe://d/node/Web_1",
            "spiffe://d/node/a/label/role",
            "spiffe://d/node/a/label/role/edge/x",
            "spiffe://d/node/a/label/role/edge/label/role/core",
            "spiffe://d/node/a%2fb",
            "spiffe://d/node/../person/ann",
            "spiffe://d/person/ann/role/root",
            "spiffe://d/person/ann/role/admin/role/viewer",
            "spiffe://d/person/ann?role=admin",
            "spiffe://d@e/person/ann",
            "spiffe://d:80/person/ann",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
        assert!(format!("spiffe://d/person/{}", "a".repeat(3_000)).parse::<Name>().is_err());
    }

    #[test]
    fn each_role_may_what_those_before_it_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        assert!(Role::ALL.iter().all(|role| role.as_str().parse() == Ok(*role)));
    }
}
