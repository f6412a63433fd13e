// What the resolver needs to know of the mesh: an interface, so that it does not care where names come from.

/** Where something is served, for SRV. */
export interface Target {
  /** Canonical name. */
  readonly name: string
  readonly port: number
}

export interface Host {
  /** Canonical; may start with `*.`. */
  readonly hostname: string
  /** Addresses to answer with: the service's own, or its endpoints' where it is headless. Canonical text. */
  readonly ipv4: readonly string[]
  readonly ipv6: readonly string[]
  /** It stands for this name, wherever that is, and has no addresses of its own. */
  readonly alias?: string
  /** Addresses of one endpoint of a headless service by its label under the hostname; undefined if there is none. */
  endpoint(label: string): readonly string[] | undefined
  /** Who serves the named port; none if nobody, undefined where the names of the ports are not known. */
  targets(port: string, protocol: 'tcp' | 'udp'): readonly Target[] | undefined
}

export interface NameSource {
  /** False until all names are there: what is not found may exist. */
  readonly isKnown: boolean
  /** Canonical; names below it belong to the cluster and to nobody outside. */
  readonly clusterDomain: string
  /** Exactly this hostname (which may be a wildcard), if the client's namespace may see it. */
  host(hostname: string, clientNamespace: string): Host | undefined
  /** The hostname of an address, canonical text. */
  hostnameOf(ip: string, clientNamespace: string): string | undefined
}
