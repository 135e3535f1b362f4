//! The bucket of an experiment's unit: `hash(salt, key)` in 0..9999.
//!
//! A pure function of salt and key, the same in the kernel program, the daemon and the server, so that everybody can say
//! afterwards why a connection got its arm. It is a chain of multiply and xor-shift steps over 64-bit words (the finaliser of
//! MurmurHash3 by A. Appleby, constants of variant 13 by D. Stafford), because a BPF program has neither wide
//! multiplication nor byte loops for free.

use crate::layout::FlowKey;

/// Number of buckets; a share of one basis point is one bucket.
pub const BUCKETS: u32 = 10_000;

/// The bucket of a flow. Keyed from initiator to responder, so that both ends of a connection agree.
#[inline(always)]
#[must_use]
pub fn flow_bucket(salt: u64, flow: &FlowKey) -> u32 {
    let (local, remote) = (words(&flow.local), words(&flow.remote));
    let ports = [u64::from(flow.local_port), u64::from(flow.remote_port)];
    // All ones for a passive flow: swaps the ends without a branch, which the kernel's verifier would have to follow twice.
    let swap = u64::from(flow.direction & 1).wrapping_neg();
    let mut hash = salt;
    for (near, far) in [(local[0], remote[0]), (local[1], remote[1])] {
        hash = mix(hash, near ^ ((near ^ far) & swap));
    }
    for (near, far) in [(local[0], remote[0]), (local[1], remote[1])] {
        hash = mix(hash, far ^ ((near ^ far) & swap));
    }
    let (near, far) = (ports[0] << 16 | ports[1], ports[1] << 16 | ports[0]);
    hash = mix(hash, near ^ ((near ^ far) & swap));
    (hash % BUCKETS as u64) as u32
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
