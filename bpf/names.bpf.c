// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What the application is told about its peers: unconnected DNS datagrams go to the ztunnel and come back under the
 * server's address, and getpeername() names the destination that was asked for. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "common.h"
#include "redirect.h"

static __always_inline int redirect_sendmsg(struct bpf_sock_addr *ctx, int family, const struct mesh_address *destination)
{
	__u64 cookie;
	struct mesh_pod *pod;
	const struct mesh_address *own;
	struct bpf_sock *sk = ctx->sk;

	if (!sk || ctx->user_port != bpf_htons(DNS_SERVER_PORT))
		return ALLOW;
	cookie = bpf_get_netns_cookie(ctx);
	pod = bpf_map_lookup_elem(&pods, &cookie);
	if (!pod || is_ztunnel_socket(sk))
		return ALLOW; /* not enrolled, or our own */
	own = pod_address(pod, destination);
	if (!is_captured_dns(ctx, pod, destination, own))
		return ALLOW;
	if (!ztunnel_listens(cookie, LISTENER_DNS))
		return ztunnel_away(sk, cookie, pod, destination, ctx->user_port);
	return capture_dns(ctx, sk, family, cookie, own, destination);
}

SEC("cgroup/sendmsg4")
int redirect_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct mesh_address destination = address_from_ip4(ctx->user_ip4);

	return redirect_sendmsg(ctx, AF_INET, &destination);
}

SEC("cgroup/sendmsg6")
int redirect_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct mesh_address destination = address_from_user_ip6(ctx);

	return redirect_sendmsg(ctx, AF_INET6, &destination);
}

/* Puts the server that was asked in the place of the ztunnel, by the port that speaks for it. */
static __always_inline void restore_dns_server(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family, const struct mesh_socket_state *state)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct mesh_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
	struct mesh_handoff_key key = { .netns_cookie = cookie, .protocol = IPPROTO_UDP };
	struct mesh_address source = family == AF_INET ? address_from_ip4(CONTEXT_WORD(ctx->user_ip4)) : address_from_user_ip6(ctx);
	__u32 slot = (__u32)bpf_ntohs(ctx->user_port) - PORT_DNS;
	struct mesh_endpoint *server;

	if (slot >= DNS_SLOTS)
		return; /* a datagram from somebody else */
	if (pod && !address_equals(&source, pod_address(pod, &source)))
		return; /* a stranger who uses our port: not the ztunnel, so no server spoke */
	key.port = CONTEXT_WORD(sk->src_port);
	key.family = address_is_ip4(&source) ? 4 : 6;
	key.dns_slot = slot;
	server = bpf_map_lookup_elem(&handoffs, &key);
	if (server)
		replace_address(ctx, family, &server->address, server->port);
	else if (address_is_ip4(&source) == address_is_ip4(&state->destination))
		replace_address(ctx, family, &state->destination, state->port); /* forgotten by the map: the server asked last */
}

/* A socket without our state costs one storage lookup. */
static __always_inline void restore_peer(struct bpf_sock_addr *ctx, int family, bool datagram)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_socket_state *state = sk ? bpf_sk_storage_get(&sockets, sk, NULL, 0) : NULL;

	if (!state)
		return;
	if (state->kind == SOCKET_DNS) {
		restore_dns_server(ctx, sk, family, state);
		return;
	}
	if (datagram || state->kind != SOCKET_REDIRECTED)
		return;
	if (family == AF_INET && !address_is_ip4(&state->destination))
		return;
	replace_address(ctx, family, &state->destination, state->port);
}

SEC("cgroup/recvmsg4")
int restore_recvmsg4(struct bpf_sock_addr *ctx)
{
	restore_peer(ctx, AF_INET, true);
	return ALLOW;
}

SEC("cgroup/recvmsg6")
int restore_recvmsg6(struct bpf_sock_addr *ctx)
{
	restore_peer(ctx, AF_INET6, true);
	return ALLOW;
}

SEC("cgroup/getpeername4")
int restore_peername4(struct bpf_sock_addr *ctx)
{
	restore_peer(ctx, AF_INET, false);
	return ALLOW;
}

SEC("cgroup/getpeername6")
int restore_peername6(struct bpf_sock_addr *ctx)
{
	restore_peer(ctx, AF_INET6, false);
	return ALLOW;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
