//! What the daemon and the kernel program agree on: the shape of the tables, the socket's stamp and the flow record.
//!
//! Rules of this file and those below it: `#[repr(C)]`, no implicit padding, every byte defined, addresses as 16 bytes in
//! network order (IPv4 as `::ffff:a.b.c.d`), ports in host order behind names. Any change of meaning raises
//! [`LAYOUT_VERSION`], which is part of the pin path: a daemon never adopts tables of another layout. What stays in all of them, so that
//! one can take over from another, stands in `handover.rs`.

mod connection;
mod entries;
mod handover;
mod namespaces;
mod offsets;

pub use connection::{Changes, FlowRecord, PendingKey, Reported, Stamp};
pub use entries::{ProbeInput, TRIALS_MAX, TrialEntry, TrialRun};
pub use handover::{COMMON, EARLIER_MAX, HANDOVER_SINCE, Handover, RELIEVED, StampHead};
pub use namespaces::{NAMESPACE_PLACES, NAMESPACES_MAX, Namespace, NamespaceTable};
pub use offsets::{KernelOffsets, OWNER_OFFSETS, OwnerOffsets, SOCKET_OFFSETS, SocketOffsets};

/// Part of the pin path.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "layout-next") { 1_000 } else { 8 };

/// Rules of all layers of a node together (an experiment counts as one).
pub const RULES_MAX: usize = 1024;
/// 64-bit words of a rule mask.
pub const MASK_WORDS: usize = RULES_MAX / 64;
/// Distinct rule masks of one generation. Mask 0 is empty.
pub const MASKS_MAX: usize = 8192;
/// Choices (a rule of a policy, an arm of an experiment) of all layers together. Choice 0 is none.
pub const CHOICES_MAX: usize = 2048;
/// Layers on one node.
pub const LAYERS_MAX: usize = 64;
/// Arms of one experiment.
pub const ARMS_MAX: usize = 8;
/// Room for parameters; a parameter's slot is its position in [`crate::parameter::PARAMETERS`].
pub const PARAMETER_SLOTS: usize = 32;
/// Distinct names (congestion controls) since the tables were made.
pub const NAMES_MAX: usize = 64;
/// Bytes of a name, with its terminating zero.
pub const NAME_BYTES: usize = 16;
/// Prefixes of one side (local or remote) of one generation.
pub const PREFIXES_MAX: usize = 32_768;
/// Two generations stand side by side: the one in force and the one that is being filled.
pub const SLOTS: usize = 2;
/// Bytes of the ring buffer of flow records.
pub const RING_BYTES: usize = 16 << 20;
/// Connection requests whose decision waits for the handshake's end. The oldest gives way; it is then decided again.
pub const PENDING_MAX: usize = 16_384;
/// A decision that waits for longer belongs to a handshake that has failed: the same addresses are decided anew.
pub const PENDING_NS_MAX: u64 = 180_000_000_000;

/// Cgroups that the program is attached to.
pub const ATTACHED_MAX: usize = 4_096;
/// Cgroups around a socket that are looked at.
pub const CGROUP_DEPTH_MAX: usize = 32;

/// Family values of [`FlowKey::family`].
pub const IPV4: u8 = 0;
/// See [`IPV4`].
pub const IPV6: u8 = 1;
/// Direction values of [`FlowKey::direction`].
pub const ACTIVE: u8 = 0;
/// See [`ACTIVE`].
pub const PASSIVE: u8 = 1;

/// One end of one connection, as matching and bucketing see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub remote: [u8; 16],
    /// Host order.
    pub local_port: u16,
    /// Host order.
    pub remote_port: u16,
    /// [`IPV4`] or [`IPV6`].
    pub family: u8,
    /// [`ACTIVE`] or [`PASSIVE`].
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}

/// No rule names a local prefix: every local address has [`Generation::no_local`].
pub const SKIP_LOCAL_PREFIX: u16 = 1;
/// No rule names a remote prefix: every remote address has [`Generation::no_remote`].
pub const SKIP_REMOTE_PREFIX: u16 = 2;

