// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Which socket gets a connection that arrives in a captured pod's namespace: the ztunnel's, for every port. Attached to
 * each pod's namespace; the pod is known by its address, since this hook cannot ask for the namespace's cookie. Only
 * the pod talking to itself, the ztunnel's deliveries and the kubelet's probes find the application. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "common.h"

static __always_inline int refuse_lookup(__u64 cookie, __u32 reason, const struct mesh_flow_key *flow)
{
	struct mesh_event *e = event_reserve(EVENT_REFUSED, reason, cookie);

	count(reason);
	if (e) {
		e->source = flow->source;
		e->destination = flow->destination;
		e->source_port = flow->source_port;
		e->destination_port = flow->destination_port;
		bpf_ringbuf_submit(e, 0);
	}
	return SK_DROP;
}

static __always_inline struct mesh_flow_key flow_of(struct bpf_sk_lookup *ctx)
{
	struct mesh_flow_key key = {};

	if (ctx->family == AF_INET) {
		key.source = address_from_ip4(CONTEXT_WORD(ctx->remote_ip4));
		key.destination = address_from_ip4(CONTEXT_WORD(ctx->local_ip4));
	} else {
		key.source.word[0] = CONTEXT_WORD(ctx->remote_ip6[0]);
		key.source.word[1] = CONTEXT_WORD(ctx->remote_ip6[1]);
		key.source.word[2] = CONTEXT_WORD(ctx->remote_ip6[2]);
		key.source.word[3] = CONTEXT_WORD(ctx->remote_ip6[3]);
		key.destination.word[0] = CONTEXT_WORD(ctx->local_ip6[0]);
		key.destination.word[1] = CONTEXT_WORD(ctx->local_ip6[1]);
		key.destination.word[2] = CONTEXT_WORD(ctx->local_ip6[2]);
		key.destination.word[3] = CONTEXT_WORD(ctx->local_ip6[3]);
	}
	key.source_port = ctx->remote_port;
	key.destination_port = bpf_htons(ctx->local_port);
	return key;
}

/* Gives the connection to the ztunnel's listener. NO_REUSEPORT: a root process in the pod may join our port's group. */
static __always_inline int steer(struct bpf_sk_lookup *ctx, __u64 cookie, __u32 kind, const struct mesh_pod *pod, const struct mesh_flow_key *flow)
{
	struct mesh_listener_key key = { .netns_cookie = cookie, .kind = kind };
	struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &key);
	long err;

	if (!sk) {
		if (kind == LISTENER_HBONE)
			return refuse_lookup(cookie, REASON_NO_HBONE_LISTENER, flow); /* closed in both modes: no application owns that port */
		if (kind == LISTENER_INBOUND && (pod->flags & POD_FLAG_OPEN)) {
			count(REASON_PASSED_OPEN);
			return SK_PASS; /* open, as the owner chose */
		}
		return refuse_lookup(cookie, REASON_ZTUNNEL_AWAY, flow); /* closed */
	}
	err = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT | BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(sk);
	if (err)
		return refuse_lookup(cookie, REASON_ZTUNNEL_AWAY, flow); /* closed */
	if (kind != LISTENER_OUTBOUND)
		count(REASON_STEERED);
	return SK_PASS;
}

SEC("sk_lookup")
int steer_inbound(struct bpf_sk_lookup *ctx)
{
	struct mesh_flow_key flow;
	__u64 *found, cookie;
	struct mesh_pod *pod;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS; /* UDP is not carried by the mesh */
	flow = flow_of(ctx);
	found = bpf_map_lookup_elem(&pod_addresses, &flow.destination);
	if (!found) {
		if (address_is_loopback(&flow.destination) || address_equals(&flow.source, &flow.destination))
			return SK_PASS; /* the pod to itself */
		return refuse_lookup(0, REASON_UNKNOWN_LOCAL_ADDRESS, &flow); /* closed: an address the pod gave itself */
	}
	cookie = *found;
	pod = bpf_map_lookup_elem(&pods, &cookie);
	if (!pod)
		return refuse_lookup(cookie, REASON_UNKNOWN_LOCAL_ADDRESS, &flow); /* closed: being removed */
	if (address_equals(&flow.source, &flow.destination)) {
		if (ctx->local_port == PORT_OUTBOUND)
			return steer(ctx, cookie, LISTENER_OUTBOUND, pod, &flow);
		return SK_PASS; /* the pod to itself */
	}
	if (bpf_map_lookup_elem(&flows, &flow))
		return SK_PASS; /* announced by sockops: a delivery or a probe */
	if (ctx->local_port == PORT_HBONE)
		return steer(ctx, cookie, LISTENER_HBONE, pod, &flow);
	return steer(ctx, cookie, LISTENER_INBOUND, pod, &flow);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
