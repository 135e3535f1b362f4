//! What a change comes to, beside what was asked for: whom it is for, and what is allowed but probably not meant. Pure.

use sockpilot_policy::{
    advice,
    fault::Collector,
    model::{Arm, Experiment, Labels},
    overlap::overlap,
};
use sockpilot_proto::{
    convert::{experiment_from_proto, policy_from_proto, zone_map_from_proto},
    v1,
};

use super::{
    document::Document,
    plan::{Assignment, CanaryTally},
    reach::{self, Reach, Seen, counted},
    target::Target,
};

/// Experiments that a warning names.
const NAMED_MAX: usize = 5;

/// What is allowed, or answered, but probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Of the request; empty: none in particular.
    pub field: String,
    pub description: String,
}

impl Warning {
    #[must_use]
    pub fn new(field: &str, description: impl Into<String>) -> Self {
        Self { field: field.to_owned(), description: description.into() }
    }
}

/// What is to be known of a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notes {
    /// Whom a revision that is given is for.
    pub reach: Option<Reach>,
    pub warnings: Vec<Warning>,
}

impl Notes {
    fn warn(&mut self, field: &str, description: impl Into<String>) {
        self.warnings.push(Warning::new(field, description));
    }

    fn collect(&mut self, found: Collector) {
        for note in found.finish(()).err().iter().flat_map(|notes| notes.as_slice()) {
            self.warn(&note.field, note.description.clone());
        }
    }

    /// Whom a revision is for.
    pub fn reach(&mut self, held: &Assignment, document: &Document, nodes: &[Seen]) {
        let labels = document.node_labels();
        self.reach = Some(reach::reach(&held.target, &labels, nodes));
        if let Some((field, why)) = reach::for_none(document.field(), &held.target, &labels, nodes) {
            self.warn(&field, why);
        }
        if let Target::Canary(canary) = &held.target {
            for wave in reach::empty_waves(canary, &labels, nodes) {
                let selector = &canary.waves[wave - 1];
                self.warn("target.waves", format!("wave {wave} ({selector}) has no node now"));
            }
        }
    }

    /// What a document that came with the request probably does not mean.
    pub fn document(&mut self, document: &Document) {
        let mut found = Collector::at(document.field());
        match document {
            Document::Policy(policy) => {
                if let Ok(policy) = policy_from_proto(policy, "") {
                    advice::policy(&policy, &mut found);
                }
            }
            Document::Experiment(experiment) => {
                if let Ok(experiment) = experiment_from_proto(experiment, "") {
                    advice::experiment(&experiment, &mut found);
                }
            }
        }
        self.collect(found);
    }

    /// What a zone map probably does not mean.
    pub fn zone_map(&mut self, zones: &[v1::Zone]) {
        let mut found = Collector::at("zone_map");
        if let Ok(zones) = zone_map_from_proto(&v1::ZoneMap { zones: zones.to_vec(), ..v1::ZoneMap::default() }, "") {
            advice::zones(&zones, &mut found);
        }
        self.collect(found);
    }

    /// That an experiment gives connections the buckets which another one gives them.
    pub fn salt(&mut self, experiment: &v1::Experiment, others: &[v1::Experiment]) {
        let Ok(own) = experiment_from_proto(experiment, "") else { return };
        let mut alike: Vec<&str> = others
            .iter()
            .filter(|other| other.name != experiment.name)
            .filter(|other| experiment_from_proto(other, "").is_ok_and(|other| correlated(&own, &other)))
            .map(|other| other.name.as_str())
            .collect();
        alike.sort_unstable();
        alike.dedup();
        if alike.is_empty() {
            return;
        }
        let more = alike.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named = alike[..alike.len().min(NAMED_MAX)].join(", ");
        self.warn(
            "experiment.salt",
            format!(
                "\"{}\" is the salt of {named}{more} too, and both may be for the same connections: each gets the same bucket in \
                 both, so their effects cannot be told apart; give this one a salt of its own, or matches that exclude each other",
                own.design.comparison.salt
            ),
        );
    }

    /// That everyone gets what no node has ever confirmed.
    pub fn unconfirmed(&mut self, revision: u64) {
        self.warn("", format!("no node has ever confirmed revision {revision}; see what the status says of it"));
    }

