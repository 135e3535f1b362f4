/* The maps of ebpf/src/maps.rs and the decision of ebpf/src/decide.rs, in C. See same.bpf.c. */
#pragma once

#include "layout.h"

/* ---- maps ---- */

#define ARRAY_MAP(name, value_type, entries)                                                                            \
  struct {                                                                                                              \
    __uint(type, BPF_MAP_TYPE_ARRAY);                                                                                   \
    __uint(max_entries, entries);                                                                                       \
    __type(key, __u32);                                                                                                 \
    __type(value, value_type);                                                                                          \
  } name SEC(".maps")

ARRAY_MAP(ACTIVE, struct active, 1);
ARRAY_MAP(GENERATIONS, struct generation, SLOTS);
ARRAY_MAP(MASKS, struct mask_table, SLOTS);
ARRAY_MAP(RULES, struct rule_table, SLOTS);
ARRAY_MAP(CHOICES, struct choice_table, SLOTS);
ARRAY_MAP(NAMES, struct name_table, 1);
ARRAY_MAP(LOCAL_PORTS, struct port_table, SLOTS);
ARRAY_MAP(REMOTE_PORTS, struct port_table, SLOTS);
ARRAY_MAP(BLANK, struct stamp, 1);
ARRAY_MAP(NAMESPACES, struct namespace_table, 1);
ARRAY_MAP(HANDOVER, struct handover, 1);

#define NETS_MAP(name)                                                                                                  \
  struct {                                                                                                              \
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                                                \
    __uint(max_entries, PREFIXES_MAX *SLOTS);                                                                           \
    __uint(map_flags, BPF_F_NO_PREALLOC);                                                                               \
    __type(key, struct prefix_key);                                                                                     \
    __type(value, __u32);                                                                                               \
  } name SEC(".maps")

NETS_MAP(LOCAL_NETS);
NETS_MAP(REMOTE_NETS);

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, PENDING_MAX);
  __type(key, struct pending_key);
  __type(value, struct stamp);
} PENDING SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct stamp);
} STAMPS SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, RING_BYTES);
} RECORDS SEC(".maps");

struct counts {
  __u64 cells[COUNTERS];
};

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct counts);
} COUNTS SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
  __type(key, struct bpf_cgroup_storage_key);
  __type(value, struct attachment);
} ATTACHMENTS SEC(".maps");

inlined void count(enum counter counter) {
  __u32 zero = 0;
  struct counts *counts = bpf_map_lookup_elem(&COUNTS, &zero);
  if (counts)
    __sync_fetch_and_add(&counts->cells[counter], 1);
}

/* ---- decide ---- */

#define STEPS (MASK_WORDS + LAYERS_MAX)
#define STANDBY (1ULL << 63)
#define MERGE_STEPS (LAYERS_MAX + PARAMETER_SLOTS)
#define DIMENSIONS 7
#define WORD_RANGE (2 * MASK_WORDS - 1)
#define COUNT_RANGE (2 * LAYERS_MAX - 1)
#define BREAKER_RANGE (2 * BREAKERS_OF_ONE - 1)
#define FLOOR_RANGE (2 * RULES_MAX - 1)
#define global __attribute__((noinline))

inlined struct active *what_is_active(void) {
  __u32 zero = 0;
  return bpf_map_lookup_elem(&ACTIVE, &zero);
}

inlined struct generation *in_force(__u32 *slot) {
  struct active *active = what_is_active();
  if (!active)
    return 0;
  __u32 slot_plus_one = load(active->slot_plus_one);
  if (slot_plus_one == 0)
    return 0;
  *slot = slot_plus_one - 1;
  return bpf_map_lookup_elem(&GENERATIONS, slot);
}

/* The position of the lowest bit that is set. De Bruijn's sequence: there is no instruction for it. */
static const __u8 LOWEST[64] = {
    0,  1,  48, 2,  57, 49, 28, 3,  61, 58, 50, 42, 38, 29, 17, 4,  62, 55, 59, 36, 53, 51,
    43, 22, 45, 39, 33, 30, 24, 18, 12, 5,  63, 47, 56, 27, 60, 41, 37, 16, 54, 35, 52, 21,
    44, 32, 23, 11, 46, 26, 40, 15, 34, 20, 31, 10, 25, 14, 19, 9,  13, 8,  7,  6,
};

inlined __u64 lowest(__u64 bits) { return LOWEST[hide((bits & -bits) * 0x03f79d71b4cb0a89ULL >> 58) & 63]; }

