// The programs, by object file, and where each attaches. Attach types are the kernel's enum bpf_attach_type.
export interface CgroupHook {
  readonly program: string
  readonly attachType: number
}

/** In load order; the first object makes the maps. */
export const objectFiles = ['connect', 'names', 'sockops', 'sklookup', 'fence'] as const

/** Attached at the root of cgroup2. Names and hand-over come before connect, which is what starts redirecting. */
export const cgroupHooks: readonly CgroupHook[] = [
  { program: 'track_connect', attachType: 3 },
  { program: 'restore_peername4', attachType: 29 },
  { program: 'restore_peername6', attachType: 30 },
  { program: 'restore_recvmsg4', attachType: 19 },
  { program: 'restore_recvmsg6', attachType: 20 },
  { program: 'redirect_sendmsg4', attachType: 14 },
  { program: 'redirect_sendmsg6', attachType: 15 },
  { program: 'refuse_mptcp', attachType: 2 },
  { program: 'redirect_connect4', attachType: 10 },
  { program: 'redirect_connect6', attachType: 11 },
]

/** Attached to each pod's network namespace (BPF_SK_LOOKUP). */
export const lookupHook = { program: 'steer_inbound', attachType: 36 } as const
/** Attached to the node's end of each pod's veth (BPF_TCX_INGRESS, Linux 6.6). */
export const fenceHook = { program: 'fence_pod', attachType: 46 } as const

/** Names of the pinned links, within an instance's directory. */
export const hookLink = (program: string): string => `links/${program}`
export const lookupLink = (cookie: bigint): string => `pods/${cookie}-lookup`
export const fenceLink = (cookie: bigint, ifindex: number): string => `pods/${cookie}-fence-${ifindex}`
