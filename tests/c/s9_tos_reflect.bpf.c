/* S9: an accepted connection answers with the traffic class that its SYN came with. */
#include "samples.h"

#define SOL_IP 0
#define IP_TOS 1
#define SOL_IPV6 41
#define IPV6_TCLASS 67
#define TCP_SAVE_SYN 27
#define TCP_SAVED_SYN 28

inlined int reflect(struct bpf_sock_ops *ctx) {
  /* The longer of the two headers. */
  __u8 header[40] = {};
  if (bpf_getsockopt(ctx, SOL_TCP, TCP_SAVED_SYN, header, sizeof(header)) != 0 && header[0] == 0)
    return DEFAULT;
  int tos = header[1], tclass = (header[0] & 0xf) << 4 | header[1] >> 4;
  if (ctx->family == AF_INET)
    return tos ? set_number(ctx, SOL_IP, IP_TOS, tos) : 0;
  return tclass ? set_number(ctx, SOL_IPV6, IPV6_TCLASS, tclass) : 0;
}

SEC("sockops")
int s9_tos_reflect(struct bpf_sock_ops *ctx) {
  int reply = DEFAULT;
  switch (ctx->op) {
  case BPF_SOCK_OPS_TCP_LISTEN_CB:
    reply = set_number(ctx, SOL_TCP, TCP_SAVE_SYN, 1);
    break;
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    reply = reflect(ctx);
    break;
  }
  ctx->reply = reply;
  return 1;
}
