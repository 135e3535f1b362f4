//! Tokens: 256 random bits, of which the server keeps a hash.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// So that tools that look for secrets in files find them.
const PREFIX: &str = "sockpilot-";

/// What the server keeps of a token.
pub type Hash = [u8; 32];

/// Makes a token of random bytes.
#[must_use]
pub fn of_random(bytes: [u8; 32]) -> String {
    let mut text = PREFIX.to_owned();
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What is kept of it.
#[must_use]
pub fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether a bearer's text is a token of ours, and not of an identity provider.
#[must_use]
pub fn is_ours(text: &str) -> bool {
    text.starts_with(PREFIX)
}