inlined __u64 leading_zeros(__u64 x) {
  x |= x >> 1;
  x |= x >> 2;
  x |= x >> 4;
  x |= x >> 8;
  x |= x >> 16;
  x |= x >> 32;
  x = ~x;
  x = x - ((x >> 1) & 0x5555555555555555ULL);
  x = (x & 0x3333333333333333ULL) + ((x >> 2) & 0x3333333333333333ULL);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
  return x * 0x0101010101010101ULL >> 56;
}

global __u32 local_net(const struct flow_key *flow, __u32 slot) {
  struct generation *head = bpf_map_lookup_elem(&GENERATIONS, &slot);
  if (!flow || !head)
    return 0;
  if ((load(head->skip) & SKIP_LOCAL_PREFIX) == 0) {
    struct prefix_key key = {
        .length = 32 + 128,
        .slot = slot,
        .address = {flow->local[0], flow->local[1], flow->local[2], flow->local[3]},
    };
    __u32 *found = bpf_map_lookup_elem(&LOCAL_NETS, &key);
    if (found)
      return *found;
  }
  return load(head->no_local);
}

global __u32 remote_net(const struct flow_key *flow, __u32 slot) {
  struct generation *head = bpf_map_lookup_elem(&GENERATIONS, &slot);
  if (!flow || !head)
    return 0;
  if ((load(head->skip) & SKIP_REMOTE_PREFIX) == 0) {
    struct prefix_key key = {
        .length = 32 + 128,
        .slot = slot,
        .address = {flow->remote[0], flow->remote[1], flow->remote[2], flow->remote[3]},
    };
    __u32 *found = bpf_map_lookup_elem(&REMOTE_NETS, &key);
    if (found)
      return *found;
  }
  return load(head->no_remote);
}

inlined __u64 not_zero(__u64 value) { return -value >> 63; }

inlined __u64 zone_relation(__u32 local, __u32 remote) {
  __u64 near = local >> ZONE_SHIFT & 0xff, far = remote >> ZONE_SHIFT & 0xff;
  __u64 other_zone = not_zero(near ^ far);
  __u64 other_region = not_zero((local >> REGION_SHIFT & 0xff) ^ (remote >> REGION_SHIFT & 0xff));
  return (not_zero(near) & not_zero(far)) * (1 + other_zone + other_region);
}

global __u32 handshake_piece(__u32 slot, __u32 rtt_us) {
  struct generation *head = bpf_map_lookup_elem(&GENERATIONS, &slot);
  if (!head || rtt_us == 0 || load(head->skip) & SKIP_HANDSHAKE)
    return 0;
  __u64 piece = 1;
  for (int at = 0; at < HANDSHAKE_BOUNDS_MAX; at++)
    piece += 1 - (hide((__u64)rtt_us - load(head->handshake_bounds[at])) >> 63);
  return piece;
}

inlined __u64 common_prefix(const struct flow_key *flow) {
  const __u64 *local = (const __u64 *)flow->local, *remote = (const __u64 *)flow->remote;
  __u64 high = leading_zeros(__builtin_bswap64(load(local[0]) ^ load(remote[0])));
  __u64 low = leading_zeros(__builtin_bswap64(load(local[1]) ^ load(remote[1])));
  __u64 equal = high + (low & -(high >> 6));
  __u64 ipv6 = flow->family & IPV6;
  return equal - 96 * (1 - ipv6) + 33 * ipv6;
}

/* The fleet's time; 0: not known. */
inlined __u64 fleet_ns(void) {
  struct active *active = what_is_active();
  __u64 ahead_ns = active ? load(active->clock_ahead_ns) : 0;
  return ahead_ns ? bpf_ktime_get_ns() + ahead_ns : 0;
}

inlined int in_contact_within(__u64 lease_ns) {
  struct active *active = what_is_active();
  if (!active)
    return 0;
  __u64 last_ns = load(active->last_contact_ns), now_ns = bpf_ktime_get_ns();
  return last_ns != 0 && (now_ns <= last_ns || now_ns - last_ns <= lease_ns);
}

/* Without circuit breakers: no rollout is measured here. */
global __u32 turn(const struct rule_entry *entry, __u32 nth) {
  if (!entry)
    return 0;
  __u64 lease_ns = load(entry->lease_ns), ends_ns = load(entry->ends_ns);
  if (ends_ns) {
    __u64 now_ns = fleet_ns();
    if (!now_ns || now_ns >= ends_ns)
      return 0;
  }
  int acts = lease_ns == 0 || in_contact_within(lease_ns & ~STANDBY);
  if (lease_ns & STANDBY)
    return !acts ? 1 : nth == 1 ? 0 : nth;
  return acts ? nth : 0;
}

