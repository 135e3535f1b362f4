//! The domain core of sockpilot: what a policy is, whether it is sound, and what a connection gets.
//!
//! Pure: no I/O, no clocks, no randomness. Four modules are shared with the kernel program and need no standard library:
//! [`parameter`] (the one table of parameters), [`layout`] (the shape of the kernel tables), [`bucket`] and [`breaker`].
//! The others follow the way of a policy: [`model`] (sound by construction where types can do it), [`validate`] (the rest),
//! [`advice`] and [`overlap`] (what is sound and probably not meant), [`facts`] (what one node's kernel makes of it, computed),
//! [`readings`] (what it made of it when asked), [`schedule`] (when it sends again), [`effective`] (what a connection gets of all
//! that), [`compile`] (bit-vector
//! tables) and [`decide`] (the meaning, rule by rule, that the tables are checked against), [`given`] (what comes of it over a handshake),
//! [`explain`] (the same in words).
#![warn(missing_docs)]
#![cfg_attr(not(feature = "std"), no_std)]

pub mod breaker;
pub mod bucket;
pub mod layout;
pub mod parameter;

#[cfg(feature = "std")]
pub mod address;
#[cfg(feature = "std")]
pub mod advice;
#[cfg(feature = "std")]
pub mod compile;
#[cfg(feature = "std")]
pub mod decide;
#[cfg(feature = "std")]
pub mod default_measures;
#[cfg(feature = "std")]
pub mod effective;
#[cfg(feature = "std")]
pub mod explain;
#[cfg(feature = "std")]
pub mod facts;
#[cfg(feature = "std")]
pub mod fault;
#[cfg(feature = "std")]
pub mod given;
#[cfg(feature = "std")]
pub mod measure;
#[cfg(feature = "std")]
pub mod model;
#[cfg(feature = "std")]
pub mod overlap;
#[cfg(feature = "std")]
pub mod readings;
#[cfg(feature = "std")]
pub mod reference;
#[cfg(feature = "std")]
mod rollout;
#[cfg(feature = "std")]
pub mod schedule;
#[cfg(feature = "std")]
pub mod unit;
#[cfg(feature = "std")]
pub mod validate;
