/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The contract between the programs and user space: keys, values and events. tools/gen-layout.ts reads these types from
 * BTF and writes src/kernel/generated/layout.ts, so a change here is a change there; the loader compares hashes.
 * Fixed-width types, explicit padding, byte order said per field. */
#ifndef SIDESTEP_LAYOUT_H
#define SIDESTEP_LAYOUT_H

/* One address for both families, network order; IPv4 is ::ffff:a.b.c.d. */
struct mesh_address {
	__be32 word[4];
};

enum mesh_port {
	PORT_OUTBOUND = 15001,
	PORT_INBOUND = 15006,
	PORT_HBONE = 15008,
	PORT_DNS = 15053,
	PORT_DNS_SECOND = 15054,
	PORT_DNS_THIRD = 15055,
};

/* One UDP socket may ask several servers at once (musl asks all of resolv.conf's, of which there are at most three). Each
 * gets a port of its own, PORT_DNS and those behind it, so that nobody's answer is taken for another's. */
#define DNS_SLOTS 3

enum mesh_pod_flag {
	POD_FLAG_OPEN = 1, /* failure mode: new connections pass while no ztunnel listens */
	POD_FLAG_DNS = 2,  /* DNS over UDP is captured */
};

/* A captured pod; key is its network namespace's cookie. An address of all zeros: the pod has none of that family. */
struct mesh_pod {
	struct mesh_address ip4;
	struct mesh_address ip6;
	__u32 flags; /* enum mesh_pod_flag */
	__u32 padding;
};

enum mesh_listener_kind {
	LISTENER_OUTBOUND = 1,
	LISTENER_INBOUND = 2,
	LISTENER_HBONE = 3,
	LISTENER_DNS = 4,
};

/* Key of the ztunnel's listening sockets. They leave the map when the process ends: that is the heartbeat. */
struct mesh_listener_key {
	__u64 netns_cookie;
	__u32 kind; /* enum mesh_listener_kind */
	__u32 padding;
};

enum mesh_socket_kind {
	SOCKET_BYPASS = 1,     /* the ztunnel's own, set by user space through the fd: no pod can forge it */
	SOCKET_DELIVERY = 2,   /* the ztunnel's, towards the pod's application; its flow is announced to sk_lookup */
	SOCKET_REDIRECTED = 3, /* an application's, sent to the ztunnel instead of `destination` */
	SOCKET_PASSED = 4,     /* an application's, let through unmeshed in open mode */
	SOCKET_DNS = 5,        /* an application's UDP socket that asked `destination` for names */
	SOCKET_PROBE = 6,      /* the kubelet's, towards a declared probe port */
};

/* What is remembered per socket (sk_storage). */
struct mesh_socket_state {
	struct mesh_address destination;
	__u32 kind;            /* enum mesh_socket_kind */
	__be16 port;           /* of destination */
	__u8 dns_servers;      /* SOCKET_DNS: how many slots are taken */
	__u8 dns_next;         /* SOCKET_DNS: which slot a further server takes over */
};

/* Key by which the ztunnel finds an accepted connection's (or datagram's) original destination. */
struct mesh_handoff_key {
	__u64 netns_cookie;
	__u16 port;    /* the application's source port, host order */
	__u8 family;   /* 4 or 6: the family on the wire */
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 dns_slot; /* of UDP: below DNS_SLOTS */
	__u8 padding[3];
};

struct mesh_endpoint {
	struct mesh_address address;
	__be16 port;
	__u16 padding;
};

/* A connection that may enter the pod untouched: the ztunnel's delivery or the kubelet's probe. */
struct mesh_flow_key {
	struct mesh_address source;
	struct mesh_address destination;
	__be16 source_port;
	__be16 destination_port;
};

struct mesh_flow {
	__u32 kind; /* enum mesh_socket_kind: SOCKET_DELIVERY or SOCKET_PROBE */
};

struct mesh_probe_key {
	__u64 netns_cookie; /* of the pod */
	__u16 port;         /* host order */
	__u16 padding[3];
};

/* A namespace from which the kubelet probes. */
struct mesh_node {
	__u64 cgroup_id; /* of the kubelet; 0: any process of that namespace */
};

enum mesh_event_kind {
	EVENT_REFUSED = 1,
	EVENT_PASSED = 2,
};

#define EVENT_VERSION 1

/* What the ring buffer carries. */
struct mesh_event {
	__u16 kind;    /* enum mesh_event_kind */
	__u16 version; /* EVENT_VERSION */
	__u32 reason;  /* enum mesh_reason */
	__u64 netns_cookie; /* 0 where the hook cannot know it */
	__u64 time_ns;      /* CLOCK_MONOTONIC */
	struct mesh_address source;
	struct mesh_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 pid; /* thread group; 0 where the hook runs outside a process */
};

/* Written once by the process that made the maps; later ones compare. */
struct mesh_meta {
	__u8 layout_hash[32]; /* SHA-256 over the generated layout */
};

_Static_assert(sizeof(struct mesh_pod) == 40, "mesh_pod");
_Static_assert(sizeof(struct mesh_listener_key) == 16, "mesh_listener_key");
_Static_assert(sizeof(struct mesh_socket_state) == 24, "mesh_socket_state");
_Static_assert(sizeof(struct mesh_handoff_key) == 16, "mesh_handoff_key");
_Static_assert(sizeof(struct mesh_endpoint) == 20, "mesh_endpoint");
_Static_assert(sizeof(struct mesh_flow_key) == 36, "mesh_flow_key");
_Static_assert(sizeof(struct mesh_event) == 64, "mesh_event");

#endif
