/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* All maps, included by every program; the loader makes each once and shares it by name. One set per ztunnel, pinned,
 * so they outlive the process. */
#ifndef SIDESTEP_MAPS_H
#define SIDESTEP_MAPS_H

#include "layout.h"
#include "reasons.h"

#define MAX_PODS 4096
#define MAX_HANDOFFS 131072
#define MAX_FLOWS 65536

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u64);
	__type(value, struct mesh_pod);
} pods SEC(".maps");

/* Pod address to the pod's namespace cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS * 2);
	__type(key, struct mesh_address);
	__type(value, __u64);
} pod_addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, MAX_PODS * 4);
	__type(key, struct mesh_listener_key);
	__type(value, __u64);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mesh_socket_state);
} sockets SEC(".maps");

/* LRU: a connection that nobody accepts must not hold its entry for ever. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_HANDOFFS);
	__type(key, struct mesh_handoff_key);
	__type(value, struct mesh_endpoint);
} handoffs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct mesh_flow_key);
	__type(value, struct mesh_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS * 8);
	__type(key, struct mesh_probe_key);
	__type(value, __u8);
} probe_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, struct mesh_node);
} nodes SEC(".maps");

/* Interface index of a pod's veth on the node to the pod's namespace cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, __u64);
} fences SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mesh_meta);
} meta SEC(".maps");

#endif