    /// What speaks against a canary that goes to everyone all the same.
    pub fn canary_tally(&mut self, tally: &CanaryTally) {
        let nodes = |number: u64| counted(usize::try_from(number).unwrap_or(usize::MAX));
        if tally.refused > 0 {
            let complaint = tally.complaint.as_deref().unwrap_or("the status says why");
            self.warn("", format!("{} of the canary refused it: {complaint}", nodes(tally.refused)));
        }
        if tally.in_force == 0 && tally.gone > 0 {
            self.warn("", format!("the {} of the canary that confirmed it are not connected now", nodes(tally.gone)));
        }
    }
}

/// Whether two experiments give a connection that both are for the same bucket. That one end of a connection is in one and the other
/// end in the other may be meant: one salt then treats both ends alike.
fn correlated(a: &Experiment, b: &Experiment) -> bool {
    let (on_a, on_b) = (&a.design.node_labels, &b.design.node_labels);
    let (a, b) = (&a.design.comparison, &b.design.comparison);
    // With one salt they are a group: each bucket belongs to one experiment, so no connection is in two.
    let buckets = |arm: &Arm| (arm.first_bucket, arm.first_bucket + arm.weight_bp);
    let shared = a.arms.iter().any(|a_arm| {
        let (a_first, a_end) = buckets(a_arm);
        b.arms.iter().map(buckets).any(|(b_first, b_end)| a_first < b_end && b_first < a_end)
    });
    let apart = a.unit == b.unit && !shared;
    a.salt == b.salt && !apart && one_node(on_a, on_b) && overlap(&a.matches, &b.matches)
}

/// Whether a node may have the labels of both.
fn one_node(a: &Labels, b: &Labels) -> bool {
    a.iter().all(|(key, value)| b.get(key).is_none_or(|other| other == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(name: &str, salt: &str, port: &str) -> v1::Experiment {
        let arm = |name: &str| v1::Arm { name: name.to_owned(), weight_bp: 5_000, ..v1::Arm::default() };
        v1::Experiment {
            name: format!("experiments/{name}"),
            salt: salt.to_owned(),
            r#match: Some(v1::Match {
                direction: v1::Direction::Active.into(),
                remote_ports: vec![port.to_owned()],
                ..v1::Match::default()
            }),
            arms: vec![arm("a"), arm("b")],
            ..v1::Experiment::default()
        }
    }

    fn warned(experiment: &v1::Experiment, others: &[v1::Experiment]) -> Vec<String> {
        let mut notes = Notes::default();
        notes.salt(experiment, others);
        notes.warnings.into_iter().map(|warning| format!("{}: {}", warning.field, warning.description)).collect()
    }

    #[test]
    fn one_salt_on_the_same_connections_is_warned_of() {
        let own = experiment("own", "s", "443");
        let said = warned(&own, &[experiment("b", "s", "400-500"), experiment("a", "s", "443"), own.clone()]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("experiment.salt: \"s\" is the salt of experiments/a, experiments/b too"),
            "{said:?}"
        );
        assert_eq!(warned(&own, &[experiment("a", "s", "80"), experiment("b", "t", "443")]), [""; 0]);
        let by_id = experiment("s", "", "443");
        assert_eq!(warned(&own, &[by_id]).len(), 1, "without a salt the id is it");
    }

    #[test]
    fn other_nodes_are_other_connections() {
        let labelled = |name: &str, role: &str| v1::Experiment {
            node_labels: [("role".to_owned(), role.to_owned())].into(),
            ..experiment(name, "s", "443")
        };
        assert_eq!(warned(&labelled("a", "edge"), &[labelled("b", "core")]), [""; 0]);
        assert_eq!(warned(&labelled("a", "edge"), &[labelled("b", "edge")]).len(), 1);
    }

    #[test]
    fn half_of_all_addresses_is_named_with_its_place() {
        let matches = v1::Match { remote_prefixes: vec!["::/0".to_owned()], ..v1::Match::default() };
        let rules = vec![
            v1::Rule { name: "a".to_owned(), ..v1::Rule::default() },
            v1::Rule { name: "b".to_owned(), r#match: Some(matches), ..v1::Rule::default() },
        ];
        let mut notes = Notes::default();
        notes.document(&Document::Policy(v1::Policy { name: "policies/p".to_owned(), rules, ..v1::Policy::default() }));
        assert_eq!(notes.warnings[0].field, "policy.rules[1].match.remote_prefixes");
    }
}
