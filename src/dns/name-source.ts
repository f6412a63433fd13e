// What the resolver needs to know of the mesh: an interface, so that it does not care where names come from.

/** A named port, for SRV. */
export interface NamedPort {
  readonly name: string
  readonly protocol: 'tcp' | 'udp'
  readonly port: number
}

/** One endpoint of a headless service: `name` is its label under the service's hostname. */
export interface NamedEndpoint {
  readonly name: string
  readonly ips: readonly string[]
}

export interface Host {
  /** Canonical; may start with `*.`. */
  readonly hostname: string
  /** Addresses to answer with: the service's own, or its endpoints' where it is headless. Canonical text. */
  readonly ips: readonly string[]
  readonly ports: readonly NamedPort[]
  /** Only of headless services. */
  readonly endpoints: readonly NamedEndpoint[]
}

export interface NameSource {
  /** Exactly this hostname (which may be a wildcard), if the client's namespace may see it. */
  host(hostname: string, clientNamespace: string): Host | undefined
  /** The hostname of an address, canonical text. */
  hostnameOf(ip: string, clientNamespace: string): string | undefined
}
