//! How many nodes a decision is for, and what is near when it is for none. Pure.

use std::collections::BTreeMap;

use sockpilot_policy::model::Labels;

use crate::change::{
    target::{Target, carries, pairs, percent},
    wave::{Canary, Candidate, Selector},
};

/// Labels that a sentence names.
const NAMED_MAX: usize = 5;

/// A node, as far as decisions are for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: String,
    pub labels: Labels,
    /// Where it stands among the shares.
    pub share_position: u32,
    /// Whether it is there now.
    pub connected: bool,
}

impl Seen {
    /// As waves see it.
    #[must_use]
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate { id: &self.id, share_position: self.share_position, labels: &self.labels }
    }
}

/// How many nodes a decision is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    pub nodes: u32,
    /// Of these, those that are there now.
    pub connected_nodes: u32,
    /// Of the whole fleet.
    pub total_nodes: u32,
}

/// The nodes that a target admits, of those with the labels that the document asks for.
#[must_use]
pub fn reach(target: &Target, node_labels: &Labels, nodes: &[Seen]) -> Reach {
    let admitted = |node: &&Seen| admits(target, node) && carries(&node.labels, node_labels);
    let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX);
    Reach {
        nodes: count(nodes.iter().filter(admitted).count()),
        connected_nodes: count(nodes.iter().filter(admitted).filter(|node| node.connected).count()),
        total_nodes: count(nodes.len()),
    }
}

fn admits(target: &Target, node: &Seen) -> bool {
    match target {
        Target::Everyone => true,
        Target::Canary(canary) => canary.wave_of(&node.candidate()).is_some(),
        Target::Nobody => false,
    }
}

/// Why a decision is for no node: field of the request, and a sentence. `None` if it is for some, or if nothing but the lack of
/// nodes is the reason.
#[must_use]
pub fn for_none(document: &str, target: &Target, node_labels: &Labels, nodes: &[Seen]) -> Option<(String, String)> {
    if reach(target, node_labels, nodes).nodes > 0 {
        return None;
    }
    let all = nodes.len();
    match target {
        Target::Nobody => None,
        Target::Canary(canary) if all == 0 => {
            Some(("target".to_owned(), format!("{canary}: 0 of 0 nodes; no node has ever connected to this server")))
        }
        Target::Canary(canary) => Some(of_canary(document, canary, node_labels, nodes)),
        Target::Everyone if all > 0 => Some(of_document(document, node_labels, nodes)),
        Target::Everyone => None,
    }
}

fn of_canary(document: &str, canary: &Canary, node_labels: &Labels, nodes: &[Seen]) -> (String, String) {
    let all = counted(nodes.len());
    let admitted: Vec<_> = nodes.iter().filter(|node| canary.wave_of(&node.candidate()).is_some()).cloned().collect();
    match (canary.salt.as_str(), canary.waves.as_slice()) {
        ("", [Selector::Share(share_bp)]) => {
            let positions = nodes.iter().filter(|node| carries(&node.labels, node_labels)).map(|n| n.share_position);
            let why = format!("{}% of nodes are 0 of {all} now", percent(*share_bp));
            match positions.min() {
                Some(first) => {
                    let least = percent(first + 1);
                    ("target.share_bp".to_owned(), format!("{why}; the smallest share with a node is {least}%"))
                }
                None => of_document(document, node_labels, nodes),
            }
        }
        _ if !admitted.is_empty() => of_document(document, node_labels, &admitted),
        (salt, [Selector::Labels(wanted)]) => {
            let field = if salt.is_empty() { "target.node_labels" } else { "target.waves" };
            (field.to_owned(), format!("{} holds for 0 of {all}: {}", pairs(wanted), near(wanted, nodes)))
        }
        _ => ("target.waves".to_owned(), format!("{canary}: 0 of {all} now")),
    }
}