/// No rule asks for the handshake's time.
pub const SKIP_HANDSHAKE: u16 = 4;

/// Bounds of handshake times that rules of one generation name.
pub const HANDSHAKE_BOUNDS_MAX: usize = 16;
/// Pieces of the axis of handshake times: unknown, then by the number of bounds that are reached.
pub const HANDSHAKE_PIECES: usize = HANDSHAKE_BOUNDS_MAX + 2;
/// Relations of two zones: one of them unknown, the same zone, two zones of a region, two regions.
pub const ZONE_RELATIONS: usize = 4;
/// Entries of [`Generation::context`].
pub const CONTEXTS: usize = 4 * ZONE_RELATIONS * HANDSHAKE_PIECES;
/// Where in the value of a prefix the zone stands; below is the mask, above the region. Zone 0 is none.
pub const ZONE_SHIFT: u32 = 16;
/// See [`ZONE_SHIFT`].
pub const REGION_SHIFT: u32 = 24;

/// Entries of [`Generation::common_prefix`]: 0..=32 for IPv4, then 0..=128 for IPv6.
pub const COMMON_PREFIXES: usize = 33 + 129;

/// Something was decided for connection requests: established connections look for a decision that was made at the SYN.
pub const USED_REQUESTS: u32 = 1;
/// A question of the kernel was answered.
pub const USED_REPLIES: u32 = 2;
/// Something was decided for connections that are open already: sockets may have been changed without a stamp.
pub const USED_LIVE: u32 = 4;

/// What is in force. One element, read first by every decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct Active {
    /// For tests of handovers between layouts that differ.
    #[cfg(feature = "layout-next")]
    pub next: u64,
    /// 0: nothing is in force; else slot + 1.
    pub slot_plus_one: u32,
    /// What any generation since the tables were made has decided: a union of `USED_*`. What is not in it need not be
    /// looked for.
    pub used: u32,
    /// The last contact with a server, in nanoseconds of CLOCK_MONOTONIC; leases count from here. 0: never.
    pub last_contact_ns: u64,
    /// Cookie of the daemon's own socket to its server, which no policy may touch; 0: none.
    pub exempt_cookie: u64,
    /// Of the connections that no layer matches, those whose `sk_txhash` is below this are recorded. 0: none.
    pub record_below: u32,
    /// Zero.
    pub reserved: u32,
    /// How far the fleet's time, in nanoseconds since 1970, is ahead of CLOCK_MONOTONIC, modulo 2^64. 0: not known; what goes by
    /// the fleet's time then does not act.
    pub clock_ahead_ns: u64,
}

/// One generation's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Generation {
    /// The snapshot's generation.
    pub generation: u64,
    /// Tells this filling of the tables from every other one on this node; outcomes are attributed by it.
    pub install: u64,
    /// All parameters that any choice sets, as a mask over the slots.
    pub parameters: u64,
    /// Those of them that any choice sets on connections that are open already, too.
    pub live: u64,
    /// Zero; the kernel program takes its zeros from here where the verifier must not know them.
    pub zero: u64,
    /// Words of the rule masks in use.
    pub words: u32,
    /// Bounds of handshake times in microseconds, ascending; the rest is `u32::MAX`.
    pub handshake_bounds: [u32; HANDSHAKE_BOUNDS_MAX],
    /// Mask by everything that has few values: `((family * 2 + direction) * ZONE_RELATIONS + relation) * HANDSHAKE_PIECES +
    /// piece`.
    pub context: [u16; CONTEXTS],
    /// Mask by the length of the common prefix of local and remote address.
    pub common_prefix: [u16; COMMON_PREFIXES],
    /// Mask of a remote address in no prefix.
    pub no_remote: u16,
    /// Mask of a local address in no prefix.
    pub no_local: u16,
    /// Which look-ups can be left out because no rule asks: a union of `SKIP_*`.
    pub skip: u16,
    /// Zero.
    pub reserved: [u16; 1],
}

