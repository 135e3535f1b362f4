//! How revisions reach the fleet. What a rollout does next is decided by the crate `sockpilot_rollout`; here it is begun ([`begin`]), asked
//! something by people ([`verbs`]), looked at ([`observe`]), and what was decided is done ([`drive`]), all in the transaction of whoever
//! calls. [`controller`] has all rollouts go on.

pub mod begin;
pub mod controller;
pub mod drive;
pub mod evidence;
pub mod kill_switch;
pub mod limits;
pub mod observe;
pub mod plans;
pub mod preview;
pub mod record;
pub mod verbs;
pub mod warnings;
