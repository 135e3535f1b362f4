/* The layout of policy/src/layout.rs and below, in C. The benchmark counts the records that come out, which a wrong size would spoil. */
#pragma once

#include "common.h"
#include <bpf/bpf_core_read.h>

#define RULES_MAX 1024
#define MASK_WORDS (RULES_MAX / 64)
#define MASKS_MAX 8192
#define CHOICES_MAX 2048
#define LAYERS_MAX 64
#define ARMS_MAX 8
#define PARAMETER_SLOTS 32
#define BREAKERS_OF_ONE 4
#define NAMES_MAX 64
#define NAME_BYTES 16
#define PREFIXES_MAX 32768
#define SLOTS 2
#define RING_BYTES (16 << 20)
#define PENDING_MAX 16384
#define NAMESPACES_MAX 16384
#define NAMESPACE_PLACES 8
#define RELIEVED 8
#define PENDING_NS_MAX 180000000000ULL
#define SKIP_LOCAL_PREFIX 1
#define SKIP_REMOTE_PREFIX 2
#define SKIP_HANDSHAKE 4
#define HANDSHAKE_BOUNDS_MAX 16
#define HANDSHAKE_PIECES (HANDSHAKE_BOUNDS_MAX + 2)
#define ZONE_RELATIONS 4
#define CONTEXTS (4 * ZONE_RELATIONS * HANDSHAKE_PIECES)
#define ZONE_SHIFT 16
#define REGION_SHIFT 24
#define COMMON_PREFIXES (33 + 129)
#define BUCKETS 10000
#define ACTIVE_END 0
#define PASSIVE_END 1
#define IPV4 0
#define IPV6 1

struct flow_key {
  __u32 local[4];
  __u32 remote[4];
  __u16 local_port;
  __u16 remote_port;
  __u8 family;
  __u8 direction;
  __u16 reserved;
} __attribute__((aligned(8)));

#define USED_REQUESTS 1
#define USED_REPLIES 2
#define USED_LIVE 4

struct active {
  __u32 slot_plus_one;
  __u32 used;
  __u64 last_contact_ns;
  __u64 exempt_cookie;
  __u32 record_below;
  __u32 reserved;
  __u64 clock_ahead_ns;
};

struct generation {
  __u64 generation;
  __u64 install;
  __u64 parameters;
  __u64 live;
  __u64 zero;
  __u32 words;
  __u32 handshake_bounds[HANDSHAKE_BOUNDS_MAX];
  __u16 context[CONTEXTS];
  __u16 common_prefix[COMMON_PREFIXES];
  __u16 no_remote;
  __u16 no_local;
  __u16 skip;
  __u16 reserved;
} __attribute__((aligned(8)));

struct mask_table {
  __u64 words[MASK_WORDS * MASKS_MAX];
};

struct bucket_key {
  __u64 turns;
  __u64 local;
  __u64 ports;
  __u64 remote[4];
};

struct rule_entry {
  __u16 layer_end;
  __u16 breaker;
  __u16 first_choice;
  __u16 by_bucket;
  __u64 salt;
  struct bucket_key key;
  __u64 slot_ns;
  __u64 ends_ns;
  __u64 layer;
  __u64 withholds;
  __u64 withholding;
  __u64 lease_ns;
  __u16 arm_starts[ARMS_MAX];
  __u16 arm_ends[ARMS_MAX];
};

struct rule_table {
  struct rule_entry rules[RULES_MAX];
};

struct choice_entry {
  __u64 parameters;
  __u32 live;
  __u32 breaker;
  __u32 values[PARAMETER_SLOTS];
};

struct choice_table {
  struct choice_entry choices[CHOICES_MAX];
};

struct name_table {
  __u8 bytes[NAME_BYTES * NAMES_MAX];
};

struct port_table {
  __u16 masks[65536];
};

struct prefix_key {
  __u32 length;
  __u32 slot;
  __u32 address[4];
};

