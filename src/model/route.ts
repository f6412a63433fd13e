// What an L7 proxy does with requests and connections to one destination: the meaning of HTTPRoute, GRPCRoute, TCPRoute, TLSRoute,
// VirtualService and DestinationRule in one form, in the order in which it is to be tried. Pure data. Names are canonical (lower
// case where they are case-insensitive); durations are in milliseconds; weights are whole numbers.
import type { NamespacedHostname } from './workload.ts'

/** `regex` is RE2 syntax, matched against the whole value in linear time. `prefix` of a path ends at a path element. */
export type PathMatch =
  | { readonly kind: 'exact' | 'prefix' | 'regex'; readonly value: string; readonly isCaseInsensitive?: true }
  /** GRPCRoute: `/service/method`; either may be absent. */
  | { readonly kind: 'grpc'; readonly service?: string; readonly method?: string; readonly isRegex?: true }

export type ValueMatch =
  | { readonly kind: 'exact' | 'prefix' | 'suffix' | 'regex'; readonly value: string }
  | { readonly kind: 'presence' }

export interface NamedMatch {
  /** A header's in lower case; a query parameter's or cookie's as it is written. */
  readonly name: string
  readonly match: ValueMatch
  /** Holds where the value does not match, or is not there. */
  readonly isInverted?: true
}

/** All that is said must hold; nothing said holds always. */
export interface RequestMatch {
  readonly path?: PathMatch
  readonly method?: ValueMatch
  readonly headers: readonly NamedMatch[]
  readonly query: readonly NamedMatch[]
  readonly cookies: readonly NamedMatch[]
  /** Who asks: SPIFFE URIs, or namespaces (consumer routes, VirtualService sourceNamespace). Any of them. */
  readonly sourceIdentities?: readonly string[]
  readonly sourceNamespaces?: readonly string[]
  readonly authority?: ValueMatch
  readonly scheme?: 'http' | 'https'
}

/** Removals first, then `set` replaces, then `add` appends. */
export interface HeaderChange {
  readonly set: readonly (readonly [name: string, value: string])[]
  readonly add: readonly (readonly [name: string, value: string])[]
  readonly remove: readonly string[]
}

export type PathRewrite = { readonly kind: 'full' | 'prefix'; readonly value: string } | { readonly kind: 'regex'; readonly pattern: string; readonly substitution: string }

export interface Redirect {
  readonly scheme?: 'http' | 'https'
  readonly hostname?: string
  readonly port?: number
  readonly path?: PathRewrite
  readonly status: 301 | 302 | 303 | 307 | 308
}

export interface Fraction {
  readonly numerator: number
  readonly denominator: number
}

export interface Mirror {
  readonly backend: Backend
  readonly fraction: Fraction
}

export interface Cors {
  readonly allowOrigins: readonly ValueMatch[]
  readonly allowMethods: readonly string[]
  readonly allowHeaders: readonly string[]
  readonly exposeHeaders: readonly string[]
  readonly maxAgeSeconds?: number
  readonly allowCredentials: boolean
}

/** What is retried, and how often: only where the request can be sent again. */
export interface Retry {
  readonly attempts: number
  readonly perTryTimeoutMs?: number
  readonly backoffMs: number
  readonly statuses: readonly number[]
  readonly on: readonly ('connectFailure' | 'refusedStream' | 'reset' | 'gatewayError' | '5xx' | 'retriableGrpc')[]
}

export interface Fault {
  readonly delay?: { readonly ms: number; readonly fraction: Fraction }
  readonly abort?: { readonly status?: number; readonly grpcStatus?: number; readonly fraction: Fraction }
}

export interface Timeouts {
  /** The whole exchange; 0 sets none. */
  readonly requestMs?: number
  /** One attempt at a backend. */
  readonly backendRequestMs?: number
  readonly idleMs?: number
}

export type SessionPersistence = { readonly kind: 'cookie' | 'header'; readonly name: string; readonly idleMs?: number; readonly absoluteMs?: number; readonly isPermanent?: true }

/** A service's port, perhaps only the pods with those labels (a subset). */
export interface Backend {
  readonly service: NamespacedHostname
  readonly port: number
  readonly weight: number
  readonly subset?: string
  readonly requestHeaders?: HeaderChange
  readonly responseHeaders?: HeaderChange
  /** It may not be used, and requests that fall to it are answered 500: why, for people. */
  readonly broken?: string
}

export interface HttpRule {
  /** `Kind namespace/name`, and the rule's name or position: for logs, metrics and status. */
  readonly origin: string
  readonly name: string
  /** Any of them; none matches everything. */
  readonly matches: readonly RequestMatch[]
  readonly action:
    | { readonly t: 'forward'; readonly backends: readonly Backend[] }
    | { readonly t: 'redirect'; readonly redirect: Redirect }
    | { readonly t: 'respond'; readonly status: number; readonly body?: string }
  readonly requestHeaders?: HeaderChange
  readonly responseHeaders?: HeaderChange
  readonly rewrite?: { readonly hostname?: string; readonly path?: PathRewrite }
  readonly mirrors: readonly Mirror[]
  readonly cors?: Cors
  readonly timeouts: Timeouts
  readonly retry?: Retry
  readonly fault?: Fault
  readonly sessionPersistence?: SessionPersistence
  /** Keys of objects that configure further filters (`RateLimitPolicy shop/web`, `CachePolicy shop/web`), in order. */
  readonly filters: readonly string[]
}

