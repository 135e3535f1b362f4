//! Guardrails: is the treatment at most a margin worse than the control?
//!
//! Significance is the wrong question of a guardrail: a small sample finds no significant harm, and so would pass.

use crate::{Contrast, Estimate, Level, NoAnswer, Sides, answer::finite, sequence};

/// Which change of a measure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// How much worse is still tolerated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// As a share of the control's value: 0.02.
    Relative(f64),
    /// In the measure's unit.
    Absolute(f64),
    /// As a share of the control's value, or in the measure's unit where that is more: of rare events, of which a share of the
    /// control's is next to nothing. Passes if the harm is below one of the two, fails if it is above both, so that each has the level of a
    /// test by the greater one. Has an answer where the control is zero.
    Within {
        /// As a share of the control's value.
        share: f64,
        /// In the measure's unit.
        or: f64,
    },
}

/// What is known about a guardrail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The harm is below the margin.
    Pass,
    /// The harm is above the margin.
    Fail,
    /// Neither is known yet. Never a pass.
    Inconclusive,
}

/// What is known, and by what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NonInferiority {
    /// The verdict on this guardrail.
    pub standing: Standing,
    /// The effect, with its sign: relative or absolute, as the margin is.
    pub estimate: Estimate,
    /// The harm is at most this (valid at every look, one-sided); below zero it is an improvement.
    pub harm_at_most: f64,
    /// The harm is at least this (likewise).
    pub harm_at_least: f64,
    /// The margin, in the same unit.
    pub margin: f64,
}

/// Judges a guardrail. `level` is the guardrail's own: it is not divided among guardrails, because all of them must pass.
///
/// # Errors
/// If the margin is negative or no number, or the contrast has no relative effect and needs one.
pub fn non_inferiority(
    contrast: &Contrast,
    direction: Direction,
    margin: Margin,
    level: &Level,
) -> Result<NonInferiority, NoAnswer> {
    match margin {
        Margin::Relative(margin) => by(contrast.relative?.estimate, direction, margin, level),
        Margin::Absolute(margin) => by(contrast.absolute.estimate, direction, margin, level),
        Margin::Within { share, or } => {
            let absolute = by(contrast.absolute.estimate, direction, or, level)?;
            let Ok(relative) = contrast.relative else { return Ok(absolute) };
            let relative = by(relative.estimate, direction, share, level)?;
            // Of two that say the same the one of the greater margin is shown.
            let absolute_decides = contrast.control.abs() * share < or;
            Ok(match (absolute.standing, relative.standing) {
                (Standing::Pass, other) if other != Standing::Pass => absolute,
                (other, Standing::Pass) if other != Standing::Pass => relative,
                (Standing::Fail, Standing::Inconclusive) => relative,
                (Standing::Inconclusive, Standing::Fail) => absolute,
                _ if absolute_decides => absolute,
                _ => relative,
            })
        }
    }
}

fn by(estimate: Estimate, direction: Direction, margin: f64, level: &Level) -> Result<NonInferiority, NoAnswer> {
    if finite(margin)? < 0.0 {
        return Err(NoAnswer::Level);
    }
    let lower = sequence::interval(&estimate, level, Sides::Lower)?.lower;
    let upper = sequence::interval(&estimate, level, Sides::Upper)?.upper;
    let (harm_at_least, harm_at_most) = match direction {
        Direction::Higher => (-upper, -lower),
        Direction::Lower => (lower, upper),
    };
    let standing = if harm_at_most < margin {
        Standing::Pass
    } else if harm_at_least > margin {
        Standing::Fail
    } else {
        Standing::Inconclusive
    };
    Ok(NonInferiority { standing, estimate, harm_at_most, harm_at_least, margin })
}
