//! Decides whether a run was right, from a history of calls and sights: no acknowledged change is lost, nothing goes back, what was reported
//! is counted once, and all agree in the end. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is revision so and so, the server said.
    Acknowledged(u64),
    /// It was not made, the server said.
    Refused,
    /// Nobody said: it was made, or was not.
    Unknown,
}

/// A change of a policy. Each has a value of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Of the policy.
    pub name: String,
    /// What it sets.
    pub value: u32,
    /// Since the beginning of the run.
    pub invoked: Duration,
    /// When it was known what came of it.
    pub returned: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// Somebody asked for the newest revision of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Of the policy.
    pub name: String,
    /// Since the beginning of the run.
    pub invoked: Duration,
    /// The answer.
    pub revision: u64,
}

/// What a node has in force from a moment on, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which history of the database.
    pub epoch: String,
    /// Which state in it.
    pub generation: u64,
    /// Of the content.
    pub hash: Vec<u8>,
    /// By policy.
    pub revisions: BTreeMap<String, u64>,
}

/// All that was seen of a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All changes that were asked for.
    pub writes: Vec<Write>,
    /// All answers about revisions.
    pub reads: Vec<Read>,
    /// By node.
    pub sights: BTreeMap<String, Vec<Sight>>,
    /// What is in the database in the end: values by policy and revision.
    pub stored: BTreeMap<(String, u64), u32>,
    /// What nodes have counted, by node, and what the database has of it.
    pub counted: BTreeMap<String, u64>,
    /// See above.
    pub reported: BTreeMap<String, u64>,
}

/// What was wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A change was acknowledged and is not there.
    Lost { name: String, revision: u64, value: u32, found: Option<u32> },
    /// A change is there twice.
    Twice { name: String, value: u32 },
    /// What is there was refused, or asked for by nobody.
    Phantom { name: String, revision: u64, value: u32 },
    /// A change that began after another was acknowledged stands before it.
    Overtaken { name: String, earlier: u64, later: u64 },
    /// An answer did not know of a change that had been acknowledged before it was asked for.
    Stale { name: String, acknowledged: u64, answered: u64 },
    /// A node went back within an epoch, or had two contents at one generation.
    WentBack { node: String, from: u64, to: u64 },
    /// A node had an earlier revision after a later one.
    Reverted { node: String, name: String, from: u64, to: u64 },
    /// A node's sum is another than the database's.
    Sum { node: String, counted: u64, reported: u64 },
    /// A node ends with another revision than the newest.
    Behind { node: String, name: String, has: u64, newest: u64 },
}

impl Violation {
    /// Whether it follows from acknowledged changes that are gone, which a new epoch declares.
    #[must_use]
    pub fn is_of_loss(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. } | Self::Overtaken { .. } | Self::Stale { .. } | Self::Reverted { .. } | Self::Sum { .. }
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Everything that was wrong, in order.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = vec![];
    stored(history, &mut found);
    order(history, &mut found);
    for (node, sights) in &history.sights {
        goes_on(node, sights, &mut found);
    }
    sums(history, &mut found);
    agree(history, &mut found);
    found.sort();
    found.dedup();
    found
}

fn stored(history: &History, found: &mut Vec<Violation>) {
    for Write { name, value, outcome, .. } in &history.writes {
        if let Outcome::Acknowledged(revision) = *outcome {
            let there = history.stored.get(&(name.clone(), revision)).copied();
            if there != Some(*value) {
                found.push(Violation::Lost { name: name.clone(), revision, value: *value, found: there });
            }
        }
    }
    let possible: BTreeSet<_> = history
        .writes
        .iter()
        .filter(|write| write.outcome != Outcome::Refused)
        .map(|write| (&write.name, write.value))
        .collect();
    let mut before = BTreeSet::new();
    for ((name, revision), value) in &history.stored {
        if !possible.contains(&(name, *value)) {
            found.push(Violation::Phantom { name: name.clone(), revision: *revision, value: *value });
        }
        if !before.insert((name, value)) {
            found.push(Violation::Twice { name: name.clone(), value: *value });
        }
    }
}