export interface TcpRule {
  readonly origin: string
  readonly name: string
  /** Server names of a TLS ClientHello, exact or `*.suffix`; empty for every connection. */
  readonly serverNames: readonly string[]
  /** Who connects; any of them. Absent for everybody. */
  readonly sourceNamespaces?: readonly string[]
  /** Without any, connections are refused. */
  readonly backends: readonly Backend[]
}

/**
 * Routes of one service's port, or of one listener's hostname. The first rule that matches decides; none means 404. Where only one
 * of `http` and `tcp` has rules, all connections are of that sort, unless `hasDefault`.
 */
export interface RouteTable {
  /** `namespace/hostname:port` of a service, or `Gateway namespace/name/listener`. */
  readonly key: string
  /** Exact or `*.suffix`; empty for every host. Most specific tables are tried first. */
  readonly hostnames: readonly string[]
  readonly http: readonly HttpRule[]
  readonly tcp: readonly TcpRule[]
  /** Whether requests that no rule matches go to the service as if there were no routes. */
  readonly hasDefault: boolean
}

/** Where a Gateway of ours listens. A request belongs to the listener of its port with the most specific hostname, and to no other. */
export interface GatewayListener {
  /** `Gateway namespace/name/listener`, as in the keys of its tables. */
  readonly key: string
  readonly gateway: { readonly namespace: string; readonly name: string }
  readonly name: string
  readonly port: number
  readonly protocol: 'http' | 'https' | 'tls' | 'tcp'
  /** Exact or `*.suffix`; absent for every host. */
  readonly hostname?: string
  /** Secrets that may be used, by `namespace/name`; none of them usable means that handshakes fail. */
  readonly tls?: { readonly mode: 'terminate' | 'passthrough'; readonly certificates: readonly string[] }
  /** Clients must show a certificate that one of these signed (or may, if `isOptional`); `Kind namespace/name`. */
  readonly clientCertificates?: { readonly authorities: readonly string[]; readonly isOptional: boolean }
}

export type LoadBalancer =
  | { readonly kind: 'roundRobin' | 'random' | 'leastRequest' | 'peakEwma' }
  | { readonly kind: 'consistentHash'; readonly by: { readonly kind: 'header' | 'cookie' | 'query'; readonly name: string; readonly ttlMs?: number; readonly path?: string } | { readonly kind: 'sourceIp' }; readonly algorithm: 'ring' | 'maglev'; readonly size: number }

export interface TrafficPolicy {
  readonly loadBalancer: LoadBalancer
  readonly slowStartMs: number
  readonly limits: { readonly connections: number; readonly pending: number; readonly requests: number; readonly retries: number; readonly requestsPerConnection: number }
  readonly connectTimeoutMs: number
  readonly idleTimeoutMs: number
  readonly retryBudget: { readonly percent: number; readonly minPerSecond: number }
  readonly ejection?: {
    readonly consecutiveErrors: number; readonly consecutiveGatewayErrors: number; readonly intervalMs: number; readonly baseMs: number
    readonly maxPercent: number; readonly minHealthPercent: number; readonly successRateStdevFactor?: number
  }
  readonly localityFailover: boolean
  readonly tls?: { readonly mode: 'simple' | 'mutual'; readonly serverName?: string; readonly caSecret?: string; readonly certificateSecret?: string; readonly subjectAltNames: readonly string[] }
  readonly isHttp2Wanted?: boolean
  readonly activeCheck?: {
    readonly kind: 'http' | 'grpc' | 'tcp'; readonly path?: string; readonly service?: string; readonly intervalMs: number; readonly timeoutMs: number
    readonly healthyAfter: number; readonly unhealthyAfter: number; readonly expectedStatuses: readonly number[]
  }
}

/** How a service's endpoints are used; of ports and subsets where they differ. */
export interface DestinationPolicy {
  /** `namespace/hostname`. */
  readonly key: string
  readonly policy: TrafficPolicy
  readonly ports: ReadonlyMap<number, TrafficPolicy>
  /** Name to labels and policy. */
  readonly subsets: ReadonlyMap<string, { readonly labels: Readonly<Record<string, string>>; readonly policy: TrafficPolicy }>
}

export const defaultTrafficPolicy: TrafficPolicy = {
  loadBalancer: { kind: 'peakEwma' },
  slowStartMs: 10_000,
  limits: { connections: 16_384, pending: 10_000, requests: 100_000, retries: 1_024, requestsPerConnection: 0 },
  connectTimeoutMs: 10_000,
  idleTimeoutMs: 300_000,
  retryBudget: { percent: 20, minPerSecond: 10 },
  localityFailover: true,
}
