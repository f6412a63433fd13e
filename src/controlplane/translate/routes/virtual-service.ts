// VirtualServices: which one routes which host, for whom, and its rules at each port. In its service's namespace (or in a root
// namespace) it is for everybody that it is exported to; elsewhere it is for its own namespace only, so that nobody
// routes other people's requests. Where a route of the Gateway API has the same port, that one counts.
import type { DestinationSpec, VirtualHttpRoute } from '../../../model/manifest-traffic.ts'
import { objectKey, type VirtualServiceManifest } from '../../../model/manifest.ts'
import type { Backend, DestinationPolicy, HttpRule, RequestMatch, TcpRule } from '../../../model/route.ts'
import { isVisible } from './backends.ts'
import { given, type Findings } from './findings.ts'
import { bySpecificity } from './hostnames.ts'
import { byAgeAndName } from './order.ts'
import { pathRewriteOf, ruleBody, type ActionContext } from './virtual-action.ts'
import { requestMatch, scopeOf, type MatchPlace } from './virtual-match.ts'
import { ownerName, type ServiceTarget, type World } from './world.ts'

export interface VirtualRules {
  readonly target: ServiceTarget
  readonly port: number
  /** '' is everybody. */
  readonly callers: string
  readonly rules: { readonly http: readonly HttpRule[]; readonly tcp: readonly TcpRule[] }
}

interface Claim {
  readonly virtual: VirtualServiceManifest
  readonly target: ServiceTarget
  readonly callers: string
  /** As the VirtualService names it; undefined for `*`. */
  readonly host: string | undefined
}

export function virtualServices(
  world: World, destinations: ReadonlyMap<string, DestinationPolicy>, attached: ReadonlyMap<string, readonly string[]>, findings: Findings,
  isTaken: (targetKey: string, port: number, callers: string) => boolean,
): readonly VirtualRules[] {
  const claims = world.virtualServices.flatMap((virtual) => claimsOf(virtual, world, findings))
  claims.sort((a, b) => bySpecificity(a.host, b.host) || byAgeAndName(a.virtual, b.virtual))
  const winners = new Map<string, Claim>()
  const found: VirtualRules[] = []
  for (const claim of claims) {
    const { virtual, target, callers } = claim
    const key = `${target.key} ${callers}`
    const first = winners.get(key)
    if (first) {
      if (first.virtual !== virtual && first.host === claim.host) findings.problem(objectKey(virtual), `the host ${target.name.hostname} is already routed by ${objectKey(first.virtual)}; that one counts`)
      continue
    }
    winners.set(key, claim)
    for (const { number, protocol } of target.ports) {
      const place: MatchPlace = { port: number, ...(callers === '' ? {} : { callers }) }
      const isHttp = protocol !== 'tcp' && protocol !== 'tls'
      const isStream = protocol === 'tcp' || protocol === 'tls' || protocol === 'unknown'
      const http = isHttp ? httpRules(claim, place, { world, destinations, filters: attached.get(objectKey(target.owner)) ?? [], findings }) : []
      const tcp = isStream ? tcpRules(claim, place, { world, destinations, filters: [], findings }) : []
      if (http.length + tcp.length === 0) continue
      if (isTaken(target.key, number, callers)) findings.problem(objectKey(virtual), `port ${number} of ${ownerName(target)} has routes of the Gateway API; those count`)
      else found.push({ target, port: number, callers, rules: { http, tcp } })
    }
  }
  return found
}