/// The waves, counted from 1, that are for no node, beside others that are.
#[must_use]
pub fn empty_waves(canary: &Canary, node_labels: &Labels, nodes: &[Seen]) -> Vec<usize> {
    let mut members = vec![0_usize; canary.waves.len()];
    for node in nodes.iter().filter(|node| carries(&node.labels, node_labels)) {
        if let Some(wave) = canary.wave_of(&node.candidate()) {
            members[wave] += 1;
        }
    }
    let empty = members.iter().enumerate().filter(|(_, nodes)| **nodes == 0).map(|(wave, _)| wave + 1);
    if members.iter().any(|nodes| *nodes > 0) { empty.collect() } else { vec![] }
}

fn of_document(document: &str, node_labels: &Labels, nodes: &[Seen]) -> (String, String) {
    let asked = pairs(node_labels);
    let why = format!(
        "the document asks for {asked}, which 0 of {} have: {}",
        counted(nodes.len()),
        near(node_labels, nodes)
    );
    (format!("{document}.node_labels"), why)
}

/// `1 node`, `5 nodes`.
#[must_use]
pub fn counted(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

/// What to say about labels that no node has together.
#[must_use]
pub fn near(wanted: &Labels, nodes: &[Seen]) -> String {
    let mut keys: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (key, value) in nodes.iter().flat_map(|node| &node.labels) {
        *keys.entry(key).or_default().entry(value).or_default() += 1;
    }
    if keys.is_empty() {
        return "no node has any label".to_owned();
    }
    let unknown =
        wanted.iter().find(|&(key, value)| !keys.get(key.as_str()).is_some_and(|v| v.contains_key(value.as_str())));
    let Some((key, value)) = unknown else { return format!("no node has all of {}", pairs(wanted)) };
    let Some(values) = keys.get(key.as_str()) else {
        return match nearest(key, keys.keys().copied()) {
            Some(near) => format!("no node has a label {key}; did you mean {near}?"),
            None => format!("no node has a label {key}; labels are {}", named(keys.keys())),
        };
    };
    match nearest(value, values.keys().copied()) {
        Some(near) => format!("no node has {key}={value}; did you mean {key}={near} ({})?", counted(values[near])),
        None => format!("no node has {key}={value}; {key} is {}", named(values.keys())),
    }
}

fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .map(|name| (strsim::damerau_levenshtein(&name.to_lowercase(), &lower), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 4 && *distance < name.chars().count())
        .min()
        .map(|(_, name)| name)
}

fn named<T: AsRef<str>>(words: impl ExactSizeIterator<Item = T>) -> String {
    let all = words.len();
    let mut text: Vec<_> = words.take(NAMED_MAX).map(|word| word.as_ref().to_owned()).collect();
    if all > NAMED_MAX {
        text.push(format!("{} more", all - NAMED_MAX));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn fleet() -> Vec<Seen> {
        let node = |share_position: u32, connected, pairs: &[_]| {
            let id = format!("n{share_position}");
            Seen { id, labels: labels(pairs), share_position, connected }
        };
        vec![
            node(4_000, true, &[("role", "edge"), ("zone", "a")]),
            node(5_000, false, &[("role", "edge"), ("zone", "a")]),
            node(6_000, true, &[("role", "core"), ("zone", "b")]),
        ]
    }

    fn of_labels(pairs: &[(&str, &str)]) -> Target {
        Target::Canary(Canary::by_hand(Selector::Labels(labels(pairs))))
    }

    fn why(target: &Target, node_labels: &[(&str, &str)], nodes: &[Seen]) -> Option<String> {
        for_none("policy", target, &labels(node_labels), nodes).map(|(field, why)| format!("{field}: {why}"))
    }

    #[test]
    fn counts_who_is_admitted_and_who_is_there() {
        let counts = |target: &Target, asked: &[_]| {
            let Reach { nodes, connected_nodes, total_nodes } = reach(target, &labels(asked), &fleet());
            (nodes, connected_nodes, total_nodes)
        };
        assert_eq!(counts(&of_labels(&[("role", "edge")]), &[]), (2, 1, 3));
        assert_eq!(counts(&Target::Canary(Canary::by_hand(Selector::Share(5_001))), &[]), (2, 1, 3));
        assert_eq!(counts(&Target::Everyone, &[("zone", "b")]), (1, 1, 3));
        assert_eq!(counts(&Target::Nobody, &[]), (0, 0, 3));
    }

    #[test]
    fn what_is_near_is_said() {
        let cases = [
            (
                &[("role", "egde")][..],
                "role=egde holds for 0 of 3 nodes: no node has role=egde; did you mean role=edge (2 nodes)?",
            ),
            (&[("rol", "edge")], "rol=edge holds for 0 of 3 nodes: no node has a label rol; did you mean role?"),
            (
                &[("role", "backend")],
                "role=backend holds for 0 of 3 nodes: no node has role=backend; role is core, edge",
            ),
            (&[("rack", "7")], "rack=7 holds for 0 of 3 nodes: no node has a label rack; labels are role, zone"),
            (
                &[("role", "edge"), ("zone", "b")],
                "role=edge,zone=b holds for 0 of 3 nodes: no node has all of role=edge,zone=b",
            ),
        ];
        for (wanted, expected) in cases {
            assert_eq!(why(&of_labels(wanted), &[], &fleet()), Some(format!("target.node_labels: {expected}")));
        }
        assert_eq!(why(&of_labels(&[("role", "edge")]), &[], &fleet()), None);
    }

    #[test]
    fn a_share_says_from_where_on_it_holds_a_node() {
        let share = Target::Canary(Canary::by_hand(Selector::Share(100)));
        let expected = "target.share_bp: 1% of nodes are 0 of 3 nodes now; the smallest share with a node is 40.01%";
        assert_eq!(why(&share, &[], &fleet()).as_deref(), Some(expected));
        assert_eq!(why(&Target::Canary(Canary::by_hand(Selector::Share(4_001))), &[], &fleet()), None);
    }

    #[test]
    fn the_document_may_be_for_nobody_too() {
        let expected = "policy.node_labels: the document asks for zone=b, which 0 of 2 nodes have: no node has zone=b; \
                        zone is a";
        assert_eq!(why(&of_labels(&[("role", "edge")]), &[("zone", "b")], &fleet()).as_deref(), Some(expected));
        assert!(why(&Target::Everyone, &[("zone", "x")], &fleet()).is_some());
        assert_eq!(why(&Target::Everyone, &[], &[]), None, "a server may be told before its nodes come");
        assert_eq!(why(&Target::Nobody, &[], &fleet()), None);
        assert!(why(&of_labels(&[("a", "b")]), &[], &[]).is_some_and(|why| why.contains("0 of 0 nodes")));
    }

    #[test]
    fn waves_without_nodes_are_told_from_those_with() {
        let named = |ids: &[&str]| Selector::Nodes(ids.iter().map(|&id| id.to_owned()).collect());
        let waves = vec![named(&["n4000"]), of("role", "edge"), of("role", "egde"), named(&["n5000", "n7"])];
        let canary = Canary { salt: "s".to_owned(), waves, flow_share_bp: sockpilot_rollout::plan::ALL_FLOWS_BP };
        assert_eq!(empty_waves(&canary, &Labels::new(), &fleet()), [3, 4], "n5000 is in the second already");
        let nobody = Canary {
            salt: "s".to_owned(),
            waves: vec![named(&["n7"]), of("role", "egde")],
            flow_share_bp: sockpilot_rollout::plan::ALL_FLOWS_BP,
        };
        assert_eq!(empty_waves(&nobody, &Labels::new(), &fleet()), [0; 0]);
        let target = Target::Canary(nobody);
        let expected = "target.waves: node n7, then role=egde: 0 of 3 nodes now";
        assert_eq!(why(&target, &[], &fleet()).as_deref(), Some(expected));
    }

    fn of(key: &str, value: &str) -> Selector {
        Selector::Labels(labels(&[(key, value)]))
    }
}
