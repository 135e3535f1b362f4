//! The process: arguments, privileges, the parts put together, walks over open connections, and the connections of another process inspected.

pub mod args;
pub mod daemon;
pub mod doctor;
pub mod inspect;
mod privileges;
pub mod walks;
