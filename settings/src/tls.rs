//! Files of certificates and keys.

use std::path::PathBuf;

use sockpilot_identity::tls::{Oldest, Own};

/// Where the files for TLS are. All of them may be replaced at any time.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsFiles {
    /// Authorities that are trusted to sign certificates of the other side; PEM.
    #[arg(long, global = true, env = "SOCKPILOT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The own certificate, and those between it and the authority; PEM.
    #[arg(long, global = true, env = "SOCKPILOT_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The key of the own certificate; PEM.
    #[arg(long, global = true, env = "SOCKPILOT_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

impl TlsFiles {
    /// The own certificate and key, if there are any.
    ///
    /// # Errors
    /// If there is one without the other.
    pub fn own(&self) -> Result<Option<Own>, String> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Ok(Some(Own { certificate: certificate.clone(), key: key.clone() })),
            (None, None) => Ok(None),
            (Some(_), None) => Err("--tls-cert is there without --tls-key; say both".to_owned()),
            (None, Some(_)) => Err("--tls-key is there without --tls-cert; say both".to_owned()),
        }
    }
}

/// Reads the oldest version of TLS that is spoken.
///
/// # Errors
/// The fault, with a remedy.
pub fn oldest(text: &str) -> Result<Oldest, String> {
    match text.trim() {
        "1.3" => Ok(Oldest::Tls13),
        "1.2" => Ok(Oldest::Tls12),
        other => {
            Err(format!("\"{}\" is no version of TLS that is spoken here; write 1.3 or 1.2", other.escape_debug()))
        }
    }
}
