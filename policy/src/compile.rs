//! Layers to bit-vector tables.
//!
//! Every rule of every layer is one bit, in the order of decision. Each dimension of a match (direction and family, remote
//! prefix, local prefix, common prefix, ports, service) becomes a table from what a connection has to the mask of the rules
//! that this does not exclude. A decision is one look-up per dimension and the conjunction of the masks; the first bit left
//! in each layer is that layer's choice. So its cost does not grow with the number of rules that do not match.

mod context;
mod handshake;
mod masks;
mod ports;
mod prefixes;
mod zones;

use crate::{
    address::ServicePath,
    bucket::{BUCKETS, WHOLE_FLOW, salt},
    effective::{Place, Told, told},
    facts::{Encoded, KernelFacts},
    fault::Fault,
    layout::{
        ARMS_MAX, CHOICES_MAX, COMMON_PREFIXES, ChoiceEntry, Generation, HANDSHAKE_BOUNDS_MAX, LAYERS_MAX, Mask,
        NAME_BYTES, NAMES_MAX, PREFIXES_MAX, PortTable, RULES_MAX, RuleEntry, SKIP_HANDSHAKE, SKIP_LOCAL_PREFIX,
        SKIP_REMOTE_PREFIX, STANDBY,
    },
    model::{
        ApplyTo, Arm, Comparison, Id, IfUnsupported, Layer, LayerBody, LayerName, Match, Rule, Snapshot, Term, Unit,
    },
    parameter::{LIVE_MASK, PARAMETERS},
    trial::Readings,
    unit,
};
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
    /// Values that come out as asked for, but of which more is to be told.
    pub with_caveats: Vec<Effective>,
}

/// What a choice stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChoiceName {
    /// Position of the layer.
    pub layer: usize,
    /// The rule's or the arm's name.
    pub name: Id,
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
pub struct Refusal {
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
) -> Result<Compiled, Vec<Refusal>> {
    compile_tried(snapshot, facts, &Readings::default(), generation, install)
}

/// Compiles a snapshot that was [resolved](unit::on_node) for a node with these facts, whose kernel gave these readings.
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
) -> Result<Compiled, Vec<Refusal>> {
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
        live: choices.entries.iter().fold(0, |all, entry| all | entry.live),
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
    };
    Ok(Compiled { tables, choices: choices.meanings, effective: choices.effective, with_caveats: choices.with_caveats })
}

fn conditions(layer: &Layer) -> Vec<&Match> {
    match &layer.body {
        LayerBody::Policy(rules) => rules.iter().map(|rule| &rule.matches).collect(),
        LayerBody::Experiment(comparison) => vec![&comparison.matches],
    }
}

