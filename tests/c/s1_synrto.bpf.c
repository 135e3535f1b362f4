/* S1: within a site SYN and SYN-ACK are sent again after 10 ticks. */
#include "samples.h"

SEC("sockops")
int s1_synrto(struct bpf_sock_ops *ctx) {
  int reply = DEFAULT;
  if (gated(ctx) && ctx->op == BPF_SOCK_OPS_TIMEOUT_INIT && same_site(ctx))
    reply = 10;
  ctx->reply = reply;
  return 1;
}
