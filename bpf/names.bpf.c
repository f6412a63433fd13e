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

/* A socket without our state costs one storage lookup. */
static __always_inline void restore_peer(struct bpf_sock_addr *ctx, int family, bool datagram)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_socket_state *state = sk ? bpf_sk_storage_get(&sockets, sk, NULL, 0) : NULL;

	if (!state)
		return;
	if (datagram && (state->kind != SOCKET_DNS || ctx->user_port != bpf_htons(PORT_DNS)))
		return; /* a datagram from somebody else */
	if (!datagram && state->kind != SOCKET_REDIRECTED && state->kind != SOCKET_DNS)
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
