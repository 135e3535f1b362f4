//! What a policy or an experiment says, whichever of the two it is.

use chrono::{DateTime, Utc};
use prost::{DecodeError, Message};
use serde_json::Value;
use sockpilot_policy::{
    default_measures,
    fault::Collector,
    model::{self, Labels, LayerKind},
};
use sockpilot_proto::{
    convert::{experiment_from_proto, layer_of_experiment, layer_of_policy, measure_to_proto, policy_from_proto},
    v1,
};

use super::json;
use crate::clock::timestamp;

/// A policy or an experiment as it stands on the wire.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "few live at a time, and none for long")]
pub enum Document {
    Policy(v1::Policy),
    Experiment(v1::Experiment),
}

/// The output-only fields of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Resource name, without a revision.
    pub name: String,
    /// The object's uid.
    pub uid: String,
    pub revision: u64,
    /// The object's etag now.
    pub etag: String,
    /// When the revision was made.
    pub created_at: DateTime<Utc>,
    pub creator: String,
    /// How far the experiment has come; of a policy unspecified.
    pub state: v1::ExperimentState,
    /// When the epoch was started, and when it ends by itself; of an experiment that runs.
    pub started_at: Option<DateTime<Utc>>,
    pub ends_at: Option<DateTime<Utc>>,
    /// The arm that was shipped when it was concluded.
    pub shipped_arm: String,
}

/// In what two documents differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Difference {
    /// In what nodes do, or in anything of a policy; also if one of the two cannot be read (of an older version).
    #[default]
    Design,
    /// Only in what people say of an experiment.
    Words,
    /// In nothing, however they are written.
    Nothing,
}

impl Document {
    /// Which of the two it is.
    #[must_use]
    pub fn kind(&self) -> LayerKind {
        match self {
            Self::Policy(_) => LayerKind::Policy,
            Self::Experiment(_) => LayerKind::Experiment,
        }
    }

    /// Its field in requests.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Policy(_) => "policy",
            Self::Experiment(_) => "experiment",
        }
    }

    #[must_use]
    pub fn revision(&self) -> u64 {
        match self {
            Self::Policy(policy) => policy.revision,
            Self::Experiment(experiment) => experiment.revision,
        }
    }

    /// The uid of the object that it is a revision of.
    #[must_use]
    pub fn uid(&self) -> &str {
        match self {
            Self::Policy(policy) => &policy.uid,
            Self::Experiment(experiment) => &experiment.uid,
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(kind: LayerKind, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match kind {
            LayerKind::Policy => Self::Policy(v1::Policy::decode(bytes)?),
            LayerKind::Experiment => Self::Experiment(v1::Experiment::decode(bytes)?),
        })
    }

    /// For the database.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Policy(policy) => policy.encode_to_vec(),
            Self::Experiment(experiment) => experiment.encode_to_vec(),
        }
    }

    /// Notes everything that is wrong with it, with paths that begin at `policy` or `experiment`.
    pub fn check(&self, faults: &mut Collector) {
        let found = match self {
            Self::Policy(policy) => policy_from_proto(policy, "policy").err(),
            Self::Experiment(experiment) => experiment_from_proto(experiment, "experiment").err(),
        };
        for fault in found.iter().flat_map(|faults| faults.as_slice()) {
            faults.add_at(&fault.field, fault.description.clone());
        }
    }

    /// Without what only the server says, and with its name.
    #[must_use]
    pub fn to_be_stored(self, name: &str) -> Self {
        let identity = Identity {
            name: name.to_owned(),
            uid: String::new(),
            revision: 0,
            etag: String::new(),
            created_at: DateTime::default(),
            creator: String::new(),
            state: v1::ExperimentState::Unspecified,
            started_at: None,
            ends_at: None,
            shipped_arm: String::new(),
        };
        match self.identified(identity) {
            Self::Policy(policy) => Self::Policy(v1::Policy { create_time: None, notes: None, ..policy }),
            Self::Experiment(experiment) => {
                // Spelled out, so that another release's defaults do not change what this epoch measures.
                let measures = measures_of(&experiment);
                Self::Experiment(v1::Experiment { create_time: None, notes: None, measures, ..experiment })
            }
        }
    }

    /// With what is to be known of the change that it answers.
    #[must_use]
    pub fn noted(self, notes: Option<v1::ChangeNotes>) -> Self {
        match self {
            Self::Policy(policy) => Self::Policy(v1::Policy { notes, ..policy }),
            Self::Experiment(experiment) => Self::Experiment(v1::Experiment { notes, ..experiment }),
        }
    }

    /// With another etag.
    #[must_use]
    pub fn with_etag(self, etag: String) -> Self {
        match self {
            Self::Policy(policy) => Self::Policy(v1::Policy { etag, ..policy }),
            Self::Experiment(experiment) => Self::Experiment(v1::Experiment { etag, ..experiment }),
        }
    }

    /// With what only the server says.
    #[must_use]
    pub fn identified(self, identity: Identity) -> Self {
        let Identity { name, uid, revision, etag, created_at, creator, state, started_at, ends_at, shipped_arm } =
            identity;
        let create_time = Some(timestamp(created_at));
        match self {
            Self::Policy(policy) => {
                Self::Policy(v1::Policy { name, uid, revision, etag, create_time, creator, ..policy })
            }
            Self::Experiment(experiment) => {
                let state = state.into();
                Self::Experiment(v1::Experiment {
                    name,
                    uid,
                    revision,
                    etag,
                    create_time,
                    creator,
                    state,
                    start_time: started_at.map(timestamp),
                    end_time: ends_at.map(timestamp),
                    shipped_arm,
                    ..experiment
                })
            }
        }
    }

    /// In what this one differs from another.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Difference {
        match (self, other) {
            (Self::Policy(a), Self::Policy(b)) => match (policy_from_proto(a, ""), policy_from_proto(b, "")) {
                (Ok(a), Ok(b)) if a == b => Difference::Nothing,
                _ => Difference::Design,
            },
            (Self::Experiment(a), Self::Experiment(b)) => {
                let whole = |experiment: &v1::Experiment| {
                    let measures = measures_of(experiment);
                    experiment_from_proto(&v1::Experiment { measures, ..experiment.clone() }, "")
                };
                match (whole(a), whole(b)) {
                    (Ok(a), Ok(b)) if a == b => Difference::Nothing,
                    (Ok(a), Ok(b)) if a.design == b.design => Difference::Words,
                    _ => Difference::Design,
                }
            }
            (Self::Policy(_), Self::Experiment(_)) | (Self::Experiment(_), Self::Policy(_)) => Difference::Design,
        }
    }

    /// Only what people say of an experiment, for the database; nothing of a policy.
    #[must_use]
    pub fn encode_words(&self) -> Vec<u8> {
        match self {
            Self::Policy(_) => vec![],
            Self::Experiment(v1::Experiment { description, owner, duration_s, .. }) => {
                let (description, owner, duration_s) = (description.clone(), owner.clone(), *duration_s);
                v1::Experiment { description, owner, duration_s, ..v1::Experiment::default() }.encode_to_vec()
            }
        }
    }

    /// With the words that [`Self::encode_words`] wrote.
    ///
    /// # Errors
    /// If they are none.
    pub fn with_words(self, words: &[u8]) -> Result<Self, DecodeError> {
        Ok(match self {
            Self::Policy(policy) => Self::Policy(policy),
            Self::Experiment(experiment) => {
                let v1::Experiment { description, owner, duration_s, .. } = v1::Experiment::decode(words)?;
                Self::Experiment(v1::Experiment { description, owner, duration_s, ..experiment })
            }
        })
    }

    /// For people to see, without what only the server says.
    #[must_use]
    pub fn shown(&self) -> Value {
        match self.clone().to_be_stored("") {
            Self::Policy(policy) => json::shown("Policy", &policy),
            Self::Experiment(experiment) => json::shown("Experiment", &experiment),
        }
    }

    /// The labels of the nodes it is for.
    #[must_use]
    pub fn node_labels(&self) -> Labels {
        let labels = match self {
            Self::Policy(policy) => &policy.node_labels,
            Self::Experiment(experiment) => &experiment.node_labels,
        };
        labels.clone().into_iter().collect()
    }

    /// As a node gets it; without a lease.
    #[must_use]
    pub fn into_layer(self, name: &model::LayerName, revision: u64) -> v1::Layer {
        match self {
            Self::Policy(policy) => layer_of_policy(policy, name, revision),
            Self::Experiment(experiment) => layer_of_experiment(experiment, name, revision),
        }
    }
}

