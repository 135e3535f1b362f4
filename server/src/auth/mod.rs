//! Who calls ([`caller`]), what they may do ([`access`]), by what they are known ([`trust`], [`token`], [`oidc`]), how much of it at once
//! ([`limits`]), and the connections that can be cut ([`connections`]). [`gate`] puts these together, and [`refresh`] keeps what it knows
//! newest.

pub mod access;
pub mod caller;
pub mod connections;
pub mod gate;
pub mod limits;
pub mod oidc;
pub mod refresh;
pub mod token;
pub mod trust;
