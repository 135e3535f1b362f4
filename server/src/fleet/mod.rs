//! The nodes: what each must enforce, how it gets there, and what the nodes answer.
//!
//! Pure are [`node`], [`resolve`], [`session`], [`pace`], [`propagation`], [`recording`], [`explain_flow`] and [`simulation`]; [`fanout`] holds the connected nodes in memory, each with
//! its [`mailbox`]. The tasks [`refresh`], [`recording_refresh`] and [`recorder`] stand between them and the database, [`heartbeats`] is their clock; [`preview`] says what a change would do.

pub mod explain_flow;
pub mod fanout;
pub mod heartbeats;
pub mod mailbox;
pub mod node;
pub mod pace;
pub mod preview;
pub mod propagation;
pub mod recorder;
pub mod recording;
pub mod recording_refresh;
pub mod refresh;
pub mod register;
pub mod resolve;
pub mod session;
pub mod simulation;
