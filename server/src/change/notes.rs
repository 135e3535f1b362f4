//! What a change comes to, beside what was asked for: whom it is for, and what is allowed but probably not meant. Pure.

use sockpilot_policy::{advice, fault::Collector};
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

#[cfg(test)]
mod tests {
    use super::*;

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
