//! The domain types. What a type can guarantee it does; the rest is checked by [`crate::validate`].

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use crate::{
    address::{Family, PortRange, Prefix, ServicePath},
    layout::{ACTIVE, PARAMETER_SLOTS, PASSIVE},
    measure::Measure,
};

/// A policy's, experiment's, rule's or arm's id: 1 to 63 of a-z, 0-9 and '-', a letter first, no '-' last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sound = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "\"{text}\" is no id; use 1 to 63 characters of a-z, 0-9 and '-', a letter first and no '-' last"
            ))
        }
    }
}

/// What a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerKind {
    /// An experiment's epoch. Stands before a policy of equal priority.
    Experiment,
    /// A policy's revision.
    Policy,
}

impl LayerKind {
    /// The collection in resource names.
    #[must_use]
    pub fn collection(self) -> &'static str {
        match self {
            Self::Policy => "policies",
            Self::Experiment => "experiments",
        }
    }
}

/// The resource name of a policy or an experiment: `policies/{id}` or `experiments/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerName {
    /// Which collection.
    pub kind: LayerKind,
    /// Its id there.
    pub id: Id,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.collection(), self.id)
    }
}

impl FromStr for LayerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (collection, id) = text.split_once('/').unwrap_or(("", text));
        let kind = match collection {
            "policies" => LayerKind::Policy,
            "experiments" => LayerKind::Experiment,
            _ => return Err(format!("\"{text}\" is no name; write policies/NAME or experiments/NAME")),
        };
        Ok(Self { kind, id: id.parse()? })
    }
}

/// Labels of nodes, or those that a selection asks for.
pub type Labels = BTreeMap<String, String>;

/// A policy document (one revision's content).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For people.
    pub description: String,
    /// Higher is asked first.
    pub priority: u32,
    /// Only nodes with all of these.
    pub node_labels: Labels,
    /// In order; the first that matches is the choice.
    pub rules: Vec<Rule>,
}

/// Which connections get which parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique in its policy.
    pub name: Id,
    /// Which connections.
    pub matches: Match,
    /// What they get.
    pub set: Parameters,
    /// What a node does whose kernel cannot honour a parameter of `set`.
    pub if_unsupported: IfUnsupported,
    /// Whether connections that are open already get it too.
    pub apply_to: ApplyTo,
}

impl Rule {
    /// A rule of the usual kind: for new connections, refused by nodes that cannot honour it.
    #[must_use]
    pub fn new(name: Id, matches: Match, set: Parameters) -> Self {
        Self { name, matches, set, if_unsupported: IfUnsupported::default(), apply_to: ApplyTo::default() }
    }
}

/// Which connections a rule is for, by when they began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApplyTo {
    /// Those that begin while it is in force.
    #[default]
    New,
    /// Those that are open already too.
    NewAndEstablished,
}

/// What a node does whose kernel cannot honour a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfUnsupported {
    /// It refuses the layer.
    #[default]
    Reject,
    /// It applies the rest.
    Skip,
}

/// An experiment document.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// What people say of it.
    pub words: Words,
    /// What it is.
    pub design: Design,
}

/// What people say of an experiment. Other words change nothing of what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// What it is about.
    pub description: String,
    /// Who answers for it.
    pub owner: String,
    /// How long it is to run; 0: until it is stopped. Seconds.
    pub duration_s: u32,
}

/// What an experiment's outcomes come from: another design is another epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Design {
    /// Higher is asked first.
    pub priority: u32,
    /// Only nodes with all of these.
    pub node_labels: Labels,
    /// What is compared.
    pub comparison: Comparison,
}

/// What an experiment compares: what a node needs of its design.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Which connections take part.
    pub matches: Match,
    /// What is randomised.
    pub unit: Unit,
    /// Input of the bucket hash.
    pub salt: String,
    /// By first bucket; no bucket has two, and one may have none.
    pub arms: Vec<Arm>,
    /// As in [`Rule`], for all arms.
    pub if_unsupported: IfUnsupported,
    /// By what the arms are compared.
    pub measures: Vec<Measure>,
    /// A connection's outcome is what it had so long after its beginning, or at its end if that was before. Seconds.
    pub horizon_s: u32,
    /// The policy that arms may withhold.
    pub withholds: Option<LayerName>,
}

/// The horizon of an experiment that names none, in seconds.
pub const HORIZON_S: u32 = 60;
/// The longest one.
pub const HORIZON_S_MAX: u32 = 600;

impl Comparison {
    /// A comparison of connections with nothing to measure.
    #[must_use]
    pub fn of_flows(matches: Match, salt: &str, arms: Vec<Arm>) -> Self {
        Self {
            matches,
            unit: Unit::Flow,
            salt: salt.to_owned(),
            arms,
            if_unsupported: IfUnsupported::default(),
            measures: vec![],
            horizon_s: HORIZON_S,
            withholds: None,
        }
    }
}

/// What an experiment randomises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Every connection by itself.
    Flow,
    /// All connections of a node with addresses in one prefix.
    PeerPrefix {
        /// Length of the prefix of IPv4 addresses.
        ipv4_bits: u8,
        /// Length of the prefix of IPv6 addresses.
        ipv6_bits: u8,
    },
    /// All connections of a node.
    Node,
    /// All connections of the fleet that begin in one slot of time (switchback).
    TimeSlot {
        /// Length of a slot.
        slot_s: u32,
        /// At the beginning of a slot, what is left out of the outcomes.
        washout_s: u32,
    },
    /// Every connection by itself, but with the second arm's share by the node: low on one half of the nodes, high on the other.
    SaturationPair {
        /// In basis points.
        low_bp: u32,
        /// In basis points.
        high_bp: u32,
    },
}

