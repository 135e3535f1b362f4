//! From what to put outcomes together: days, hours and minutes that are up to date, and cells for the rest. Pure.

use std::collections::BTreeSet;

use super::{Bucket, Level};

/// A stretch of time and what is read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `None`: cells.
    pub level: Option<Level>,
    /// The first second.
    pub from_s: i64,
    /// The first second after it.
    pub to_s: i64,
}

/// Covers [from_s, to_s) without gap or overlap, in order: wherever there is a longer bucket it is taken.
#[must_use]
pub fn cover(from_s: i64, to_s: i64, buckets: &[Bucket]) -> Vec<Segment> {
    let mut taken: BTreeSet<(i64, i64, Level)> = BTreeSet::new();
    for level in Level::ALL.into_iter().rev() {
        let of_level = buckets.iter().filter(|bucket| bucket.level == level);
        for bucket in of_level.filter(|bucket| bucket.start_s >= from_s && bucket.end_s() <= to_s) {
            // Longer ones are aligned to multiples of the shorter: they hold this one, or have nothing of it.
            let before = taken.range(..=(bucket.start_s, i64::MAX, Level::Day)).next_back();
            if before.is_none_or(|(_, end_s, _)| *end_s <= bucket.start_s) {
                taken.insert((bucket.start_s, bucket.end_s(), level));
            }
        }
    }
    let mut segments = vec![];
    let mut at_s = from_s;
    for (start_s, end_s, level) in taken {
        append(&mut segments, None, at_s, start_s);
        append(&mut segments, Some(level), start_s, end_s);
        at_s = end_s;
    }
    append(&mut segments, None, at_s, to_s);
    segments
}

/// Adds a stretch of time to the last segment, or as a new one.
fn append(segments: &mut Vec<Segment>, level: Option<Level>, from_s: i64, to_s: i64) {
    if from_s >= to_s {
        return;
    }
    match segments.last_mut() {
        Some(last) if last.level == level => last.to_s = to_s,
        _ => segments.push(Segment { level, from_s, to_s }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(level: Level, number: i64) -> Bucket {
        Bucket { level, start_s: number * i64::from(level.length_s()) }
    }

    #[test]
    fn the_longest_are_taken_and_cells_fill_the_gaps() {
        let minutes = (0..180).filter(|number| *number != 70).map(|number| bucket(Level::Minute, number));
        let buckets: Vec<_> = minutes.chain([bucket(Level::Hour, 0)]).collect();
        let segment = |level, from_s, to_s| Segment { level, from_s, to_s };
        assert_eq!(
            cover(0, 7_230, &buckets),
            [
                segment(Some(Level::Hour), 0, 3_600),
                segment(Some(Level::Minute), 3_600, 4_200),
                segment(None, 4_200, 4_260),
                segment(Some(Level::Minute), 4_260, 7_200),
                segment(None, 7_200, 7_230),
            ]
        );
        // An hour that is not asked for as a whole is not taken.
        assert_eq!(cover(60, 120, &buckets), [segment(Some(Level::Minute), 60, 120)]);
        assert_eq!(cover(5, 5, &buckets), []);
    }

    proptest! {
        #[test]
        fn every_second_is_read_once(
            from_s in 0_i64..200_000,
            length_s in 0_i64..200_000,
            numbers in prop::collection::vec((0_usize..3, 0_i64..3_000), 0..60),
        ) {
            let buckets: Vec<_> = numbers.iter().map(|(level, number)| bucket(Level::ALL[*level], *number)).collect();
            let segments = cover(from_s, from_s + length_s, &buckets);
            let mut at_s = from_s;
            for Segment { level, from_s, to_s } in segments.clone() {
                prop_assert_eq!(from_s, at_s);
                prop_assert!(to_s > from_s);
                at_s = to_s;
                let Some(level) = level else { continue };
                let mut whole = (from_s..to_s).step_by(level.length_s() as usize).map(|start_s| Bucket { level, start_s });
                let there = whole.all(|bucket| buckets.contains(&bucket));
                prop_assert!(there, "{:?} is not merged", segments);
            }
            prop_assert_eq!(at_s, from_s + length_s);
        }
    }
}
