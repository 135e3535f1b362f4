//! Mutations of texts: lines and stretches that come twice or are lacking, signs that mean something in YAML and JSON, numbers at
//! their ends, lists and mappings deep in each other, and aliases upon aliases.

use rand::{Rng, RngExt};

use super::{of_bytes, place, stretch};

const WORDS: [&str; 44] = [
    "[",
    "]",
    "{",
    "}",
    ":",
    ": ",
    ",",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "|\n",
    ">\n",
    "?\n",
    "---\n",
    "null",
    "~",
    "true",
    "0",
    "-1",
    "1e999",
    ".nan",
    "18446744073709551616",
    "-9223372036854775809",
    "0x7f",
    "@",
    "@1",
    "/",
    "..",
    ".",
    "%",
    "=",
    "\\u0000",
    "\u{0}",
    "ä",
    "\u{202e}",
    "\u{10ffff}",
];
const DEPTH_MAX: usize = 2_000;

pub(super) fn mutate(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    let length = bytes.len();
    let at = place(length, random);
    match random.random_range(0..8) {
        0 | 1 => insert(bytes, at, WORDS[random.random_range(0..WORDS.len())]),
        2 => {
            let part = bytes[stretch(length, random)].to_vec();
            let times = if random.random_ratio(1, 8) { random.random_range(2..50) } else { 1 };
            bytes.splice(at..at, part.repeat(times));
        }
        3 => twice(bytes, random),
        4 if random.random_ratio(1, 4) => {
            let word = ["[", "{a: ", "- ", "{\"a\":", "(", "\"", "&a [*a, ", "? "][random.random_range(0..8)];
            insert(bytes, at, &word.repeat(random.random_range(1..DEPTH_MAX)));
        }
        5 if random.random_ratio(1, 8) => insert(bytes, at, &aliases(random.random_range(2..12), random)),
        _ => of_bytes(bytes, random),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, word: &str) {
    bytes.splice(at..at, word.bytes());
}

/// A line is said twice, or left out.
fn twice(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    let mut lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return;
    }
    let line = lines.remove(random.random_range(0..lines.len()));
    if random.random() {
        let at = place(lines.len(), random);
        lines.splice(at..at, [line.clone(), line]);
    }
    *bytes = lines.concat();
}

/// Each is ten of the one before.
fn aliases(levels: usize, random: &mut impl Rng) -> String {
    let mut text = "\na0: &a0 [x, x]\n".to_owned();
    for level in 1..levels {
        let of = vec![format!("*a{}", level - 1); random.random_range(2..11)].join(", ");
        text += &format!("a{level}: &a{level} [{of}]\n");
    }
    text
}
