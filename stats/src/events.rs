//! Events: failed connections, resets, segments sent again. None of many is data, too.
//!
//! Where nothing happened the numbers do not vary, and a variance of zero would say that nothing ever can. Where little happened they
//! vary too little: by one event seen the estimate of a rate can be far below the rate, and with it its error, so that of 5 in 10,000 too many
//! a guardrail by the plain variance sees "at most that" in most experiments, sooner or later. So in what counts events each arm's
//! variance is raised by that of some events more, (k / units)^2:
//!
//! - k = [`EVENTS`] where units are independent,
//! - k = [`EVENTS_OF_CLUSTERS`] over clusters, where events come together.
//!
//! The idea is that of Agresti and Caffo ("Simple and effective confidence intervals for proportions and differences of proportions
//! result from adding two successes and two failures", The American Statistician 54, 2000), but values stay what they are: nothing is moved towards one
//! half, and of many events none of it is left. What follows is that
//!
//! - no event in either arm is an answer: by about 9 / margin units of each (a few more over few clusters) a harm of the margin is excluded;
//! - an event more in the treatment never makes it easier to pass;
//! - false passes of a harm that is just the margin are at most 5% over all looks, at rates of 1 in 2,000 to 1 in 20, of arms as different as 1
//!   in 10 (`tests::a_harm_of_the_margin_does_not_pass`); over clusters whose rates differ by their mean (exponentially), about that.
//!
//! What it cannot see: a harm that whole clusters have or have not. Of 30 nodes without an event all that is known of nodes is
//! that not one in ten is like that (three by their number).
//!
//! A gate on failed connections is thus [`contrast`] and [`crate::noninferiority::non_inferiority`] with
//! [`Margin::Within`](crate::noninferiority::Margin::Within), which has an answer where the control has none.

use crate::{CoMoments, Contrast, Covariate, Errors, Kind, Level, NoAnswer, contrast::ask};

/// Events by which each arm's variance is raised, of independent units.
pub const EVENTS: f64 = 2.0;

/// The same over clusters.
pub const EVENTS_OF_CLUSTERS: f64 = 3.0;

/// What a measure's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Times, sizes, rates: what does not vary says nothing of how it would.
    Any,
    /// Numbers of events, or whether there was one.
    Events,
}

impl Numbers {
    pub(crate) fn events(self, of_clusters: bool) -> f64 {
        match (self, of_clusters) {
            (Self::Any, _) => 0.0,
            (Self::Events, false) => EVENTS,
            (Self::Events, true) => EVENTS_OF_CLUSTERS,
        }
    }
}

/// As [`crate::contrast()`], of a measure that counts events: the mean of a number of them, a proportion, or a ratio with a number of events
/// above. Has an answer also where nothing varies.
///
/// # Errors
/// If an arm has fewer than two units or clusters, or none of what a ratio is of, or if there is no such measure.
pub fn contrast(
    control: &CoMoments,
    treatment: &CoMoments,
    kind: Kind,
    covariate: Option<Covariate>,
    errors: Errors<'_>,
    level: &Level,
) -> Result<Contrast, NoAnswer> {
    ask((control, treatment), kind, covariate, errors, Numbers::Events, level)
}

#[cfg(test)]
mod tests;
