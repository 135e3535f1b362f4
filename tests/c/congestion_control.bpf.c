/* A congestion control that no machine has: its window stays. It comes and goes as one does with its module. */
#include "common.h"

struct sock;

/* As far as this one fills it in; the kernel's is found by the names of the fields. */
struct tcp_congestion_ops {
  __u32 (*ssthresh)(struct sock *sk);
  void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
  __u32 (*undo_cwnd)(struct sock *sk);
  char name[16];
};

SEC("struct_ops/ssthresh")
__u32 ssthresh(__u64 *arguments) {
  return 10;
}

SEC("struct_ops/cong_avoid")
void cong_avoid(__u64 *arguments) {}

SEC("struct_ops/undo_cwnd")
__u32 undo_cwnd(__u64 *arguments) {
  return 10;
}

SEC(".struct_ops")
struct tcp_congestion_ops sockpilot_test = {
    .ssthresh = (void *)ssthresh,
    .cong_avoid = (void *)cong_avoid,
    .undo_cwnd = (void *)undo_cwnd,
    .name = "sockpilot_test",
};

char LICENSE[] SEC("license") = "GPL";
