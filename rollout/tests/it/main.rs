//! Transitions, plans and windows, over random events.

mod events;
mod freeze;
mod plans;
