/* S6: within a site a short SYN timer, small buffers and a bounded window. Outside its port the sample refuses (returns 0). */
#include "samples.h"

SEC("sockops")
int s6_clamp(struct bpf_sock_ops *ctx) {
  int reply = DEFAULT;
  if (!gated(ctx)) {
    ctx->reply = DEFAULT;
    return 0;
  }
  if (same_site(ctx)) {
    switch (ctx->op) {
    case BPF_SOCK_OPS_TIMEOUT_INIT:
      reply = 10;
      break;
    case BPF_SOCK_OPS_TCP_CONNECT_CB:
      reply = set_buffers(ctx, 150000);
      break;
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
      reply = set_number(ctx, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, 100);
      break;
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
      reply = set_number(ctx, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, 100) | set_buffers(ctx, 150000);
      break;
    }
  }
  ctx->reply = reply;
  return 1;
}