/// The measures of an experiment; of one that names none, what makes sense for the parameters that its arms set.
fn measures_of(experiment: &v1::Experiment) -> Vec<v1::Measure> {
    match experiment_from_proto(experiment, "") {
        Ok(read) if read.design.comparison.measures.is_empty() => {
            let sets = read.design.comparison.arms.iter().map(|arm| &arm.set);
            default_measures::defaults(sets).iter().map(measure_to_proto).collect()
        }
        _ => experiment.measures.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(prefix: &str) -> Document {
        let matches = v1::Match { remote_prefixes: vec![prefix.to_owned()], ..v1::Match::default() };
        let rule = v1::Rule { name: "far".to_owned(), r#match: Some(matches), ..v1::Rule::default() };
        Document::Policy(v1::Policy { rules: vec![rule], uid: "u".to_owned(), ..v1::Policy::default() })
    }

    #[test]
    fn equality_is_of_meaning() {
        assert_eq!(policy("10.0.0.1").difference(&policy("10.0.0.1/32")), Difference::Nothing);
        assert_eq!(policy("10.0.0.1").difference(&policy("10.0.0.2")), Difference::Design);
    }

    #[test]
    fn words_are_no_part_of_the_design() {
        let arm = |name: &str| v1::Arm { name: name.to_owned(), weight_bp: 100, ..v1::Arm::default() };
        let arms = vec![arm("a"), arm("b")];
        let plain = v1::Experiment { name: "experiments/e".to_owned(), arms, ..v1::Experiment::default() };
        let of = |experiment: v1::Experiment| Document::Experiment(experiment);
        let spoken = of(v1::Experiment { owner: "ann".to_owned(), description: "why".to_owned(), ..plain.clone() });
        let difference = |other: v1::Experiment| spoken.difference(&of(other));
        assert_eq!(difference(plain.clone()), Difference::Words);
        assert_eq!(difference(v1::Experiment { salt: "e".to_owned(), ..plain.clone() }), Difference::Words);
        assert_eq!(difference(v1::Experiment { salt: "f".to_owned(), ..plain.clone() }), Difference::Design);
        assert_eq!(difference(v1::Experiment { priority: 1, ..plain.clone() }), Difference::Design);
        assert_eq!(of(plain).with_words(&spoken.encode_words()), Ok(spoken));
    }

    #[test]
    fn stores_nothing_that_is_output_only() {
        let Document::Policy(stored) = policy("10.0.0.1").to_be_stored("policies/p") else { panic!("a policy") };
        assert_eq!((stored.uid.as_str(), stored.create_time), ("", None));
        assert_eq!(stored.name, "policies/p");
        let bytes = Document::Policy(stored.clone()).encode();
        assert_eq!(Document::decode(LayerKind::Policy, &bytes), Ok(Document::Policy(stored)));
    }
}
