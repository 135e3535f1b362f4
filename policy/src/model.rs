//! The domain types. What a type can guarantee it does; the rest is checked by [`crate::validate`].

mod experiment;
mod layer;
mod matching;
mod name;
mod rollout;
mod rule;
mod value;

pub use experiment::{Arm, Comparison, Design, Experiment, HORIZON_S, HORIZON_S_MAX, Unit, Words};
pub use layer::{Layer, LayerBody, Snapshot, Term, sort_layers};
pub use matching::{Direction, Match, Zone, ZoneRelation, zone_of};
pub use name::{Id, Labels, LayerKind, LayerName};
pub use rollout::{Group, Part, Portion, Rollout};
pub use rule::{ApplyTo, IfUnsupported, Policy, Rule};
pub use value::{Parameters, Value};
