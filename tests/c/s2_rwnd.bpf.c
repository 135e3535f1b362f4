/* S2: between sites, told apart by 52 bits, 40 packets of receive window in the handshake. */
#include "samples.h"

SEC("sockops")
int s2_rwnd(struct bpf_sock_ops *ctx) {
  int reply = DEFAULT;
  if (gated(ctx) && ctx->op == BPF_SOCK_OPS_RWND_INIT && ctx->family == AF_INET6 && !same_prefix(ctx, 0xfffff000))
    reply = 40;
  ctx->reply = reply;
  return 1;
}