struct attachment {
  __u32 id;
  __u16 service[SLOTS];
} __attribute__((aligned(8)));

struct namespace_entry {
  __u64 cookie;
  __u64 open;
};

struct namespace_table {
  struct namespace_entry places[NAMESPACES_MAX];
};

struct handover {
  __u32 in_charge;
  __u32 oldest;
  __u64 installs;
  __u64 relieved_ns[RELIEVED];
  __u64 reserved[6];
};

struct hits {
  __u64 install;
  __u32 slot;
  __u32 count;
  __u16 choices[LAYERS_MAX];
};

struct reported {
  __u64 bytes_sent;
  __u64 bytes_received;
  __u32 segments_out;
  __u32 segments_in;
  __u32 retransmits;
  __u32 syn_retransmits;
  __u32 rtos;
  __u32 delivered_packets;
  __u32 ce_marked_packets;
  __u32 spurious_retransmits;
  __u64 end_ns;
};

struct stamp {
  __u64 start_ns;
  __u32 attachment;
  __u32 attempt;
  __u64 install;
  __u64 established_ns;
  __u64 parameters;
  __u64 live;
  __u64 refused;
  __u64 noted;
  __u32 choice_count;
  __u32 syn_retransmits;
  __u32 established_cwnd;
  __u32 direction;
  __u32 stale_min_rtt_us;
  __u32 handshake_rtt_us;
  __u32 values[PARAMETER_SLOTS];
  __u32 before[PARAMETER_SLOTS];
  __u8 name_before[NAME_BYTES];
  __u32 breakers[BREAKERS_OF_ONE];
  __u16 choices[LAYERS_MAX];
  struct reported reported;
};

struct pending_key {
  struct flow_key flow;
  __u64 netns_cookie;
};

struct flow_record {
  struct flow_key flow;
  __u64 install;
  __u64 start_ns;
  __u64 established_ns;
  __u64 end_ns;
  __u64 parameters;
  __u64 refused;
  __u64 bytes_sent;
  __u64 bytes_received;
  __u32 old_state;
  __u32 error;
  __u32 segments_out;
  __u32 segments_in;
  __u32 retransmits;
  __u32 syn_retransmits;
  __u32 rtos;
  __u32 srtt_us;
  __u32 min_rtt_us;
  __u32 final_cwnd;
  __u32 established_cwnd;
  __u32 choice_count;
  __u32 rate_delivered;
  __u32 rate_interval_us;
  __u32 mss_bytes;
  __u32 still_open;
  __u32 delivered_packets;
  __u32 ce_marked_packets;
  __u32 spurious_retransmits;
  __u32 attachment;
  __u32 handshake_rtt_us;
  __u32 rate_app_limited;
  __u16 choices[LAYERS_MAX];
  struct reported reported;
};

enum counter {
  FLOWS_STAMPED,
  FLOWS_CLOSED,
  RECORDS_DROPPED,
  SET_REFUSED,
  STAMP_FAILED,
  PENDING_FAILED,
  HANDSHAKE_MISSED,
  OPEN_RECORDED,
  OPEN_DEFERRED,
  LIVE_SET,
  LIVE_PUT_BACK,
  LIVE_LEFT,
  STAMP_SEEN,
  CHANGES_SEEN,
  COUNTERS,
};

/* As much of the kernel's structures as the record needs; the loader finds the members by name. */
struct sock {
  __u32 sk_err;
} __attribute__((preserve_access_index));

struct tcp_sock {
  __u64 bytes_received;
  __u16 total_rto;
  __u32 delivered;
  __u32 delivered_ce;
  __u32 dsack_dups;
  __u8 rate_app_limited : 1;
} __attribute__((preserve_access_index));

/* Makes a value unknown to the compiler, so that it keeps the bounds that the verifier wants to see. */
inlined __u64 hide(__u64 value) {
  asm volatile("%0 = %0" : "+r"(value));
  return value;
}