/// Changes and answers by policy, against the greatest revision that was acknowledged before they began.
fn order(history: &History, found: &mut Vec<Violation>) {
    let mut acknowledged: BTreeMap<&str, Vec<(Duration, u64)>> = BTreeMap::new();
    for Write { name, returned, outcome, .. } in &history.writes {
        if let Outcome::Acknowledged(revision) = outcome {
            acknowledged.entry(name).or_default().push((*returned, *revision));
        }
    }
    let greatest_before = |name: &str, moment: Duration| {
        let of_policy = acknowledged.get(name).into_iter().flatten();
        of_policy.filter(|(returned, _)| *returned < moment).map(|(_, revision)| *revision).max().unwrap_or_default()
    };
    for Write { name, invoked, outcome, .. } in &history.writes {
        if let Outcome::Acknowledged(later) = *outcome {
            let earlier = greatest_before(name, *invoked);
            if later <= earlier {
                found.push(Violation::Overtaken { name: name.clone(), earlier, later });
            }
        }
    }
    for Read { name, invoked, revision } in &history.reads {
        let acknowledged = greatest_before(name, *invoked);
        if *revision < acknowledged {
            found.push(Violation::Stale { name: name.clone(), acknowledged, answered: *revision });
        }
    }
}

fn goes_on(node: &str, sights: &[Sight], found: &mut Vec<Violation>) {
    for pair in sights.windows(2) {
        let [before, after] = pair else { continue };
        let (from, to) = (before.generation, after.generation);
        if before.epoch == after.epoch && (to < from || (to == from && before.hash != after.hash)) {
            found.push(Violation::WentBack { node: node.to_owned(), from, to });
        }
        for (name, from) in &before.revisions {
            let to = after.revisions.get(name).copied().unwrap_or_default();
            if to < *from {
                found.push(Violation::Reverted { node: node.to_owned(), name: name.clone(), from: *from, to });
            }
        }
    }
}

fn sums(history: &History, found: &mut Vec<Violation>) {
    let nodes: BTreeSet<_> = history.counted.keys().chain(history.reported.keys()).collect();
    for node in nodes {
        let sum = |of: &BTreeMap<String, u64>| of.get(node).copied().unwrap_or_default();
        let (counted, reported) = (sum(&history.counted), sum(&history.reported));
        if counted != reported {
            found.push(Violation::Sum { node: node.clone(), counted, reported });
        }
    }
}

