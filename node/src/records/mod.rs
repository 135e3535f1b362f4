//! Records out: from flow records to reports. `aggregation`, `sample` and `on_request` are pure.

pub mod aggregation;
mod aggregation_file;
pub mod attribution;
pub mod collector;
pub mod earlier;
pub mod journal;
pub mod measuring;
pub mod on_request;
pub mod open;
pub mod sample;