inlined __u64 mix(__u64 hash, __u64 word) {
  __u64 h = (hash ^ word) + 0x9e3779b97f4a7c15ULL;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return h ^ (h >> 31);
}

global __u32 arm(const struct rule_entry *entry, const struct flow_key *flow) {
  if (!entry || !flow)
    return 0;
  __u64 slot_ns = load(entry->slot_ns), bucket;
  if (slot_ns == 0) {
    const struct bucket_key *key = &entry->key;
    const __u64 *from = (const __u64 *)flow->local, *to = (const __u64 *)flow->remote;
    __u64 ipv6 = -(__u64)(flow->family & 1);
    __u64 local[2] = {from[0] & key->local, from[1] & key->local};
    __u64 remote[2] = {to[0] & (key->remote[0] ^ ((key->remote[0] ^ key->remote[2]) & ipv6)),
                       to[1] & (key->remote[1] ^ ((key->remote[1] ^ key->remote[3]) & ipv6))};
    __u64 swap = -(__u64)(flow->direction & 1) & key->turns;
    __u64 first = (local[0] ^ remote[0]) & swap, second = (local[1] ^ remote[1]) & swap;
    __u64 hash = mix(mix(entry->salt, local[0] ^ first), local[1] ^ second);
    hash = mix(mix(hash, remote[0] ^ first), remote[1] ^ second);
    __u64 local_port = flow->local_port & key->ports, remote_port = flow->remote_port & key->ports;
    __u64 near = local_port << 16 | remote_port, far = remote_port << 16 | local_port;
    bucket = mix(hash, near ^ ((near ^ far) & swap)) % BUCKETS;
  } else {
    __u64 now_ns = fleet_ns();
    if (!now_ns)
      return 0;
    __u64 time_slot = now_ns / slot_ns;
    bucket = ((time_slot & 1) ^ (mix(entry->salt, time_slot >> 1) & 1)) * (BUCKETS / 2);
  }
  __u64 begun = 0, ended = 0;
  for (int at = 0; at < ARMS_MAX; at++) {
    begun += 1 - (hide(bucket - load(entry->arm_starts[at])) >> 63);
    ended += 1 - (hide(bucket - load(entry->arm_ends[at])) >> 63);
  }
  return begun * (begun - ended);
}

inlined __u64 port_mask(const struct port_table *table, __u16 port) { return load(table->masks[hide(port) & 0xffff]); }

inlined const __u64 *mask(const struct mask_table *table, __u64 id) {
  return &table->words[(hide(id) & (MASKS_MAX - 1)) * MASK_WORDS];
}

