//! Outcomes of connections over nodes and time. Cells of single nodes are merged by minute, hour and day ([`roll_up`]), and kept for
//! a time and within a bound of the disk ([`retention`]); what is asked for is put together from as few of them as there can be
//! ([`cover`]).

pub mod cover;
pub mod query;
pub mod report;
pub mod retention;
pub mod roll_up;

/// A length of time over which cells are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Made of cells.
    Minute,
    /// Made of minutes.
    Hour,
    /// Made of hours.
    Day,
}

impl Level {
    /// Shortest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Seconds.
    #[must_use]
    pub fn length_s(self) -> i32 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// The level with so many seconds.
    #[must_use]
    pub fn of(length_s: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.length_s() == length_s)
    }

    /// The next longer one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|level| *level > self)
    }

    /// The one that it is made of; `None`: cells.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|level| *level < self)
    }

    /// The first second of the stretch of time that a second is in.
    #[must_use]
    pub fn start_of(self, second: i64) -> i64 {
        second - second.rem_euclid(self.length_s().into())
    }
}

/// A stretch of time over which cells are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// How long it is.
    pub level: Level,
    /// Its first second.
    pub start_s: i64,
}

impl Bucket {
    /// The first second after it.
    #[must_use]
    pub fn end_s(self) -> i64 {
        self.start_s + i64::from(self.level.length_s())
    }
}

/// Since when outcomes are kept, in which detail. Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Cells of single nodes.
    pub cells_from_s: i64,
    pub minutes_from_s: i64,
    pub hours_from_s: i64,
}

impl Kept {
    /// Over what outcomes on both sides of a second are merged; `None` if they can be told apart.
    #[must_use]
    pub fn merged_over(self, edge_s: i64) -> Option<Level> {
        let Self { cells_from_s, minutes_from_s, hours_from_s } = self;
        let levels = [(Level::Day, hours_from_s), (Level::Hour, minutes_from_s), (Level::Minute, cells_from_s)];
        let merged = levels.into_iter().find(|(_, shorter_from_s)| edge_s < *shorter_from_s);
        merged.map(|(level, _)| level).filter(|level| level.start_of(edge_s) != edge_s)
    }
}

/// What a row of outcomes is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub revision: u64,
    /// Which rule or arm.
    pub choice: String,
    /// Number of a `sockpilot.v1.Direction`.
    pub direction: i32,
    /// Number of a `sockpilot.v1.SizeClass`; 0: all together.
    pub size_class: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_made_of_each_other() {
        assert_eq!(Level::Minute.previous(), None);
        assert_eq!(Level::Hour.previous(), Some(Level::Minute));
        assert_eq!(Level::Hour.next(), Some(Level::Day));
        assert_eq!(Level::Day.next(), None);
        assert_eq!(Level::Hour.start_of(-1), -3_600);
        assert_eq!(Level::of(61), None);
    }

    #[test]
    fn what_is_gone_cannot_be_told_apart() {
        let kept = Kept { cells_from_s: 864_000, minutes_from_s: 432_000, hours_from_s: 86_400 };
        let merged = [1, 86_401, 86_400 + 3_600, 432_001, 432_060, 864_001].map(|edge_s| kept.merged_over(edge_s));
        assert_eq!(merged, [Some(Level::Day), Some(Level::Hour), None, Some(Level::Minute), None, None]);
    }
}
