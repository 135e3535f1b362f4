//! The waves of a canary: which node is in which. Pure; the view `node_assignment` says the same in SQL, and a test holds the two
//! together.

use std::{collections::BTreeSet, fmt};

use sha2::{Digest, Sha256};
use sockpilot_policy::{
    bucket::BUCKETS,
    fault::Collector,
    model::Labels,
    validate::{self, node_id},
};
use sockpilot_proto::v1::{self, selector::Kind};

use crate::target::{carries, pairs, percent};

/// Waves of one canary.
pub const WAVES_MAX: usize = 64;
/// Nodes that the waves of one canary name one by one, together.
pub const NAMED_NODES_MAX: usize = 10_000;
/// Characters of a salt.
const SALT_CHARS_MAX: usize = 64;

/// A node, as far as waves ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Empty: no node in particular, which is in no share.
    pub id: &'a str,
    /// Where it stands among the shares without a salt.
    pub share_position: u32,
    /// Its labels.
    pub labels: &'a Labels,
}

/// A part of the nodes: the union of its waves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Input of the positions among its shares. Empty: that of the node, which is the same in all such canaries.
    pub salt: String,
    /// In order; at least one.
    pub waves: Vec<Selector>,
}

/// The nodes of one wave, beside those of the waves before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Basis points by the node's position; 1 to 9,999.
    Share(u32),
    /// Those with all of these labels.
    Labels(Labels),
    /// These, by their ids.
    Nodes(BTreeSet<String>),
}

impl Selector {
    fn admits(&self, salt: &str, node: &Candidate<'_>) -> bool {
        match self {
            Self::Share(share_bp) => position(salt, node) < *share_bp,
            Self::Labels(wanted) => carries(node.labels, wanted),
            Self::Nodes(ids) => ids.contains(node.id),
        }
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn to_proto(&self) -> v1::Selector {
        let kind = match self {
            Self::Share(share_bp) => Kind::ShareBp(*share_bp),
            Self::Labels(labels) => {
                Kind::NodeLabels(v1::target::NodeLabels { labels: labels.clone().into_iter().collect() })
            }
            Self::Nodes(ids) => {
                Kind::Nodes(v1::selector::Nodes { nodes: ids.iter().map(|id| format!("nodes/{id}")).collect() })
            }
        };
        v1::Selector { kind: Some(kind) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share_bp) => write!(f, "{}% of nodes", percent(*share_bp)),
            Self::Labels(labels) => f.write_str(&pairs(labels)),
            Self::Nodes(ids) => match (ids.first(), ids.len()) {
                (Some(id), 1) => write!(f, "node {id}"),
                (_, all) => write!(f, "{all} nodes by name"),
            },
        }
    }
}

/// Where a node stands among the shares of a canary, 0..9999. SHA-256, because the database must say the same
/// (`wave_position` in the schema).
fn position(salt: &str, node: &Candidate<'_>) -> u32 {
    if salt.is_empty() || node.id.is_empty() {
        return node.share_position;
    }
    let hash = Sha256::new().chain_update(salt).chain_update("/").chain_update(node.id).finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % BUCKETS
}

impl Canary {
    /// One wave, as a person gives it: positions are those of the nodes.
    #[must_use]
    pub fn by_hand(selector: Selector) -> Self {
        Self { salt: String::new(), waves: vec![selector] }
    }

    /// The position of the first wave that admits a node.
    #[must_use]
    pub fn wave_of(&self, node: &Candidate<'_>) -> Option<usize> {
        self.waves.iter().position(|wave| wave.admits(&self.salt, node))
    }

