/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What every program needs: addresses, counters, events, and finding the pod's listener. */
#ifndef SIDESTEP_COMMON_H
#define SIDESTEP_COMMON_H

#include "maps.h"

#ifndef AF_INET
#define AF_INET 2
#define AF_INET6 10
#endif

/* Context fields may be read only at constant offsets. The barrier, different at each use, keeps the compiler from
 * merging the reads of two branches into one at a computed offset, which the verifier refuses. */
#define CONTEXT_WORD(field)                                                       \
	({                                                                        \
		__u32 word_ = *(volatile __u32 *)&(field);                        \
		asm volatile("" : "+r"(word_) : "i"(__COUNTER__));                \
		word_;                                                            \
	})

#define REFUSE 0
#define ALLOW 1

static __always_inline struct mesh_address address_from_ip4(__be32 ip)
{
	struct mesh_address a = { .word = { 0, 0, bpf_htonl(0xffff), ip } };
	return a;
}

static __always_inline bool address_is_ip4(const struct mesh_address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool address_is_zero(const struct mesh_address *a)
{
	return !a->word[0] && !a->word[1] && !a->word[2] && !a->word[3];
}

static __always_inline bool address_equals(const struct mesh_address *a, const struct mesh_address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

/* 127.0.0.0/8, ::1, and the unspecified addresses, which the kernel takes for loopback on connect. */
static __always_inline bool address_is_loopback(const struct mesh_address *a)
{
	if (address_is_ip4(a))
		return !a->word[3] || (bpf_ntohl(a->word[3]) >> 24) == 127;
	return !a->word[0] && !a->word[1] && !a->word[2] && (!a->word[3] || a->word[3] == bpf_htonl(1));
}

static __always_inline bool address_is_link_local6(const struct mesh_address *a)
{
	return (bpf_ntohl(a->word[0]) >> 22) == 0x3fa; /* fe80::/10 */
}

static __always_inline bool port_is_internal(__be16 port)
{
	switch (bpf_ntohs(port)) {
	case PORT_OUTBOUND:
	case PORT_INBOUND:
	case PORT_HBONE:
	case PORT_DNS:
	case PORT_DNS_SECOND:
	case PORT_DNS_THIRD:
		return true;
	default:
		return false;
	}
}

static __always_inline const struct mesh_address *pod_address(const struct mesh_pod *pod, const struct mesh_address *same_family_as)
{
	return address_is_ip4(same_family_as) ? &pod->ip4 : &pod->ip6;
}

static __always_inline void count(__u32 reason)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter)
		*counter += 1;
}

static __always_inline struct mesh_event *event_reserve(__u16 kind, __u32 reason, __u64 netns_cookie)
{
	struct mesh_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(REASON_EVENT_LOST);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = kind;
	e->version = EVENT_VERSION;
	e->reason = reason;
	e->netns_cookie = netns_cookie;
	e->time_ns = bpf_ktime_get_ns();
	return e;
}

/* The listener's presence says that a ztunnel serves this pod: its sockets leave the map when the process ends. */
static __always_inline bool ztunnel_listens(__u64 netns_cookie, __u32 kind)
{
	struct mesh_listener_key key = { .netns_cookie = netns_cookie, .kind = kind };
	struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &key);

	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

#endif
