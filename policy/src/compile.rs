//! Layers to bit-vector tables.
//!
//! Every rule of every layer is one bit, in the order of decision. Each dimension of a match (direction and family, remote
//! prefix, local prefix, common prefix, ports, service) becomes a table from what a connection has to the mask of the rules
//! that this does not exclude. A decision is one look-up per dimension and the conjunction of the masks; the first bit left
//! in each layer is that layer's choice. So its cost does not grow with the number of rules that do not match.

mod choices;
mod context;
mod handshake;
mod masks;
mod ports;
mod prefixes;
mod zones;

use crate::{
    address::ServicePath,
    facts::KernelFacts,
    fault::Fault,
    layout::{
        CHOICES_MAX, COMMON_PREFIXES, ChoiceEntry, Generation, HANDSHAKE_BOUNDS_MAX, LAYERS_MAX, Mask, NAME_BYTES,
        NAMES_MAX, PREFIXES_MAX, PortTable, RULES_MAX, RuleEntry, SKIP_HANDSHAKE, SKIP_LOCAL_PREFIX,
        SKIP_REMOTE_PREFIX,
    },
    model::{Group, Id, Layer, LayerBody, LayerName, Match, Snapshot},
    readings::Readings,
};
use choices::Choices;
use masks::Masks;
pub use prefixes::PrefixEntry;
use zones::ZoneTable;

/// What goes into the kernel, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// The generation's head.
    pub head: Generation,
    /// Mask 0 is empty.
    pub masks: Vec<Mask>,
    /// By bit.
    pub rules: Vec<RuleEntry>,
    /// By choice id; choice 0 is none.
    pub choices: Vec<ChoiceEntry>,
    /// Names with their terminating zeros.
    pub names: Vec<[u8; NAME_BYTES]>,
    /// Masks by local port.
    pub local_ports: Box<PortTable>,
    /// Masks by remote port.
    pub remote_ports: Box<PortTable>,
    /// Masks by local prefix.
    pub local_prefixes: Vec<PrefixEntry>,
    /// Masks by remote prefix.
    pub remote_prefixes: Vec<PrefixEntry>,
    /// Every service that a rule names, with its mask.
    pub services: Vec<(ServicePath, u16)>,
    /// Mask of a connection in none of them.
    pub no_service: u16,
    /// By what rules and choices refer to: one more than the position.
    pub breakers: Vec<BreakerOf>,
}

/// The circuit breaker of a policy in a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerOf {
    /// The policy.
    pub layer: LayerName,
    /// `rollouts/{rollout}`
    pub rollout: String,
    /// The canary's revision.
    pub revision: u64,
    /// The canary's share, in basis points.
    pub share_bp: u32,
    /// As [`crate::breaker::trips`] wants it; 0: it does not act, but if it has acted before, the canary stays ended.
    pub threshold: u32,
}

/// The result of compiling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// What goes into the kernel.
    pub tables: Tables,
    /// What choice `index + 1` stands for.
    pub choices: Vec<ChoiceName>,
    /// Values that this node changes.
    pub effective: Vec<Effective>,
    /// Values that come out as asked for, but of which there is more to say.
    pub with_caveats: Vec<Effective>,
}

/// What a choice stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceName {
    /// Position of the layer.
    pub layer: usize,
    /// The rule's or the arm's name.
    pub name: Id,
    /// As in [`decide::Choice`](crate::decide::Choice).
    pub group: Option<Group>,
    /// As there.
    pub measured_only: bool,
}

/// What comes out of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The layer that asks for it.
    pub layer: LayerName,
    /// Path of the parameter in the layer.
    pub field: String,
    /// What it asks for.
    pub requested: String,
    /// What comes out.
    pub effective: String,
    /// Why it differs; empty if it does not.
    pub note: String,
    /// What else takes part, and what comes too late.
    pub caveats: Vec<String>,
}

/// Why a node cannot enforce what it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Position of the layer; `None` if it is about all together. Two layers may have one name: a canary, and what stands by for it.
    pub layer: Option<usize>,
    /// Path in the layer, and the reason.
    pub fault: Fault,
}

/// Compiles a snapshot for a node with these facts, of which no value was tried: what comes out is computed.
///
/// # Errors
/// As [`compile_tried`].
pub fn compile(
    snapshot: &Snapshot,
    facts: &KernelFacts,
    generation: u64,
    install: u64,
) -> Result<Compiled, Vec<Violation>> {
    compile_tried(snapshot, facts, &Readings::default(), generation, install)
}

