//! Between wire messages and what the server makes of them: the only place in the server that does so, beside the documents, which
//! are kept as messages, and what is stored as one. What every program understands is converted in `sockpilot_proto::convert`.
//!
//! As there: what comes in is checked as a whole, with the path of every fault; what goes out cannot fail; messages and rows are
//! taken apart in full.

pub mod access;
pub mod backup;
pub mod change;
pub mod explain_flow;
pub mod fleet;
pub mod flow_report;
pub mod node_event;
pub mod outcome;
pub mod rollout;
pub mod simulate;
pub mod target;
