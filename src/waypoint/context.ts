// Who speaks to whom: known of a connection before a byte of a request is read, and the configuration that holds for its
// destination. Everything between accepting a connection and asking a backend takes its facts from here.
import type { SocketAddr } from '../core/address.ts'
import type { Identity } from '../core/identity.ts'
import type { JwtRule } from '../model/manifest-traffic-auth.ts'
import type { AuthorizationProvider, RequestFilter } from '../model/waypoint-config.ts'
import type { GatewayListener } from '../model/route.ts'
import type { Service, Workload } from '../model/workload.ts'
import type { L7Authorizer } from '../policy/l7/authorization.ts'
import type { Routes } from '../policy/l7/route-table.ts'
import type { TcpRoutes } from '../policy/l7/tcp-route.ts'

export interface Caller {
  /** As its certificate proved; undefined for who came without one (an ingress's clients). */
  readonly identity: Identity | undefined
  /** The client's own, as its ztunnel or a trusted PROXY header tells; else that of its connection. */
  readonly address: SocketAddr
  /** Who the address is, where that fits the identity. */
  readonly workload: Workload | undefined
}

/** What the client wanted to reach. */
export type Target =
  | { readonly t: 'service'; readonly service: Service; readonly port: number }
  | { readonly t: 'workload'; readonly workload: Workload; readonly port: number }
  | { readonly t: 'listener'; readonly listener: GatewayListener }

/** What holds for one target, compiled. A change makes a new chain; who has the old one finishes with it. */
export interface Chain {
  /** Key of the routes: `namespace/hostname:port`, a listener's, or `ip:port` of a workload. */
  readonly key: string
  readonly routes: Routes
  readonly tcp: TcpRoutes
  readonly authorizer: L7Authorizer
  readonly jwtRules: readonly JwtRule[]
  /** Whether anything looks at requests: undefined where the port is carried as it is. */
  readonly hasHttpRules: boolean
}

/** The configuration in force, asked for each request so that connections that stand follow changes. */
export interface Chains {
  chainOf(target: Target): Chain
  filter(key: string): RequestFilter | undefined
  provider(name: string): AuthorizationProvider | undefined
}

/** Goes with every request of a connection (`Request.connection`). */
export interface ConnectionContext {
  readonly caller: Caller
  readonly target: Target
  /** Of the client's ClientHello, where TLS ends here. */
  readonly serverName?: string
  /** SHA-256 of the client's certificate in hex and its subject, where an ingress asked for one. */
  readonly clientCertificate?: { readonly hash: string; readonly subject: string; readonly uris: readonly string[]; readonly dnsNames: readonly string[] }
  /** From the CONNECT that brought it: joins our spans with its ztunnel's. */
  readonly traceParent?: { readonly traceId: string; readonly parentId: string; readonly flags: number }
}
