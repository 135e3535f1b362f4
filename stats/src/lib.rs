//! The mathematics of outcomes. Pure: no input or output, no clocks, no randomness.
//!
//! A node folds flow records into [`Distribution`]s, the server merges those of many nodes and intervals. Merging is
//! associative and loses no precision that matters: [`Moments`] by Chan's formula, [`Sketch`] bin by bin, exactly.
#![warn(missing_docs)]

mod distribution;
mod moments;
mod sketch;

pub use distribution::{Distribution, DistributionError, QUANTITY_MAX, Summary};
pub use moments::{Moments, MomentsError};
pub use sketch::{RELATIVE_ERROR, SKETCH_BYTES_MAX, Sketch, SketchError};