function claimsOf(virtual: VirtualServiceManifest, world: World, findings: Findings): Claim[] {
  const object = objectKey(virtual)
  const { namespace } = virtual.metadata
  const { hosts, gateways, exportTo } = virtual.spec
  const foreign = gateways.filter((gateway) => gateway !== 'mesh')
  if (foreign.length > 0) findings.problem(object, `gateways other than mesh are not served (${foreign.slice(0, 5).join(', ')}): an HTTPRoute attaches to a Gateway`)
  if (gateways.length > 0 && !gateways.includes('mesh')) return []
  const isForAll = exportTo.length === 0 || exportTo.includes('*')
  const exported = exportTo.map((each) => (each === '.' ? namespace : each)).filter((each) => each !== '~')
  const claims = new Map<string, Claim>()
  for (const written of hosts) {
    const host = world.fullHost(written, namespace)
    const isWildcard = host === '*' || host.startsWith('*.')
    const one = isWildcard ? undefined : world.byHost(host, namespace)
    const targets = isWildcard ? world.matchingHost(host) : one ? [one] : []
    const visible = targets.filter((target) => isVisible(target, namespace))
    if (visible.length === 0) findings.note(object, `no service has the host ${written.slice(0, 100)}`)
    for (const target of visible) {
      const isOwner = target.name.namespace === namespace || world.settings.rootNamespaces.includes(namespace)
      const callers = isOwner ? (isForAll ? [''] : exported) : isForAll || exported.includes(namespace) ? [namespace] : []
      if (!isOwner) findings.note(object, `${ownerName(target)} is another namespace's, so the rules are for callers from ${namespace} only`)
      for (const each of callers) {
        const claim = { virtual, target, callers: each, host: host === '*' ? undefined : host }
        const key = `${target.key} ${each}`
        const known = claims.get(key)
        if (!known || bySpecificity(claim.host, known.host) < 0) claims.set(key, claim)
      }
    }
  }
  return [...claims.values()]
}

interface RuleContext {
  readonly world: World
  readonly destinations: ReadonlyMap<string, DestinationPolicy>
  readonly filters: readonly string[]
  readonly findings: Findings
}

function httpRules(claim: Claim, place: MatchPlace, context: RuleContext): HttpRule[] {
  const { findings, filters } = context
  const { virtual } = claim
  const origin = objectKey(virtual)
  return virtual.spec.http.flatMap((route, index): HttpRule[] => {
    const name = route.name ?? String(index)
    const where = `http.${index}`
    const action: ActionContext = {
      port: place.port,
      resolve: (destination, weight) => resolve(destination, weight, claim, place, where, context),
      problem: (text) => findings.problem(origin, `${where}: ${text}`),
      note: (text) => findings.note(origin, `${where}: ${text}`),
    }
    const matches = matchesOf(route, place, action)
    if (matches.length === 0) return []
    const body = ruleBody(route, action)
    const rule = { origin, name, filters, ...body }
    if (!route.rewrite || rule.action.t !== 'forward') return [{ ...rule, matches: matches.map(({ match }) => match) }]
    // What a prefix is rewritten to depends on which one it was.
    return matches.map(({ match, uri, isFolded }): HttpRule => {
      const path = pathRewriteOf(route, uri, isFolded)
      if (typeof path === 'string') {
        action.problem(`rewrite: ${path}; its requests are answered 500`)
        return { origin, name, filters, matches: [match], action: { t: 'respond', status: 500 }, mirrors: [], timeouts: {} }
      }
      const rewrite = given({ hostname: body.rewrite?.hostname, path })
      return { ...rule, matches: [match], ...(Object.keys(rewrite).length > 0 ? { rewrite } : {}) }
    })
  })
}

interface PlacedMatch {
  readonly match: RequestMatch
  readonly uri: VirtualHttpRoute['match'][number]['uri']
  readonly isFolded: boolean
}

/** Empty if the rule is for nobody here. */
function matchesOf(route: VirtualHttpRoute, place: MatchPlace, action: ActionContext): PlacedMatch[] {
  if (route.match.length === 0) {
    const match: RequestMatch = {
      headers: [], query: [], cookies: [], ...(place.callers === undefined ? {} : { sourceNamespaces: [place.callers] }),
    }
    return [{ match, uri: undefined, isFolded: false }]
  }
  return route.match.flatMap((spec, i): PlacedMatch[] => {
    const made = requestMatch(spec, place)
    if (made.t === 'never') action.problem(`match.${i} never holds: ${made.because}`)
    if (made.t !== 'match') return []
    for (const note of made.notes) action.note(`match.${i}: ${note}`)
    return [{ match: made.match, uri: spec.uri, isFolded: spec.ignoreUriCase }]
  })
}

