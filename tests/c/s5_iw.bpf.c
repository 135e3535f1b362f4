/* S5: great buffers, 40 packets of receive window, and at the active end an initial window of 40 packets. */
#include "samples.h"

SEC("sockops")
int s5_iw(struct bpf_sock_ops *ctx) {
  int reply = DEFAULT;
  if (gated(ctx)) {
    switch (ctx->op) {
    case BPF_SOCK_OPS_RWND_INIT:
      reply = 40;
      break;
    case BPF_SOCK_OPS_TCP_CONNECT_CB:
    case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
      reply = set_buffers(ctx, 1500000);
      break;
    case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
      reply = set_number(ctx, SOL_TCP, TCP_BPF_IW, 40);
      break;
    }
  }
  ctx->reply = reply;
  return 1;
}