fn too_many(what: &str, number: usize, max: usize) -> Option<Refusal> {
    (number > max).then(|| Refusal {
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

/// Builds the rule and choice tables, layer by layer.
struct Choices<'a> {
    facts: &'a KernelFacts,
    readings: &'a Readings,
    rules: Vec<RuleEntry>,
    entries: Vec<ChoiceEntry>,
    meanings: Vec<ChoiceName>,
    names: Vec<String>,
    effective: Vec<Effective>,
    with_caveats: Vec<Effective>,
    refusals: Vec<Refusal>,
}

impl<'a> Choices<'a> {
    fn new(facts: &'a KernelFacts, readings: &'a Readings) -> Self {
        Self {
            facts,
            readings,
            rules: vec![],
            entries: vec![ChoiceEntry::default()],
            meanings: vec![],
            names: vec![],
            effective: vec![],
            with_caveats: vec![],
            refusals: vec![],
        }
    }

    fn layer(&mut self, index: usize, layer: &Layer) {
        let first = self.rules.len();
        let lease_ns = match layer.term {
            Term::Always => 0,
            Term::WhileHeard { lease_ms } => u64::from(lease_ms) * 1_000_000,
            Term::AfterSilence { lease_ms } => STANDBY | (u64::from(lease_ms) * 1_000_000),
        };
        let general = RuleEntry {
            lease_ns,
            ends_ns: layer.ends_s.map_or(0, |ends_s| ends_s.saturating_mul(1_000_000_000).max(1)),
            key: WHOLE_FLOW,
            layer: 1_u64.checked_shl(index as u32).unwrap_or(0),
            ..RuleEntry::default()
        };
        match &layer.body {
            LayerBody::Policy(rules) => {
                for (position, rule) in rules.iter().enumerate() {
                    let Rule { name, matches, set, if_unsupported, apply_to } = rule;
                    let field = format!("rules[{position}].set");
                    let place = Place { set, direction: matches.direction };
                    let first_choice = self.choice(index, layer, name, &field, &place, *if_unsupported);
                    if *apply_to == ApplyTo::NewAndEstablished {
                        self.live(index, layer, &format!("rules[{position}].apply_to"), *if_unsupported);
                    }
                    let (arm_starts, arm_ends) = ([BUCKETS as u16; ARMS_MAX], [BUCKETS as u16; ARMS_MAX]);
                    self.rules.push(RuleEntry { first_choice, arms: 1, arm_starts, arm_ends, ..general });
                }
            }
            LayerBody::Experiment(comparison) => {
                let Comparison { matches, unit, salt: text, arms, if_unsupported, .. } = &**comparison;
                let first_choice = self.entries.len() as u16;
                let (mut arm_starts, mut arm_ends) = ([BUCKETS as u16; ARMS_MAX], [BUCKETS as u16; ARMS_MAX]);
                for (position, arm) in arms.iter().enumerate() {
                    let Arm { name, first_bucket, weight_bp, set, withholds: _ } = arm;
                    if let (Some(start), Some(end)) = (arm_starts.get_mut(position), arm_ends.get_mut(position)) {
                        *start = (*first_bucket).min(BUCKETS) as u16;
                        *end = (first_bucket + weight_bp).min(BUCKETS) as u16;
                    }
                    let place = Place { set, direction: matches.direction };
                    self.choice(index, layer, name, &format!("arms[{position}].set"), &place, *if_unsupported);
                }
                let slot_ns = match unit {
                    Unit::TimeSlot { slot_s, .. } => u64::from(*slot_s) * 1_000_000_000,
                    _ => 0,
                };
                let (arms, salt, key) = (arms.len() as u16, salt(text), unit::key(*unit));
                self.rules.push(RuleEntry { first_choice, arms, salt, key, slot_ns, arm_starts, arm_ends, ..general });
            }
        }
        let layer_end = self.rules.len() as u32;
        self.rules[first..].iter_mut().for_each(|rule| rule.layer_end = layer_end);
    }

    /// Has arms pass over the layers of the policy that they withhold: the canary, and what stands by for it.
    fn withhold(&mut self, layers: &[Layer]) {
        let mut first = 0_usize;
        for (index, layer) in layers.iter().enumerate() {
            let Some(entry) = self.rules.get_mut(first) else { return };
            first = entry.layer_end as usize;
            let LayerBody::Experiment(comparison) = &layer.body else { continue };
            let Some(policy) = &comparison.withholds else { continue };
            let of_policy = |(at, other): (usize, &Layer)| (at > index && other.name == *policy).then_some(at);
            let later = layers.iter().enumerate().filter_map(of_policy);
            entry.withholds = later.fold(0, |all, at| all | 1_u64.checked_shl(at as u32).unwrap_or(0));
            let arms = comparison.arms.iter().enumerate().filter(|(_, arm)| arm.withholds);
            entry.withholding = arms.fold(0, |all, (at, _)| all | 2_u64 << at);
        }
    }

    fn choice(
        &mut self,
        index: usize,
        layer: &Layer,
        name: &Id,
        path: &str,
        place: &Place<'_>,
        if_unsupported: IfUnsupported,
    ) -> u16 {
        let mut entry = ChoiceEntry::default();
        for (slot, value) in place.set.iter() {
            let Some(parameter) = PARAMETERS.get(slot) else { continue };
            let field = format!("{path}.{}", parameter.name);
            let (name, requested) = (layer.name.clone(), value.to_string());
            match told(parameter, value, place, self.facts, |encoded| self.readings.get(slot, encoded)) {
                Ok(Told { encoded, effective, note, caveats }) => {
                    entry.parameters |= 1 << slot;
                    entry.values[slot] = match encoded {
                        Encoded::Number(number) => number,
                        Encoded::Name(name) => self.name(name),
                    };
                    let changed = effective != requested;
                    let is_plain = !changed && caveats.is_empty();
                    let told = Effective { layer: name, field, requested, effective, note, caveats };
                    if changed {
                        self.effective.push(told);
                    } else if !is_plain {
                        self.with_caveats.push(told);
                    }
                }
                Err(note) if if_unsupported == IfUnsupported::Skip => {
                    let (effective, caveats) = ("skipped".to_owned(), vec![]);
                    self.effective.push(Effective { layer: name, field, requested, effective, note, caveats });
                }
                Err(description) => {
                    self.refusals.push(Refusal { layer: Some(index), fault: Fault { field, description } });
                }
            }
        }
        self.entries.push(entry);
        self.meanings.push(ChoiceName { layer: index, name: name.clone() });
        (self.entries.len() - 1) as u16
    }

    /// Has the newest choice apply to open connections too.
    fn live(&mut self, index: usize, layer: &Layer, field: &str, if_unsupported: IfUnsupported) {
        let Some(entry) = self.entries.last_mut() else { return };
        let (layer, field) = (layer.name.clone(), field.to_owned());
        match (self.facts.changes_open_connections(), if_unsupported) {
            (Ok(()), _) => entry.live = entry.parameters & LIVE_MASK,
            (Err(note), IfUnsupported::Skip) => {
                let (requested, effective) = ("NEW_AND_ESTABLISHED".to_owned(), "NEW".to_owned());
                self.effective.push(Effective { layer, field, requested, effective, note, caveats: vec![] });
            }
            (Err(description), IfUnsupported::Reject) => {
                self.refusals.push(Refusal { layer: Some(index), fault: Fault { field, description } });
            }
        }
    }

    fn name(&mut self, name: String) -> u32 {
        let position = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        position as u32
    }
}
