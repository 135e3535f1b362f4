/*
 * Fixed rules, as somebody would write them by hand for one purpose: a prefix decides, two options are set when the
 * connection is established, a record is written when it closes. No layers, no generations, no services: the cost of the
 * job itself, against which the cost of ours is measured.
 */
#include "layout.h"

struct address_key {
  __u32 length;
  __u32 address[4];
};

/* One policy: what to set. */
struct fixed_policy {
  __u32 initial_cwnd;
  __u32 cwnd_clamp;
};

struct fixed_stamp {
  __u64 start_ns;
  __u64 established_ns;
  __u32 policy;
  __u32 direction;
  __u32 syn_retransmits;
  __u32 established_cwnd;
};

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, PREFIXES_MAX);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct address_key);
  __type(value, __u32);
} NETS SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, struct fixed_policy);
} POLICIES SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct fixed_stamp);
} STAMPS SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, RING_BYTES);
} RECORDS SEC(".maps");

/* Records written, and records dropped because the ring was full. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 2);
  __type(key, __u32);
  __type(value, __u64);
} COUNTS SEC(".maps");

inlined void count(__u32 which) {
  __u64 *counter = bpf_map_lookup_elem(&COUNTS, &which);
  if (counter)
    __sync_fetch_and_add(counter, 1);
}

/* Decides by the remote address, and keeps it on the socket. */
inlined struct fixed_stamp *begin(struct bpf_sock_ops *ctx, __u32 direction) {
  struct bpf_sock *sk = ctx->sk;
  if (!sk)
    return 0;
  struct flow_key flow;
  read_flow(ctx, direction, &flow);
  struct address_key key = {
      .length = 128,
      .address = {flow.remote[0], flow.remote[1], flow.remote[2], flow.remote[3]},
  };
  __u32 *policy = bpf_map_lookup_elem(&NETS, &key);
  if (!policy)
    return 0;
  struct fixed_stamp *stamp = bpf_sk_storage_get(&STAMPS, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!stamp)
    return 0;
  stamp->policy = *policy;
  stamp->direction = direction;
  stamp->start_ns = bpf_ktime_get_ns();
  follow_states(ctx);
  return stamp;
}

inlined struct fixed_stamp *stamped(struct bpf_sock_ops *ctx) {
  struct bpf_sock *sk = ctx->sk;
  return sk ? bpf_sk_storage_get(&STAMPS, sk, 0, 0) : 0;
}

inlined void established(struct bpf_sock_ops *ctx, struct fixed_stamp *stamp) {
  if (!stamp)
    return;
  __u32 number = stamp->policy;
  struct fixed_policy *policy = bpf_map_lookup_elem(&POLICIES, &number);
  if (!policy)
    return;
  __u32 value = policy->initial_cwnd;
  bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_IW, &value, sizeof(value));
  value = policy->cwnd_clamp;
  bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, &value, sizeof(value));
  stamp->established_ns = bpf_ktime_get_ns();
  stamp->established_cwnd = field(ctx, snd_cwnd);
  stamp->syn_retransmits = field(ctx, total_retrans);
}

inlined void closed(struct bpf_sock_ops *ctx) {
  struct fixed_stamp *stamp = stamped(ctx);
  if (!stamp)
    return;
  struct flow_record *record = bpf_ringbuf_reserve(&RECORDS, sizeof(*record), 0);
  if (!record) {
    count(1);
    return;
  }
  read_flow(ctx, stamp->direction, &record->flow);
  read_outcome(ctx, record);
  record->install = stamp->policy;
  record->start_ns = stamp->start_ns;
  record->established_ns = stamp->established_ns;
  record->attachment = 0;
  record->handshake_rtt_us = 0;
  record->parameters = 0;
  record->refused = 0;
  record->syn_retransmits = stamp->syn_retransmits;
  record->retransmits = field(ctx, total_retrans) - stamp->syn_retransmits;
  record->established_cwnd = stamp->established_cwnd;
  record->choice_count = 1;
  __u64 *choices = (__u64 *)record->choices;
#pragma unroll
  for (int at = 0; at < LAYERS_MAX / 4; at++)
    store(choices[at], 0);
  __u64 *reported = (__u64 *)&record->reported;
#pragma unroll
  for (int at = 0; at < sizeof(struct reported) / 8; at++)
    store(reported[at], 0);
  bpf_ringbuf_submit(record, 0);
  count(0);
}

SEC("sockops")
int fixed(struct bpf_sock_ops *ctx) {
  switch (field(ctx, op)) {
  case BPF_SOCK_OPS_TCP_CONNECT_CB:
    begin(ctx, ACTIVE_END);
    break;
  case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    established(ctx, stamped(ctx));
    break;
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    established(ctx, begin(ctx, PASSIVE_END));
    break;
  case BPF_SOCK_OPS_STATE_CB:
    if (field(ctx, args[1]) == TCP_CLOSE)
      closed(ctx);
    break;
  }
  return 1;
}

char LICENSE[] SEC("license") = "GPL";