/// A set of rules, one bit each, in the order of decision.
pub type Mask = [u64; MASK_WORDS];

/// All masks of one generation, one after the other: one element, written with one call. Flat, because the loader does not
/// understand arrays of arrays.
pub type MaskTable = [u64; MASK_WORDS * MASKS_MAX];

/// In [`RuleEntry::lease_ns`]: the layer begins where another one's lease ends.
pub const STANDBY: u64 = 1 << 63;

/// What of a flow its bucket is made of, as masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct BucketKey {
    /// All ones: from initiator to responder, so that both ends agree. 0: from the local end to the remote one.
    pub turns: u64,
    /// Of both words of the local address.
    pub local: u64,
    /// Of the ports.
    pub ports: u64,
    /// Of the words of the remote address, for IPv4 and IPv6.
    pub remote: [u64; 4],
}

/// What a matching rule leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct RuleEntry {
    /// The first rule of the next layer: where the search goes on.
    pub layer_end: u16,
    /// One more than the position among [`Breaker`]s of the one that ends the layer, or with [`STANDBY`] the canary; 0: none does.
    pub breaker: u16,
    /// The choice of the first arm; a policy's rule has one "arm".
    pub first_choice: u16,
    /// Whether the bucket says which arm it is, if any: 1 or 0. Else it is the first one.
    pub by_bucket: u16,
    /// Salt of the bucket.
    pub salt: u64,
    /// What of a flow the bucket is made of.
    pub key: BucketKey,
    /// Length of the time slots that the bucket is made of, instead; 0: it is not.
    pub slot_ns: u64,
    /// The layer acts before this moment of the fleet's time, in nanoseconds since 1970; 0: always.
    pub ends_ns: u64,
    /// The bit of the layer, by its position.
    pub layer: u64,
    /// The layers that are passed over once an arm of `withholding` was chosen. They come later.
    pub withholds: u64,
    /// The arms that do that: bit n for the nth, counted from 1.
    pub withholding: u64,
    /// The layer is passed over when the last word of a server is older; 0: never. With [`STANDBY`] its first arm is for all buckets
    /// when it is older or the breaker has acted, and for none before; the other arms are the other way round.
    pub lease_ns: u64,
    /// For each arm its first bucket, ascending; the rest is [`crate::bucket::BUCKETS`].
    pub arm_starts: [u16; ARMS_MAX],
    /// For each arm the bucket after its last one, ascending; the rest is [`crate::bucket::BUCKETS`]. Between the end of one and
    /// the start of the next are buckets of nobody.
    pub arm_ends: [u16; ARMS_MAX],
}

/// All rules of one generation.
pub type RuleTable = [RuleEntry; RULES_MAX];

/// The parameters of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct ChoiceEntry {
    /// Which parameters are set, as a mask over the slots.
    pub parameters: u64,
    /// Which of them connections that are open already get too.
    pub live: u32,
    /// Whose bad ends a [`Breaker`] counts: a [`breaker_mark`]; 0: nobody's.
    pub breaker: u32,
    /// As the kernel wants them; for names an index into the table of names.
    pub values: [u32; PARAMETER_SLOTS],
}

/// Circuit breakers. There are at most as many in force as layers, and twice as many while one generation follows another.
pub const BREAKERS_MAX: usize = 2 * LAYERS_MAX;
/// Rollouts for which one connection can count: those of the highest priority.
pub const BREAKERS_OF_ONE: usize = 4;
/// Connections that breakers remember to have counted.
pub const COUNTED_MAX: usize = 16_384;

