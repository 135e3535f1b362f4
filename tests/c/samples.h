/* What the programs after the kernel's samples share. Each is written to a description of what the sample does. */
#pragma once

#include "common.h"

#define GATE_PORT 55601
#define DEFAULT (-1)

/* The samples act on connections from or to one port only. The context has the remote port in network order. */
inlined int gated(struct bpf_sock_ops *ctx) {
  return bpf_ntohl(ctx->remote_port) == GATE_PORT || ctx->local_port == GATE_PORT;
}

/* Whether both addresses are IPv6 and agree in their first word and in the bits of the mask in the second. */
inlined int same_prefix(struct bpf_sock_ops *ctx, __u32 second_word_mask) {
  return ctx->family == AF_INET6 && ctx->local_ip6[0] == ctx->remote_ip6[0] &&
         ((ctx->local_ip6[1] ^ ctx->remote_ip6[1]) & bpf_htonl(second_word_mask)) == 0;
}

/* The first 44 bits: one data centre. */
inlined int same_site(struct bpf_sock_ops *ctx) { return same_prefix(ctx, 0xfff00000); }

inlined int set_number(struct bpf_sock_ops *ctx, int level, int name, int value) {
  return bpf_setsockopt(ctx, level, name, &value, sizeof(value));
}

inlined int set_buffers(struct bpf_sock_ops *ctx, int bytes) {
  return set_number(ctx, SOL_SOCKET, SO_SNDBUF, bytes) | set_number(ctx, SOL_SOCKET, SO_RCVBUF, bytes);
}

char LICENSE[] SEC("license") = "GPL";