/// One way to treat a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// Unique in its experiment.
    pub name: Id,
    /// Its first bucket.
    pub first_bucket: u32,
    /// Number of its buckets.
    pub weight_bp: u32,
    /// What its connections get.
    pub set: Parameters,
    /// Its connections do not get the policy of [`Comparison::withholds`].
    pub withholds: bool,
}

/// Conditions on a connection; those present must all hold, of a list one entry suffices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// Who opened it.
    pub direction: Option<Direction>,
    /// Address family.
    pub family: Option<Family>,
    /// The local address is in one of these.
    pub local_prefixes: Vec<Prefix>,
    /// The remote address is in one of these.
    pub remote_prefixes: Vec<Prefix>,
    /// The first n bits of both addresses are equal; n ≤ 128, and of 32 bits none has more than 32.
    pub same_prefix: Option<u8>,
    /// The first n bits of both addresses are not all equal; as above.
    pub not_same_prefix: Option<u8>,
    /// The local port is in one of these.
    pub local_ports: Vec<PortRange>,
    /// The remote port is in one of these.
    pub remote_ports: Vec<PortRange>,
    /// The socket's cgroup is in one of these.
    pub services: Vec<ServicePath>,
    /// The local address is in one of these zones.
    pub local_zones: Vec<Id>,
    /// The remote address is in one of these zones.
    pub remote_zones: Vec<Id>,
    /// How both zones relate.
    pub zone_relation: Option<ZoneRelation>,
    /// The handshake took at least so long.
    pub min_handshake_rtt_us: Option<u32>,
    /// The handshake took less.
    pub max_handshake_rtt_us: Option<u32>,
}

impl Match {
    /// Whether it can be judged only once the connection is established.
    #[must_use]
    pub fn asks_handshake(&self) -> bool {
        self.min_handshake_rtt_us.is_some() || self.max_handshake_rtt_us.is_some()
    }
}

/// How the zones of the local and the remote address relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneRelation {
    /// Both are in the same zone.
    SameZone,
    /// They are in two zones.
    OtherZone,
    /// Both are in the same region.
    SameRegion,
    /// They are in two regions.
    OtherRegion,
}

/// Where addresses are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Unique.
    pub name: Id,
    /// Several zones may lie in one region.
    pub region: Id,
    /// Addresses in it, if no longer prefix puts them into another zone.
    pub prefixes: Vec<Prefix>,
}

/// The zone of an address: that of its longest prefix.
#[must_use]
pub fn zone_of(zones: &[Zone], address: IpAddr) -> Option<&Zone> {
    let holding = zones.iter().flat_map(|zone| {
        zone.prefixes.iter().filter(|prefix| prefix.contains(address)).map(move |prefix| (prefix.mapped().1, zone))
    });
    holding.max_by_key(|(length, _)| *length).map(|(_, zone)| zone)
}

/// Everything one node must enforce.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// In the order in which they are asked.
    pub layers: Vec<Layer>,
    /// What zones in matches mean.
    pub zones: Vec<Zone>,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// This end.
    Active,
    /// The other end.
    Passive,
}

impl Direction {
    /// As in [`crate::layout::FlowKey::direction`].
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Active => ACTIVE,
            Self::Passive => PASSIVE,
        }
    }
}

/// A parameter's value, in the parameter's unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number, or 1 for a parameter that can only be turned on.
    Number(u32),
    /// A name.
    Name(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The parameters that a rule or an arm sets, by slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters([Option<Value>; PARAMETER_SLOTS]);

impl Parameters {
    /// With one parameter more, or another value for it.
    ///
    /// # Panics
    /// If the slot is none of [`PARAMETER_SLOTS`].
    #[must_use]
    pub fn with(mut self, slot: usize, value: Value) -> Self {
        self.0[slot] = Some(value);
        self
    }

    /// The value in a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Value> {
        self.0.get(slot).and_then(Option::as_ref)
    }

    /// What is set, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Value)> {
        self.0.iter().enumerate().filter_map(|(slot, value)| Some((slot, value.as_ref()?)))
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// One policy revision, or one experiment epoch, as a node evaluates it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Which policy or experiment.
    pub name: LayerName,
    /// Which revision or epoch.
    pub revision: u64,
    /// Higher is asked first.
    pub priority: u32,
    /// When it acts.
    pub term: Term,
    /// It ends by itself at this second of the fleet's time, since 1970.
    pub ends_s: Option<u64>,
    /// Its rules or arms.
    pub body: LayerBody,
}

/// When a layer acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// Always.
    Always,
    /// Until no server was heard of for so long: a canary or an experiment.
    WhileHeard {
        /// The lease.
        lease_ms: u32,
    },
    /// Only from then on: what everyone has, in the place of a canary that has ended.
    AfterSilence {
        /// The canary's lease.
        lease_ms: u32,
    },
}

impl Term {
    /// Whether a layer acts when no server was heard of for `silence_ms`.
    #[must_use]
    pub fn holds(self, silence_ms: u64) -> bool {
        match self {
            Self::Always => true,
            Self::WhileHeard { lease_ms } => silence_ms <= u64::from(lease_ms),
            Self::AfterSilence { lease_ms } => silence_ms > u64::from(lease_ms),
        }
    }
}

/// What a layer consists of.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerBody {
    /// In order.
    Policy(Vec<Rule>),
    /// One match, several arms.
    Experiment(Box<Comparison>),
}

/// Sorts layers into the order in which they are asked.
pub fn sort_layers(layers: &mut [Layer]) {
    layers.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)));
}
