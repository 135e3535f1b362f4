/* S3: great buffers at both ends, and 40 packets of receive window in the handshake. */
#include "samples.h"

SEC("sockops")
int s3_bufs(struct bpf_sock_ops *ctx) {
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
      reply = 0;
      break;
    }
  }
  ctx->reply = reply;
  return 1;
}
