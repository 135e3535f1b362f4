//! What a change would do: that it agrees with the decision, that nothing is lost or counted twice, and what is said of it.

mod agrees;
mod made;
mod places;
mod says;
