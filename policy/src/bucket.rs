//! The bucket of an experiment's unit: `hash(salt, key)` in 0..9999.
//!
//! A pure function of salt and key, the same in the kernel program, the daemon and the server, so that everybody can say
//! afterwards why a connection got its arm. It is a chain of multiply and xor-shift steps over 64-bit words (the finaliser of
//! MurmurHash3 by A. Appleby, constants of variant 13 by D. Stafford), because a BPF program has neither wide
//! multiplication nor byte loops for free.

use crate::layout::{BucketKey, FlowKey};

/// Number of buckets; a share of one basis point is one bucket.
pub const BUCKETS: u32 = 10_000;

/// Groups of units, of which clusters are made that can be told apart without knowing the units.
pub const GROUPS: u32 = 256;

/// The bucket of a flow is made of all of it: every connection by itself, and the same at both ends.
pub const WHOLE_FLOW: BucketKey =
    BucketKey { turns: u64::MAX, local: u64::MAX, ports: u64::MAX, remote: [u64::MAX; 4] };

/// The bucket of everything that has one remote prefix of these lengths, of IPv4 and IPv6.
#[must_use]
pub fn peer_prefix(ipv4_bits: u8, ipv6_bits: u8) -> BucketKey {
    let words = |bits: u8| {
        let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0).to_be_bytes();
        words(&mask)
    };
    let (ipv4, ipv6) = (words(96 + ipv4_bits.min(32)), words(ipv6_bits));
    BucketKey { turns: 0, local: 0, ports: 0, remote: [ipv4[0], ipv4[1], ipv6[0], ipv6[1]] }
}

/// The hash of a flow's unit.
#[inline(always)]
#[must_use]
pub fn unit_hash(salt: u64, flow: &FlowKey, key: &BucketKey) -> u64 {
    let (local, remote) = (words(&flow.local), words(&flow.remote));
    let family = usize::from(flow.family & 1) * 2;
    let local = [local[0] & key.local, local[1] & key.local];
    let remote = [remote[0] & key.remote[family], remote[1] & key.remote[family + 1]];
    let ports = [u64::from(flow.local_port) & key.ports, u64::from(flow.remote_port) & key.ports];
    // All ones for a passive flow: swaps the ends without a branch, which the kernel's verifier would have to follow twice.
    let swap = u64::from(flow.direction & 1).wrapping_neg() & key.turns;
    let mut hash = salt;
    for (near, far) in [(local[0], remote[0]), (local[1], remote[1])] {
        hash = mix(hash, near ^ ((near ^ far) & swap));
    }
    for (near, far) in [(local[0], remote[0]), (local[1], remote[1])] {
        hash = mix(hash, far ^ ((near ^ far) & swap));
    }
    let (near, far) = (ports[0] << 16 | ports[1], ports[1] << 16 | ports[0]);
    mix(hash, near ^ ((near ^ far) & swap))
}

/// The bucket of a unit.
#[inline(always)]
#[must_use]
pub fn bucket(unit_hash: u64) -> u32 {
    (unit_hash % BUCKETS as u64) as u32
}

/// The group of a unit, below [`GROUPS`]: independent of its bucket.
#[must_use]
pub fn group(unit_hash: u64) -> u32 {
    (mix(unit_hash, 1) % u64::from(GROUPS)) as u32
}

/// The bucket of a flow. Keyed from initiator to responder, so that both ends of a connection agree.
#[inline(always)]
#[must_use]
pub fn flow_bucket(salt: u64, flow: &FlowKey) -> u32 {
    bucket(unit_hash(salt, flow, &WHOLE_FLOW))
}

/// The hash of a node as a unit.
#[must_use]
pub fn node_hash(salt: u64, node_id: &str) -> u64 {
    mix(salt, self::salt(node_id))
}

/// The bucket of a time slot. Slots come in pairs, of which one is in the lower and the other in the upper half of the buckets; a
/// coin for each pair says which comes first. So two arms of half the buckets each get the same number of slots, whatever the time of day.
#[inline(always)]
#[must_use]
pub fn slot_bucket(salt: u64, slot: u64) -> u32 {
    let coin = mix(salt, slot >> 1) & 1;
    ((slot & 1 ^ coin) * (BUCKETS as u64 / 2)) as u32
}

/// Whether a group of nodes is one of high saturation. Groups come in pairs, as slots do in [`slot_bucket`].
#[must_use]
pub fn is_saturated(salt: u64, group: u32) -> bool {
    slot_bucket(salt ^ 1, u64::from(group)) != 0
}

/// The 64-bit salt of a salt text.
#[must_use]
pub fn salt(text: &str) -> u64 {
    let mut hash = mix(0, text.len() as u64);
    for chunk in text.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    hash
}

/// Where a node stands among the shares, 0..9999: it belongs to a share of n basis points if this is below n.
#[must_use]
pub fn share_position(node_id: &str) -> u32 {
    (mix(salt(node_id), 0) % u64::from(BUCKETS)) as u32
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let mut h = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, m, n, o, p])]
}
