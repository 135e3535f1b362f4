//! What came of connections. Pure: no input or output, no clocks, no randomness.
//!
//! The kernel program writes a record for each end of a connection; a [`Flow`] is a record, understood. [`QUANTITIES`] is the one
//! table of what is counted or measured of a flow. [`Sums`] hold all of it for many flows, and merge with others in any order; a
//! **cell** is a [`CellKey`] with its sums. The wire form, what the server stores, answers and the reference page follow from the table.
//!
//! What an experiment [measures](Measured) for itself stands in cells of its own, beside those of its arms: each connection once, in
//! the interval in which it began.
#![warn(missing_docs)]

mod content;
mod flow;
mod key;
pub mod measured;
mod quantity;
pub mod reference;
mod sums;
pub mod testing;

pub use content::Content;
pub use flow::{Flow, Outcome};
pub use key::{CellKey, Choice, Interval, SizeClass};
pub use measured::Measured;
pub use quantity::{Aggregate, Counts, Distributions, QUANTITIES, Quantity, Unit};
pub use sums::{Sums, SumsError};
