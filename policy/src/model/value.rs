//! What a rule or an arm sets.

use std::fmt;

use crate::layout::PARAMETER_SLOTS;

/// A parameter's value, in the parameter's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number, or 1 for a parameter that can only be turned on.
    Number(u32),
    /// A name.
    Name(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The parameters that a rule or an arm sets, by slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters([Option<Value>; PARAMETER_SLOTS]);

impl Parameters {
    /// Nothing.
    pub const NONE: Self = Self([const { None }; PARAMETER_SLOTS]);

    /// With one parameter more, or another value for it.
    ///
    /// # Panics
    /// If the slot is none of [`PARAMETER_SLOTS`].
    #[must_use]
    pub fn with(mut self, slot: usize, value: Value) -> Self {
        self.0[slot] = Some(value);
        self
    }

    /// The value in a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Value> {
        self.0.get(slot).and_then(Option::as_ref)
    }

    /// What is set, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Value)> {
        self.0.iter().enumerate().filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}
