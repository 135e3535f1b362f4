//! The node daemon: from the server's snapshots to kernel tables, from flow records to reports.
//!
//! | what | plans, pure | does |
//! |---|---|---|
//! | snapshots | [`ledger`], [`apply`] | [`state`], `kernel` |
//! | outcomes | [`cells`], [`book`], [`sample`] | [`journal`], [`attribution`] |

pub mod apply;
pub mod attribution;
pub mod backoff;
pub mod book;
pub mod cells;
pub mod clock;
pub mod collector;
pub mod facts;
pub mod journal;
pub mod kernel;
pub mod ledger;
pub mod sample;
pub mod state;

#[cfg(test)]
mod testing;
