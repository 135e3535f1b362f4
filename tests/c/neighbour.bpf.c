/* A sock_ops program of somebody else: counts its callbacks, asks for those it wants, answers what it is told to answer. */
#include "common.h"

/* Sets its flags without keeping those of others, once, as the kernel's tcp_dumpstats does. */
const volatile __u32 rude = 0;
/* Its answer about the SYN's timer, in timer ticks; 0: none. */
const volatile __u32 timeout = 0;
/* Answers everything else with -1, as the kernel's samples do. */
const volatile __u32 no_opinion = 0;

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 32);
  __type(key, __u32);
  __type(value, __u64);
} seen SEC(".maps");

SEC("sockops")
int neighbour(struct bpf_sock_ops *ctx) {
  __u32 op = ctx->op;
  __u64 *count = bpf_map_lookup_elem(&seen, &op);
  if (count)
    __sync_fetch_and_add(count, 1);
  int others = ctx->bpf_sock_ops_cb_flags;
  if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
    bpf_sock_ops_cb_flags_set(ctx, (rude ? 0 : others) | BPF_SOCK_OPS_RTT_CB_FLAG);
  if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
    bpf_sock_ops_cb_flags_set(ctx, others | BPF_SOCK_OPS_RTT_CB_FLAG);
  if (op == BPF_SOCK_OPS_TIMEOUT_INIT && timeout && ctx->is_fullsock)
    ctx->reply = timeout;
  else if (no_opinion)
    ctx->reply = -1;
  return 1;
}

char LICENSE[] SEC("license") = "GPL";
