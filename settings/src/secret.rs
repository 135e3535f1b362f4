//! What is not to be seen: a token or a key comes from a file or the environment, never from the command line, where everybody on the
//! machine can read it, and shows itself nowhere.

use std::{fmt, fs, path::Path};

/// Something that no log, error or debugger shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of a text, without the spaces and line ends around it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// From a file.
    ///
    /// # Errors
    /// If it cannot be read or is empty. What is in it is not said.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let secret = Self::new(&text);
        if secret.0.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(secret) }
    }

    /// The text, for whoever sends or compares it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_nowhere() {
        let secret = Secret::new(" hunter2\n");
        assert_eq!(secret.reveal(), "hunter2");
        assert!(!format!("{secret:?} {:?}", Some(&secret)).contains("hunter2"));
    }
}
