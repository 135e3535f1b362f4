//! Policy in: what becomes of a snapshot. Pure but for `stored` and `trials`.

pub mod answer;
pub mod holding_back;
pub mod plan;
pub mod stored;
pub mod trials;
pub mod version;
