//! The nodes: what each must enforce, how it gets there, and what the nodes answer.
//!
//! Pure are [`node`], [`resolve`], [`session`] and [`explain_flow`]; [`fanout`] holds the connected nodes in memory. The tasks
//! [`refresh`] and [`recorder`] stand between them and the database.

pub mod explain_flow;
pub mod fanout;
pub mod node;
pub mod recorder;
pub mod refresh;
pub mod register;
pub mod resolve;
pub mod session;
