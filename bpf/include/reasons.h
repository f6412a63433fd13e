/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Why a hook refused, or let something pass unmeshed: a closed set. The names are metric labels and log words too. */
#ifndef SIDESTEP_REASONS_H
#define SIDESTEP_REASONS_H

enum mesh_reason {
	REASON_NONE = 0,
	/* refused */
	REASON_ZTUNNEL_AWAY = 1,       /* closed mode, and no ztunnel listens for this pod */
	REASON_INTERNAL_PORT = 2,      /* an application dialled a port of the ztunnel */
	REASON_FAMILY_NOT_ASSIGNED = 3,/* the pod has no address of that family */
	REASON_LINK_LOCAL = 4,         /* IPv6 link-local destinations cannot be carried and would be a way around */
	REASON_UNKNOWN_LOCAL_ADDRESS = 5, /* inbound to an address that is not the pod's */
	REASON_NO_HBONE_LISTENER = 6,  /* inbound to 15008 while no ztunnel serves it */
	REASON_NOT_CAPTURED = 7,       /* a new connection left the pod without passing the connect hook */
	REASON_SPOOFED_SOURCE = 8,     /* a packet left the pod with a source address that is not the pod's */
	REASON_NO_SOCKET = 9,          /* TCP payload that no TCP socket of the pod sent: forged or forwarded */
	REASON_FRAGMENT = 10,          /* fragmented TCP: its ports cannot be judged */
	REASON_MALFORMED = 11,         /* headers that do not parse */
	REASON_MAP_FULL = 12,          /* no room to remember the original destination */
	REASON_NO_SOURCE_PORT = 13,    /* no free source port for a DNS socket */
	REASON_ETHERTYPE = 14,         /* neither IP nor ARP */
	REASON_MPTCP = 15,             /* multipath TCP would open subflows around the mesh */
	/* passed */
	REASON_PASSED_OPEN = 16,       /* open mode, and no ztunnel listens for this pod */
	REASON_PROBE = 17,             /* the kubelet's probe */
	/* bookkeeping */
	REASON_EVENT_LOST = 18,        /* the ring buffer was full */
	REASON_REDIRECTED = 19,        /* connections handed to the ztunnel */
	REASON_STEERED = 20,           /* inbound connections handed to the ztunnel */
	REASON_DNS_CAPTURED = 21,      /* DNS sockets handed to the ztunnel */
	REASON_COUNT = 22,
};

#endif
