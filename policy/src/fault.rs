//! Faults of an input: all of them at once, each with the path of its field, the problem and the remedy.

use std::fmt;

/// One thing wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Path of the field as on the wire: `rules[2].match.remote_prefixes[0]`.
    pub field: String,
    /// The problem and the remedy, in one sentence.
    pub description: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// Why an input was refused. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// One fault.
    #[must_use]
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self(vec![Fault { field: field.into(), description: description.into() }])
    }

    /// The faults, in the order found; of very many the first [`FAULTS_MAX`].
    #[must_use]
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }
}

/// Faults that are kept of one input. More say nothing new, and an input of a few MiB can have a million.
pub const FAULTS_MAX: usize = 100;

/// Collects faults while walking an input, and knows where in it the walk is.
#[derive(Debug, Default)]
pub struct Collector {
    path: Vec<String>,
    faults: Vec<Fault>,
}

impl Collector {
    /// Begins at a field; an empty name begins at the root.
    #[must_use]
    pub fn at(root: &str) -> Self {
        Self { path: if root.is_empty() { vec![] } else { vec![root.to_owned()] }, faults: vec![] }
    }

    /// Walks into a field.
    pub fn field<T>(&mut self, name: &str, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name.to_owned());
        let result = walk(self);
        self.path.pop();
        result
    }

    /// Walks into every element of a list.
    pub fn each<I: IntoIterator, T>(
        &mut self,
        name: &str,
        items: I,
        mut walk: impl FnMut(&mut Self, I::Item) -> T,
    ) -> Vec<T> {
        let mut results = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            results.push(self.field(&format!("{name}[{index}]"), |faults| walk(faults, item)));
        }
        results
    }

    /// Notes a fault of the field where the walk is, if it is one of the first [`FAULTS_MAX`].
    pub fn add(&mut self, description: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { field: self.path.join("."), description: description.into() });
        }
    }

    /// Notes a fault of a field of the object where the walk is.
    pub fn add_at(&mut self, name: &str, description: impl Into<String>) {
        self.field(name, |faults| faults.add(description));
    }

    /// Keeps the value, or notes why there is none.
    pub fn take<T, E: fmt::Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(error.to_string())).ok()
    }

    /// The value if nothing was wrong.
    ///
    /// # Errors
    /// All faults, if there are any.
    pub fn finish<T>(self, value: T) -> Result<T, Faults> {
        if self.faults.is_empty() { Ok(value) } else { Err(Faults(self.faults)) }
    }
}
