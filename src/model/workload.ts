// Workloads and services as everybody in the product sees them: pure data, the meaning of istio.workload.Address without its
// encoding. Addresses are canonical text (core/address.ts); absence is undefined, never an empty string.
import type { EgressSetting } from './egress.ts'

/** `network/ip`: one address in one network; the network is '' in a mesh of one network. */
export interface NetworkAddress {
  readonly network: string
  readonly ip: string
  /** Prefix length of a CIDR address; undefined for a single address. */
  readonly prefixLength?: number
}

export type TunnelProtocol = 'none' | 'hbone'
export type AppProtocol = 'unknown' | 'http11' | 'http2' | 'grpc' | 'tcp' | 'tls'
export type WorkloadType = 'deployment' | 'cronjob' | 'pod' | 'job'
export type Scope = 'region' | 'zone' | 'subzone' | 'node' | 'cluster' | 'network'

export interface Locality {
  readonly region: string
  readonly zone: string
  readonly subzone: string
}

export interface PortMapping {
  readonly servicePort: number
  readonly targetPort: number
  readonly appProtocol: AppProtocol
}

/** A service's own: its name is the service's, so endpoints do not repeat it. */
export interface ServicePort extends PortMapping {
  readonly name?: string
}

export interface NamespacedHostname {
  readonly namespace: string
  readonly hostname: string
}

/** Where to send instead: a waypoint or a network gateway. */
export interface GatewayAddress {
  readonly destination: { readonly kind: 'hostname'; readonly name: NamespacedHostname } | { readonly kind: 'address'; readonly address: NetworkAddress }
  readonly hbonePort: number
}

export interface Workload {
  readonly uid: string
  readonly name: string
  readonly namespace: string
  readonly ips: readonly string[]
  readonly network: string
  readonly trustDomain: string
  readonly serviceAccount: string
  readonly node: string
  readonly clusterId: string
  readonly tunnelProtocol: TunnelProtocol
  /** The workload speaks HBONE itself; its ztunnel must not capture it. */
  readonly nativeTunnel: boolean
  readonly isHostNetwork: boolean
  readonly canonicalName: string
  readonly canonicalRevision: string
  readonly workloadType: WorkloadType
  readonly workloadName: string
  readonly isHealthy: boolean
  /** Relative weight among endpoints; 1 unless given. */
  readonly capacity: number
  readonly locality: Locality
  readonly hostname?: string
  readonly waypoint?: GatewayAddress
  /** Its waypoint is skipped while it has no ready endpoint, and need not have been passed; absent: nobody gets past it. */
  readonly waypointFailure?: 'open'
  readonly networkGateway?: GatewayAddress
  readonly applicationTunnel?: { readonly protocol: 'none' | 'proxy'; readonly port?: number }
  /** `namespace/name` of WORKLOAD_SELECTOR policies that apply. */
  readonly policies: readonly string[]
  /** Service key (`namespace/hostname`) to this endpoint's ports. */
  readonly services: ReadonlyMap<string, readonly PortMapping[]>
  /** Service key to this endpoint's own label under the service's hostname, for DNS; absent where it has none. */
  readonly endpointNames?: ReadonlyMap<string, string>
  /** What subsets of a service choose its endpoints by; absent where it has none. A control plane that is not ours never says them. */
  readonly labels?: Readonly<Record<string, string>>
  /** What becomes of its connections to destinations outside the mesh; absent where nobody said: they may leave. */
  readonly egress?: EgressSetting
}

export type LoadBalancingMode = 'unspecified' | 'strict' | 'failover' | 'passthrough'

export interface Service {
  readonly name: string
  readonly namespace: string
  readonly hostname: string
  readonly addresses: readonly NetworkAddress[]
  readonly ports: readonly ServicePort[]
  readonly subjectAltNames: readonly string[]
  readonly waypoint?: GatewayAddress
  /** Waypoints to choose from by weight for each new connection; they come before `waypoint`. */
  readonly weightedWaypoints?: readonly { readonly destination: GatewayAddress; readonly weight: number }[]
  /** The waypoint is skipped while it has no ready endpoint; absent: connections are refused then. */
  readonly waypointFailure?: 'open'
  readonly loadBalancing?: {
    readonly routingPreference: readonly Scope[]
    readonly mode: LoadBalancingMode
    readonly allowUnhealthy: boolean
  }
  /** One client address keeps to one endpoint, which Kubernetes ends after that long without a connection. */
  readonly sessionAffinity?: { readonly kind: 'clientIp'; readonly timeoutSeconds: number }
  /** It has no address on purpose: its name stands for its endpoints. A control plane that is not ours never says it. */
  readonly isHeadless?: true
  /** Ports that the mesh does not carry, for answers of DNS only. */
  readonly udpPorts?: readonly { readonly name: string; readonly port: number }[]
  readonly ipFamilies: 'automatic' | 'ipv4' | 'ipv6' | 'dual'
  readonly isCanonical: boolean
  /** Visible in its own namespace only. */
  readonly isNamespaceLocal: boolean
}

export const defaultTrustDomain = 'cluster.local'

/** `namespace/hostname`, the resource name of a service. */
export function serviceKey({ namespace, hostname }: NamespacedHostname): string {
  return `${namespace}/${hostname}`
}
