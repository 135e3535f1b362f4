//! Policy in: what becomes of a snapshot. Pure but for `stored`, `trials` and `trips`.

pub mod answer;
pub mod holding_back;
pub mod plan;
pub mod stored;
pub mod trials;
pub mod trips;
pub mod version;
