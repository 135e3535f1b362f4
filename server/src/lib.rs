//! The control plane of sockpilot: versioned policies and experiments in Postgres, snapshots streamed to the nodes, outcomes
//! back.
//!
//! The way of a change: [`grpc`] checks the request, [`change::plan`] decides what it does, [`change::apply`] does that in one
//! transaction through [`store`], which announces it; [`fleet::refresh`] learns of it and loads the fleet, [`fleet::resolve`] says
//! what each node must enforce, [`fleet::fanout`] puts it into the nodes' places, and [`fleet::session`] decides what of it is sent.
//! The way back: `grpc::stream` reads the node's answer and [`fleet::recorder`] writes it; [`outcome`] takes flow reports and merges
//! them.
//!
//! What happens without being asked for are [`task`]s. [`process`] puts all of it together.
//!
//! Which room may use which is a table in `tests/it/layers.rs`, and tested.

pub mod auth;
pub mod change;
pub mod clock;
pub mod experiment;
pub mod fleet;
pub mod grpc;
pub mod metrics;
pub mod outcome;
pub mod process;
pub mod rollout;
pub mod store;
pub mod task;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;

pub use process::{
    config::{Config, Database},
    migrate::migrate,
    running::{Running, StartError, run, start},
};
