//! What the programs are told on the command line and in the environment. Each setting has one parser, which all programs and
//! the server's checks of requests share: what one of them takes, no other refuses.
//!
//! Beside them, what every program does first, because it will hold keys: [`hardening`].
//!
//! A value that will not do is refused when a program starts, with what to write in its place.
#![warn(missing_docs)]

pub mod actor;
pub mod checkup;
pub mod duration;
pub mod environment;
pub mod hardening;
pub mod labels;
pub mod listen;
pub mod log;
pub mod node;
pub mod secret;
pub mod server;
pub mod tls;
