/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Shared by the socket-address hooks: remembering and replacing a destination, refusing, and the DNS decision. */
#ifndef SIDESTEP_REDIRECT_H
#define SIDESTEP_REDIRECT_H

#include "common.h"

#define DNS_SERVER_PORT 53

/* errno values; vmlinux.h has no macros. */
#define EPROTONOSUPPORT 93
#define EADDRNOTAVAIL 99
#define ENETUNREACH 101
#define ECONNREFUSED 111
#define EHOSTUNREACH 113

static __always_inline struct mesh_address address_from_user_ip6(struct bpf_sock_addr *ctx)
{
	struct mesh_address a;

	a.word[0] = CONTEXT_WORD(ctx->user_ip6[0]);
	a.word[1] = CONTEXT_WORD(ctx->user_ip6[1]);
	a.word[2] = CONTEXT_WORD(ctx->user_ip6[2]);
	a.word[3] = CONTEXT_WORD(ctx->user_ip6[3]);
	return a;
}

/* `family` is the hook's, a constant: hooks may write only their own family's fields. */
static __always_inline void replace_address(struct bpf_sock_addr *ctx, int family, const struct mesh_address *address, __be16 port)
{
	if (family == AF_INET) {
		ctx->user_ip4 = address->word[3];
	} else {
		ctx->user_ip6[0] = address->word[0];
		ctx->user_ip6[1] = address->word[1];
		ctx->user_ip6[2] = address->word[2];
		ctx->user_ip6[3] = address->word[3];
	}
	ctx->user_port = port;
}

static __always_inline bool is_ztunnel_socket(struct bpf_sock *sk)
{
	struct mesh_socket_state *state = bpf_sk_storage_get(&sockets, sk, NULL, 0);

	return state && (state->kind == SOCKET_BYPASS || state->kind == SOCKET_DELIVERY);
}

static __always_inline bool remember(struct bpf_sock *sk, __u32 kind, const struct mesh_address *destination, __be16 port)
{
	struct mesh_socket_state *state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!state)
		return false;
	state->destination = *destination;
	state->port = port;
	state->kind = kind;
	return true;
}

static __always_inline void report(__u16 kind, __u64 cookie, __u32 reason, const struct mesh_address *destination, __be16 port)
{
	struct mesh_event *e = event_reserve(kind, reason, cookie);

	count(reason);
	if (!e)
		return;
	e->destination = *destination;
	e->destination_port = port;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_ringbuf_submit(e, 0);
}

static __always_inline int refuse(__u64 cookie, __u32 reason, int error, const struct mesh_address *destination, __be16 port)
{
	report(EVENT_REFUSED, cookie, reason, destination, port);
	bpf_set_retval(-error);
	return REFUSE;
}

/* No ztunnel listens for this pod: the namespace's failure mode decides. */
static __always_inline int ztunnel_away(struct bpf_sock *sk, __u64 cookie, const struct mesh_pod *pod, const struct mesh_address *destination, __be16 port)
{
	if (!(pod->flags & POD_FLAG_OPEN))
		return refuse(cookie, REASON_ZTUNNEL_AWAY, ECONNREFUSED, destination, port); /* closed */
	report(EVENT_PASSED, cookie, REASON_PASSED_OPEN, destination, port);
	/* The fence lets only remembered sockets out; if there is no memory to remember, it refuses: closed. */
	remember(sk, SOCKET_PASSED, destination, port);
	return ALLOW; /* open, as the owner chose */
}

static __always_inline bool is_captured_dns(struct bpf_sock_addr *ctx, const struct mesh_pod *pod, const struct mesh_address *destination, const struct mesh_address *own)
{
	return (pod->flags & POD_FLAG_DNS) && ctx->user_port == bpf_htons(DNS_SERVER_PORT) && !address_is_zero(own) &&
	       !address_is_loopback(destination) && !address_equals(destination, own) && !address_is_link_local6(destination);
}

/* The slot of a server among those that the socket asks: its own, a free one, or in turn somebody's who was asked before. */
static __always_inline __u32 dns_slot(struct mesh_socket_state *state, struct mesh_handoff_key *key, const struct mesh_address *server)
{
	__u32 slot;

	if (state->kind != SOCKET_DNS) {
		state->dns_servers = 0;
		state->dns_next = 0;
	}
	for (__u32 i = 0; i < DNS_SLOTS; i++) {
		struct mesh_endpoint *known;

		if (i >= state->dns_servers)
			break;
		key->dns_slot = i;
		known = bpf_map_lookup_elem(&handoffs, key);
		if (known && address_equals(&known->address, server))
			return i;
	}
	if (state->dns_servers < DNS_SLOTS)
		return state->dns_servers++;
	slot = state->dns_next % DNS_SLOTS;
	state->dns_next = (slot + 1) % DNS_SLOTS;
	return slot;
}

/* Sends a DNS socket's datagrams to the ztunnel, which finds the server that was asked by the source port and the slot. */
static __always_inline int capture_dns(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family, __u64 cookie, const struct mesh_address *own, const struct mesh_address *destination)
{
	struct mesh_handoff_key key = { .netns_cookie = cookie, .protocol = IPPROTO_UDP };
	struct mesh_endpoint server = { .address = *destination, .port = ctx->user_port };
	struct mesh_socket_state *state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	__u32 slot;

	if (!state)
		return refuse(cookie, REASON_MAP_FULL, ECONNREFUSED, destination, ctx->user_port); /* closed */
	key.port = CONTEXT_WORD(sk->src_port);
	key.family = address_is_ip4(destination) ? 4 : 6;
	slot = dns_slot(state, &key, destination);
	key.dns_slot = slot;
	if (bpf_map_update_elem(&handoffs, &key, &server, BPF_ANY) || !remember(sk, SOCKET_DNS, destination, ctx->user_port))
		return refuse(cookie, REASON_MAP_FULL, ECONNREFUSED, destination, ctx->user_port); /* closed */
	count(REASON_DNS_CAPTURED);
	replace_address(ctx, family, own, bpf_htons(PORT_DNS + slot));
	return ALLOW;
}

#endif
