// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* An application's connect(): the destination is remembered on the socket and replaced by the ztunnel's listener in the
 * pod's own namespace. Attached at the root of cgroup2; namespaces that are not enrolled cost one hash lookup. Runs in
 * the caller's context before the route lookup, for TCP, TCP Fast Open and connected UDP alike. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "common.h"
#include "redirect.h"

/* The kubelet's own sockets are known by its namespace (and cgroup), and only on the pod's declared probe ports. */
static __always_inline void recognise_probe(struct bpf_sock_addr *ctx, struct bpf_sock *sk, __u64 cookie, const struct mesh_address *destination)
{
	struct mesh_probe_key key = {};
	struct mesh_node *node = bpf_map_lookup_elem(&nodes, &cookie);
	__u64 *pod_cookie;

	if (!node)
		return;
	if (node->cgroup_id && node->cgroup_id != bpf_get_current_cgroup_id())
		return;
	pod_cookie = bpf_map_lookup_elem(&pod_addresses, destination);
	if (!pod_cookie)
		return;
	key.netns_cookie = *pod_cookie;
	key.port = bpf_ntohs(ctx->user_port);
	if (!bpf_map_lookup_elem(&probe_ports, &key))
		return;
	/* No memory to remember it: the probe is then captured like any plaintext, which is the closed answer. */
	if (remember(sk, SOCKET_PROBE, destination, ctx->user_port))
		count(REASON_PROBE);
}

static __always_inline int connect_tcp(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family, __u64 cookie, struct mesh_pod *pod, const struct mesh_address *destination)
{
	const struct mesh_address *own = pod_address(pod, destination);
	__be16 port = ctx->user_port;

	if (address_is_loopback(destination) || address_equals(destination, own)) {
		if (port_is_internal(port))
			return refuse(cookie, REASON_INTERNAL_PORT, ECONNREFUSED, destination, port);
		return ALLOW; /* the pod to itself; never leaves it */
	}
	if (address_is_zero(own))
		return refuse(cookie, REASON_FAMILY_NOT_ASSIGNED, ENETUNREACH, destination, port); /* closed: a self-given address is a way around */
	if (address_is_link_local6(destination))
		return refuse(cookie, REASON_LINK_LOCAL, EHOSTUNREACH, destination, port); /* closed */
	if (!ztunnel_listens(cookie, LISTENER_OUTBOUND))
		return ztunnel_away(sk, cookie, pod, destination, port);
	if (!remember(sk, SOCKET_REDIRECTED, destination, port))
		return refuse(cookie, REASON_MAP_FULL, ECONNREFUSED, destination, port); /* closed */
	count(REASON_REDIRECTED);
	replace_address(ctx, family, own, bpf_htons(PORT_OUTBOUND));
	return ALLOW;
}

/* A connected UDP socket has no source port yet, and the ztunnel finds the original server by it: bind one here. */
static __always_inline bool bind_source_port(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family, const struct mesh_address *own)
{
	if (CONTEXT_WORD(sk->src_port))
		return true;
	for (int i = 0; i < 8; i++) {
		__be16 port = bpf_htons(32768 + bpf_get_prandom_u32() % 28000);
		long err;

		if (family == AF_INET) {
			struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = port };

			sa.sin_addr.s_addr = own->word[3];
			err = bpf_bind(ctx, (struct sockaddr *)&sa, sizeof(sa));
		} else {
			struct sockaddr_in6 sa = { .sin6_family = AF_INET6, .sin6_port = port };

			__builtin_memcpy(&sa.sin6_addr, own, sizeof(*own));
			err = bpf_bind(ctx, (struct sockaddr *)&sa, sizeof(sa));
		}
		if (!err)
			return true;
	}
	return false;
}

static __always_inline int connect_udp(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int family, __u64 cookie, struct mesh_pod *pod, const struct mesh_address *destination)
{
	const struct mesh_address *own = pod_address(pod, destination);

	if (!is_captured_dns(ctx, pod, destination, own))
		return ALLOW;
	if (!ztunnel_listens(cookie, LISTENER_DNS))
		return ztunnel_away(sk, cookie, pod, destination, ctx->user_port);
	if (!bind_source_port(ctx, sk, family, own))
		return refuse(cookie, REASON_NO_SOURCE_PORT, EADDRNOTAVAIL, destination, ctx->user_port); /* closed */
	return capture_dns(ctx, sk, family, cookie, own, destination);
}

static __always_inline int redirect_connect(struct bpf_sock_addr *ctx, int family, const struct mesh_address *destination)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct mesh_pod *pod = bpf_map_lookup_elem(&pods, &cookie);
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return ALLOW; /* never so in these hooks; the verifier asks */
	if (!pod) {
		if (ctx->protocol == IPPROTO_TCP)
			recognise_probe(ctx, sk, cookie, destination);
		return ALLOW; /* not enrolled */
	}
	if (is_ztunnel_socket(sk))
		return ALLOW;
	if (ctx->protocol == IPPROTO_UDP)
		return connect_udp(ctx, sk, family, cookie, pod, destination);
	if (ctx->type == SOCK_STREAM)
		return connect_tcp(ctx, sk, family, cookie, pod, destination);
	return ALLOW; /* neither TCP nor UDP: the fence judges what leaves the pod */
}

SEC("cgroup/connect4")
int redirect_connect4(struct bpf_sock_addr *ctx)
{
	struct mesh_address destination = address_from_ip4(ctx->user_ip4);

	return redirect_connect(ctx, AF_INET, &destination);
}

SEC("cgroup/connect6")
int redirect_connect6(struct bpf_sock_addr *ctx)
{
	struct mesh_address destination = address_from_user_ip6(ctx);

	return redirect_connect(ctx, AF_INET6, &destination);
}

/* MPTCP sockets open subflows in the kernel, past the connect hook. Refusing the socket makes Go and others use TCP.
 * Listening MPTCP sockets go the same way: their applications fall back as well. */
SEC("cgroup/sock_create")
int refuse_mptcp(struct bpf_sock *sk)
{
	__u64 cookie;

	if (sk->protocol != 262 /* IPPROTO_MPTCP, too wide for some readers of the field */)
		return ALLOW;
	cookie = bpf_get_netns_cookie(sk);
	if (!bpf_map_lookup_elem(&pods, &cookie))
		return ALLOW;
	count(REASON_MPTCP);
	bpf_set_retval(-EPROTONOSUPPORT);
	return REFUSE; /* closed */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
