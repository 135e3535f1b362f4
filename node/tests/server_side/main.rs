//! The daemon's talk with a server, without a kernel.

mod answers;
mod reports;
mod streams;
mod world;
