//! The control plane of sockpilot: versioned policies and experiments in Postgres, snapshots streamed to the nodes, outcomes
//! back.
//!
//! The way of a change: [`grpc`] checks the request, [`change`] decides what it does, [`store`] does that in one
//! transaction and announces it, [`refresh`] hears of it and loads the fleet, [`resolve`] says what each node must enforce,
//! [`fanout`] puts it into the nodes' places, and [`session`] decides what of it is sent. The way back: `grpc::stream` hears the
//! node's answer and [`recorder`] writes it; [`report`] checks flow reports, [`outcome`] merges them.
//!
//! What happens without being asked for are [`task`]s.
//!
//! Only [`store`] speaks SQL, only [`grpc`] speaks gRPC. [`change`], [`resolve`], [`session`], [`target`], [`wave`], [`zones`], [`explain`],
//! [`paging`], [`reach`], [`notes`], [`backup`], [`report`] and [`outcome`] are pure.

pub mod args;
pub mod backup;
pub mod change;
pub mod clock;
pub mod document;
pub mod embedded;
pub mod explain;
pub mod fanout;
pub mod grpc;
mod janitor;
mod memory;
pub mod metrics;
pub mod names;
pub mod notes;
pub mod outcome;
pub mod paging;
pub mod reach;
pub mod recorder;
pub mod refresh;
pub mod report;
pub mod resolve;
mod running;
pub mod session;
pub mod store;
pub mod target;
pub mod task;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod wave;
pub mod zones;

pub use running::{Config, Database, Running, StartError, run, start};