    /// What comes of it with the waves of another one after its own; those that it has already are not added again. The salt stays, so
    /// whoever is in it stays in it.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    pub fn joined(&self, more: &Self) -> Result<Self, String> {
        let mut waves = self.waves.clone();
        for wave in &more.waves {
            if waves.contains(wave) {
                continue;
            }
            if let Some((_, why)) = conflict(wave, &waves) {
                return Err(format!("a wave of {wave} cannot follow {self}: it {why}"));
            }
            waves.push(wave.clone());
        }
        if let Some((_, why)) = too_many(&waves) {
            return Err(format!("with those of the canary, it {why}"));
        }
        Ok(Self { salt: self.salt.clone(), waves })
    }

    /// Reads and checks waves. The walk stands at their field.
    pub fn from_proto(message: &v1::target::Waves, faults: &mut Collector) -> Self {
        let v1::target::Waves { selectors, salt } = message;
        if salt.chars().count() > SALT_CHARS_MAX || salt.chars().any(char::is_control) {
            faults.add_at("salt", format!("is none that a server drew; they have at most {SALT_CHARS_MAX} characters"));
        }
        if selectors.is_empty() {
            faults.add_at("selectors", "is empty; write at least one, or target everyone");
        }
        let waves = faults.each("selectors", selectors, |faults, selector| self::selector(selector, faults));
        for (index, wave) in waves.iter().enumerate() {
            let Some(wave) = wave else { continue };
            let before: Vec<_> = waves[..index].iter().flatten().cloned().collect();
            if let Some((field, why)) = conflict(wave, &before) {
                faults.add_at(&format!("selectors[{index}].{field}"), why);
            }
        }
        let waves: Vec<_> = waves.into_iter().flatten().collect();
        if let Some((field, why)) = too_many(&waves) {
            faults.add_at(field, why);
        }
        Self { salt: salt.clone(), waves }
    }

    /// As it stands on the wire.
    #[must_use]
    pub fn to_proto(&self) -> v1::target::Waves {
        v1::target::Waves { selectors: self.waves.iter().map(Selector::to_proto).collect(), salt: self.salt.clone() }
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, wave) in self.waves.iter().enumerate() {
            write!(f, "{}{wave}", if index > 0 { ", then " } else { "" })?;
        }
        Ok(())
    }
}

/// Reads a share. The walk stands where its field is.
pub fn share(share_bp: u32, faults: &mut Collector) -> Selector {
    if !(1..BUCKETS).contains(&share_bp) {
        faults
            .add_at("share_bp", format!("is {share_bp}; write 1 to {} basis points, or target everyone", BUCKETS - 1));
    }
    Selector::Share(share_bp)
}

/// Reads labels. The walk stands where their field is.
pub fn labels(message: &v1::target::NodeLabels, faults: &mut Collector) -> Selector {
    let labels: Labels = message.labels.clone().into_iter().collect();
    faults.field("node_labels", |faults| {
        if labels.is_empty() {
            faults.add_at("labels", "is empty; name at least one label, or target everyone");
        }
        faults.field("labels", |faults| validate::labels(&labels, faults));
    });
    Selector::Labels(labels)
}

fn selector(message: &v1::Selector, faults: &mut Collector) -> Option<Selector> {
    match &message.kind {
        Some(Kind::ShareBp(share_bp)) => Some(share(*share_bp, faults)),
        Some(Kind::NodeLabels(message)) => Some(labels(message, faults)),
        Some(Kind::Nodes(v1::selector::Nodes { nodes })) => Some(faults.field("nodes", |faults| {
            if nodes.is_empty() {
                faults.add_at("nodes", "is empty; name at least one node, or leave the wave out");
            }
            let mut ids = BTreeSet::new();
            faults.each("nodes", nodes, |faults, name| {
                let Some(id) = faults.take(named(name)) else { return };
                if !ids.insert(id) {
                    faults.add(format!("{name} stands here twice; leave one out"));
                }
            });
            Selector::Nodes(ids)
        })),
        None => {
            faults.add("says nothing; write share_bp, node_labels or nodes");
            None
        }
    }
}

fn named(name: &str) -> Result<String, String> {
    match name.strip_prefix("nodes/") {
        Some(id) => node_id(id),
        None => Err("is no node; write nodes/NODE".to_owned()),
    }
}

