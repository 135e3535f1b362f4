//! From evidence to results and verdict: every verdict, every unit, and what no verdict may ever be.
#![allow(clippy::float_cmp, reason = "the same bits are what is asked for")]

mod freezing;
mod gates;
mod generated;
mod made;
mod sound;
mod units;
mod verdicts;
