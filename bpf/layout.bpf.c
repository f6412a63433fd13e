// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Never loaded: names every type of the contract once, so that BTF holds them all for tools/gen-layout.ts. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "maps.h"

struct {
	enum mesh_port port;
	enum mesh_pod_flag pod_flag;
	enum mesh_listener_kind listener_kind;
	enum mesh_socket_kind socket_kind;
	enum mesh_event_kind event_kind;
	enum mesh_reason reason;
	struct mesh_event event;
} *layout_anchor;
