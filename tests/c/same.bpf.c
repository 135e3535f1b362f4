/*
 * The algorithm of ebpf/src, written in C: the same maps (the benchmark lets it use the very maps that the daemon's module has
 * filled), the same look-ups, the same steps at the same moments. What it costs is what our Rust may cost.
 *
 * The parts are those of ebpf/src: maps and decide in same_decide.h, here stamp, apply, record, main. Left out is what acts on none of the
 * benchmark's connections: reflecting the traffic class, refusals told apart, sockets that carry a second connection (but for the
 * question whether they do).
 */
#include "same_decide.h"

/* ---- stamp ---- */

/* The positions of the parameters in the table that follows. */
enum parameter { SYN_RTO = 0, SYNACK_RTO = 1, RECEIVE_WINDOW = 2, ECN = 8 };

/* Flags of a TCP header. */
#define SYN_ACK 0x12
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

inlined __u32 used(void) {
  struct active *active = what_is_active();
  return active ? load(active->used) : 0;
}

inlined struct stamp *create(struct bpf_sock_ops *ctx, struct stamp *from) {
  struct stamp *stamp = stored(ctx, from, BPF_SK_STORAGE_GET_F_CREATE);
  if (!stamp)
    count(STAMP_FAILED);
  return stamp;
}

/* Connections that are open, by network namespace. */
global int count_open_elsewhere(__u64 cookie, __s64 change) {
  __u32 zero = 0;
  struct namespace_table *table = bpf_map_lookup_elem(&NAMESPACES, &zero);
  if (!table)
    return 0;
  for (__u64 at = 0; at < 3 * NAMESPACE_PLACES; at++) {
    __u64 round = at / NAMESPACE_PLACES;
    struct namespace_entry *place = &table->places[hide(cookie + at % NAMESPACE_PLACES) & (NAMESPACES_MAX - 1)];
    __u64 holder = load(place->cookie);
    if (holder != cookie && change > 0 && ((round == 1 && holder == 0) || (round == 2 && load(place->open) == 0))) {
      __u64 found = __sync_val_compare_and_swap(&place->cookie, holder, cookie);
      holder = found == holder ? cookie : found;
    }
    if (holder == cookie) {
      __sync_fetch_and_add(&place->open, change);
      return 1;
    }
  }
  return 0;
}

inlined void count_open(struct bpf_sock_ops *ctx, __s64 change) {
  __u64 cookie = bpf_get_netns_cookie(ctx);
  __u32 zero = 0;
  struct namespace_table *table = bpf_map_lookup_elem(&NAMESPACES, &zero);
  if (!table)
    return;
  struct namespace_entry *place = &table->places[hide(cookie) & (NAMESPACES_MAX - 1)];
  if (load(place->cookie) == cookie)
    __sync_fetch_and_add(&place->open, change);
  else
    count_open_elsewhere(cookie, change);
}

