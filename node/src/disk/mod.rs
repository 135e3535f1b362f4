//! The daemon's own files.

pub mod file;
pub mod owed;
pub mod state_dir;

pub use state_dir::{StateDir, StateError};