/// Compiles a snapshot that was [resolved](crate::unit::on_node) for a node with these facts, whose kernel gave these readings.
///
/// `generation` is the snapshot's; `install` tells this filling of the tables from all others on the node.
///
/// # Errors
/// Everything that this node cannot honour.
pub fn compile_tried(
    snapshot: &Snapshot,
    facts: &KernelFacts,
    readings: &Readings,
    generation: u64,
    install: u64,
) -> Result<Compiled, Vec<Violation>> {
    let Snapshot { layers, zones } = snapshot;
    let mut choices = Choices::new(facts, readings);
    for (index, layer) in layers.iter().enumerate() {
        choices.layer(index, layer);
    }
    choices.withhold(layers);
    let mut refusals = choices.refusals;
    let matches: Vec<&Match> = layers.iter().flat_map(conditions).collect();
    let bounds = handshake::bounds(&matches);
    let sizes = [
        ("layers", layers.len(), LAYERS_MAX),
        ("different handshake times", bounds.len(), HANDSHAKE_BOUNDS_MAX),
        ("rules and experiments", matches.len(), RULES_MAX),
        ("rules and arms", choices.entries.len() - 1, CHOICES_MAX - 1),
        ("different names", choices.names.len(), NAMES_MAX),
    ];
    refusals.extend(sizes.into_iter().filter_map(|(what, number, max)| too_many(what, number, max)));
    if !refusals.is_empty() {
        return Err(refusals);
    }

    let mut masks = Masks::new(matches.len());
    let zones = ZoneTable::new(zones, &matches);
    let (local_prefixes, no_local) = prefixes::table(&mut masks, &matches, &prefixes::LOCAL, &zones);
    let (remote_prefixes, no_remote) = prefixes::table(&mut masks, &matches, &prefixes::REMOTE, &zones);
    let local_ports = ports::table(&mut masks, &matches, |condition| &condition.local_ports);
    let remote_ports = ports::table(&mut masks, &matches, |condition| &condition.remote_ports);
    let (services, no_service) = services(&mut masks, &matches);
    let head = Generation {
        generation,
        install,
        parameters: choices.entries.iter().fold(0, |all, entry| all | entry.parameters),
        live: choices.entries.iter().fold(0, |all, entry| all | u64::from(entry.live)),
        zero: 0,
        words: u32::try_from(matches.len().div_ceil(64)).unwrap_or(u32::MAX),
        handshake_bounds: handshake::held(&bounds),
        context: context::table(&mut masks, &matches, &bounds),
        common_prefix: std::array::from_fn(|index| common_prefix(&mut masks, &matches, index)),
        no_remote,
        no_local,
        skip: if local_prefixes.is_empty() { SKIP_LOCAL_PREFIX } else { 0 }
            | if remote_prefixes.is_empty() { SKIP_REMOTE_PREFIX } else { 0 }
            | if bounds.is_empty() { SKIP_HANDSHAKE } else { 0 },
        reserved: [0; 1],
    };
    let sizes = [
        ("local prefixes", local_prefixes.len(), PREFIXES_MAX),
        ("remote prefixes", remote_prefixes.len(), PREFIXES_MAX),
        ("different combinations of conditions", masks.len(), crate::layout::MASKS_MAX),
    ];
    let refusals: Vec<_> = sizes.into_iter().filter_map(|(what, number, max)| too_many(what, number, max)).collect();
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let tables = Tables {
        head,
        masks: masks.into_table(),
        rules: choices.rules,
        choices: choices.entries,
        names: choices.names.iter().map(|name| name_bytes(name)).collect(),
        local_ports,
        remote_ports,
        local_prefixes,
        remote_prefixes,
        services,
        no_service,
        breakers: choices.breakers,
    };
    Ok(Compiled { tables, choices: choices.meanings, effective: choices.effective, with_caveats: choices.with_caveats })
}

fn conditions(layer: &Layer) -> Vec<&Match> {
    match &layer.body {
        LayerBody::Policy(rules) => {
            let others = layer.rollout.as_ref().map_or(&[][..], |rollout| &rollout.part.others);
            let others = others.iter().map(|(_, matches)| matches);
            rules.iter().map(|rule| &rule.matches).chain(others).collect()
        }
        LayerBody::Experiment(comparison) => vec![&comparison.matches],
    }
}

fn too_many(what: &str, number: usize, max: usize) -> Option<Violation> {
    (number > max).then(|| Violation {
        layer: None,
        fault: Fault {
            field: "layers".to_owned(),
            description: format!(
                "have {number} {what} together; a node holds {max}: use fewer or split the nodes by labels"
            ),
        },
    })
}

fn common_prefix(masks: &mut Masks, matches: &[&Match], index: usize) -> u16 {
    let (length, bits) = if index < 33 { (index, 32) } else { (index - 33, 128) };
    debug_assert!(index < COMMON_PREFIXES);
    masks.where_(matches, |condition| {
        condition.same_prefix.is_none_or(|n| usize::from(n) <= bits && length >= usize::from(n))
            && condition.not_same_prefix.is_none_or(|n| usize::from(n) <= bits && length < usize::from(n))
    })
}

fn services(masks: &mut Masks, matches: &[&Match]) -> (Vec<(ServicePath, u16)>, u16) {
    let mut paths: Vec<_> = matches.iter().flat_map(|condition| &condition.services).cloned().collect();
    paths.sort();
    paths.dedup();
    let with_masks = paths
        .into_iter()
        .map(|path| {
            let mask = masks.where_(matches, |condition| {
                condition.services.is_empty() || condition.services.iter().any(|s| s.holds_for(path.as_str()))
            });
            (path, mask)
        })
        .collect();
    (with_masks, masks.where_(matches, |condition| condition.services.is_empty()))
}

fn name_bytes(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