global int decide(const struct flow_key *flow, __u32 service, __u32 slot, __u32 rtt_us, struct hits *hits) {
  if (!flow || !hits || slot >= SLOTS)
    return 0;
  struct generation *head = bpf_map_lookup_elem(&GENERATIONS, &slot);
  struct mask_table *table = bpf_map_lookup_elem(&MASKS, &slot);
  struct rule_table *rules = bpf_map_lookup_elem(&RULES, &slot);
  struct port_table *local_ports = bpf_map_lookup_elem(&LOCAL_PORTS, &slot);
  struct port_table *remote_ports = bpf_map_lookup_elem(&REMOTE_PORTS, &slot);
  if (!head || !table || !rules || !local_ports || !remote_ports)
    return 0;

  __u64 local_port = port_mask(local_ports, flow->local_port);
  __u64 remote_port = port_mask(remote_ports, flow->remote_port);
  __u32 local = local_net(flow, slot), remote = remote_net(flow, slot);
  __u64 side = (flow->family & 1) * 2 + (flow->direction & 1);
  __u64 context = (side * ZONE_RELATIONS + zone_relation(local, remote)) * HANDSHAKE_PIECES;
  context = hide(context + handshake_piece(slot, rtt_us));
  __u64 common = hide(common_prefix(flow));
  if (context >= CONTEXTS || common >= COMMON_PREFIXES)
    return 0;
  const __u64 *masks[DIMENSIONS] = {
      mask(table, load(head->context[context])),
      mask(table, load(head->common_prefix[common])),
      mask(table, local_port),
      mask(table, remote_port),
      mask(table, local & 0xffff),
      mask(table, remote & 0xffff),
      mask(table, service),
  };

  __u64 words = load(head->words);
  __u64 word = load(head->zero) & WORD_RANGE, bits = load(head->zero);
  __u64 floor = load(head->zero) & FLOOR_RANGE;
  __u64 number = load(head->zero) & COUNT_RANGE, withheld = load(head->zero);
  for (int step = 0; step < STEPS; step++) {
    if (bits == 0) {
      if (word >= words)
        break;
      __u64 at = hide(word) & (MASK_WORDS - 1);
      bits = ~0ULL;
#pragma unroll
      for (int dimension = 0; dimension < DIMENSIONS; dimension++)
        bits &= load(masks[dimension][at]);
      /* What lies before the floor goes. By arithmetic: every branch in here multiplies the verifier's work. */
      __u64 base = word * 64, all_after = (hide(base - floor) >> 63) - 1;
      bits &= ~0ULL << ((floor - base) & 63) | all_after;
      word = (hide(word) + 1) & WORD_RANGE;
      continue;
    }
    __u64 rule = (word - 1) * 64 + lowest(bits);
    struct rule_entry *entry = &rules->rules[hide(rule) & (RULES_MAX - 1)];
    if (!(withheld & load(entry->layer))) {
      /* One more than the position of the arm; 0: nothing of the layer acts, and what is written is not counted. */
      __u64 nth = 1;
      if (load(entry->by_bucket))
        nth = hide(arm(entry, flow));
      if (load(entry->lease_ns) | load(entry->ends_ns))
        nth = hide(turn(entry, nth));
      store(hits->choices[hide(number) & (LAYERS_MAX - 1)], (__u16)(load(entry->first_choice) + nth - 1));
      number = (hide(number) + (-nth >> 63)) & COUNT_RANGE;
      withheld |= load(entry->withholds) & -(load(entry->withholding) >> (nth & 63) & 1);
    }
    floor = load(entry->layer_end) & FLOOR_RANGE;
    __u64 later = (hide(floor - word * 64) >> 63) - 1;
    bits &= ~0ULL << (floor & 63) & ~later;
    word = hide(word ^ ((word ^ floor / 64) & later)) & WORD_RANGE;
  }
  store(hits->install, load(head->install));
  store(hits->slot, slot);
  store(hits->count, (__u32)number);
  return number;
}

global int merge(const struct hits *hits, struct stamp *stamp) {
  if (!hits || !stamp)
    return 0;
  __u32 slot = load(hits->slot);
  struct choice_table *table = bpf_map_lookup_elem(&CHOICES, &slot);
  struct generation *head = bpf_map_lookup_elem(&GENERATIONS, &slot);
  if (!table || !head)
    return 0;
  __u64 number = load(hits->count);
  __u64 next = load(head->zero) & COUNT_RANGE, have = load(head->zero), fresh = load(head->zero);
  __u64 live = load(head->zero);
  __u64 counting = load(head->zero) & BREAKER_RANGE;
#pragma unroll
  for (int at = 0; at < BREAKERS_OF_ONE; at++)
    store(stamp->breakers[at], 0);
  struct choice_entry *entry = &table->choices[0];
  for (int step = 0; step < MERGE_STEPS; step++) {
    if (fresh == 0) {
      if (next >= number)
        break;
      __u64 at = hide(next) & (LAYERS_MAX - 1);
      __u16 choice = load(hits->choices[at]);
      store(stamp->choices[at], choice);
      entry = &table->choices[hide(choice) & (CHOICES_MAX - 1)];
      fresh = load(entry->parameters) & ~have;
      live |= fresh & load(entry->live);
      __u64 mark = load(entry->breaker), full = -(hide(counting) >> 2);
      __u64 place = hide(counting) & (BREAKERS_OF_ONE - 1);
      store(stamp->breakers[place], (__u32)((load(stamp->breakers[place]) & full) | (mark & ~full)));
      counting = (hide(counting) + (-mark >> 63 & ~full)) & BREAKER_RANGE;
      have |= fresh;
      next = (hide(next) + 1) & COUNT_RANGE;
      continue;
    }
    __u64 parameter = hide(lowest(fresh)) & (PARAMETER_SLOTS - 1);
    store(stamp->values[parameter], load(entry->values[parameter]));
    fresh &= fresh - 1;
  }
  store(stamp->install, load(hits->install));
  store(stamp->parameters, have);
  store(stamp->live, live);
  store(stamp->choice_count, (__u32)number);
  return number;
}
