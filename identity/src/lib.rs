//! Who somebody is by certificate: the names in certificates ([`name`]), what is known of a peer ([`peer`]), TLS on both ends from
//! files that may change at any time ([`files`], [`tls`]), and an authority that signs ([`authority`]).
//!
//! Certificates are those of SPIFFE: one URI, which is the name. Whoever writes such files (SPIRE, any PKI, `sockpilot pki`) will do.
#![warn(missing_docs)]

pub mod authority;
pub mod files;
#[cfg(test)]
mod fuzz;
pub mod name;
pub mod peer;
pub mod tls;

pub use tokio_rustls;
