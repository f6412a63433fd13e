// What holds for one target, compiled from the gateway's resources when it is first asked for and again only when one of the
// resources that it was made of was replaced. Two requests between which nothing changed get the same object; nobody sees half
// of a change. What the control plane said and nobody here understands refuses.
import { formatAddr } from '../core/address.ts'
import { policyKey } from '../model/authorization.ts'
import type { AuthorizationL7 } from '../model/authorization-l7.ts'
import type { JwtRule } from '../model/manifest-traffic-auth.ts'
import type { HttpRule, RouteTable } from '../model/route.ts'
import type { AuthorizationProvider, RequestFilter } from '../model/waypoint-config.ts'
import { serviceKey, type Workload } from '../model/workload.ts'
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
type FoundSecurity = Found<'security'>

export interface CompiledChain extends Chain {
  /**
   * Which sort of connection the rules are for, where they leave no choice: the other sort has none, and nothing has a default.
   */
  readonly sort: 'http' | 'tcp' | undefined
  /** Whether rules route requests: what is none must not slip by them. */
  readonly routesRequests: boolean
  /** Whether connections that no TCP rule is for go to the destination itself. */
  readonly hasDefault: boolean
}

interface Entry {
  readonly routes: FoundRoutes
  readonly security: readonly FoundSecurity[]
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
    const { key, scopes } = keysOf(target)
    // Addresses of pods have no routes: routes are said of services.
    const routes = target.t === 'workload' ? undefined : this.#resources.find('routes', key)
    const own = scopes.flatMap((scope) => this.#resources.find('security', scope) ?? [])
    const security = own.length > 0 ? own : [this.#resources.find('security', '') ?? []].flat()
    const known = this.#entries.get(key)
    if (known && known.routes === routes && known.security.length === security.length && known.security.every((each, i) => each === security[i])) {
      known.version = version
      return known
    }
    const entry: Entry = { routes, security, chain: this.#compile(key, routes, security), version }
    if (this.#entries.size >= mostChains) this.#entries.clear()
    this.#entries.set(key, entry)
    return entry
  }

  #compile(key: string, routes: FoundRoutes, security: readonly FoundSecurity[]): CompiledChain {
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

  #securityOf(security: readonly FoundSecurity[]): CompiledSecurity {
    const [first] = security
    if (!first) return noSecurity
    if (security.length > 1) return compileSecurity(security)
    let compiled = this.#security.get(first)
    if (!compiled) this.#security.set(first, (compiled = compileSecurity(security)))
    return compiled
  }
}

/** `key` of the routes, `scopes` of the policies. */
export function keysOf(target: Target): { readonly key: string; readonly scopes: readonly string[] } {
  switch (target.t) {
    case 'service': {
      const scope = serviceKey(target.service)
      return { key: `${scope}:${target.port}`, scopes: [scope] }
    }
    case 'workload': {
      const { ips: [ip], uid } = target.workload
      return { key: ip === undefined ? `${uid}:${target.port}` : formatAddr({ ip, port: target.port }), scopes: scopesOfPort(target.workload, target.port) }
    }
    case 'listener': return { key: target.listener.key, scopes: [target.listener.key] }
    default: return target satisfies never
  }
}

/**
 * What policies say of a service holds for its pods' addresses, too: else whoever knows one would get past them, and those of a
 * headless service would never count. Where an endpoint does not say what it serves on a port, all of its services are meant.
 */
function scopesOfPort({ services }: Workload, port: number): readonly string[] {
  return [...services].filter(([, ports]) => ports.length === 0 || ports.some(({ targetPort }) => targetPort === port)).map(([key]) => key).sort()
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

/** Of several services all policies count, each once. */
function compileSecurity(security: readonly FoundSecurity[]): CompiledSecurity {
  const policies = new Map<string, AuthorizationL7>()
  const jwtRules = new Map<string, JwtRule>()
  for (const found of security) {
    if (found.t === 'refused') {
      const policy: AuthorizationL7 = { name: 'not-understood', namespace: '', action: 'deny', rules: [[]], isDryRun: false, unsupported: found.because }
      return { authorizer: new L7Authorizer([policy]), jwtRules: [], looksAtRequests: false }
    }
    for (const policy of found.resource.security.policies) policies.set(policyKey(policy), policy)
    for (const rule of found.resource.security.jwtRules) jwtRules.set(JSON.stringify(rule), rule)
  }
  const all = [...policies.values()]
  return { authorizer: new L7Authorizer(all), jwtRules: [...jwtRules.values()], looksAtRequests: jwtRules.size > 0 || all.some(looksAtRequests) }
}
