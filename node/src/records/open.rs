//! How many connections are open under which revision: what a look at all of them has recorded, one record for each.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Instant};

use sockpilot_outcomes::Choice;
use sockpilot_policy::model::LayerKind;
use sockpilot_proto::v1;

/// Revisions that are told of.
pub const UNDER_MAX: usize = 256;

/// What a look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    under: Vec<v1::OpenUnder>,
    left_out: u32,
    /// When the look was over.
    looked: Instant,
}

impl Open {
    /// As it is told now.
    #[must_use]
    pub fn to_proto(&self, now: Instant) -> v1::OpenConnections {
        let before = now.saturating_duration_since(self.looked).as_millis();
        v1::OpenConnections {
            looked_before_ms: u64::try_from(before).unwrap_or(u64::MAX),
            under: self.under.clone(),
            left_out: self.left_out,
        }
    }
}

/// A look under way.
#[derive(Debug, Default)]
pub struct Look {
    /// By policy and revision.
    counts: HashMap<String, HashMap<u64, u64>>,
}

impl Look {
    /// A connection that is open, with what has decided about it.
    pub fn count(&mut self, choices: &[Arc<Choice>]) {
        for Choice { layer, revision, name: _ } in choices.iter().map(Arc::as_ref) {
            if !layer.starts_with(LayerKind::Policy.collection()) {
                continue;
            }
            // Names are few, and most are known.
            if !self.counts.contains_key(layer) {
                self.counts.insert(layer.clone(), HashMap::new());
            }
            if let Some(of_layer) = self.counts.get_mut(layer) {
                *of_layer.entry(*revision).or_default() += 1;
            }
        }
    }

    /// What it has found; the next begins with nothing.
    pub fn end(&mut self, looked: Instant) -> Open {
        let of_layer = |(layer, counts): (String, HashMap<u64, u64>)| {
            let of = move |(revision, connections)| v1::OpenUnder { layer: layer.clone(), revision, connections };
            counts.into_iter().map(of).collect::<Vec<_>>()
        };
        let mut under: Vec<_> = std::mem::take(&mut self.counts).into_iter().flat_map(of_layer).collect();
        under.sort_by(|a, b| {
            let key = |under: &v1::OpenUnder| (Reverse(under.connections), under.layer.clone(), under.revision);
            key(a).cmp(&key(b))
        });
        let left_out = u32::try_from(under.len().saturating_sub(UNDER_MAX)).unwrap_or(u32::MAX);
        under.truncate(UNDER_MAX);
        Open { under, left_out, looked }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn choice(layer: &str, revision: u64) -> Arc<Choice> {
        Arc::new(Choice { layer: layer.to_owned(), revision, name: "all".to_owned() })
    }

    fn under(layer: &str, revision: u64, connections: u64) -> v1::OpenUnder {
        v1::OpenUnder { layer: layer.to_owned(), revision, connections }
    }

    #[test]
    fn each_look_counts_anew_by_policy_and_revision() {
        let (mut look, now) = (Look::default(), Instant::now());
        look.count(&[choice("policies/a", 1), choice("policies/b", 7), choice("experiments/e", 1)]);
        look.count(&[choice("policies/a", 2)]);
        look.count(&[choice("policies/a", 2)]);
        look.count(&[]);
        let open = look.end(now);
        let told = open.to_proto(now + Duration::from_millis(1_500));
        let expected = [under("policies/a", 2, 2), under("policies/a", 1, 1), under("policies/b", 7, 1)];
        assert_eq!((told.under.as_slice(), told.left_out, told.looked_before_ms), (&expected[..], 0, 1_500));
        assert_eq!(look.end(now).to_proto(now).under, [], "nothing is open any more");
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let (mut look, now) = (Look::default(), Instant::now());
        for revision in 0..300 {
            (0..=revision).for_each(|_| look.count(&[choice("policies/a", revision)]));
        }
        let told = look.end(now).to_proto(now);
        assert_eq!((told.under.len(), told.left_out), (UNDER_MAX, 44));
        assert_eq!(told.under[0], under("policies/a", 299, 300), "those with the most connections are told");
    }
}
