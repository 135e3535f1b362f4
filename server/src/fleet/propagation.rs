//! The way of a change to the nodes: how long each stage of it took, and how far behind nodes are. Pure: clocks are arguments.

use std::{
    iter::zip,
    time::{Duration, Instant},
};

use crate::metrics::{BEHIND_S, NodeStages, Stages};

/// When a change was where, on its way to a node that has confirmed it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    pub committed: Instant,
    /// To this server.
    pub known: Instant,
    /// Taken by the transport.
    pub sent: Instant,
}

/// What a node says took longer than there was time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node says that its stages took {told:?}, but was waited for {waited:?} only")]
pub struct Absurd {
    told: Duration,
    waited: Duration,
}

impl Way {
    /// When the answer could have come that came now, after it was put off. Not before it was asked for, whatever a node says.
    #[must_use]
    pub fn answered(&self, now: Instant, put_off: Duration) -> Instant {
        now.checked_sub(put_off).map_or(self.sent, |answered| answered.max(self.sent))
    }

    /// How long the whole of it took.
    #[must_use]
    pub fn whole(&self, answered: Instant) -> Duration {
        answered.saturating_duration_since(self.committed)
    }

    /// How long each stage took. The node says of its own; what it does not account for was on the wire.
    ///
    /// # Errors
    /// If it says more than can be.
    pub fn stages(&self, answered: Instant, node: Option<NodeStages>) -> Result<Stages, Absurd> {
        let Self { committed, known, sent } = *self;
        let waited = answered.saturating_duration_since(sent);
        let told = node.map_or(Duration::ZERO, |NodeStages { wait, compile, write, install }| {
            [wait, compile, write, install].into_iter().fold(Duration::ZERO, Duration::saturating_add)
        });
        // Two machines do not agree on how long a second is.
        if told > waited + waited / 100 {
            return Err(Absurd { told, waited });
        }
        Ok(Stages {
            known: known.saturating_duration_since(committed),
            queued: sent.saturating_duration_since(known),
            wire: waited.saturating_sub(told),
            node,
        })
    }
}

/// How far some nodes are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behind {
    /// How many, for longer than each of [`BEHIND_S`].
    pub nodes: [usize; BEHIND_S.len()],
    /// The longest.
    pub max: Duration,
}

impl Behind {
    /// A node that lacks what was committed so long ago.
    pub fn add(&mut self, age: Duration) {
        for (nodes, longer_than_s) in zip(&mut self.nodes, BEHIND_S) {
            *nodes += usize::from(age > Duration::from_secs(longer_than_s));
        }
        self.max = self.max.max(age);
    }

    /// Of all these nodes together.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        parts.into_iter().fold(Self::default(), |mut all, Self { nodes, max }| {
            zip(&mut all.nodes, nodes).for_each(|(all, nodes)| *all += nodes);
            all.max = all.max.max(*max);
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn node(install: Duration) -> NodeStages {
        NodeStages { wait: MS, compile: 2 * MS, write: 3 * MS, install }
    }

    #[test]
    fn stages_are_the_whole_way() {
        let committed = Instant::now();
        let way = Way { committed, known: committed + 5 * MS, sent: committed + 7 * MS };
        let answered = committed + 27 * MS;
        let stages = way.stages(answered, Some(node(4 * MS))).expect("there was time");
        assert_eq!(
            stages,
            Stages { known: 5 * MS, queued: 2 * MS, wire: 10 * MS, node: Some(node(4 * MS)) },
            "what nobody accounts for was on the wire"
        );
        assert_eq!(stages.known + stages.queued + stages.wire + 10 * MS, way.whole(answered));
        assert_eq!(way.stages(answered, None).expect("it does not say").wire, 20 * MS);
    }

    #[test]
    fn what_was_put_off_is_no_part_of_the_way() {
        let committed = Instant::now();
        let way = Way { committed, known: committed, sent: committed + 2 * MS };
        let now = committed + 500 * MS;
        assert_eq!(way.whole(way.answered(now, 480 * MS)), 20 * MS);
        assert_eq!(way.answered(now, Duration::from_micros(u64::from(u32::MAX))), way.sent, "absurd");
    }

    #[test]
    fn nobody_takes_longer_than_was_waited() {
        let committed = Instant::now();
        let way = Way { committed, known: committed, sent: committed };
        let answered = committed + 1_000 * MS;
        assert!(way.stages(answered, Some(node(Duration::from_micros(u64::from(u32::MAX))))).is_err());
        assert!(way.stages(answered, Some(node(1_005 * MS))).is_err());
        let stages = way.stages(answered, Some(node(999 * MS))).expect("a clock that goes a little faster");
        assert_eq!(stages.wire, Duration::ZERO);
    }

    #[test]
    fn nodes_are_counted_by_how_far_they_are_behind() {
        let (mut some, mut others) = (Behind::default(), Behind::default());
        some.add(MS);
        some.add(Duration::from_secs(61));
        others.add(Duration::from_secs(2));
        let all = Behind::of([&some, &others, &Behind::default()]);
        assert_eq!(all, Behind { nodes: [3, 2, 1, 1, 0], max: Duration::from_secs(61) });
    }
}