inlined void begin(struct bpf_sock_ops *ctx, struct stamp *stamp, struct attachment *attachment, __u8 direction, __u32 rtt_us) {
  __u64 late_ns = direction == ACTIVE_END ? rtt_us * 1000ULL : 0;
  store(stamp->start_ns, bpf_ktime_get_ns() - late_ns);
  store(stamp->attachment, load(attachment->id));
  store(stamp->direction, direction);
  store(stamp->attempt, field(ctx, sk_txhash));
  count(FLOWS_STAMPED);
  count_open(ctx, 1);
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
  begin(ctx, stamp, attachment, direction, rtt_us);
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
/* Without the buffers, the initial window, the segment size, the SYN's retries and the clamp of the window. */
#define STICKING (ALL & ~ANSWERS & ~(BIT(3) | BIT(5) | BIT(6) | BIT(13) | BIT(14) | BIT(16)))
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

/* What is there before; of the bound of the congestion window, which nobody can read, none. */
inlined void note(struct bpf_sock_ops *ctx, struct stamp *stamp, __u64 left) {
  __u64 noted = load(stamp->noted);
  left &= ~noted;
  for (int step = 0; step < 29; step++) {
    if (left == 0)
      break;
    __u64 slot = hide(lowest(left)) & (PARAMETER_SLOTS - 1);
    left &= left - 1;
    const struct option *option = &OPTIONS[slot];
    int ipv4 = field(ctx, family) == AF_INET;
    __s32 level = ipv4 ? load(option->level) : load(option->level6);
    __s32 name = ipv4 ? load(option->name) : load(option->name6);
    __u32 value = ~0U >> 1;
    if (load(option->named) ? bpf_getsockopt(ctx, level, name, stamp->name_before, NAME_BYTES)
                            : slot != 4 && bpf_getsockopt(ctx, level, name, &value, sizeof(value)))
      continue;
    store(stamp->before[slot], value);
    noted |= BIT(slot);
  }
  store(stamp->noted, noted);
}

inlined void set_options(struct bpf_sock_ops *ctx, struct stamp *stamp, __u64 phase) {
  __u64 left = load(stamp->parameters) & phase, refused = 0;
  if (phase != options_of_passive_established && left & STICKING)
    note(ctx, stamp, left & STICKING);
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
  if (refused) {
    store(stamp->refused, load(stamp->refused) | refused);
    store(stamp->noted, load(stamp->noted) & ~refused);
  }
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

/* The bench has one side, which is the first. */
inlined int in_charge(void) {
  __u32 zero = 0;
  struct handover *handover = bpf_map_lookup_elem(&HANDOVER, &zero);
  return handover && load(handover->in_charge) == 1;
}

inlined struct stamp *connecting(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  if (!attachment)
    return 0;
  struct stamp *stamp = stored(ctx, 0, 0);
  if (stamp && load(stamp->attempt) == field(ctx, sk_txhash))
    return 0;
  __u32 slot;
  int decides = in_charge();
  if (stamp || (decides && used() & USED_LIVE) || !in_force(&slot) || !decides || exempt(ctx))
    return 0;
  struct flow_key flow;
  read_flow(ctx, ACTIVE_END, &flow);
  stamp = fresh(ctx, &flow, ACTIVE_END, slot, attachment, 0);
  if (stamp)
    store(stamp->stale_min_rtt_us, field(ctx, rtt_min));
  return stamp;
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
    if (load(head->skip) & SKIP_HANDSHAKE || !in_charge() || exempt(ctx))
      return 0;
    read_flow(ctx, ACTIVE_END, &flow);
    return fresh(ctx, &flow, ACTIVE_END, slot, attachment, handshake_us(ctx));
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

inlined int crossed(struct bpf_sock_ops *ctx, struct stamp *stamp) {
  if (!stamp)
    return (field(ctx, skb_tcp_flags) & SYN_ACK) == SYN_ACK;
  return load(stamp->direction) == ACTIVE_END && load(stamp->established_ns) == 0;
}

inlined struct stamp *accepted(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  __u32 slot;
  struct generation *head = attachment ? in_force(&slot) : 0;
  if (!head)
    return 0;
  struct pending_key key;
  read_flow(ctx, PASSIVE_END, &key.flow);
  if (used() & USED_REQUESTS) {
    read_netns(ctx, &key);
    struct stamp *pending = fresh_pending(&key);
    if (pending) {
      __u32 number = load(pending->choice_count);
      struct stamp *stamp = number > 0 ? create(ctx, pending) : 0;
      bpf_map_delete_elem(&PENDING, &key);
      if (stamp) {
        begin(ctx, stamp, attachment, PASSIVE_END, 0);
        if ((load(head->skip) & SKIP_HANDSHAKE) == 0)
          refine(ctx, &key.flow, stamp, attachment, slot, head);
        return stamp;
      }
      if (number > 0 || load(head->skip) & SKIP_HANDSHAKE)
        return 0;
    }
  }
  if (!in_charge())
    return 0;
  return fresh(ctx, &key.flow, PASSIVE_END, slot, attachment, handshake_us(ctx));
}

inlined struct stamp *requested(struct bpf_sock_ops *ctx) {
  struct attachment *attachment = attached();
  __u32 slot;
  struct generation *head = attachment ? in_force(&slot) : 0;
  if (!head)
    return 0;
  struct pending_key key;
  read_flow(ctx, PASSIVE_END, &key.flow);
  read_netns(ctx, &key);
  struct stamp *pending = fresh_pending(&key);
  if (pending || (load(head->parameters) & REQUEST_MASK) == 0 || !in_charge())
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
  int passive = load(stamp->direction) == PASSIVE_END;
  store(stamp->established_ns, passive ? load(stamp->start_ns) : bpf_ktime_get_ns());
  store(stamp->established_cwnd, field(ctx, snd_cwnd));
  store(stamp->handshake_rtt_us, handshake_us(ctx));
  store(stamp->syn_retransmits, field(ctx, total_retrans));
}

/* ---- record ---- */

inlined void closed(struct bpf_sock_ops *ctx) {
  struct stamp *stamp = own(ctx);
  /* No rollout is measured here, so no breaker counts. */
  if (!stamp || load(stamp->breakers[0]) != 0)
    return;
  count(FLOWS_CLOSED);
  count_open(ctx, -1);
  struct flow_record *record = bpf_ringbuf_reserve(&RECORDS, sizeof(*record), 0);
  if (!record) {
    count(RECORDS_DROPPED);
    store(stamp->attachment, 0);
    return;
  }
  read_flow(ctx, load(stamp->direction), &record->flow);
  read_outcome(ctx, record);
  if (record->min_rtt_us == load(stamp->stale_min_rtt_us))
    record->min_rtt_us = 0;
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
  record->attachment = load(stamp->attachment);
  record->handshake_rtt_us = load(stamp->handshake_rtt_us);
  record->choice_count = load(stamp->choice_count);
  __u64 *from = (__u64 *)stamp->choices, *to = (__u64 *)record->choices;
#pragma unroll
  for (int at = 0; at < LAYERS_MAX / 4; at++)
    store(to[at], load(from[at]));
  from = (__u64 *)&stamp->reported, to = (__u64 *)&record->reported;
#pragma unroll
  for (int at = 0; at < sizeof(struct reported) / 8; at++)
    store(to[at], load(from[at]));
  store(stamp->attachment, 0);
  bpf_ringbuf_submit(record, 0);
}

/* ---- main ---- */

inlined void answer(struct bpf_sock_ops *ctx, enum parameter parameter) {
  int socket = field(ctx, is_fullsock);
  int asked = used() & (socket ? USED_REPLIES : USED_REQUESTS);
  if (!asked && (!socket || field(ctx, bpf_sock_ops_cb_flags) & BPF_SOCK_OPS_STATE_CB_FLAG))
    return;
  struct stamp *decided = socket ? own(ctx) : requested(ctx);
  if (!decided)
    return;
  if (socket)
    follow_states(ctx);
  if (field(ctx, reply) != 0 && field(ctx, reply) != ~0U)
    return;
  int has = (load(decided->parameters) & BIT(parameter)) != 0;
  field(ctx, reply) = has ? load(decided->values[parameter]) : ~0U;
}

inlined void active_end(struct bpf_sock_ops *ctx) {
  struct stamp *stamp = connected(ctx);
  if (stamp) {
    set_options(ctx, stamp, options_of_active_established);
    follow_states(ctx);
    established(ctx, stamp);
  }
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
    active_end(ctx);
    break;
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    stamp = stored(ctx, 0, 0);
    if (crossed(ctx, stamp)) {
      active_end(ctx);
      break;
    }
    stamp = stamp ? 0 : accepted(ctx);
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
