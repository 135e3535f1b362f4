//! A DDSketch of non-negative numbers: quantiles within 1% of the true value.
//!
//! The bins have fixed borders, powers of gamma, and none is ever collapsed, so merging is exact, associative and
//! independent of order: sketches of nodes, intervals and restarts can be added in any way. Only bins in use are kept;
//! most cells see few distinct values.

/// A quantile is at most this far from the true value, relative to it.
pub const RELATIVE_ERROR: f64 = 0.01;

/// The bin of the least and the greatest number told apart: gamma^-1024 is about 1e-9, gamma^2071 about 1e18.
const KEY_MIN: i32 = -1_024;
const KEY_MAX: i32 = 2_071;

/// No sketch takes more bytes than this.
pub const SKETCH_BYTES_MAX: usize = 1 + VARINT_BYTES_MAX * 2 + BINS_MAX * (2 + VARINT_BYTES_MAX);

const BINS_MAX: usize = (KEY_MAX - KEY_MIN + 1) as usize;
const VARINT_BYTES_MAX: usize = 10;
const FORM: u8 = 1;

/// Counts of numbers by size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sketch {
    /// Numbers below the first bin: zero, in practice.
    zeros: u64,
    /// Ascending by bin, counts above zero. The bin counts from [`KEY_MIN`].
    bins: Vec<(u16, u64)>,
    /// All of the above.
    count: u64,
}

/// Why bytes are no [`Sketch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SketchError {
    /// They end too early.
    #[error("sketch ends too early")]
    Truncated,
    /// They go on after the end.
    #[error("sketch goes on after its end")]
    Trailing,
    /// They have another form.
    #[error("unknown form {0} of a sketch")]
    Form(u8),
    /// A number has more than 64 bits.
    #[error("a number in a sketch has more than 64 bits")]
    Varint,
    /// There are more bins than exist, or they do not ascend, or one lies outside.
    #[error("bins of a sketch do not ascend within their range")]
    Bins,
    /// A bin is empty, or all together are too many.
    #[error("counts of a sketch are zero or too great")]
    Counts,
}

fn gamma_ln() -> f64 {
    ((1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)).ln()
}

/// The bin of a number; `None` if it is too small for any.
fn bin(value: f64) -> Option<u16> {
    // Not a number counts as zero, too.
    let key = if value > 0.0 { (value.ln() / gamma_ln()).floor() } else { f64::NEG_INFINITY };
    // A float becomes the nearest integer there is, so infinity is in the last bin.
    (key >= f64::from(KEY_MIN)).then(|| ((key as i32).min(KEY_MAX) - KEY_MIN) as u16)
}

/// The number in the middle of a bin, with equal relative distance to both ends.
fn middle(bin: u16) -> f64 {
    let low = (f64::from(i32::from(bin) + KEY_MIN) * gamma_ln()).exp();
    low * (1.0 + RELATIVE_ERROR)
}

impl Sketch {
    /// How many numbers.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bins are in use: what a sketch costs in memory.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.bins.len()
    }

    /// Adds a number. What is negative or no number counts as zero.
    pub fn add(&mut self, value: f64) {
        self.count = self.count.saturating_add(1);
        match bin(value) {
            Some(bin) => self.raise(bin, 1),
            None => self.zeros = self.zeros.saturating_add(1),
        }
    }

    /// Adds the numbers of another.
    pub fn merge(&mut self, other: &Self) {
        let Self { zeros, bins, count } = other;
        self.count = self.count.saturating_add(*count);
        self.zeros = self.zeros.saturating_add(*zeros);
        bins.iter().for_each(|(bin, count)| self.raise(*bin, *count));
    }

    fn raise(&mut self, bin: u16, by: u64) {
        match self.bins.binary_search_by_key(&bin, |entry| entry.0) {
            Ok(at) => self.bins[at].1 = self.bins[at].1.saturating_add(by),
            Err(at) => self.bins.insert(at, (bin, by)),
        }
    }

    /// The number below which a share `q` of all numbers lies; `None` if there are none or `q` is not in 0..=1.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 || !(0.0..=1.0).contains(&q) {
            return None;
        }
        let rank = (q * (self.count - 1) as f64) as u64;
        let mut seen = self.zeros;
        if rank < seen {
            return Some(0.0);
        }
        for (bin, count) in &self.bins {
            seen = seen.saturating_add(*count);
            if rank < seen {
                return Some(middle(*bin));
            }
        }
        // Above 2^53 the rank is rounded and may lie after the last number.
        Some(self.bins.last().map_or(0.0, |last| middle(last.0)))
    }

    /// The sketch as bytes: nothing for an empty one, else a form byte, the zeros, the number of bins, and for each the
    /// distance from the bin before and its count, all as LEB128.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.count == 0 {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(4 + 3 * self.bins.len());
        bytes.push(FORM);
        put(&mut bytes, self.zeros);
        put(&mut bytes, self.bins.len() as u64);
        let mut free = 0;
        for (bin, count) in &self.bins {
            put(&mut bytes, u64::from(bin - free));
            put(&mut bytes, *count);
            free = bin + 1;
        }
        bytes
    }

    /// Reads what [`Sketch::to_bytes`] wrote. Takes any bytes: work and memory are bounded by their length.
    ///
    /// # Errors
    /// If it did not write these.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, SketchError> {
        let Some((form, rest)) = bytes.split_first() else {
            return Ok(Self::default());
        };
        if *form != FORM {
            return Err(SketchError::Form(*form));
        }
        bytes = rest;
        let zeros = take(&mut bytes)?;
        let length = take(&mut bytes)?;
        if length > BINS_MAX as u64 {
            return Err(SketchError::Bins);
        }
        // A bin takes two bytes at least: the announced length alone reserves no memory.
        let mut bins = Vec::with_capacity((length as usize).min(bytes.len() / 2));
        let mut count = zeros;
        let mut free = 0_u64;
        for _ in 0..length {
            let bin = take(&mut bytes)?.checked_add(free).filter(|bin| *bin < BINS_MAX as u64);
            let bin = bin.ok_or(SketchError::Bins)?;
            let here = take(&mut bytes)?;
            count = count.checked_add(here).filter(|_| here > 0).ok_or(SketchError::Counts)?;
            bins.push((bin as u16, here));
            free = bin + 1;
        }
        if !bytes.is_empty() {
            return Err(SketchError::Trailing);
        }
        // An empty sketch has one form only.
        if count == 0 {
            return Err(SketchError::Counts);
        }
        Ok(Self { zeros, bins, count })
    }
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Result<u64, SketchError> {
    let mut value = 0;
    for at in 0..VARINT_BYTES_MAX {
        let (byte, rest) = bytes.split_first().ok_or(SketchError::Truncated)?;
        *bytes = rest;
        if at == VARINT_BYTES_MAX - 1 && *byte > 1 {
            return Err(SketchError::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(SketchError::Varint)
}

#[cfg(test)]
mod tests;
