/*
 * The algorithm of ebpf/src, written in C: the same maps (the benchmark lets it use the very maps that the daemon's module has
 * filled), the same look-ups, the same steps at the same moments. What it costs is what our Rust may cost.
 *
 * The order of the parts is that of ebpf/src: maps, decide, stamp, apply, record, main. Left out is what acts on none of the
 * benchmark's connections: reflecting the traffic class, refusals told apart.
 */
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
#define MERGE_STEPS (LAYERS_MAX + PARAMETER_SLOTS)
#define DIMENSIONS 7
#define WORD_RANGE (2 * MASK_WORDS - 1)
#define COUNT_RANGE (2 * LAYERS_MAX - 1)
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

global int lease_holds(__u64 lease_ns) {
  struct active *active = what_is_active();
  if (!active)
    return 0;
  __u64 heard_ns = load(active->heard_ns), now_ns = bpf_ktime_get_ns();
  return heard_ns != 0 && (now_ns <= heard_ns || now_ns - heard_ns <= lease_ns);
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
  const __u64 *local = (const __u64 *)flow->local, *remote = (const __u64 *)flow->remote;
  __u64 swap = -(__u64)(flow->direction & 1);
  __u64 first = (local[0] ^ remote[0]) & swap, second = (local[1] ^ remote[1]) & swap;
  __u64 hash = mix(mix(entry->salt, local[0] ^ first), local[1] ^ second);
  hash = mix(mix(hash, remote[0] ^ first), remote[1] ^ second);
  __u64 near = (__u64)flow->local_port << 16 | flow->remote_port;
  __u64 far = (__u64)flow->remote_port << 16 | flow->local_port;
  __u64 bucket = mix(hash, near ^ ((near ^ far) & swap)) % BUCKETS;
  __u64 arm = 0;
  for (int at = 0; at < ARMS_MAX - 1; at++)
    arm += 1 - (hide(bucket - load(entry->arm_ends[at])) >> 63);
  return arm;
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
  __u64 number = load(head->zero) & COUNT_RANGE;
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
    __u64 lease_ns = load(entry->lease_ns);
    if (lease_ns == 0 || lease_holds(lease_ns)) {
      __u16 choice = load(entry->first_choice);
      if (load(entry->arms) > 1)
        choice += arm(entry, flow);
      store(hits->choices[hide(number) & (LAYERS_MAX - 1)], choice);
      number = (hide(number) + 1) & COUNT_RANGE;
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
  store(stamp->choice_count, (__u32)number);
  return number;
}

/* ---- stamp ---- */

/* The positions of the parameters in the table that follows. */
enum parameter { SYN_RTO = 0, SYNACK_RTO = 1, RECEIVE_WINDOW = 2, ECN = 8 };

#define REQUEST_MASK (1ULL << SYNACK_RTO | 1ULL << RECEIVE_WINDOW | 1ULL << ECN)

inlined struct attachment *attached(void) {
  struct attachment *attachment = bpf_get_local_storage(&ATTACHMENTS, 0);
  return load(attachment->id) == 0 ? 0 : attachment;
}

inlined __u32 service(struct attachment *attachment, __u32 slot) {
  return load(attachment->service[hide(slot) & (SLOTS - 1)]);
}

inlined struct stamp *stored(struct bpf_sock_ops *ctx, struct stamp *from, __u64 flags) {
  struct bpf_sock *sk = field(ctx, sk);
  return sk ? bpf_sk_storage_get(&STAMPS, sk, from, flags) : 0;
}

inlined struct stamp *create(struct bpf_sock_ops *ctx, struct stamp *from) {
  struct stamp *stamp = stored(ctx, from, BPF_SK_STORAGE_GET_F_CREATE);
  if (!stamp)
    count(STAMP_FAILED);
  return stamp;
}

inlined void begin(struct stamp *stamp, struct attachment *attachment, __u8 direction, __u32 rtt_us) {
  __u64 late_ns = direction == ACTIVE_END ? rtt_us * 1000ULL : 0;
  store(stamp->start_ns, bpf_ktime_get_ns() - late_ns);
  store(stamp->attachment, load(attachment->id));
  store(stamp->direction, direction);
  count(FLOWS_STAMPED);
}

inlined __u32 handshake_us(struct bpf_sock_ops *ctx) { return (field(ctx, srtt_us) >> 3) | 1; }

inlined int exempt(struct bpf_sock_ops *ctx) {
  struct active *active = what_is_active();
  if (!active)
    return 0;
  __u64 cookie = load(active->exempt_cookie);
  return cookie != 0 && cookie == bpf_get_socket_cookie(ctx);
}

inlined struct stamp *fresh(struct bpf_sock_ops *ctx, struct flow_key *flow, __u8 direction, __u32 slot,
                            struct attachment *attachment, __u32 rtt_us) {
  struct hits hits;
  if (decide(flow, service(attachment, slot), slot, rtt_us, &hits) <= 0)
    return 0;
  struct stamp *stamp = create(ctx, 0);
  if (!stamp)
    return 0;
  merge(&hits, stamp);
  begin(stamp, attachment, direction, rtt_us);
  return stamp;
}

/* The options that are set when established: 0 to 28 without those that are answers. */
#define ESTABLISHED_MASK (options_of_active_established | options_of_passive_established)

/* ---- apply ---- */

enum { CONNECT = 1, ACTIVE_ESTABLISHED = 2, PASSIVE_ESTABLISHED = 4, ESTABLISHED = 6 };

struct option {
  __s32 named, level, name, level6, name6;
};

#define SET(level, name) {0, level, name, level, name}

static const struct option OPTIONS[PARAMETER_SLOTS] = {
    [3] = SET(SOL_TCP, 1001),  [4] = SET(SOL_TCP, 1002), [5] = SET(SOL_SOCKET, 7),  [6] = SET(SOL_SOCKET, 8),
    [7] = {1, 6, 13, 6, 13},   [9] = SET(SOL_TCP, 1004), [10] = SET(SOL_TCP, 1003), [11] = SET(SOL_TCP, 44),
    [12] = SET(SOL_SOCKET, 47), [13] = SET(SOL_TCP, 2),   [14] = SET(SOL_TCP, 10),   [15] = SET(SOL_TCP, 18),
    [16] = SET(SOL_TCP, 7),    [17] = SET(SOL_SOCKET, 9), [18] = SET(SOL_TCP, 4),   [19] = SET(SOL_TCP, 5),
    [20] = SET(SOL_TCP, 6),    [21] = SET(SOL_TCP, 25),  [22] = SET(SOL_TCP, 1),    [23] = SET(SOL_TCP, 16),
    [24] = {0, 0, 1, 41, 67},  [25] = SET(SOL_SOCKET, 12), [26] = SET(SOL_SOCKET, 36), [27] = SET(SOL_SOCKET, 74),
    [28] = SET(SOL_SOCKET, 18),
};

#define BIT(slot) (1ULL << (slot))
#define BOTH_ESTABLISHED (BIT(3) | BIT(4) | BIT(7) | BIT(9) | BIT(10) | BIT(14))
#define ONLY_CONNECT (BIT(13) | BIT(16))
#define ANSWERS (REQUEST_MASK | BIT(SYN_RTO))
#define ALL (BIT(29) - 1)
#define options_of_connect (ALL & ~ANSWERS & ~(BIT(3) | BIT(4) | BIT(7)))
#define options_of_active_established BOTH_ESTABLISHED
#define options_of_passive_established (ALL & ~ANSWERS & ~ONLY_CONNECT)

inlined int set(struct bpf_sock_ops *ctx, const struct stamp *stamp, __u64 slot) {
  const struct option *option = &OPTIONS[slot];
  __s32 named = load(option->named);
  int ipv4 = field(ctx, family) == AF_INET;
  __s32 level = ipv4 ? load(option->level) : load(option->level6);
  __s32 name = ipv4 ? load(option->name) : load(option->name6);
  __u32 value = load(stamp->values[slot]);
  if (named) {
    __u32 zero = 0;
    struct name_table *names = bpf_map_lookup_elem(&NAMES, &zero);
    if (!names)
      return 0;
    return bpf_setsockopt(ctx, level, name, &names->bytes[(hide(value) & (NAMES_MAX - 1)) * NAME_BYTES], NAME_BYTES) == 0;
  }
  return bpf_setsockopt(ctx, level, name, &value, sizeof(value)) == 0;
}

inlined void set_options(struct bpf_sock_ops *ctx, struct stamp *stamp, __u64 phase) {
  __u64 left = load(stamp->parameters) & phase, refused = 0;
  for (int step = 0; step < 29; step++) {
    if (left == 0)
      break;
    __u64 slot = hide(lowest(left)) & (PARAMETER_SLOTS - 1);
    left &= left - 1;
    if (!set(ctx, stamp, slot)) {
      refused |= BIT(slot);
      count(SET_REFUSED);
    }
  }
  if (refused)
    store(stamp->refused, load(stamp->refused) | refused);
}

/* ---- stamp, continued ---- */

inlined void refine(struct bpf_sock_ops *ctx, struct flow_key *flow, struct stamp *stamp, struct attachment *attachment,
                    __u32 slot, struct generation *head) {
  if (load(stamp->install) != load(head->install)) {
    count(HANDSHAKE_MISSED);
    return;
  }
  struct hits hits;
  if (decide(flow, service(attachment, slot), slot, handshake_us(ctx), &hits) > 0) {
    __u64 before = load(stamp->parameters);
    merge(&hits, stamp);
    store(stamp->parameters, load(stamp->parameters) | (before & ~ESTABLISHED_MASK));
  }
}

inlined struct stamp *connecting(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  __u32 slot;
  if (!attachment || stored(ctx, 0, 0) || !in_force(&slot) || exempt(ctx))
    return 0;
  struct flow_key flow;
  read_flow(ctx, ACTIVE_END, &flow);
  return fresh(ctx, &flow, ACTIVE_END, slot, attachment, 0);
}

inlined struct stamp *connected(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  __u32 slot;
  struct generation *head = attachment ? in_force(&slot) : 0;
  if (!head)
    return 0;
  struct stamp *stamp = stored(ctx, 0, 0);
  struct flow_key flow;
  if (!stamp) {
    if (load(head->skip) & SKIP_HANDSHAKE || exempt(ctx))
      return 0;
    read_flow(ctx, ACTIVE_END, &flow);
    stamp = fresh(ctx, &flow, ACTIVE_END, slot, attachment, handshake_us(ctx));
    if (stamp)
      follow_states(ctx);
    return stamp;
  }
  if (load(stamp->attachment) != load(attachment->id))
    return 0;
  if ((load(head->skip) & SKIP_HANDSHAKE) == 0) {
    read_flow(ctx, ACTIVE_END, &flow);
    refine(ctx, &flow, stamp, attachment, slot, head);
  }
  return stamp;
}

inlined void read_netns(struct bpf_sock_ops *ctx, struct pending_key *key) {
  store(key->netns_cookie, bpf_get_netns_cookie(ctx));
}

inlined struct stamp *fresh_pending(struct pending_key *key) {
  struct stamp *pending = bpf_map_lookup_elem(&PENDING, key);
  if (!pending)
    return 0;
  return bpf_ktime_get_ns() - load(pending->start_ns) > PENDING_NS_MAX ? 0 : pending;
}

inlined struct stamp *keep_pending(struct pending_key *key) {
  __u32 zero = 0;
  struct stamp *blank = bpf_map_lookup_elem(&BLANK, &zero);
  if (!blank)
    return 0;
  bpf_map_update_elem(&PENDING, key, blank, 0);
  struct stamp *pending = bpf_map_lookup_elem(&PENDING, key);
  if (!pending) {
    count(PENDING_FAILED);
    return 0;
  }
  store(pending->start_ns, bpf_ktime_get_ns());
  return pending;
}

inlined struct stamp *accepted(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  if (!attachment || stored(ctx, 0, 0))
    return 0;
  __u32 slot;
  struct generation *head = in_force(&slot);
  struct active *active = what_is_active();
  if (!head || !active)
    return 0;
  struct pending_key key;
  read_flow(ctx, PASSIVE_END, &key.flow);
  if (load(active->pending_used)) {
    read_netns(ctx, &key);
    struct stamp *pending = fresh_pending(&key);
    if (pending) {
      __u32 number = load(pending->choice_count);
      struct stamp *stamp = number > 0 ? create(ctx, pending) : 0;
      bpf_map_delete_elem(&PENDING, &key);
      if (stamp) {
        begin(stamp, attachment, PASSIVE_END, 0);
        if ((load(head->skip) & SKIP_HANDSHAKE) == 0)
          refine(ctx, &key.flow, stamp, attachment, slot, head);
        return stamp;
      }
      if (number > 0 || load(head->skip) & SKIP_HANDSHAKE)
        return 0;
    }
  }
  return fresh(ctx, &key.flow, PASSIVE_END, slot, attachment, handshake_us(ctx));
}

inlined struct stamp *requested(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  __u32 slot;
  struct generation *head = attachment ? in_force(&slot) : 0;
  struct active *active = head ? what_is_active() : 0;
  if (!active || load(active->pending_used) == 0)
    return 0;
  struct pending_key key;
  read_flow(ctx, PASSIVE_END, &key.flow);
  read_netns(ctx, &key);
  struct stamp *pending = fresh_pending(&key);
  if (pending || (load(head->parameters) & REQUEST_MASK) == 0)
    return pending;
  pending = keep_pending(&key);
  if (!pending)
    return 0;
  struct hits hits;
  if (decide(&key.flow, service(attachment, slot), slot, 0, &hits) > 0)
    merge(&hits, pending);
  return pending;
}

inlined struct stamp *own(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  struct stamp *stamp = attachment ? stored(ctx, 0, 0) : 0;
  return stamp && load(stamp->attachment) == load(attachment->id) ? stamp : 0;
}

inlined void established(struct bpf_sock_ops *ctx, struct stamp *stamp) {
  store(stamp->established_ns, bpf_ktime_get_ns());
  store(stamp->established_cwnd, field(ctx, snd_cwnd));
  store(stamp->syn_retransmits, field(ctx, total_retrans));
}

/* ---- record ---- */

inlined void closed(struct bpf_sock_ops *ctx) {
  struct stamp *stamp = own(ctx);
  if (!stamp)
    return;
  count(FLOWS_CLOSED);
  struct flow_record *record = bpf_ringbuf_reserve(&RECORDS, sizeof(*record), 0);
  if (!record) {
    count(RECORDS_DROPPED);
    return;
  }
  read_flow(ctx, load(stamp->direction), &record->flow);
  read_outcome(ctx, record);
  record->install = load(stamp->install);
  record->start_ns = load(stamp->start_ns);
  record->established_ns = load(stamp->established_ns);
  record->parameters = load(stamp->parameters);
  record->refused = load(stamp->refused);
  __u32 retransmits = field(ctx, total_retrans);
  __u32 syns = load(stamp->established_ns) == 0 ? retransmits : load(stamp->syn_retransmits);
  record->syn_retransmits = syns;
  record->retransmits = retransmits - syns;
  record->established_cwnd = load(stamp->established_cwnd);
  record->choice_count = load(stamp->choice_count);
  __u64 *from = (__u64 *)stamp->choices, *to = (__u64 *)record->choices;
#pragma unroll
  for (int at = 0; at < LAYERS_MAX / 4; at++)
    store(to[at], load(from[at]));
  from = (__u64 *)&stamp->told, to = (__u64 *)&record->told;
#pragma unroll
  for (int at = 0; at < sizeof(struct told) / 8; at++)
    store(to[at], load(from[at]));
  store(stamp->attachment, 0);
  bpf_ringbuf_submit(record, 0);
}

/* ---- main ---- */

inlined void answer(struct bpf_sock_ops *ctx, enum parameter parameter) {
  if (field(ctx, reply) != 0)
    return;
  struct stamp *decided = field(ctx, is_fullsock) ? own(ctx) : requested(ctx);
  if (!decided)
    return;
  int has = (load(decided->parameters) & BIT(parameter)) != 0;
  field(ctx, reply) = has ? load(decided->values[parameter]) : ~0U;
}

SEC("sockops")
int same(struct bpf_sock_ops *ctx) {
  struct stamp *stamp;
  switch (field(ctx, op)) {
  case BPF_SOCK_OPS_STATE_CB:
    if (field(ctx, args[1]) == TCP_CLOSE)
      closed(ctx);
    break;
  case BPF_SOCK_OPS_TCP_CONNECT_CB:
    stamp = connecting(ctx);
    if (stamp) {
      set_options(ctx, stamp, options_of_connect);
      follow_states(ctx);
    }
    break;
  case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    stamp = connected(ctx);
    if (stamp) {
      set_options(ctx, stamp, options_of_active_established);
      established(ctx, stamp);
    }
    break;
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    stamp = accepted(ctx);
    if (stamp) {
      set_options(ctx, stamp, options_of_passive_established);
      established(ctx, stamp);
      follow_states(ctx);
    }
    break;
  case BPF_SOCK_OPS_TIMEOUT_INIT:
    answer(ctx, field(ctx, is_fullsock) ? SYN_RTO : SYNACK_RTO);
    break;
  case BPF_SOCK_OPS_RWND_INIT:
    answer(ctx, RECEIVE_WINDOW);
    break;
  case BPF_SOCK_OPS_NEEDS_ECN:
    answer(ctx, ECN);
    break;
  }
  return 1;
}

char LICENSE[] SEC("license") = "GPL";