/* The verifier reads the context only at offsets that are constants of the load itself. */
#define field(ctx, name) (*(volatile typeof((ctx)->name) *)&(ctx)->name)
/* A load or store that the compiler neither moves nor merges. */
#define load(place) (*(volatile typeof(place) *)&(place))
#define store(place, value) (*(volatile typeof(place) *)&(place) = (value))

/* The flow in the context. */
inlined void read_flow(struct bpf_sock_ops *ctx, __u8 direction, struct flow_key *key) {
  __u32 local[4] = {0, 0, bpf_htonl(0xffff), field(ctx, local_ip4)};
  __u32 remote[4] = {0, 0, bpf_htonl(0xffff), field(ctx, remote_ip4)};
  __u8 family = IPV4;
  if (field(ctx, family) != AF_INET) {
    local[0] = field(ctx, local_ip6[0]);
    local[1] = field(ctx, local_ip6[1]);
    local[2] = field(ctx, local_ip6[2]);
    local[3] = field(ctx, local_ip6[3]);
    remote[0] = field(ctx, remote_ip6[0]);
    remote[1] = field(ctx, remote_ip6[1]);
    remote[2] = field(ctx, remote_ip6[2]);
    remote[3] = field(ctx, remote_ip6[3]);
    family = (remote[0] | remote[1]) == 0 && remote[2] == bpf_htonl(0xffff) ? IPV4 : IPV6;
  }
  store(key->local[0], local[0]);
  store(key->local[1], local[1]);
  store(key->local[2], local[2]);
  store(key->local[3], local[3]);
  store(key->remote[0], remote[0]);
  store(key->remote[1], remote[1]);
  store(key->remote[2], remote[2]);
  store(key->remote[3], remote[3]);
  store(key->local_port, (__u16)field(ctx, local_port));
  store(key->remote_port, (__u16)bpf_ntohl(field(ctx, remote_port)));
  store(key->family, family);
  store(key->direction, direction);
  store(key->reserved, 0);
}

/* Everything of the record that comes from the socket. */
inlined void read_outcome(struct bpf_sock_ops *ctx, struct flow_record *record) {
  record->end_ns = bpf_ktime_get_ns();
  record->bytes_sent = field(ctx, bytes_acked);
  record->bytes_received = field(ctx, bytes_received);
  record->old_state = field(ctx, state);
  record->segments_out = field(ctx, segs_out);
  record->segments_in = field(ctx, segs_in);
  record->srtt_us = field(ctx, srtt_us) >> 3;
  record->min_rtt_us = field(ctx, rtt_min);
  record->final_cwnd = field(ctx, snd_cwnd);
  record->rate_delivered = field(ctx, rate_delivered);
  record->rate_interval_us = field(ctx, rate_interval_us);
  record->mss_bytes = field(ctx, mss_cache);
  record->still_open = 0;
  record->error = 0;
  record->rtos = 0;
  record->delivered_packets = 0;
  record->ce_marked_packets = 0;
  record->spurious_retransmits = 0;
  record->rate_app_limited = 0;
  struct bpf_sock *sk = field(ctx, sk);
  struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
  if (tcp) {
    record->error = ((struct sock *)tcp)->sk_err;
    record->rtos = tcp->total_rto;
    record->delivered_packets = tcp->delivered;
    record->ce_marked_packets = tcp->delivered_ce;
    record->spurious_retransmits = tcp->dsack_dups;
    record->rate_app_limited = BPF_CORE_READ_BITFIELD(tcp, rate_app_limited);
  }
}

/* Asks for state callbacks, keeping what other programs asked for. */
inlined void follow_states(struct bpf_sock_ops *ctx) {
  __u32 flags = field(ctx, bpf_sock_ops_cb_flags);
  if ((flags & BPF_SOCK_OPS_STATE_CB_FLAG) == 0)
    bpf_sock_ops_cb_flags_set(ctx, flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}