/// What the circuit breaker of a canary has counted, on all CPUs together. When it acts, the moment stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct Breaker {
    /// Tells rollout and revision from all others; 0: nobody's.
    pub identity: u64,
    /// Bad ends of connections of the canary.
    pub canary_bad_ends: u64,
    /// The same of its control.
    pub control_bad_ends: u64,
    /// Tells rollout, revision and share from everything that was here before: what was stamped under those does not count.
    pub ticket: u32,
    /// As [`crate::breaker::trips`] wants it.
    pub threshold: u32,
    /// The canary's share, in basis points.
    pub share_bp: u32,
    /// Zero.
    pub reserved: u32,
}

/// Greatest ticket of a [`Breaker`], because it stands above the position and the group.
pub const TICKET_MAX: u32 = u32::MAX >> 8;

/// What a choice of a canary or its control says of the breaker that counts its bad ends. Never 0, as tickets are not.
#[must_use]
pub const fn breaker_mark(ticket: u32, position: u32, is_control: bool) -> u32 {
    ticket << 8 | position << 1 | is_control as u32
}

/// All choices of one generation.
pub type ChoiceTable = [ChoiceEntry; CHOICES_MAX];

/// A name with its terminating zero. Names are never moved or reused while the tables live, because sockets are stamped with
/// their positions.
pub type Name = [u8; NAME_BYTES];

/// All names, one after the other.
pub type NameTable = [u8; NAME_BYTES * NAMES_MAX];

/// Masks by port.
pub type PortTable = [u16; 65_536];

/// Key of the prefix tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, packed)]
pub struct PrefixKey {
    /// The generation's slot, as the first 32 bits of the prefix.
    pub slot: u32,
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

/// What one attachment of the program knows: the service (cgroup) it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct Attachment {
    /// Identifies the attachment, never 0. 0 means that the daemon has not written it yet: the program then leaves the
    /// connection to the attachment of a parent cgroup.
    pub id: u32,
    /// The mask of the service in each slot.
    pub service: [u16; SLOTS],
}

/// The choices of a decision, before they are stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Hits {
    /// [`Generation::install`] of the tables that decided.
    pub install: u64,
    /// Slot of these tables.
    pub slot: u32,
    /// Entries of `choices` in use.
    pub count: u32,
    /// The choice of each layer that matched, in the order of priority.
    pub choices: [u16; LAYERS_MAX],
}

/// Per-CPU counters of the kernel program, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Connections (ends) stamped.
    FlowsStamped = 0,
    /// Records written or dropped: every stamped flow that has closed.
    FlowsClosed = 1,
    /// Records dropped because the ring buffer was full.
    RecordsDropped = 2,
    /// `bpf_setsockopt` calls that the kernel refused.
    SetRefused = 3,
    /// Connections that could not be stamped: no memory for socket storage.
    StampFailed = 4,
    /// Connection requests whose decision could not be kept until established.
    PendingFailed = 5,
    /// Connections whose rules on the handshake's time were not asked, because the tables changed during the handshake.
    HandshakeMissed = 6,
    /// Records of connections that were still open.
    OpenRecorded = 7,
    /// Records of open connections put off, because the ring buffer's room is kept for those that close. Nothing is lost.
    OpenDeferred = 8,
    /// Parameters set on connections that were open already.
    LiveSet = 9,
    /// Parameters of open connections restored to what they were.
    LiveRestored = 10,
    /// Parameters of open connections left alone, because the application has changed them.
    LiveLeft = 11,
    /// Connections with a stamp that were seen by walks that tell about open ones.
    StampSeen = 12,
    /// Sockets with changes that were seen by walks that apply rules to open connections.
    ChangesSeen = 13,
}

/// Number of [`Counter`]s.
pub const COUNTERS: usize = 14;

/// Distinct refusals of `bpf_setsockopt` that are told apart.
pub const REFUSALS_MAX: usize = 1024;

/// The key under which refusals are counted: the parameter's slot above, the error number below.
#[must_use]
pub const fn refusal_key(slot: u32, errno: u32) -> u64 {
    (slot as u64) << 32 | errno as u64
}

/// Slot and error number of a key.
#[must_use]
pub const fn refusal_parts(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}
