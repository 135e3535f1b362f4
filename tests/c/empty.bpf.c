/* The least that a sock_ops program can do: what every attached program costs. */
#include "common.h"

SEC("sockops")
int empty(struct bpf_sock_ops *ctx) {
  return 1;
}

char LICENSE[] SEC("license") = "GPL";
