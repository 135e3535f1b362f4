//! A small deterministic generator (SplitMix64), so that a loss pattern is the same in every run.

/// The generator; its state is its seed.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// True in `share` of the cases (0 to 1).
    pub fn chance(&mut self, share: f64) -> bool {
        const SPAN: f64 = (1_u64 << 53) as f64;
        ((self.bits() >> 11) as f64) < share * SPAN
    }

    /// Between 0 and 1, and neither.
    pub fn share(&mut self) -> f64 {
        const SPAN: f64 = (1_u64 << 52) as f64;
        ((self.bits() >> 12) as f64 + 0.5) / SPAN
    }

    /// A standard normal deviate (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.share().ln()).sqrt() * (std::f64::consts::TAU * self.share()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn chances_come_true_as_often_as_they_should_and_are_the_same_every_time() {
        let draw = |seed| {
            let mut random = Random(seed);
            (0..100_000).filter(|_| random.chance(0.1)).count()
        };
        assert!((9_700..10_300).contains(&draw(1)), "{}", draw(1));
        assert_eq!(draw(7), draw(7));
        assert_eq!((0..100).filter(|_| Random(3).chance(1.0)).count(), 100);
        assert_eq!((0..100).filter(|_| Random(3).chance(0.0)).count(), 0);
    }
}
