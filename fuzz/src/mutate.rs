//! Mutations that know what an input is made of: those of random bytes seldom come past the first length of a message.

use rand::{Rng, RngExt};

mod text;
mod wire;

/// What an input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A protocol buffer.
    Wire,
    /// YAML, JSON, names and tokens.
    Text,
    /// Anything else.
    Bytes,
}

/// Mutates an input once; it gets no longer than `max` bytes.
pub fn mutate(shape: Shape, bytes: &mut Vec<u8>, max: usize, random: &mut impl Rng) {
    match shape {
        Shape::Wire if random.random_ratio(7, 8) => wire::mutate(bytes, random),
        Shape::Text if random.random_ratio(7, 8) => text::mutate(bytes, random),
        _ => of_bytes(bytes, random),
    }
    bytes.truncate(max);
}

/// A place in something of a length, or at its end.
fn place(length: usize, random: &mut impl Rng) -> usize {
    random.random_range(0..=length)
}

/// A stretch of something of a length.
fn stretch(length: usize, random: &mut impl Rng) -> std::ops::Range<usize> {
    let (a, b) = (place(length, random), place(length, random));
    a.min(b)..a.max(b)
}

fn of_bytes(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    let length = bytes.len();
    match random.random_range(0..5) {
        0 => bytes.truncate(place(length, random)),
        1 => drop(bytes.drain(stretch(length, random))),
        2 => {
            let part = bytes[stretch(length, random)].to_vec();
            let at = place(length, random);
            bytes.splice(at..at, part);
        }
        3 => {
            let at = place(length, random);
            bytes.insert(at, random.random());
        }
        _ if length > 0 => {
            let at = random.random_range(0..length);
            bytes[at] = if random.random() { random.random() } else { bytes[at] ^ 1 << random.random_range(0..8) };
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn mutations_say_the_same_each_time_and_keep_to_the_length() {
        for (shape, input) in [
            (Shape::Wire, vec![8, 150, 1, 18, 2, 8, 1]),
            (Shape::Text, b"a:\n  - b\n".to_vec()),
            (Shape::Bytes, vec![1, 2, 3]),
            (Shape::Wire, vec![]),
            (Shape::Text, vec![]),
        ] {
            let run = || {
                let (mut random, mut all) = (StdRng::seed_from_u64(7), vec![]);
                for _ in 0..2_000 {
                    let mut bytes = input.clone();
                    mutate(shape, &mut bytes, 5_000, &mut random);
                    assert!(bytes.len() <= 5_000);
                    all.push(bytes);
                }
                all
            };
            let all = run();
            assert_eq!(all, run());
            assert!(all.iter().filter(|bytes| **bytes != input).count() > 300, "{shape:?}");
        }
    }
}
