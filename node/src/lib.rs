//! The node daemon: from the server's snapshots to kernel tables, from flow records to reports.
//!
//! | | decides, pure | does |
//! |---|---|---|
//! | snapshots | [`ledger`], [`apply`], [`holding_back`], [`backoff`] | [`connect`], [`stream`], [`state`], [`kernel`] |
//! | disk | [`owed`] | [`state`], [`attribution`], [`journal`] |
//! | outcomes | [`book`], [`sample`] | [`collector`], [`journal`], [`attribution`], [`report`] |
//!
//! [`keeper`] owns what must not be shared; [`daemon`] wires everything. The way of a snapshot: [`stream`] receives it,
//! [`ledger`] says whether it may be taken, [`apply`] compiles it, [`holding_back`] leaves out what this node cannot honour, [`state`]
//! keeps it, [`kernel`] puts it in force. The way of an outcome: [`kernel`] shows a record, [`attribution`] says what its choices
//! mean, [`book`] adds it up, [`journal`] writes that down, only then the record is released, and [`report`] sends
//! what the server has not confirmed.

pub mod apply;
pub mod args;
pub mod attribution;
pub mod backoff;
pub mod book;
pub mod clock;
pub mod collector;
pub mod connect;
pub mod daemon;
pub mod explain;
pub mod facts;
pub mod holding_back;
pub mod journal;
pub mod keeper;
pub mod kernel;
pub mod ledger;
pub mod measuring;
pub mod metrics;
pub mod owed;
pub mod report;
pub mod sample;
pub mod state;
pub mod stream;
pub mod sweeps;
pub mod trial;

#[cfg(test)]
mod testing;

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
