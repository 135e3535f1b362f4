//! The waves of a canary: which node is in which. Pure; the view `node_assignment` says the same in SQL, and a test holds the two
//! together.

use std::{collections::BTreeSet, fmt};

use sha2::{Digest, Sha256};
use sockpilot_policy::{bucket::BUCKETS, model::Labels};
use sockpilot_rollout::plan::ALL_FLOWS_BP;

use super::target::{carries, pairs, percent};

/// Waves of one canary.
pub const WAVES_MAX: usize = 64;
/// Nodes that the waves of one canary name one by one, together.
pub const NAMED_NODES_MAX: usize = 10_000;

/// A node, as far as waves ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Empty: no node in particular, which is in no share.
    pub id: &'a str,
    /// Where it stands among the shares without a salt.
    pub share_position: u32,
    pub labels: &'a Labels,
}

/// A part of the nodes: the union of its waves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Input of the positions among its shares. Empty: that of the node, which is the same in all such canaries.
    pub salt: String,
    /// In order; at least one.
    pub waves: Vec<Selector>,
    /// Of the connections on the nodes of the last wave, in basis points; on those of the waves before it is all of them.
    pub flow_share_bp: u32,
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
        Self { salt: String::new(), waves: vec![selector], flow_share_bp: ALL_FLOWS_BP }
    }

    /// The share of connections that a node of a wave has it for, in basis points.
    #[must_use]
    pub fn flow_share_of(&self, wave: usize) -> u32 {
        if wave + 1 == self.waves.len() { self.flow_share_bp } else { ALL_FLOWS_BP }
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
        Ok(Self { salt: self.salt.clone(), waves, flow_share_bp: self.flow_share_bp })
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

/// Why a wave says nothing new after others: its field, and what to do.
#[must_use]
pub fn conflict(wave: &Selector, before: &[Selector]) -> Option<(&'static str, String)> {
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

/// Why so many waves, or so many nodes by name, cannot be: the field, and what to do.
#[must_use]
pub fn too_many(waves: &[Selector]) -> Option<(&'static str, String)> {
    let ids = waves.iter().map(|wave| if let Selector::Nodes(ids) = wave { ids.len() } else { 0 }).sum::<usize>();
    if waves.len() > WAVES_MAX {
        return Some(("selectors", format!("has {} waves; write at most {WAVES_MAX}", waves.len())));
    }
    (ids > NAMED_NODES_MAX)
        .then(|| ("selectors", format!("name {ids} nodes together; name at most {NAMED_NODES_MAX}, or use labels")))
}

#[cfg(test)]
mod tests;
