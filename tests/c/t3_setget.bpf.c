/*
 * T3: at every moment of a connection's life each option is set, read, and restored, after the kernel's setget_sockopt.
 *
 * What came of it stands in the map `results` by moment and option. The map `kept` says by moment which options stay set,
 * so that the application can read them too.
 */
#include "samples.h"

#define SO_KEEPALIVE 9
#define SO_PRIORITY 12
#define SO_RCVLOWAT 18
#define SO_MARK 36
#define SO_MAX_PACING_RATE 47
#define SO_TXREHASH 74
#define SOL_IP 0
#define IP_TOS 1
#define SOL_IPV6 41
#define IPV6_TCLASS 67
#define TCP_NODELAY 1
#define TCP_MAXSEG 2
#define TCP_KEEPIDLE 4
#define TCP_KEEPINTVL 5
#define TCP_KEEPCNT 6
#define TCP_SYNCNT 7
#define TCP_WINDOW_CLAMP 10
#define TCP_THIN_LINEAR_TIMEOUTS 16
#define TCP_USER_TIMEOUT 18
#define TCP_NOTSENT_LOWAT 25
#define TCP_RTO_MAX_MS 44
#define TCP_CLOSE_WAIT 8

enum moment { LISTEN, CONNECT, ACTIVE_ESTABLISHED, PASSIVE_ESTABLISHED, CLOSE_WAIT, MOMENTS };

/* How the value that stood there before is given back. */
enum back {
  AS_READ,
  /* The kernel doubles what it is given. */
  HALF,
  /* What is read is not what was set: none was. */
  NONE,
};

struct option {
  int level, name, value;
  enum back back;
};

/* Here names of congestion controls are numbers too: their first four letters. */
#define LETTERS(a, b, c, d) ((a) | (b) << 8 | (c) << 16 | (d) << 24)
#define NAME_BYTES 16

/* In the order in which the policy's parameters are set; the last one is a congestion control that nobody has. */
#define OPTIONS 24
#define TRAFFIC_CLASS 18
static const struct option options[OPTIONS] = {
    {SOL_SOCKET, SO_SNDBUF, 8123, HALF},
    {SOL_SOCKET, SO_RCVBUF, 8123, HALF},
    {SOL_TCP, TCP_CONGESTION, LETTERS('c', 'u', 'b', 'i')},
    {SOL_TCP, TCP_BPF_RTO_MIN, 20000},
    {SOL_TCP, TCP_BPF_DELACK_MAX, 12000},
    {SOL_TCP, TCP_RTO_MAX_MS, 5000},
    {SOL_SOCKET, SO_MAX_PACING_RATE, 0xeb9f},
    {SOL_TCP, TCP_MAXSEG, 1314, NONE},
    {SOL_TCP, TCP_WINDOW_CLAMP, 8123},
    {SOL_TCP, TCP_USER_TIMEOUT, 123400},
    {SOL_TCP, TCP_SYNCNT, 123},
    {SOL_SOCKET, SO_KEEPALIVE, 1},
    {SOL_TCP, TCP_KEEPIDLE, 123},
    {SOL_TCP, TCP_KEEPINTVL, 123},
    {SOL_TCP, TCP_KEEPCNT, 123},
    {SOL_TCP, TCP_NOTSENT_LOWAT, 1314},
    {SOL_TCP, TCP_NODELAY, 1},
    {SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1},
    [TRAFFIC_CLASS] = {SOL_IP, IP_TOS, 0xe1},
    /* The kernel's program has 0xeb9f here too; a policy has the classes that every kernel lets anyone set. */
    {SOL_SOCKET, SO_PRIORITY, 6},
    {SOL_SOCKET, SO_MARK, 0xeb9f},
    {SOL_SOCKET, SO_TXREHASH, 0},
    {SOL_SOCKET, SO_RCVLOWAT, 8123},
    {SOL_TCP, TCP_CONGESTION, LETTERS('n', 'o', 'n', 'e')},
};

/* Each number is a value, or the (negative) error of the kernel. */
struct result {
  /* How often the moment came. */
  int times;
  int before, set, after;
  /* Not touched where the option is kept. */
  int put_back, at_last;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, MOMENTS *OPTIONS);
  __type(key, __u32);
  __type(value, struct result);
} results SEC(".maps");

/* Bits of options, by moment. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, MOMENTS);
  __type(key, __u32);
  __type(value, __u32);
} kept SEC(".maps");

/* An option of this socket. IPv6 sockets have the traffic class in a place of their own. */
struct place {
  int level, name;
};

inlined int is_name(struct place at) { return at.level == SOL_TCP && at.name == TCP_CONGESTION; }

inlined int read_option(struct bpf_sock_ops *ctx, struct place at) {
  int value[NAME_BYTES / 4] = {};
  int refused = bpf_getsockopt(ctx, at.level, at.name, value, is_name(at) ? sizeof(value) : sizeof(*value));
  return refused ? refused : *value;
}

inlined int set_option(struct bpf_sock_ops *ctx, struct place at, int value) {
  if (!is_name(at))
    return set_number(ctx, at.level, at.name, value);
  char name[NAME_BYTES] = {value, value >> 8, value >> 16, value >> 24};
  /* Cubic is the one among them that has more than four letters. */
  if (value == LETTERS('c', 'u', 'b', 'i'))
    name[4] = 'c';
  return bpf_setsockopt(ctx, at.level, at.name, name, sizeof(name));
}

inlined int former(enum back back, int before) {
  return back == HALF ? before >> 1 : back == NONE ? 0 : before;
}

/* Global, so that the verifier looks at one option for all. */
__attribute__((noinline)) int try_option(struct bpf_sock_ops *ctx, __u32 moment, __u32 which) {
  __u32 key = moment * OPTIONS + which;
  struct result *result = bpf_map_lookup_elem(&results, &key);
  __u32 *stays = bpf_map_lookup_elem(&kept, &moment);
  if (!result || !stays || which >= OPTIONS)
    return 0;
  const struct option *option = &options[which];
  struct place at = {option->level, option->name};
  if (which == TRAFFIC_CLASS && ctx->family == AF_INET6)
    at = (struct place){SOL_IPV6, IPV6_TCLASS};

  result->times++;
  result->before = read_option(ctx, at);
  result->set = set_option(ctx, at, option->value);
  result->after = read_option(ctx, at);
  if (*stays & 1u << which)
    return 0;
  result->put_back = set_option(ctx, at, former(option->back, result->before));
  result->at_last = read_option(ctx, at);
  return 0;
}

inlined int moment_of(struct bpf_sock_ops *ctx) {
  switch (ctx->op) {
  case BPF_SOCK_OPS_TCP_LISTEN_CB:
    return LISTEN;
  case BPF_SOCK_OPS_TCP_CONNECT_CB:
    return CONNECT;
  case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
    return ACTIVE_ESTABLISHED;
  case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
    return PASSIVE_ESTABLISHED;
  case BPF_SOCK_OPS_STATE_CB:
    return ctx->args[1] == TCP_CLOSE_WAIT ? CLOSE_WAIT : -1;
  default:
    return -1;
  }
}

SEC("sockops")
int t3_setget(struct bpf_sock_ops *ctx) {
  int moment = moment_of(ctx);
  if (moment < 0)
    return 1;
  if (moment == ACTIVE_ESTABLISHED || moment == PASSIVE_ESTABLISHED)
    bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
  for (__u32 which = 0; which < OPTIONS; which++)
    try_option(ctx, moment, which);
  return 1;
}