fn agree(history: &History, found: &mut Vec<Violation>) {
    let newest: BTreeMap<&String, u64> = history.stored.keys().map(|(name, revision)| (name, *revision)).collect();
    for (node, sights) in &history.sights {
        for (name, newest) in &newest {
            let has = sights.last().and_then(|sight| sight.revisions.get(*name)).copied().unwrap_or_default();
            if has != *newest {
                let (node, name, newest) = (node.clone(), (*name).clone(), *newest);
                found.push(Violation::Behind { node, name, has, newest });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &str = "policies/p";

    fn write(value: u32, invoked: u64, returned: u64, outcome: Outcome) -> Write {
        let (invoked, returned) = (Duration::from_secs(invoked), Duration::from_secs(returned));
        Write { name: P.to_owned(), value, invoked, returned, outcome }
    }

    fn sight(epoch: &str, generation: u64, revision: u64) -> Sight {
        let revisions = [(P.to_owned(), revision)].into();
        Sight { epoch: epoch.to_owned(), generation, hash: vec![revision as u8], revisions }
    }

    /// Two changes one after the other, one of which nobody knows, and a node that has seen them.
    fn sound() -> History {
        History {
            writes: vec![
                write(10, 0, 1, Outcome::Acknowledged(1)),
                write(11, 2, 3, Outcome::Unknown),
                write(12, 4, 5, Outcome::Acknowledged(3)),
                write(13, 6, 7, Outcome::Refused),
                write(14, 6, 9, Outcome::Unknown),
            ],
            reads: vec![Read { name: P.to_owned(), invoked: Duration::from_secs(6), revision: 3 }],
            sights: [("n".to_owned(), vec![sight("e", 1, 1), sight("e", 3, 3)])].into(),
            stored: [((P.to_owned(), 1), 10), ((P.to_owned(), 2), 11), ((P.to_owned(), 3), 12)].into(),
            counted: [("n".to_owned(), 7)].into(),
            reported: [("n".to_owned(), 7)].into(),
        }
    }

    fn wrong(change: impl FnOnce(&mut History)) -> Vec<Violation> {
        let mut history = sound();
        change(&mut history);
        check(&history)
    }

    #[test]
    fn a_sound_history_has_nothing_wrong() {
        assert_eq!(check(&sound()), []);
        let made = |history: &mut History| _ = history.stored.insert((P.to_owned(), 2), 14);
        assert_eq!(wrong(made), [], "what nobody knows was made, or was not");
    }

    #[test]
    fn what_is_lost_is_found() {
        let lost = |found| vec![Violation::Lost { name: P.to_owned(), revision: 1, value: 10, found }];
        assert_eq!(wrong(|history| _ = history.stored.remove(&(P.to_owned(), 1))), lost(None));
        let another = wrong(|history| _ = history.stored.insert((P.to_owned(), 1), 14));
        assert_eq!(another, lost(Some(14)));
        assert!(lost(None).iter().all(Violation::is_of_loss));
    }

    #[test]
    fn what_is_there_without_being_asked_for_is_found() {
        for value in [13, 99] {
            let found = wrong(|history| _ = history.stored.insert((P.to_owned(), 2), value));
            assert_eq!(found, [Violation::Phantom { name: P.to_owned(), revision: 2, value }]);
        }
        let twice = wrong(|history| _ = history.stored.insert((P.to_owned(), 2), 10));
        assert_eq!(twice, [Violation::Twice { name: P.to_owned(), value: 10 }]);
    }

    #[test]
    fn order_is_that_of_time() {
        let found = wrong(|history| {
            history.writes[0].outcome = Outcome::Acknowledged(3);
            history.writes[2].outcome = Outcome::Acknowledged(1);
            history.stored.insert((P.to_owned(), 3), 10);
            history.stored.insert((P.to_owned(), 1), 12);
        });
        assert_eq!(found, [Violation::Overtaken { name: P.to_owned(), earlier: 3, later: 1 }]);
        let found = wrong(|history| history.reads[0].revision = 2);
        assert_eq!(found, [Violation::Stale { name: P.to_owned(), acknowledged: 3, answered: 2 }]);
        let at_once =
            wrong(|history| (history.reads[0].revision, history.reads[0].invoked) = (1, Duration::from_secs(4)));
        assert_eq!(at_once, [], "the change was under way");
    }

    #[test]
    fn going_back_is_found() {
        let sights = |sights: Vec<Sight>| wrong(|history| drop(history.sights.insert("n".to_owned(), sights)));
        let back = Violation::WentBack { node: "n".to_owned(), from: 4, to: 3 };
        assert_eq!(sights(vec![sight("e", 4, 3), sight("e", 3, 3)]), std::slice::from_ref(&back));
        let same = Violation::WentBack { node: "n".to_owned(), from: 3, to: 3 };
        assert_eq!(sights(vec![sight("e", 3, 2), sight("e", 3, 3)]), [same]);
        assert_eq!(sights(vec![sight("e", 4, 3), sight("f", 3, 3)]), [], "of another history");
        let reverted = sights(vec![sight("e", 1, 1), sight("e", 3, 3), sight("f", 2, 1), sight("f", 3, 3)]);
        assert_eq!(reverted, [Violation::Reverted { node: "n".to_owned(), name: P.to_owned(), from: 3, to: 1 }]);
        assert!(reverted[0].is_of_loss() && !back.is_of_loss());
    }

    #[test]
    fn sums_that_differ_are_found() {
        let found = wrong(|history| _ = history.reported.insert("n".to_owned(), 6));
        assert_eq!(found, [Violation::Sum { node: "n".to_owned(), counted: 7, reported: 6 }]);
        let nobody = wrong(|history| _ = history.reported.insert("m".to_owned(), 1));
        assert_eq!(nobody, [Violation::Sum { node: "m".to_owned(), counted: 0, reported: 1 }]);
    }

    #[test]
    fn who_stays_behind_is_found() {
        let behind = |has| vec![Violation::Behind { node: "n".to_owned(), name: P.to_owned(), has, newest: 3 }];
        assert_eq!(wrong(|history| drop(history.sights.get_mut("n").expect("there").pop())), behind(1));
        assert_eq!(wrong(|history| history.sights.get_mut("n").expect("there").clear()), behind(0));
    }
}
