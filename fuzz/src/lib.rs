//! Fuzzing of what reads bytes that others wrote.
//!
//! A target is a test whose name begins with `fuzz_`, beside the code that it is about, and made of a [`Target`]. `cargo test` runs it
//! over its corpus, `fuzz/corpus/NAME`, and over a fixed number of mutations of that with a fixed seed, so it says the same each time.
//! `make fuzz` runs the same test for as long as one likes, and libFuzzer chooses the inputs by what code they reach. Either way a
//! target fails by a panic, and when it holds more memory than its bound says.
//!
//! In the corpus, `seed-…` are real messages, each of which must be understood: otherwise the target would be about something else
//! than what it says. All others only must do no harm: what was found once, under a name that says what it was, and what reaches
//! code that nothing else reaches.

mod corpus;
#[cfg(feature = "libfuzzer")]
mod long;
mod memory;
pub mod messages;
mod mutate;
mod target;

pub use mutate::{Shape, mutate};
pub use target::{Bound, Target};
