//! The node daemon: from the server's snapshots to kernel tables, from flow records to reports.
//!
//! | | decides, pure | does |
//! |---|---|---|
//! | policy in | [`snapshot`] (`version`, `plan`, `answer`, `holding_back`) | [`snapshot`] (`stored`, `trials`), [`kernel`] |
//! | records out | [`records`] (`aggregation`, `sample`) | [`records`] (`collector`, `journal`, `attribution`) |
//! | disk | [`disk`] (`owed`) | [`disk`] (`file`, `state_dir`) |
//! | server | [`backoff`] | [`link`] |
//!
//! [`keeper`] owns the kernel side; [`process`] wires everything. The way of a snapshot: [`link`] receives it, `version` says
//! whether it is admitted, `plan` compiles it, `holding_back` leaves out what this node cannot honour, `stored` keeps it,
//! [`kernel`] puts it in force. The way of an outcome: [`kernel`] shows a record, `attribution` says what its choices mean,
//! `aggregation` adds it up, `journal` writes that down, only then the record is released, and [`link`] reports what the server
//! has not confirmed.

pub mod backoff;
pub mod clock;
pub mod disk;
pub mod facts;
pub mod keeper;
pub mod kernel;
pub mod link;
pub mod metrics;
pub mod process;
pub mod records;
pub mod snapshot;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
