//! The mathematics of outcomes and of experiments. Pure: no input or output, no clocks, no randomness.
//!
//! A node folds flow records into [`Distribution`]s, and the measures of an experiment into [`CoMoments`]; the server merges
//! those of many nodes and intervals. Merging is associative and loses no precision that matters: [`Moments`] and
//! [`CoMoments`] by Chan's formula, [`Sketch`] bin by bin, exactly.
//!
//! From co-moments follows all that is said of an experiment:
//!
//! - [`contrast()`]: a measure of an arm against the control, with [`sequence`]s that are valid at every look and intervals
//!   that are valid at the planned end; adjusted by a [`Covariate`] (CUPED), with errors at the level of assignment
//!   ([`Errors`], [`cluster`]); and on it [`noninferiority`].
//! - [`events`]: the same of what counts them, where none of many is data, too.
//! - [`srm`] and [`counts`]: whether arms have their shares, and rare events no more than theirs.
//! - [`shares`] of events of which there may be none, and [`differences`] in differences, of nodes that all others follow.
//! - [`switchback`], [`saturation`] and [`ramp`]: designs for treatments that change what others get.
//! - [`epochs`] combined, [`multiple`] measures at once, and [`power`].
//!
//! Every number is one or there is a [`NoAnswer`] that says why: no data never looks like no effect.
#![warn(missing_docs)]

mod answer;
pub mod cluster;
mod comoments;
mod contrast;
pub mod counts;
pub mod differences;
mod distribution;
pub mod epochs;
mod estimate;
pub mod events;
mod linear;
mod moments;
pub mod multiple;
pub mod noninferiority;
pub mod power;
pub mod quantile;
pub mod ramp;
pub mod saturation;
pub mod sequence;
pub mod shares;
mod sketch;
pub mod special;
pub mod srm;
pub mod switchback;

pub use answer::{Level, NoAnswer};
pub use comoments::{CoMoments, CoMomentsError, MEASURES_MAX};
pub use contrast::{Contrast, Covariate, Errors, Finding, Kind, arm, balance, contrast};
pub use distribution::{Distribution, DistributionError, QUANTITY_MAX, Summary};
pub use estimate::{Estimate, Interval, Sides, fixed_interval, fixed_p};
pub use moments::{Moments, MomentsError};
pub use sketch::{RELATIVE_ERROR, SKETCH_BYTES_MAX, Sketch, SketchError};
