//! Experiments that run: what is known of them is gathered ([`gather`]) and judged, the verdict noted with all that it was drawn from
//! ([`draw`]), and [`watch`] looks again and again, and ends what has run as long as planned.

pub mod draw;
pub mod gather;
mod slots;
pub mod watch;

/// How long after their horizon connections are waited for, in seconds: the walk that looks at open ones, and the report.
pub const SETTLE_S: i64 = 30;
