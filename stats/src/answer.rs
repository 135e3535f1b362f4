//! Why a question has no answer, and the level at which questions are answered.

/// Why the numbers allow no answer. Never a number that stands for one: no data must not look like no effect.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum NoAnswer {
    /// An arm has too few units, or there are too few clusters.
    #[error("there are {found}, and {needed} are needed")]
    TooFew {
        /// Units, clusters or pairs.
        found: u64,
        /// That many at least.
        needed: u64,
    },
    /// All units are equal, so that nothing can be said of chance.
    #[error("the numbers do not vary")]
    NoVariance,
    /// A relative effect, on a control that is zero.
    #[error("the control is zero, so that no effect can be relative to it")]
    ZeroControl,
    /// A ratio whose denominator is zero.
    #[error("the denominator of a ratio is zero")]
    ZeroDenominator,
    /// Something is infinite or not a number.
    #[error("a number is infinite or none")]
    NotFinite,
    /// There is no such measure in the sums.
    #[error("there is no measure {index} among {dimension}")]
    NoMeasure {
        /// The one asked for, from 0.
        index: usize,
        /// How many there are.
        dimension: usize,
    },
    /// Two sums are of different measures, or two lists of different lengths.
    #[error("what is compared is not of the same dimension")]
    Unlike,
    /// A level or a power is not between 0 and 1, or a tuning sample is not positive.
    #[error("a level must be between 0 and 1, and a tuning sample positive")]
    Level,
    /// Shares are not positive, or do not fit the arms.
    #[error("shares must be positive, one for each arm")]
    Shares,
}

/// At which level, and where a sequence is tightest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// The false alarms allowed over all looks, as a share: 0.05.
    alpha: f64,
    /// N*: how many units (both arms) a sequence is tuned for. It is valid at any number and tightest about here.
    tuning: f64,
    /// Units that the smaller arm must have before a sequence says anything.
    first_look: u64,
}

impl Level {
    /// The tuning sample that other engines take.
    pub const TUNING: f64 = 5_000.0;

    /// Units of the smaller arm before which a sequence says nothing. It is valid in the limit only: with fewer, a mean of
    /// skewed numbers (as times and sizes are) is not near enough to normal, and A/A tests raise too many alarms.
    pub const FIRST_LOOK: u64 = 300;

    /// A level, and the number of units at which a sequence is to be tightest.
    ///
    /// # Errors
    /// If `alpha` is not between 0 and 1/2 (above which a one-sided sequence has no tuning), or `tuning` not positive.
    pub fn new(alpha: f64, tuning: f64) -> Result<Self, NoAnswer> {
        let sound = alpha > 0.0 && alpha < 0.5 && tuning > 0.0 && tuning.is_finite();
        if sound { Ok(Self { alpha, tuning, first_look: Self::FIRST_LOOK }) } else { Err(NoAnswer::Level) }
    }

    /// The same, tuned for another number of units.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn tuned_for(self, tuning: f64) -> Result<Self, NoAnswer> {
        Ok(Self { first_look: self.first_look, ..Self::new(self.alpha, tuning)? })
    }

    /// The same with another [`Level::FIRST_LOOK`].
    #[must_use]
    pub fn looking_from(self, first_look: u64) -> Self {
        Self { first_look, ..self }
    }

    /// Units of the smaller arm before which a sequence says nothing.
    #[must_use]
    pub fn first_look(&self) -> u64 {
        self.first_look
    }

    /// The false alarms allowed, as a share.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The tuning sample.
    #[must_use]
    pub fn tuning(&self) -> f64 {
        self.tuning
    }

    /// The level at which each of `contrasts` is asked, so that all together keep this one (Bonferroni).
    #[must_use]
    pub fn divided(&self, contrasts: usize) -> Self {
        Self { alpha: self.alpha / contrasts.max(1) as f64, ..*self }
    }
}

/// The finite number, or that it is none.
pub(crate) fn finite(value: f64) -> Result<f64, NoAnswer> {
    if value.is_finite() { Ok(value) } else { Err(NoAnswer::NotFinite) }
}

/// That there are enough.
pub(crate) fn enough(found: u64, needed: u64) -> Result<(), NoAnswer> {
    if found >= needed { Ok(()) } else { Err(NoAnswer::TooFew { found, needed }) }
}
