// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Handing over: at TCP_CONNECT_CB the source port is chosen and the SYN not yet sent, so what is written here is there
 * before anybody can accept. Redirected sockets leave their original destination for the ztunnel; its deliveries and
 * the kubelet's probes announce their flow to sk_lookup, and withdraw it once it stands or fails: a stale flow would
 * be a door for a stranger with the same four-tuple. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "common.h"

static __always_inline void hand_over(struct bpf_sock_ops *skops, const struct mesh_socket_state *state)
{
	struct mesh_handoff_key key = { .netns_cookie = bpf_get_netns_cookie(skops), .protocol = IPPROTO_TCP };
	struct mesh_endpoint destination = { .address = state->destination, .port = state->port };

	key.port = skops->local_port;
	key.family = address_is_ip4(&state->destination) ? 4 : 6;
	/* A failed write is a miss at accept, and a miss is refused: closed. */
	if (bpf_map_update_elem(&handoffs, &key, &destination, BPF_ANY))
		count(REASON_MAP_FULL);
}

/* Mapped IPv4 on an IPv6 socket has its addresses in the IPv4 fields at this moment, so the destination's family rules. */
static __always_inline struct mesh_flow_key flow_of(struct bpf_sock_ops *skops, const struct mesh_socket_state *state)
{
	struct mesh_flow_key key = {};

	if (address_is_ip4(&state->destination)) {
		key.source = address_from_ip4(CONTEXT_WORD(skops->local_ip4));
	} else {
		key.source.word[0] = CONTEXT_WORD(skops->local_ip6[0]);
		key.source.word[1] = CONTEXT_WORD(skops->local_ip6[1]);
		key.source.word[2] = CONTEXT_WORD(skops->local_ip6[2]);
		key.source.word[3] = CONTEXT_WORD(skops->local_ip6[3]);
	}
	key.destination = state->destination;
	key.source_port = bpf_htons(skops->local_port);
	key.destination_port = state->port;
	return key;
}

static __always_inline bool announces_flow(const struct mesh_socket_state *state)
{
	return state->kind == SOCKET_DELIVERY || state->kind == SOCKET_PROBE;
}

SEC("sockops")
int track_connect(struct bpf_sock_ops *skops)
{
	struct mesh_socket_state *state;
	struct mesh_flow_key key;
	struct bpf_sock *sk;

	switch (skops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_STATE_CB:
		break;
	default:
		return 1;
	}
	sk = skops->sk;
	if (!sk)
		return 1;
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state)
		return 1;
	if (state->kind == SOCKET_REDIRECTED && skops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		hand_over(skops, state);
		return 1;
	}
	if (!announces_flow(state))
		return 1;
	if (skops->op == BPF_SOCK_OPS_STATE_CB && skops->args[1] != BPF_TCP_CLOSE)
		return 1;
	key = flow_of(skops, state);
	if (skops->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		struct mesh_flow flow = { .kind = state->kind };

		bpf_sock_ops_cb_flags_set(skops, skops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		if (bpf_map_update_elem(&flows, &key, &flow, BPF_ANY))
			count(REASON_MAP_FULL);
		return 1;
	}
	bpf_map_delete_elem(&flows, &key);
	if (skops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		bpf_sock_ops_cb_flags_set(skops, skops->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
