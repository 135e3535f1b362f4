/* S4: within a site ECN and DCTCP; a kernel without DCTCP gets cubic here, so that the rest of the row can be seen. */
#include "samples.h"

inlined int set_congestion(struct bpf_sock_ops *ctx) {
  char dctcp[] = "dctcp", cubic[] = "cubic";
  int refused = bpf_setsockopt(ctx, SOL_TCP, TCP_CONGESTION, dctcp, sizeof(dctcp));
  return refused ? bpf_setsockopt(ctx, SOL_TCP, TCP_CONGESTION, cubic, sizeof(cubic)) : 0;
}

SEC("sockops")
int s4_cong(struct bpf_sock_ops *ctx) {
  int reply = DEFAULT;
  if (gated(ctx) && same_site(ctx)) {
    switch (ctx->op) {
    case BPF_SOCK_OPS_NEEDS_ECN:
      reply = 1;
      break;
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
      reply = set_congestion(ctx);
      break;
    }
  }
  ctx->reply = reply;
  return 1;
}