/// Why a wave says nothing new after others: its field, and what to do.
fn conflict(wave: &Selector, before: &[Selector]) -> Option<(&'static str, String)> {
    before.iter().enumerate().find_map(|(index, earlier)| {
        let number = index + 1;
        match (wave, earlier) {
            (Selector::Share(share), Selector::Share(earlier)) if share <= earlier => {
                let (share, earlier) = (percent(*share), percent(*earlier));
                let why =
                    format!("is {share}%, of which all are among the {earlier}% of wave {number}; make it greater");
                Some(("share_bp", why))
            }
            (Selector::Labels(labels), Selector::Labels(earlier)) if labels == earlier => {
                Some(("node_labels.labels", format!("asks for what wave {number} asks for; leave it out")))
            }
            (Selector::Nodes(ids), Selector::Nodes(earlier)) => {
                let again = ids.intersection(earlier).next()?;
                Some(("nodes.nodes", format!("names nodes/{again}, which is in wave {number}; leave it out")))
            }
            _ => None,
        }
    })
}

fn too_many(waves: &[Selector]) -> Option<(&'static str, String)> {
    let ids = waves.iter().map(|wave| if let Selector::Nodes(ids) = wave { ids.len() } else { 0 }).sum::<usize>();
    if waves.len() > WAVES_MAX {
        return Some(("selectors", format!("has {} waves; write at most {WAVES_MAX}", waves.len())));
    }
    (ids > NAMED_NODES_MAX)
        .then(|| ("selectors", format!("name {ids} nodes together; name at most {NAMED_NODES_MAX}, or use labels")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sockpilot_policy::bucket::share_position;

    use super::*;

    fn any_selector() -> impl Strategy<Value = Selector> {
        prop_oneof![
            (1_u32..10_000).prop_map(Selector::Share),
            ("[ab]", "[xy]").prop_map(|(key, value)| Selector::Labels(Labels::from([(key, value)]))),
            prop::collection::btree_set("n[0-9]", 1..3).prop_map(Selector::Nodes),
        ]
    }

    prop_compose! {
        fn any_canary()(salt in "[0-9a-f]{0,4}", waves in prop::collection::vec(any_selector(), 1..6)) -> Canary {
            Canary { salt, waves }
        }
    }

    prop_compose! {
        fn any_node()(id in "n[0-9]{1,3}", labels in prop::collection::btree_map("[ab]", "[xy]", 0..3)) -> (String, Labels) {
            (id, labels)
        }
    }

    fn candidate((id, labels): &(String, Labels)) -> Candidate<'_> {
        Candidate { id, share_position: share_position(id), labels }
    }

    fn members(salt: &str, share_bp: u32) -> BTreeSet<u32> {
        let canary = Canary { salt: salt.to_owned(), waves: vec![Selector::Share(share_bp)] };
        let none = Labels::new();
        let in_it = |number: &u32| {
            let id = format!("node-{number}");
            let node = Candidate { id: &id, share_position: share_position(&id), labels: &none };
            canary.wave_of(&node).is_some()
        };
        (0..10_000).filter(in_it).collect()
    }

    proptest! {
        #[test]
        fn waves_add_up_and_the_first_that_admits_a_node_has_it(canary in any_canary(), more in any_canary(), node in any_node()) {
            let node = candidate(&node);
            let before = canary.wave_of(&node);
            let admits = |wave: &Selector| wave.admits(&canary.salt, &node);
            prop_assert_eq!(before, canary.waves.iter().position(admits));
            if let Ok(after) = canary.joined(&more) {
                prop_assert!(after.waves.starts_with(&canary.waves));
                prop_assert_eq!(&after.salt, &canary.salt);
                if before.is_some() {
                    prop_assert_eq!(after.wave_of(&node), before, "who is in a wave stays in it");
                }
                for wave in more.waves.iter().filter(|wave| wave.admits(&canary.salt, &node)) {
                    prop_assert!(after.wave_of(&node).is_some(), "{} was added", wave);
                }
                prop_assert_eq!(after.joined(&more), Ok(after.clone()), "the same again adds nothing");
            }
        }

        #[test]
        fn what_is_sound_survives_the_wire(canary in any_canary()) {
            let mut faults = Collector::at("");
            let read = Canary::from_proto(&canary.to_proto(), &mut faults);
            let sound = (1..canary.waves.len()).all(|at| conflict(&canary.waves[at], &canary.waves[..at]).is_none());
            prop_assert_eq!(faults.finish(()).is_ok(), sound);
            prop_assert_eq!(read, canary);
        }
    }

    #[test]
    fn shares_of_one_salt_are_nested_and_of_their_size() {
        for salt in ["", "a", "0123456789abcdef"] {
            let shares = [100, 1_000, 5_000].map(|share| members(salt, share));
            assert!(shares[0].is_subset(&shares[1]) && shares[1].is_subset(&shares[2]));
            // Within five standard deviations of a binomial.
            for (members, expected, around) in
                [(&shares[0], 100, 50), (&shares[1], 1_000, 150), (&shares[2], 5_000, 250)]
            {
                assert!(members.len().abs_diff(expected) < around, "{salt}: {} for {expected}", members.len());
            }
        }
    }

    #[test]
    fn shares_of_different_salts_have_nothing_to_do_with_each_other() {
        let salts = ["", "a", "b", "ab", "0123456789abcdef"].map(|salt| members(salt, 2_000));
        for (index, one) in salts.iter().enumerate() {
            for other in &salts[..index] {
                let both = one.intersection(other).count();
                assert!(both.abs_diff(400) < 100, "of 2,000 and 2,000 nodes in 10,000, {both} are in both");
            }
        }
    }

    #[test]
    fn positions_are_a_contract() {
        let none = Labels::new();
        let at = |salt, id| position(salt, &Candidate { id, share_position: 17, labels: &none });
        assert_eq!(
            [at("", "node-a"), at("salt", ""), at("salt", "node-a"), at("salt", "node-b")],
            [17, 17, 5_958, 2_967]
        );
    }

    #[test]
    fn faults_name_the_wave_and_the_remedy() {
        let share = |share_bp| v1::Selector { kind: Some(Kind::ShareBp(share_bp)) };
        let nodes = |nodes: &[&str]| v1::Selector {
            kind: Some(Kind::Nodes(v1::selector::Nodes { nodes: nodes.iter().map(|&name| name.to_owned()).collect() })),
        };
        let labelled = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            v1::Selector { kind: Some(Kind::NodeLabels(v1::target::NodeLabels { labels })) }
        };
        let faults = |selectors: Vec<v1::Selector>| {
            let mut faults = Collector::at("waves");
            let _ = Canary::from_proto(&v1::target::Waves { selectors, salt: String::new() }, &mut faults);
            let found = faults.finish(()).err().map(|faults| faults.as_slice().to_vec()).unwrap_or_default();
            found.into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(faults(vec![]), ["waves.selectors"]);
        assert_eq!(faults(vec![v1::Selector { kind: None }]), ["waves.selectors[0]"]);
        assert_eq!(faults(vec![share(0)]), ["waves.selectors[0].share_bp"]);
        assert_eq!(faults(vec![share(10_000)]), ["waves.selectors[0].share_bp"]);
        assert_eq!(faults(vec![share(500), labelled(&[("a", "x")]), share(500)]), ["waves.selectors[2].share_bp"]);
        assert_eq!(faults(vec![share(500), share(501)]), [""; 0]);
        assert_eq!(faults(vec![labelled(&[])]), ["waves.selectors[0].node_labels.labels"]);
        let twice = vec![labelled(&[("a", "x")]), labelled(&[("a", "x")])];
        assert_eq!(faults(twice), ["waves.selectors[1].node_labels.labels"]);
        assert_eq!(faults(vec![nodes(&[])]), ["waves.selectors[0].nodes.nodes"]);
        assert_eq!(faults(vec![nodes(&["a"])]), ["waves.selectors[0].nodes.nodes[0]"]);
        assert_eq!(faults(vec![nodes(&["nodes/a", "nodes/a"])]), ["waves.selectors[0].nodes.nodes[1]"]);
        assert_eq!(
            faults(vec![nodes(&["nodes/a"]), nodes(&["nodes/b", "nodes/a"])]),
            ["waves.selectors[1].nodes.nodes"]
        );
        assert_eq!(faults((1..=65).map(share).collect()), ["waves.selectors"]);
        let many: Vec<String> = (0..10_001).map(|number| format!("nodes/n{number}")).collect();
        assert_eq!(faults(vec![nodes(&many.iter().map(String::as_str).collect::<Vec<_>>())]), ["waves.selectors"]);
    }
}
