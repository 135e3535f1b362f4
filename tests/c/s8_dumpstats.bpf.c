/*
 * S8: of every connection that is opened here, when a round-trip time was measured, but at most once a second: duplicate SACKs,
 * packets delivered, these with congestion marks, and timeouts in a row. The sample prints them; here the newest stay in a map.
 */
#include "layout.h"

#define INTERVAL_NS 1000000000ULL

struct dump {
  __u32 dsack_dups;
  __u32 delivered;
  __u32 delivered_ce;
  __u32 icsk_retransmits;
  /* How many there were, with this one. */
  __u32 number;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, struct flow_key);
  __type(value, struct dump);
} DUMPS SEC(".maps");

/* When a connection may be dumped again. */
struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, __u64);
} NEXT SEC(".maps");

inlined void dump(struct bpf_sock_ops *ctx) {
  struct bpf_sock *sk = ctx->sk;
  if (!sk)
    return;
  __u64 *next = bpf_sk_storage_get(&NEXT, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  __u64 now = bpf_ktime_get_ns();
  if (!next || now < *next)
    return;
  struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
  if (!tcp)
    return;
  *next = now + INTERVAL_NS;
  struct flow_key flow;
  read_flow(ctx, ACTIVE_END, &flow);
  struct dump *last = bpf_map_lookup_elem(&DUMPS, &flow);
  struct dump dump = {
      .dsack_dups = tcp->dsack_dups,
      .delivered = tcp->delivered,
      .delivered_ce = tcp->delivered_ce,
      .icsk_retransmits = tcp->icsk_retransmits,
      .number = last ? last->number + 1 : 1,
  };
  bpf_map_update_elem(&DUMPS, &flow, &dump, BPF_ANY);
}

SEC("sockops")
int s8_dumpstats(struct bpf_sock_ops *ctx) {
  switch (ctx->op) {
  case BPF_SOCK_OPS_TCP_CONNECT_CB:
    bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
    break;
  case BPF_SOCK_OPS_RTT_CB:
    dump(ctx);
    break;
  }
  return 1;
}

char LICENSE[] SEC("license") = "GPL";
