// What holds for one target, compiled from the gateway's resources when it is first asked for and again only when one of the
// resources that it was made of was replaced. Two requests between which nothing changed get the same object; nobody sees half of a
// change. What the control plane said and nobody here understands refuses.
import { formatAddr } from '../core/address.ts'
import type { AuthorizationL7 } from '../model/authorization-l7.ts'
import type { JwtRule } from '../model/manifest-traffic-auth.ts'
import type { HttpRule, RouteTable } from '../model/route.ts'
import type { AuthorizationProvider, RequestFilter } from '../model/waypoint-config.ts'
import { serviceKey } from '../model/workload.ts'
import { L7Authorizer } from '../policy/l7/authorization.ts'
import { looksAtRequests } from '../policy/l7/connection-policies.ts'
import { defaultPathRules, type PathRules } from '../policy/l7/path.ts'
import { Routes } from '../policy/l7/route-table.ts'
import { TcpRoutes } from '../policy/l7/tcp-route.ts'
import type { Chain, Chains, Target } from './context.ts'
import type { Found, GatewayResources } from './resources.ts'

/** Keys that nobody asked for lately are forgotten: addresses of pods come with any port that a client names. */
const mostChains = 20_000

type FoundRoutes = Found<'routes'> | undefined
type FoundSecurity = Found<'security'> | undefined

export interface CompiledChain extends Chain {
  /** Which sort of connection the rules are for, where they leave no choice: the other sort has none, and nothing has a default. */
  readonly sort: 'http' | 'tcp' | undefined
  /** Whether rules route requests: what is none must not slip by them. */
  readonly routesRequests: boolean
  /** Whether connections that no TCP rule is for go to the destination itself. */
  readonly hasDefault: boolean
}

interface Entry {
  readonly routes: FoundRoutes
  readonly security: FoundSecurity
  readonly chain: CompiledChain
  /** Of the resources, when it was last seen to hold. */
  version: number
}

interface CompiledSecurity {
  readonly authorizer: L7Authorizer
  readonly jwtRules: readonly JwtRule[]
  readonly looksAtRequests: boolean
}

export class CompiledChains implements Chains {
  readonly #resources: GatewayResources
  readonly #paths: PathRules
  readonly #entries = new Map<string, Entry>()
  /** A connection's requests ask with the same target each time. */
  readonly #byTarget = new WeakMap<Target, Entry>()
  readonly #security = new WeakMap<object, CompiledSecurity>()

  constructor(resources: GatewayResources, paths: PathRules = defaultPathRules) {
    this.#resources = resources
    this.#paths = paths
  }

  get size(): number {
    return this.#entries.size
  }

  chainOf(target: Target): CompiledChain {
    const { version } = this.#resources
    const last = this.#byTarget.get(target)
    if (last?.version === version) return last.chain
    const entry = this.#entry(target, version)
    this.#byTarget.set(target, entry)
    return entry.chain
  }

  filter(key: string): RequestFilter | undefined {
    return this.#resources.get('filter', key)?.filter
  }

  provider(name: string): AuthorizationProvider | undefined {
    return this.#resources.get('provider', name)?.provider
  }

  #entry(target: Target, version: number): Entry {
    const { key, scope } = keysOf(target)
    // Addresses of pods have no routes: routes are said of services.
    const routes = target.t === 'workload' ? undefined : this.#resources.find('routes', key)
    const security = this.#resources.find('security', scope) ?? this.#resources.find('security', '')
    const known = this.#entries.get(key)
    if (known && known.routes === routes && known.security === security) {
      known.version = version
      return known
    }
    const entry: Entry = { routes, security, chain: this.#compile(key, routes, security), version }
    if (this.#entries.size >= mostChains) this.#entries.clear()
    this.#entries.set(key, entry)
    return entry
  }

  #compile(key: string, routes: FoundRoutes, security: FoundSecurity): CompiledChain {
    const tables = tablesOf(key, routes)
    const { authorizer, jwtRules, looksAtRequests } = this.#securityOf(security)
    const tcp = new TcpRoutes(tables)
    const routesRequests = tables.some(({ http }) => http.length > 0)
    const hasDefault = tables.some((table) => table.hasDefault)
    return {
      key, routes: new Routes(tables, this.#paths), tcp, authorizer, jwtRules, hasHttpRules: looksAtRequests || routesRequests,
      routesRequests, hasDefault, sort: hasDefault || routesRequests !== tcp.isEmpty ? undefined : routesRequests ? 'http' : 'tcp',
    }
  }

  #securityOf(security: FoundSecurity): CompiledSecurity {
    if (!security) return noSecurity
    let compiled = this.#security.get(security)
    if (!compiled) this.#security.set(security, (compiled = compileSecurity(security)))
    return compiled
  }
}

/** `key` of the routes, `scope` of the policies. */
export function keysOf(target: Target): { readonly key: string; readonly scope: string } {
  switch (target.t) {
    case 'service': {
      const scope = serviceKey(target.service)
      return { key: `${scope}:${target.port}`, scope }
    }
    case 'workload': {
      const { ips: [ip], uid } = target.workload
      return { key: ip === undefined ? `${uid}:${target.port}` : formatAddr({ ip, port: target.port }), scope: '' }
    }
    case 'listener': return { key: target.listener.key, scope: target.listener.key }
    default: return target satisfies never
  }
}

function tablesOf(key: string, routes: FoundRoutes): readonly RouteTable[] {
  if (!routes) return [{ key, hostnames: [], http: [], tcp: [], hasDefault: true }]
  return routes.t === 'found' ? routes.resource.tables : [refusedTable(key)]
}

/** Routes that this version does not understand: no request may go where they would not have sent it. */
function refusedTable(key: string): RouteTable {
  const origin = 'control plane'
  const name = 'not-understood'
  const http: HttpRule = { origin, name, matches: [], action: { t: 'respond', status: 500 }, mirrors: [], timeouts: {}, filters: [] }
  return { key, hostnames: [], http: [http], tcp: [{ origin, name, serverNames: [], backends: [] }], hasDefault: false }
}

const noSecurity: CompiledSecurity = { authorizer: new L7Authorizer([]), jwtRules: [], looksAtRequests: false }

function compileSecurity(security: Found<'security'>): CompiledSecurity {
  if (security.t === 'refused') {
    const policy: AuthorizationL7 = { name: 'not-understood', namespace: '', action: 'deny', rules: [[]], isDryRun: false, unsupported: security.because }
    return { authorizer: new L7Authorizer([policy]), jwtRules: [], looksAtRequests: false }
  }
  const { policies, jwtRules } = security.resource.security
  return { authorizer: new L7Authorizer(policies), jwtRules, looksAtRequests: jwtRules.length > 0 || policies.some(looksAtRequests) }
}
