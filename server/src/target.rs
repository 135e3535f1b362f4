//! The nodes that a decision is for.

use std::fmt;

use sockpilot_policy::{fault::Collector, model::Labels};
use sockpilot_proto::v1::{self, target::Kind};

use crate::wave::{self, Canary, Selector};

/// The nodes that a revision is given to, among those its own node labels admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All.
    Everyone,
    /// Some, beside what everyone has.
    Canary(Canary),
    /// None yet.
    Nobody,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::Canary(canary) => canary.fmt(f),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

/// Basis points as percent, as short as they go.
#[must_use]
pub fn percent(basis_points: u32) -> f64 {
    f64::from(basis_points) / 100.0
}

/// `role=edge,zone=a`.
#[must_use]
pub fn pairs(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Whether a node's labels have all those that are wanted.
#[must_use]
pub fn carries(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Target {
    /// Reads and checks a target; absent is everyone. The walk stands at the target's field.
    pub fn from_proto(target: Option<&v1::Target>, faults: &mut Collector) -> Self {
        let Some(v1::Target { kind }) = target else { return Self::Everyone };
        match kind {
            Some(Kind::Everyone(v1::target::Everyone {})) => Self::Everyone,
            Some(Kind::Nobody(v1::target::Nobody {})) => Self::Nobody,
            Some(Kind::ShareBp(share_bp)) => Self::Canary(Canary::by_hand(wave::share(*share_bp, faults))),
            Some(Kind::NodeLabels(labels)) => Self::Canary(Canary::by_hand(wave::labels(labels, faults))),
            Some(Kind::Waves(waves)) => faults.field("waves", |faults| Self::Canary(Canary::from_proto(waves, faults))),
            None => {
                faults.add(
                    "says nothing; write everyone, share_bp, node_labels, waves or nobody, or leave it out for everyone",
                );
                Self::Everyone
            }
        }
    }

    /// Notes what an experiment cannot be for. The walk stands at the target's field.
    pub fn of_experiment(&self, faults: &mut Collector) {
        if matches!(self, Self::Canary(_)) {
            faults.add(
                "is a part of the nodes, and an experiment has no canary: its arms are compared on each node. Target everyone or \
                 nobody; say node_labels in the experiment for some nodes only, or leave buckets to nobody for fewer connections",
            );
        }
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn to_proto(&self) -> v1::Target {
        let kind = match self {
            Self::Everyone => Kind::Everyone(v1::target::Everyone {}),
            Self::Nobody => Kind::Nobody(v1::target::Nobody {}),
            Self::Canary(canary) => match (canary.salt.as_str(), canary.waves.as_slice()) {
                ("", [Selector::Share(share_bp)]) => Kind::ShareBp(*share_bp),
                ("", [Selector::Labels(labels)]) => {
                    Kind::NodeLabels(v1::target::NodeLabels { labels: labels.clone().into_iter().collect() })
                }
                _ => Kind::Waves(canary.to_proto()),
            },
        };
        v1::Target { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: Option<v1::Target>) -> Result<Target, Vec<String>> {
        let mut faults = Collector::at("target");
        let target = Target::from_proto(target.as_ref(), &mut faults);
        faults.finish(target).map_err(|faults| faults.as_slice().iter().map(|fault| fault.field.clone()).collect())
    }

    fn share(share_bp: u32) -> Option<v1::Target> {
        Some(v1::Target { kind: Some(Kind::ShareBp(share_bp)) })
    }

    #[test]
    fn absent_is_everyone() {
        assert_eq!(check(None), Ok(Target::Everyone));
    }

    #[test]
    fn a_share_is_neither_nobody_nor_everyone() {
        for bad in [0, 10_000, u32::MAX] {
            assert_eq!(check(share(bad)), Err(vec!["target.share_bp".to_owned()]), "{bad}");
        }
        for good in [1, 9_999] {
            assert_eq!(check(share(good)), Ok(Target::Canary(Canary::by_hand(Selector::Share(good)))));
        }
    }

    #[test]
    fn labels_must_be_there_and_sound() {
        let labels = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            check(Some(v1::Target { kind: Some(Kind::NodeLabels(v1::target::NodeLabels { labels })) }))
        };
        assert_eq!(labels(&[]), Err(vec!["target.node_labels.labels".to_owned()]));
        assert!(labels(&[("zone", &"x".repeat(64))]).is_err());
        assert!(labels(&[("zone", "a")]).is_ok());
        assert_eq!(check(Some(v1::Target { kind: None })), Err(vec!["target".to_owned()]));
    }

    #[test]
    fn survives_the_wire() {
        let labels = Selector::Labels(Labels::from([("zone".to_owned(), "a".to_owned())]));
        let waves = vec![labels.clone(), Selector::Share(1_000)];
        for canary in [
            Canary::by_hand(labels.clone()),
            Canary { salt: "s".to_owned(), waves: vec![labels] },
            Canary { salt: String::new(), waves },
        ] {
            let target = Target::Canary(canary);
            assert_eq!(check(Some(target.to_proto())), Ok(target));
        }
        for target in [Target::Everyone, Target::Nobody] {
            assert_eq!(check(Some(target.to_proto())), Ok(target));
        }
    }
}
