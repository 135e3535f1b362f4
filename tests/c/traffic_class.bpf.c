/* Stands for an application that marks its connections: traffic class 0xb8 (expedited forwarding) from the SYN on. */
#include "samples.h"

SEC("sockops")
int traffic_class(struct bpf_sock_ops *ctx) {
  if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
    if (ctx->family == AF_INET)
      set_number(ctx, 0, 1, 0xb8);
    else
      set_number(ctx, 41, 67, 0xb8);
  }
  return 1;
}
