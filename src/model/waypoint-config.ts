// What a gateway of ours (a waypoint or an ingress) is told beyond workloads and services: the resources of its own type in
// discovery. Pure data. Each resource is for one gateway and replaces whatever that gateway had under the same kind and key.
import type { AuthorizationL7 } from './authorization-l7.ts'
import type { JwtRule } from './manifest-traffic-auth.ts'
import type { CacheSpec, RateLimitSpec } from './manifest-traffic-policy.ts'
import type { DestinationPolicy, GatewayListener, RouteTable } from './route.ts'

/** A Gateway object: whose configuration it is. */
export interface GatewayName {
  readonly namespace: string
  readonly name: string
}

export type RequestFilter =
  | { readonly t: 'rateLimit'; readonly spec: Omit<RateLimitSpec, 'targetRefs'> }
  | { readonly t: 'cache'; readonly spec: Omit<CacheSpec, 'targetRefs'> }

/** Who may do what at one destination: all policies that concern it, those of its waypoint and of the root namespace included. */
export interface SecurityScope {
  readonly policies: readonly AuthorizationL7[]
  readonly jwtRules: readonly JwtRule[]
}

/** An external authorizer that CUSTOM policies name. */
export interface AuthorizationProvider {
  readonly name: string
  readonly protocol: 'grpc' | 'http'
  /** `namespace/hostname` of the service that answers, and its port. */
  readonly service: string
  readonly port: number
  readonly timeoutMs: number
  /** It cannot be asked: let the request pass. */
  readonly isFailOpen: boolean
  /** HTTP: before the request's own path. */
  readonly pathPrefix: string
  /** Of the request, sent along beside those that the contract always names; lower case. */
  readonly includeRequestHeaders: readonly string[]
  /** Of the answer, set on the request when it is allowed (HTTP); lower case. */
  readonly headersToUpstream: readonly string[]
  /** Of the answer, sent to the client when it is refused (HTTP); lower case. */
  readonly headersToDownstream: readonly string[]
  /** So much of the body goes along; 0 for none. */
  readonly bodyBytes: number
  readonly statusOnError: number
}

export type WaypointResource =
  /** All tables of a service's port or of a listener; most specific hostnames first. */
  | { readonly kind: 'routes'; readonly key: string; readonly tables: readonly RouteTable[] }
  | { readonly kind: 'listener'; readonly key: string; readonly listener: GatewayListener }
  | { readonly kind: 'destination'; readonly key: string; readonly destination: DestinationPolicy }
  /** `key` is the object's, as HttpRule.filters names it. */
  | { readonly kind: 'filter'; readonly key: string; readonly filter: RequestFilter }
  /** `key`: `namespace/hostname` of a service, `Gateway namespace/name/listener`, or '' for what has none of its own (addresses of pods). */
  | { readonly kind: 'security'; readonly key: string; readonly security: SecurityScope }
  | { readonly kind: 'provider'; readonly key: string; readonly provider: AuthorizationProvider }
  /** `key`: `Secret namespace/name` or `ConfigMap namespace/name`. What is missing of it cannot be used. */
  | {
    readonly kind: 'secret'; readonly key: string
    /** PEM, leaf first. */
    readonly certificate?: { readonly chain: string; readonly privateKey: string }
    readonly authorities?: string
  }

/** `GATEWAY_NAMESPACE/GATEWAY_NAME/KIND/KEY`: what the control plane may send to whom is told by its first two parts. */
export function waypointResourceName(gateway: GatewayName, { kind, key }: Pick<WaypointResource, 'kind' | 'key'>): string {
  return `${gatewayPrefix(gateway)}${kind}/${key}`
}

export function gatewayPrefix({ namespace, name }: GatewayName): string {
  return `${namespace}/${name}/`
}

/** What a name of `waypointResourceName` is made of; undefined if it is none. `kind` may be one that is not known here. */
export function parseWaypointResourceName(name: string): { readonly gateway: GatewayName; readonly kind: string; readonly key: string } | undefined {
  const [namespace = '', gateway = '', kind = '', ...key] = name.split('/')
  if (namespace === '' || gateway === '' || kind === '' || key.length === 0) return undefined
  return { gateway: { namespace, name: gateway }, kind, key: key.join('/') }
}
