/*
 * T1: counts what becomes of connections, after the kernel's selftest test_tcpbpf_kern. Which questions were asked, whether an
 * unknown flag is refused and a kept SYN can be read is in `TOTALS`, what each end of a connection had when it closed in `OUTCOMES`.
 */
#include "layout.h"
#include "samples.h"

#define SOL_IPV6 41
#define IPV6_TCLASS 67
#define TCP_SAVE_SYN 27
#define TCP_SAVED_SYN 28

#define NO_SUCH_FLAG 0x80
#define WHOLE_CLASS 0xff
/* Picks among paths of equal cost, and nothing else. */
#define PATH_HASH 0x12345f
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER 20
#define TCP_FLAGS 13
#define SYN 2

struct totals {
  /* One bit for each kind of question. */
  __u64 asked;
  __u32 no_such_flag_refused;
  __u32 no_such_flag_taken;
  __u32 syns_read;
  __u32 syns_not_read;
  __u32 classes_set;
  __u32 classes_refused;
  __u32 listeners_closed;
  __u32 connections_closed;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct totals);
} TOTALS SEC(".maps");

struct outcome {
  __u64 bytes_received;
  __u64 bytes_acked;
  __u32 total_retrans;
  __u32 data_segs_in;
  __u32 data_segs_out;
  __u32 segs_in;
  __u32 segs_out;
  __u32 closes;
};

/* By the end's addresses and ports, all of them as if it were the one that opened. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, struct flow_key);
  __type(value, struct outcome);
} OUTCOMES SEC(".maps");

inlined void one_more(__u32 *count) { __sync_fetch_and_add(count, 1); }

inlined int add_flags(struct bpf_sock_ops *ctx, int flags) {
  return bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | flags);
}

inlined int opened(struct bpf_sock_ops *ctx, struct totals *totals) {
  /* The kernel says which flags it does not have; those that it has are as they were. */
  one_more(add_flags(ctx, NO_SUCH_FLAG) == NO_SUCH_FLAG ? &totals->no_such_flag_refused : &totals->no_such_flag_taken);
  return add_flags(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
}

inlined int accepted(struct bpf_sock_ops *ctx, struct totals *totals) {
  __u8 syn[IPV6_HEADER + TCP_HEADER] = {};
  int six = ctx->family == AF_INET6;
  int header = six ? IPV6_HEADER : IPV4_HEADER;
  ctx->sk_txhash = PATH_HASH;
  if (six)
    one_more(set_number(ctx, SOL_IPV6, IPV6_TCLASS, WHOLE_CLASS) == 0 ? &totals->classes_set : &totals->classes_refused);
  int failed = bpf_getsockopt(ctx, SOL_TCP, TCP_SAVED_SYN, syn, header + TCP_HEADER);
  __u8 flags = six ? syn[IPV6_HEADER + TCP_FLAGS] : syn[IPV4_HEADER + TCP_FLAGS];
  one_more(failed == 0 && flags & SYN ? &totals->syns_read : &totals->syns_not_read);
  return failed;
}

/* What the socket has counted, as it ends. */
inlined void ended(struct bpf_sock_ops *ctx) {
  struct flow_key flow;
  read_flow(ctx, ACTIVE_END, &flow);
  struct outcome *before = bpf_map_lookup_elem(&OUTCOMES, &flow);
  struct outcome outcome = {
      .bytes_received = ctx->bytes_received,
      .bytes_acked = ctx->bytes_acked,
      .total_retrans = ctx->total_retrans,
      .data_segs_in = ctx->data_segs_in,
      .data_segs_out = ctx->data_segs_out,
      .segs_in = ctx->segs_in,
      .segs_out = ctx->segs_out,
      .closes = before ? before->closes + 1 : 1,
  };
  bpf_map_update_elem(&OUTCOMES, &flow, &outcome, BPF_ANY);
}

inlined void changes_state(struct bpf_sock_ops *ctx, struct totals *totals) {
  if (ctx->args[1] != BPF_TCP_CLOSE)
    return;
  /* The change is still to come; the first argument may be another program's answer. */
  if (ctx->state == BPF_TCP_LISTEN) {
    one_more(&totals->listeners_closed);
  } else {
    ended(ctx);
    one_more(&totals->connections_closed);
  }
}

SEC("sockops")
int t1_outcome(struct bpf_sock_ops *ctx) {
  int reply = DEFAULT;
  __u32 only = 0;
  struct totals *totals = bpf_map_lookup_elem(&TOTALS, &only);
  if (!totals)
    return 1;
  if (ctx->op < 64)
    __sync_fetch_and_or(&totals->asked, 1ULL << ctx->op);
  switch (ctx->op) {
  case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    reply = opened(ctx, totals);
    break;
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    reply = accepted(ctx, totals);
    break;
  case BPF_SOCK_OPS_TCP_LISTEN_CB:
    reply = add_flags(ctx, BPF_SOCK_OPS_STATE_CB_FLAG) | set_number(ctx, SOL_TCP, TCP_SAVE_SYN, 1);
    break;
  case BPF_SOCK_OPS_STATE_CB:
    changes_state(ctx, totals);
    break;
  }
  ctx->reply = reply;
  return 1;
}
