//! The link to the server: snapshots and answers on a stream, and reports.

pub mod answers;
pub mod connect;
pub mod credentials;
mod end;
pub mod join;
pub mod reporter;
pub mod stream;
