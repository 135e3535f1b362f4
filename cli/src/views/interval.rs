//! Intervals as drawings: of text for a terminal, as positions for anything else. Pure.

/// Columns of a drawing; odd, so that no effect has one of its own, in the middle.
pub const WIDTH: usize = 31;

/// From where to where a drawing goes: as far to the left of no effect as to the right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    extent: f64,
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub lower: f64,
    pub effect: f64,
    pub upper: f64,
    /// Where a guardrail's margin is.
    pub margin: Option<f64>,
}

impl Interval {
    /// Whether it can be drawn: bounds may be infinite, but must be numbers in order.
    pub fn is_sound(&self) -> bool {
        self.effect.is_finite() && self.lower <= self.effect && self.effect <= self.upper
    }

    /// How far it is from no effect to its far end; an end that is infinite does not count.
    fn reach(&self) -> f64 {
        let ends = [Some(self.lower), Some(self.upper), Some(self.effect), self.margin];
        ends.into_iter().flatten().filter(|end| end.is_finite()).fold(0.0, |most, end| end.abs().max(most))
    }
}

impl Scale {
    /// One on which all of them can be told: of intervals many times as wide as most others the ends are beyond it.
    pub fn of(intervals: &[Interval]) -> Self {
        let mut reaches: Vec<f64> = intervals.iter().filter(|one| one.is_sound()).map(Interval::reach).collect();
        reaches.sort_by(f64::total_cmp);
        let widest = reaches.last().copied().unwrap_or_default();
        let middle = reaches.get(reaches.len() / 2).copied().unwrap_or_default();
        Self { extent: round_up(widest.min(middle * 4.0)) }
    }

    /// Its right end.
    pub fn extent(&self) -> f64 {
        self.extent
    }

    /// From 0 at the left end to 1 at the right one; what is beyond stands at the end.
    pub fn position(&self, value: f64) -> f64 {
        ((value / self.extent).clamp(-1.0, 1.0) + 1.0) / 2.0
    }

    /// Whether a value is beyond an end.
    pub fn is_beyond(&self, value: f64) -> bool {
        value.abs() > self.extent
    }

    fn column(&self, value: f64) -> usize {
        (self.position(value) * (WIDTH - 1) as f64).round() as usize
    }
}

/// The next of 1, 2, 5, 10, 20 … percent.
fn round_up(reach: f64) -> f64 {
    // Below, differences between arms are of no use to anybody.
    let reach = reach.clamp(0.001, 1e6);
    let power = 10f64.powf(reach.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= reach * (1.0 - 1e-9)).unwrap_or(reach)
}

/// `      ├──────●──────┤  │    ┊     `
pub fn draw(interval: &Interval, scale: &Scale) -> String {
    if !interval.is_sound() {
        return String::new();
    }
    let mut cells = [' '; WIDTH];
    let (left, right) = (scale.column(interval.lower), scale.column(interval.upper));
    cells[left..=right].fill('─');
    cells[right] = '┤';
    cells[left] = '├';
    // Of an interval that is beyond the scale as a whole, one arrow is left.
    if interval.lower < -scale.extent {
        cells[left] = '◄';
    }
    if interval.upper > scale.extent {
        cells[right] = '►';
    }
    let mut mark = |column: usize, beside: char, on_line: char, at_end: char| {
        cells[column] = match cells[column] {
            ' ' => beside,
            '─' => on_line,
            // An end is where it is; that it touches a line is the next thing to be seen.
            '├' | '┤' => at_end,
            other => other,
        };
    };
    mark(WIDTH / 2, '│', '┼', '┼');
    if let Some(margin) = interval.margin.filter(|margin| !scale.is_beyond(*margin)) {
        mark(scale.column(margin), '┊', '╫', '╫');
    }
    if !scale.is_beyond(interval.effect) {
        cells[scale.column(interval.effect)] = '●';
    }
    cells.iter().collect::<String>()
}

/// What stands above the drawings: the ends of the scale, and no effect in the middle.
pub fn heading(scale: &Scale, show: impl Fn(f64) -> String) -> String {
    let (left, right) = (show(-scale.extent()), show(scale.extent()));
    let middle = WIDTH / 2;
    let left = format!("{left:<middle$}");
    format!("{left}0{right:>middle$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(lower: f64, effect: f64, upper: f64, margin: Option<f64>) -> Interval {
        Interval { lower, effect, upper, margin }
    }

    #[track_caller]
    fn drawn(one: Interval, expected: &str) {
        // A column is a percent.
        let text = draw(&one, &Scale { extent: 0.15 });
        assert_eq!(text, expected);
        assert_eq!(text.chars().count(), WIDTH);
    }

    #[test]
    fn an_interval_is_drawn_from_end_to_end() {
        drawn(interval(-0.1, -0.06, -0.02, None), "     ├───●───┤ │               ");
        drawn(interval(0.05, 0.08, 0.12, None), "               │    ├──●───┤   ");
        drawn(interval(-0.05, 0.02, 0.09, None), "          ├────┼─●──────┤      ");
        drawn(interval(0.0, 0.05, 0.1, None), "               ┼────●────┤     ");
        drawn(interval(0.01, 0.01, 0.01, None), "               │●              ");
    }

    #[test]
    fn a_margin_is_seen_beside_an_interval_and_in_it() {
        drawn(interval(-0.05, 0.0, 0.03, Some(0.05)), "          ├────●──┤ ┊          ");
        drawn(interval(-0.05, 0.0, 0.09, Some(0.05)), "          ├────●────╫───┤      ");
        drawn(interval(-0.09, -0.01, 0.03, Some(-0.05)), "      ├───╫───●┼──┤            ");
    }

    #[test]
    fn what_goes_on_beyond_the_scale_has_an_arrow() {
        drawn(interval(f64::NEG_INFINITY, 0.02, 0.1, None), "◄──────────────┼─●───────┤     ");
        drawn(interval(0.1, 0.13, 0.9, None), "               │         ├──●─►");
        drawn(interval(0.5, 0.6, 0.9, None), "               │              ►");
        drawn(interval(-0.9, -0.6, -0.5, None), "◄              │               ");
    }

    #[test]
    fn what_is_no_interval_is_not_drawn() {
        for (lower, effect, upper) in
            [(f64::NAN, 0.0, 1.0), (0.0, f64::NAN, 1.0), (1.0, 0.0, 2.0), (0.0, 0.0, f64::NAN)]
        {
            assert_eq!(draw(&interval(lower, effect, upper, None), &Scale { extent: 1.0 }), "");
        }
    }

    #[test]
    fn one_wide_interval_does_not_hide_the_others() {
        let narrow = interval(-0.012, 0.0, 0.012, None);
        let all = [narrow, narrow, interval(-9.0, 0.0, 9.0, None)];
        assert_eq!(Scale::of(&all).extent(), 0.05);
        assert_eq!(Scale::of(&[narrow]).extent(), 0.02);
        assert_eq!(Scale::of(&[interval(-0.01, 0.0, 0.01, Some(0.05))]).extent(), 0.05);
        assert_eq!(Scale::of(&[]).extent(), 0.001);
        assert_eq!(Scale::of(&[interval(f64::MIN, 0.0, f64::MAX, None)]).extent(), 1e6);
    }

    #[test]
    fn the_heading_is_as_wide_as_what_it_stands_above() {
        let text = heading(&Scale { extent: 0.2 }, crate::views::amount::round_relative);
        assert_eq!(text, "-20%           0           +20%");
        assert_eq!(text.chars().count(), WIDTH);
    }
}
