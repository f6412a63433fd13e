// Which names, addresses and directories a cluster has: all of them follow from its number, so that clusters do not meet. Pure.

/** Directories of all clusters on this machine; making one is what claims its number. */
export const clustersDirectory = '/var/lib/sidestep-kube'
/** A cluster has 10.(128 + its number).0.0/16. */
export const lastInstance = 99
export const nodeNames = ['node-a', 'node-b', 'node-c', 'node-d'] as const

export interface Addresses {
  readonly v4: string
  readonly v6: string
}

export interface Layout {
  readonly instance: number
  readonly directory: string
  /** The host's end of the link to the cluster. At most 15 characters. */
  readonly link: string
  /** Cgroups of node NAME are below `CGROUP-NAME` in each hierarchy. */
  readonly cgroup: string
  readonly host: Addresses
  /** Where the API server listens, and what routes between host, nodes and pods. */
  readonly control: Addresses
  /** Both families, as CIDRs: everything of the cluster, its pods, its services. */
  readonly all: Addresses
  readonly pods: Addresses
  readonly services: Addresses
  /** Services `kubernetes` and `kube-dns`. */
  readonly apiService: Addresses
  readonly dnsService: Addresses
  readonly node: (index: number) => { readonly address: Addresses; readonly pods: Addresses }
}

export function layoutOf(instance: number): Layout {
  const v4 = `10.${128 + instance}`
  const v6 = `fd00:51de:${instance.toString(16)}`
  return {
    instance,
    directory: `${clustersDirectory}/${instance}`,
    link: `ssk${instance}`,
    cgroup: `sidestep-kube-${instance}`,
    host: { v4: `${v4}.0.1`, v6: `${v6}::1` },
    control: { v4: `${v4}.0.2`, v6: `${v6}::2` },
    all: { v4: `${v4}.0.0/16`, v6: `${v6}::/48` },
    pods: { v4: `${v4}.64.0/18`, v6: `${v6}:100::/56` },
    services: { v4: `${v4}.128.0/20`, v6: `${v6}:200::/112` },
    apiService: { v4: `${v4}.128.1`, v6: `${v6}:200::1` },
    dnsService: { v4: `${v4}.128.10`, v6: `${v6}:200::a` },
    node: (index) => ({
      address: { v4: `${v4}.0.${11 + index}`, v6: `${v6}::${(0x11 + index).toString(16)}` },
      pods: { v4: `${v4}.${65 + index}.0/24`, v6: `${v6}:${(0x101 + index).toString(16)}::/64` },
    }),
  }
}
