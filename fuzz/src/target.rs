//! One target: what reads bytes, and what it may cost.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    corpus::{self, Entry},
    memory::most_held,
    mutate::{Shape, mutate},
};

/// Set to have seeds written anew.
const UPDATE: &str = "SOCKPILOT_UPDATE";
/// Mutations of a run in the tests.
const MUTATIONS: usize = 1_500;
/// Mutations of one input, one upon the other.
const UPON_EACH_OTHER: usize = 4;
/// Longer inputs find nothing that these do not.
pub const BYTES_MAX: usize = 32 << 10;

/// The most memory that reading may hold beside its input: so much for each byte of it, and so much in any case.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Bytes for each byte of the input. In a protocol buffer two bytes are an empty message, and the first of a list makes room for
    /// four: so at least twice the size of the largest message that can stand in a list.
    pub per_byte: usize,
    /// Bytes, whatever the input.
    pub fixed: usize,
}

/// A target that is to be run.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    shape: Shape,
    bound: Bound,
    seeds: Vec<(String, Vec<u8>)>,
}

impl Target {
    /// A target: its corpus is `fuzz/corpus/NAME`.
    #[must_use]
    pub fn new(name: &'static str, shape: Shape, bound: Bound) -> Self {
        Self { name, shape, bound, seeds: vec![] }
    }

    /// A real message, from which the corpus is made (with `SOCKPILOT_UPDATE=1`).
    #[must_use]
    pub fn seed(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.seeds.push((name.into(), bytes.into()));
        self
    }

    /// Several of them.
    #[must_use]
    pub fn seeds<N: Into<String>, B: Into<Vec<u8>>>(self, seeds: impl IntoIterator<Item = (N, B)>) -> Self {
        seeds.into_iter().fold(self, |target, (name, bytes)| target.seed(name, bytes))
    }

    /// Runs it: `read` does with bytes what the program does, and says whether it understood them.
    ///
    /// # Panics
    /// If `read` does, if it holds too much memory, or does not understand a real message.
    pub fn run(self, read: impl Fn(&[u8]) -> bool) {
        if std::env::var_os(UPDATE).is_some() {
            corpus::write_seeds(self.name, &self.seeds).expect("the corpus can be written");
        }
        let entries = corpus::read(self.name).expect("a corpus; SOCKPILOT_UPDATE=1 makes it");
        let seeds = entries.iter().filter(|entry| entry.is_seed());
        assert_eq!(seeds.count(), self.seeds.len(), "real messages of {}; SOCKPILOT_UPDATE=1 writes them", self.name);
        // What is made once and kept is not an input's.
        for entry in &entries {
            read(&entry.bytes);
        }
        for entry in &entries {
            let understood = self.check(&read, &entry.bytes, &entry.name);
            assert!(understood || !entry.is_seed(), "{}: {} is not understood any more", self.name, entry.name);
        }
        #[cfg(feature = "libfuzzer")]
        if let Some(seconds) = crate::long::seconds() {
            crate::long::run(self.name, self.shape, seconds, &|bytes| {
                self.check(&read, bytes, "an input");
            });
        }
        self.mutations(&entries, &read);
    }

    fn mutations(&self, entries: &[Entry], read: &impl Fn(&[u8]) -> bool) {
        let mut random = StdRng::seed_from_u64(1);
        for number in 0..MUTATIONS {
            let mut bytes = entries[random.random_range(0..entries.len())].bytes.clone();
            for _ in 0..=random.random_range(0..UPON_EACH_OTHER) {
                mutate(self.shape, &mut bytes, BYTES_MAX, &mut random);
            }
            let panics = Reveal { target: self.name, bytes: &bytes };
            self.check(read, &bytes, &format!("mutation {number}"));
            std::mem::forget(panics);
        }
    }

    fn check(&self, read: &impl Fn(&[u8]) -> bool, bytes: &[u8], what: &str) -> bool {
        let (understood, held) = most_held(|| read(bytes));
        let Bound { per_byte, fixed } = self.bound;
        assert!(
            held <= per_byte * bytes.len() + fixed,
            "{}: {what} of {} bytes holds {held}, more than {per_byte} for each byte and {fixed}",
            self.name,
            bytes.len(),
        );
        understood
    }
}

/// Shows the input when what reads it panics, so that it can be kept.
struct Reveal<'a> {
    target: &'a str,
    bytes: &'a [u8],
}

impl Drop for Reveal<'_> {
    fn drop(&mut self) {
        let file = std::env::temp_dir().join(format!("sockpilot-fuzz-{}", self.target));
        if std::fs::write(&file, self.bytes).is_ok() {
            eprintln!("the input is in {}; it belongs into the corpus when the fault is mended", file.display());
        }
    }
}
