//! What people see: tables made of messages. Pure.

pub mod documents;
pub mod explanation;
pub mod fleet;
pub mod outcomes;
pub mod servers;
pub mod status;
