//! `access`, `pki`: who may do what.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use sockpilot_identity::name::{self, Role};
use sockpilot_settings::labels::{self, Labels};
use sockpilot_settings::node;

use crate::parse;

/// `access`
#[derive(Debug, Subcommand)]
pub enum Access {
    /// Show who the server takes you for.
    Whoami,
    /// Make a token by which somebody calls, and write it to a file that only you can read.
    CreateToken(CreateToken),
    /// Make a token by which one node joins, and write it to a file that only you can read.
    JoinToken(JoinToken),
    /// Show tokens, newest first.
    Tokens,
    /// End a token.
    RevokeToken {
        /// tokens/ID, as `tokens` shows it.
        name: String,
        /// Why, for the audit log.
        #[command(flatten)]
        why: Why,
    },
    /// Say what a person may do.
    SetPerson {
        /// As in their certificate.
        #[arg(value_parser = name::person)]
        name: String,
        /// What they may do.
        #[command(flatten)]
        may: May,
        /// Why, for the audit log.
        #[command(flatten)]
        why: Why,
    },
    /// Take back what was said of a person.
    UnsetPerson {
        /// As in their certificate.
        #[arg(value_parser = name::person)]
        name: String,
        /// Why, for the audit log.
        #[command(flatten)]
        why: Why,
    },
    /// Show what was said of people.
    People,
    /// Shut a node or a person out, everywhere and within seconds.
    Revoke {
        /// nodes/NODE or people/NAME.
        name: String,
        /// Why, for the audit log.
        #[command(flatten)]
        why: Why,
    },
    /// Let a node or a person in again, with a certificate or token that is newer than the revocation.
    Admit {
        /// nodes/NODE or people/NAME.
        name: String,
        /// Why, for the audit log.
        #[command(flatten)]
        why: Why,
    },
    /// Show who was shut out.
    Revocations,
    /// Say which labels a node has, whatever its daemon says; none: whatever it says.
    Pin {
        /// The node.
        #[arg(value_parser = node::name)]
        node: String,
        /// All labels that are pinned: role=edge,zone=a.
        #[arg(value_name = "KEY=VALUE", value_parser = labels::labels)]
        labels: Vec<Labels>,
        /// Why, for the audit log.
        #[command(flatten)]
        why: Why,
    },
}

/// Why.
#[derive(Debug, Args)]
pub struct Why {
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub reason: String,
}

/// What somebody may do.
#[derive(Debug, Args)]
pub struct May {
    /// viewer, operator or admin.
    #[arg(long)]
    pub role: Role,
    /// Of an operator: only policies and experiments whose names begin so.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PREFIX")]
    pub only_names: String,
    /// Of an operator: only policies and experiments that are for nodes with these labels.
    #[arg(long, value_name = "KEY=VALUE", value_parser = labels::selection)]
    pub only_nodes: Vec<Labels>,
}

/// `create-token`
#[derive(Debug, Args)]
pub struct CreateToken {
    /// Whose it is; the audit log has tokens/NAME.
    #[arg(value_parser = name::person)]
    pub name: String,
    /// What may be done with it.
    #[command(flatten)]
    pub may: May,
    /// For how long: 12h, 30d. Default: 90 days.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub life: Option<Duration>,
    /// Where to write it; must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Why, for the audit log.
    #[command(flatten)]
    pub why: Why,
}

/// `join-token`
#[derive(Debug, Args)]
pub struct JoinToken {
    /// For this node. Default: one that nobody knows yet.
    #[arg(value_parser = node::name)]
    pub node: Option<String>,
    /// Labels that its certificate has, whatever its daemon says.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::labels)]
    pub labels: Vec<Labels>,
    /// For how long. Default: 1h.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub life: Option<Duration>,
    /// Where to write it; must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Why, for the audit log.
    #[command(flatten)]
    pub why: Why,
}

/// `pki`
#[derive(Debug, Args)]
pub struct Pki {
    /// Where the authority is, and where certificates are written to.
    #[arg(long, default_value = "pki", value_name = "DIRECTORY")]
    pub dir: PathBuf,
    /// For how many days what is made is valid. Default: 10 years for an authority, 90 days for a certificate.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=7_300))]
    pub days: Option<u64>,
    /// What to make.
    #[command(subcommand)]
    pub make: Make,
}

/// What to make.
#[derive(Debug, Subcommand)]
pub enum Make {
    /// An authority: ca.pem, which all are given, and ca-key.pem, which nobody is.
    Init {
        /// The name of the fleet, as in fleet.example.
        #[arg(value_parser = name::domain_name)]
        domain: String,
    },
    /// A server's certificate: server.pem and server-key.pem.
    Server {
        /// Names and addresses by which nodes and people find it.
        #[arg(required = true, value_name = "HOST", value_parser = host)]
        hosts: Vec<String>,
    },
    /// A person's certificate: person-NAME.pem and person-NAME-key.pem.
    Person {
        /// As the audit log shall have them.
        #[arg(value_parser = name::person)]
        name: String,
        /// viewer, operator or admin. Default: what `sockpilot access set-person` says.
        #[arg(long)]
        role: Option<Role>,
    },
    /// A node's certificate, for one that does not join by a token: node-ID.pem and node-ID-key.pem.
    Node {
        /// The node.
        #[arg(value_parser = node::name)]
        node: String,
        /// Labels that it has, whatever its daemon says.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = labels::labels)]
        labels: Vec<Labels>,
    },
}

fn host(text: &str) -> Result<String, String> {
    match sockpilot_identity::authority::is_host(text) {
        true => Ok(text.to_owned()),
        false => Err("is no host; write a name or an address, without scheme and port".to_owned()),
    }
}
