//! How a revision reaches the fleet, decided without a fleet: what a plan says ([`plan`]), what a rollout does next ([`machine`],
//! [`advance`], [`verb`]), and when nothing may begin ([`freeze`]).
//!
//! Pure: time and everything that was seen are arguments, so the same events lead to the same state, and a rollout that was cut off
//! anywhere goes on from what is written of it.

#![deny(missing_docs)]

pub mod advance;
pub mod defaults;
pub mod freeze;
pub mod machine;
pub mod plan;
pub mod verb;
