//! The server as a process: its arguments, its parts put together and taken apart again, and the private Postgres.

pub mod args;
pub mod bounds;
pub mod config;
pub mod doctor;
pub mod embedded;
pub mod migrate;
pub mod running;
