//! Several p-values at once: adjusted so that the chance of any false alarm (Holm), or the share of false ones among all that
//! are called (Benjamini and Hochberg), stays at the level.
//!
//! For success measures. Guardrails are not adjusted: all of them have to pass, which no number of looks makes easier.

/// Holm's adjusted p-values (Scandinavian Journal of Statistics, 1979), in the order given.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let count = p.len();
    let mut adjusted = vec![0.0; count];
    let mut least = 0.0_f64;
    for (rank, at) in ascending(p).into_iter().enumerate() {
        least = least.max(sound(p[at]) * (count - rank) as f64).min(1.0);
        adjusted[at] = least;
    }
    adjusted
}

/// Benjamini and Hochberg's adjusted p-values (Journal of the Royal Statistical Society B, 1995), in the order given.
#[must_use]
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let count = p.len();
    let mut adjusted = vec![0.0; count];
    let mut most = 1.0_f64;
    for (rank, at) in ascending(p).into_iter().enumerate().rev() {
        most = most.min(sound(p[at]) * count as f64 / (rank + 1) as f64);
        adjusted[at] = most;
    }
    adjusted
}

/// What is no probability counts as one of no evidence.
fn sound(p: f64) -> f64 {
    if (0.0..=1.0).contains(&p) { p } else { 1.0 }
}

fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|one, other| sound(p[*one]).total_cmp(&sound(p[*other])));
    order
}
