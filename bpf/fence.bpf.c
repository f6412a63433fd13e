// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The fence on the node's side of a captured pod's veth, where no capability inside the pod reaches: what leaves the pod
 * must carry one of its addresses, and a new TCP connection must come from a socket that the ztunnel made or that the
 * connect hook let pass. veth keeps skb->sk across namespaces (kernel 4.19), which is how the socket is known here;
 * raw sockets, packet sockets and forwarded traffic have no TCP socket and are refused. Connections from before
 * enrolment go on: only their first packet would be judged. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "common.h"

#define TCX_NEXT -1
#define TCX_DROP 2

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_P_ARP 0x0806

#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_DESTINATION_OPTIONS 60
#define IPV6_MAX_EXTENSIONS 6

struct packet {
	struct mesh_flow_key flow;
	__u32 l4_offset;
	__u32 end;      /* offset behind the packet as the IP header tells it */
	__u8 protocol;
	bool fragment;
};

static __always_inline int refuse_packet(__u64 cookie, __u32 reason, const struct packet *packet)
{
	struct mesh_event *e = event_reserve(EVENT_REFUSED, reason, cookie);

	count(reason);
	if (e) {
		e->source = packet->flow.source;
		e->destination = packet->flow.destination;
		e->source_port = packet->flow.source_port;
		e->destination_port = packet->flow.destination_port;
		bpf_ringbuf_submit(e, 0);
	}
	return TCX_DROP; /* closed, in both modes: what the hooks did not see is nobody's choice */
}

static __always_inline bool parse_ip4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	packet->flow.source = address_from_ip4(ip.saddr);
	packet->flow.destination = address_from_ip4(ip.daddr);
	packet->protocol = ip.protocol;
	packet->fragment = ip.frag_off & bpf_htons(0x3fff); /* more fragments, or an offset */
	packet->l4_offset = ETH_HLEN + ip.ihl * 4;
	packet->end = ETH_HLEN + bpf_ntohs(ip.tot_len);
	return true;
}

static __always_inline bool is_extension(__u8 next)
{
	return next == NEXT_HOP_BY_HOP || next == NEXT_ROUTING || next == NEXT_DESTINATION_OPTIONS || next == NEXT_FRAGMENT;
}

static __always_inline bool parse_ip6(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6hdr ip;
	__u32 offset = ETH_HLEN + sizeof(ip);

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(&packet->flow.source, &ip.saddr, sizeof(packet->flow.source));
	__builtin_memcpy(&packet->flow.destination, &ip.daddr, sizeof(packet->flow.destination));
	packet->protocol = ip.nexthdr;
	packet->end = offset + bpf_ntohs(ip.payload_len);
	for (int i = 0; i < IPV6_MAX_EXTENSIONS && is_extension(packet->protocol); i++) {
		__u8 head[2];

		if (bpf_skb_load_bytes(skb, offset, head, sizeof(head)))
			return false;
		if (packet->protocol == NEXT_FRAGMENT) {
			packet->fragment = true;
			offset += 8;
		} else {
			offset += (head[1] + 1) * 8;
		}
		packet->protocol = head[0];
	}
	packet->l4_offset = offset;
	return !is_extension(packet->protocol);
}

static __always_inline bool source_is_pods(const struct mesh_pod *pod, const struct mesh_address *source)
{
	if (address_is_ip4(source))
		return address_equals(source, &pod->ip4);
	/* Neighbour discovery speaks from link-local or, before an address is assigned, from the unspecified one. */
	return address_equals(source, &pod->ip6) || address_is_link_local6(source) || address_is_zero(source);
}

/* A TCP packet without a full socket: resets, and acknowledgements and SYN-ACKs that the kernel sends for sockets that
 * are not (or no longer) full ones. They carry no payload and open nothing. */
static __always_inline bool opens_or_carries(const struct tcphdr *tcp, const struct packet *packet)
{
	if (tcp->syn && !tcp->ack)
		return true;
	return packet->end > packet->l4_offset + tcp->doff * 4;
}

static __always_inline int judge_tcp(struct __sk_buff *skb, __u64 cookie, struct packet *packet)
{
	struct mesh_socket_state *state;
	struct bpf_sock *sk;
	struct tcphdr tcp;

	if (packet->fragment)
		return refuse_packet(cookie, REASON_FRAGMENT, packet);
	if (bpf_skb_load_bytes(skb, packet->l4_offset, &tcp, sizeof(tcp)) || tcp.doff < 5)
		return refuse_packet(cookie, REASON_MALFORMED, packet);
	packet->flow.source_port = tcp.source;
	packet->flow.destination_port = tcp.dest;
	sk = skb->sk;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP || sk->type != SOCK_STREAM)
		return opens_or_carries(&tcp, packet) ? refuse_packet(cookie, REASON_NO_SOCKET, packet) : TCX_NEXT;
	if (!tcp.syn || tcp.ack)
		return TCX_NEXT;
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state || (state->kind != SOCKET_BYPASS && state->kind != SOCKET_PASSED))
		return refuse_packet(cookie, REASON_NOT_CAPTURED, packet);
	return TCX_NEXT;
}

SEC("tc")
int fence_pod(struct __sk_buff *skb)
{
	struct packet packet = {};
	__u32 ifindex = skb->ifindex;
	__u64 *found = bpf_map_lookup_elem(&fences, &ifindex);
	struct mesh_pod *pod;
	bool parsed;

	if (!found)
		return TCX_NEXT; /* not fenced, or being removed */
	pod = bpf_map_lookup_elem(&pods, found);
	if (!pod)
		return TCX_NEXT; /* being removed */
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
		parsed = parse_ip4(skb, &packet);
		break;
	case ETH_P_IPV6:
		parsed = parse_ip6(skb, &packet);
		break;
	case ETH_P_ARP:
		return TCX_NEXT;
	default:
		return refuse_packet(*found, REASON_ETHERTYPE, &packet);
	}
	if (!parsed)
		return refuse_packet(*found, REASON_MALFORMED, &packet);
	if (!source_is_pods(pod, &packet.flow.source))
		return refuse_packet(*found, REASON_SPOOFED_SOURCE, &packet);
	if (packet.protocol == IPPROTO_TCP)
		return judge_tcp(skb, *found, &packet);
	return TCX_NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
