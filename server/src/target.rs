//! The nodes that a decision is for.

use std::fmt;

use sockpilot_policy::{bucket::BUCKETS, fault::Collector, model::Labels, validate};
use sockpilot_proto::v1::{self, target::Kind};

/// The nodes that a revision is given to, among those its own node labels admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All.
    Everyone,
    /// Some, beside what everyone has.
    Canary(Selection),
    /// None yet.
    Nobody,
}

/// A part of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Basis points by the node's position among the shares; 1 to 9,999.
    Share(u32),
    /// Those with all of these labels.
    Labels(Labels),
}

impl Selection {
    /// Whether a node is among them.
    #[must_use]
    pub fn admits(&self, share_position: u32, labels: &Labels) -> bool {
        match self {
            Self::Share(share_bp) => share_position < *share_bp,
            Self::Labels(wanted) => carries(labels, wanted),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share_bp) => write!(f, "{}% of nodes", percent(*share_bp)),
            Self::Labels(labels) => f.write_str(&pairs(labels)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::Canary(selection) => selection.fmt(f),
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
            Some(Kind::ShareBp(share_bp)) => {
                if !(1..BUCKETS).contains(share_bp) {
                    faults.add_at(
                        "share_bp",
                        format!("is {share_bp}; write 1 to {} basis points, or target everyone", BUCKETS - 1),
                    );
                }
                Self::Canary(Selection::Share(*share_bp))
            }
            Some(Kind::NodeLabels(v1::target::NodeLabels { labels })) => {
                let labels: Labels = labels.clone().into_iter().collect();
                faults.field("node_labels", |faults| {
                    if labels.is_empty() {
                        faults.add_at("labels", "is empty; name at least one label, or target everyone");
                    }
                    faults.field("labels", |faults| validate::labels(&labels, faults));
                });
                Self::Canary(Selection::Labels(labels))
            }
            None => {
                faults
                    .add("says nothing; write everyone, share_bp, node_labels or nobody, or leave it out for everyone");
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
            Self::Canary(Selection::Share(share_bp)) => Kind::ShareBp(*share_bp),
            Self::Canary(Selection::Labels(labels)) => {
                Kind::NodeLabels(v1::target::NodeLabels { labels: labels.clone().into_iter().collect() })
            }
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
            assert_eq!(check(share(good)), Ok(Target::Canary(Selection::Share(good))));
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
    fn a_greater_share_holds_the_smaller() {
        for position in 0..10_000 {
            if Selection::Share(1_000).admits(position, &Labels::new()) {
                assert!(Selection::Share(2_000).admits(position, &Labels::new()));
            }
        }
        let admitted = (0..10_000).filter(|&position| Selection::Share(1_000).admits(position, &Labels::new()));
        assert_eq!(admitted.count(), 1_000);
    }

    #[test]
    fn survives_the_wire() {
        let labels = Labels::from([("zone".to_owned(), "a".to_owned())]);
        for target in [Target::Everyone, Target::Nobody, Target::Canary(Selection::Labels(labels))] {
            assert_eq!(check(Some(target.to_proto())), Ok(target));
        }
    }
}
