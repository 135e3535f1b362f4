/*
 * What a tracepoint at a socket's destruction could still say of its connection, beside what the callback says when the state changes to
 * CLOSE: both are kept on the socket and leave together, when it is destroyed.
 */
#include "layout.h"

struct sight {
  __u64 ns;
  __u64 bytes_received;
  __u32 state;
  __u32 error;
  __u32 remote_port;
  /* Ends of connections that the socket has had. */
  __u32 ends;
};

struct seen {
  struct sight closing;
  struct sight destroyed;
};

struct sock_common {
  __u16 skc_dport;
  volatile unsigned char skc_state;
} __attribute__((preserve_access_index));

struct {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct sight);
} CLOSING SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 16);
} SEEN SEC(".maps");

SEC("sockops")
int destroyed(struct bpf_sock_ops *ctx) {
  struct bpf_sock *sk = field(ctx, sk);
  if (!sk)
    return 1;
  switch (field(ctx, op)) {
  case BPF_SOCK_OPS_TCP_CONNECT_CB:
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    bpf_sk_storage_get(&CLOSING, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    follow_states(ctx);
    break;
  case BPF_SOCK_OPS_STATE_CB: {
    struct sight *closing = bpf_sk_storage_get(&CLOSING, sk, 0, 0);
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
    if (field(ctx, args[1]) != TCP_CLOSE || !closing || !tcp)
      break;
    closing->ns = bpf_ktime_get_ns();
    closing->bytes_received = field(ctx, bytes_received);
    closing->state = field(ctx, state);
    closing->error = ((struct sock *)tcp)->sk_err;
    closing->remote_port = bpf_ntohl(field(ctx, remote_port));
    closing->ends++;
    break;
  }
  }
  return 1;
}

SEC("tp_btf/tcp_destroy_sock")
int at_destruction(__u64 *ctx) {
  struct sock *sk = (struct sock *)ctx[0];
  struct sight *closing = bpf_sk_storage_get(&CLOSING, sk, 0, 0);
  struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
  if (!closing || !tcp)
    return 0;
  struct seen *seen = bpf_ringbuf_reserve(&SEEN, sizeof(*seen), 0);
  if (!seen)
    return 0;
  seen->closing = *closing;
  seen->destroyed.ns = bpf_ktime_get_ns();
  seen->destroyed.bytes_received = tcp->bytes_received;
  seen->destroyed.state = ((struct sock_common *)tcp)->skc_state;
  seen->destroyed.error = ((struct sock *)tcp)->sk_err;
  seen->destroyed.remote_port = bpf_ntohs(((struct sock_common *)tcp)->skc_dport);
  seen->destroyed.ends = 1;
  bpf_ringbuf_submit(seen, 0);
  return 0;
}

char LICENSE[] SEC("license") = "GPL";