function tcpRules(claim: Claim, place: MatchPlace, context: RuleContext): TcpRule[] {
  const { virtual } = claim
  const origin = objectKey(virtual)
  const rules: TcpRule[] = []
  const add = (where: string, match: { readonly serverNames: readonly string[]; readonly callers: readonly string[] | undefined }, route: readonly { destination: DestinationSpec; weight: number }[]): void => {
    const backends = route.map(({ destination, weight }) => resolve(destination, route.length === 1 ? 1 : weight, claim, place, where, context))
    rules.push({
      origin, name: where, serverNames: match.serverNames, backends,
      ...(match.callers === undefined ? {} : { sourceNamespaces: match.callers }),
    })
  }
  const scoped = (where: string, spec: Parameters<typeof scopeOf>[0] & { readonly destinationSubnets: readonly string[]; readonly sourceSubnet?: string | undefined }): { readonly callers: readonly string[] | undefined } | undefined => {
    const scope = scopeOf(spec, place)
    const subnet = spec.destinationSubnets.length > 0 || spec.sourceSubnet !== undefined
    const never = subnet ? 'subnets are not supported' : 't' in scope && scope.t === 'never' ? scope.because : undefined
    if (never !== undefined) context.findings.problem(origin, `${where} never holds: ${never}`)
    return 't' in scope || never !== undefined ? undefined : scope
  }
  virtual.spec.tls.forEach(({ match, route }, index) => match.forEach((spec, i) => {
    const scope = scoped(`tls.${index}.match.${i}`, spec)
    const names = spec.sniHosts.map((name) => name.toLowerCase())
    // Istio's wildcard holds for the name itself too.
    const serverNames = names.includes('*') ? [] : names.flatMap((name) => (name.startsWith('*.') ? [name, name.slice(2)] : [name]))
    if (scope) add(`tls.${index}`, { serverNames, ...scope }, route)
  }))
  virtual.spec.tcp.forEach(({ match, route }, index) => {
    if (match.length === 0) return add(`tcp.${index}`, { serverNames: [], callers: place.callers === undefined ? undefined : [place.callers] }, route)
    match.forEach((spec, i) => {
      const scope = scoped(`tcp.${index}.match.${i}`, spec)
      if (scope) add(`tcp.${index}`, { serverNames: [], ...scope }, route)
    })
  })
  return rules
}

function resolve(
  destination: DestinationSpec, weight: number, { virtual, target: routed }: Claim, place: MatchPlace, where: string,
  { world, destinations, findings }: RuleContext,
): Backend {
  const { namespace } = virtual.metadata
  const hostname = world.fullHost(destination.host, namespace)
  const target = world.byHost(hostname, namespace)
  const broken = (why: string, service = { namespace, hostname }, port = destination.port?.number ?? 0): Backend => {
    findings.problem(objectKey(virtual), `${where}: ${why}`)
    return { service, port, weight, broken: why }
  }
  if (!target || !isVisible(target, namespace)) return broken(`there is no service with the host ${destination.host}`)
  // For somebody else's service the proxy speaks in that one's name: not to third namespaces that never asked for it.
  const isFree = world.settings.rootNamespaces.includes(namespace) || routed.name.namespace === namespace || [namespace, routed.name.namespace].includes(target.name.namespace)
  if (!isFree && !world.mayName({ group: 'networking.istio.io', kind: 'VirtualService', namespace }, { group: '', kind: target.owner.kind, namespace: target.name.namespace, name: target.owner.metadata.name })) {
    return broken(`no ReferenceGrant lets it send requests for ${ownerName(routed)} to ${ownerName(target)}`, target.name)
  }
  const port = destination.port?.number ?? (target.ports.length === 1 ? target.ports[0]?.number : undefined) ?? place.port
  if (!target.ports.some(({ number }) => number === port)) return broken(`${ownerName(target)} has no port ${port}`, target.name, port)
  if (destination.subset === undefined || destination.subset === '') return { service: target.name, port, weight }
  if (!destinations.get(target.key)?.subsets.has(destination.subset)) return broken(`no DestinationRule in force names the subset ${destination.subset} of ${target.name.hostname}`, target.name, port)
  return { service: target.name, port, weight, subset: destination.subset }
}
