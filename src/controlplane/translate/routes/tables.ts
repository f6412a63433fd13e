// Route tables out of rules: per port of a service, and per hostname of a listener. In a service's table the rules for consumers
// stand first, each only for its namespace and closed by a 404 of its own, so that a producer's rules never apply to them: routes
// replace what was there before, they do not add to it.
import { objectKey, type GrpcRouteManifest, type HttpRouteManifest } from '../../../model/manifest.ts'
import type { HttpRule, RequestMatch, RouteTable, TcpRule } from '../../../model/route.ts'
import { getOrMake } from '../selectors.ts'
import type { ServedListener } from './gateways.ts'
import { bySpecificity, type EffectiveHostname } from './hostnames.ts'
import { byAgeAndName, compareRanks } from './order.ts'
import type { BuiltRule } from './rules.ts'
import { orderStreams, type StreamEntry } from './streams.ts'
import type { ServiceTarget } from './world.ts'

export interface HttpEntry {
  readonly route: HttpRouteManifest | GrpcRouteManifest
  readonly rules: readonly BuiltRule[]
  /** Under a Gateway the hostname that the route names for this host; the more specific goes first. */
  readonly written?: string | undefined
}

/** What one group has at a port: everybody, or the callers of one namespace. */
export interface PortGroup {
  readonly http: HttpEntry[]
  readonly streams: StreamEntry[]
  /** Of a VirtualService, in its order; only where no route of the Gateway API is. */
  virtual?: { readonly http: readonly HttpRule[]; readonly tcp: readonly TcpRule[] }
}

export interface ServicePort {
  readonly target: ServiceTarget
  readonly port: number
  /** By the namespace of callers; '' is everybody. */
  readonly groups: Map<string, PortGroup>
}

export const nothingMatched: RequestMatch = { headers: [], query: [], cookies: [] }

/** In the order of precedence; neighbours of one rule are joined again. */
export function orderRules(entries: readonly HttpEntry[], callers?: string): readonly HttpRule[] {
  const flat = entries.flatMap(({ route, rules, written }) =>
    rules.flatMap((rule, ruleIndex) => rule.matches.map((ranked, matchIndex) => ({ route, written, rule, ruleIndex, matchIndex, ...ranked }))))
  flat.sort((a, b) =>
    bySpecificity(a.written, b.written) || compareRanks(a.rank, b.rank) || byAgeAndName(a.route, b.route) || a.ruleIndex - b.ruleIndex || a.matchIndex - b.matchIndex)
  const ordered: { readonly rule: BuiltRule; readonly matches: RequestMatch[] }[] = []
  for (const { rule, match } of flat) {
    const scoped = callers === undefined ? match : { ...match, sourceNamespaces: [callers] }
    const last = ordered.at(-1)
    if (last?.rule === rule) last.matches.push(scoped)
    else ordered.push({ rule, matches: [scoped] })
  }
  return ordered.map(({ rule, matches }) => ({ ...rule.rule, matches }))
}

/** Answers 404 to what is left: of one namespace's callers, or of everybody. */
export function notFound(origin: string, callers?: string): HttpRule {
  return {
    origin, name: 'no-match', matches: [callers === undefined ? nothingMatched : { ...nothingMatched, sourceNamespaces: [callers] }],
    action: { t: 'respond', status: 404 }, mirrors: [], timeouts: {}, filters: [],
  }
}

/** `filters` are what policies attach to the service itself. Undefined where there is nothing to say. */
export function serviceTable({ target, port, groups }: ServicePort, filters: readonly string[]): RouteTable | undefined {
  const http: HttpRule[] = []
  const tcp: TcpRule[] = []
  const callersFirst = [...groups].sort(([a], [b]) => (a === '' ? 1 : b === '' ? -1 : a < b ? -1 : 1))
  for (const [key, group] of callersFirst) {
    const callers = key === '' ? undefined : key
    http.push(...orderRules(group.http, callers), ...(group.virtual?.http ?? []))
    tcp.push(...orderStreams(group.streams), ...(group.virtual?.tcp ?? []))
    const origin = group.http[0] ? objectKey(group.http[0].route) : (group.virtual?.http[0]?.origin ?? '')
    if (origin !== '' && (callers !== undefined || group.virtual)) http.push(notFound(origin, callers))
    const stream = group.streams[0]
    if (callers !== undefined && stream) tcp.push({
      origin: objectKey(stream.route), name: 'no-match', serverNames: [], sourceNamespaces: [callers], backends: [],
    })
  }
  const everybody = groups.get('')
  const hasDefault = !everybody || (everybody.http.length === 0 && everybody.streams.length === 0)
  const protocol = target.ports.find(({ number }) => number === port)?.protocol
  // What policies say of the service holds for requests that no route is for, too.
  if (hasDefault && filters.length > 0 && protocol !== 'tcp' && protocol !== 'tls' && !everybody?.virtual?.http.length) {
    http.push({
      origin: objectKey(target.owner), name: 'default', matches: [], action: {
        t: 'forward', backends: [{ service: target.name, port, weight: 1 }],
      },
      mirrors: [], timeouts: {}, filters,
    })
  }
  if (groups.size === 0 && http.length === 0) return undefined
  return { key: `${target.key}:${port}`, hostnames: [], http, tcp, hasDefault }
}

export interface ListenerEntries {
  readonly http: (HttpEntry & { readonly hostnames: readonly EffectiveHostname[] })[]
  readonly streams: StreamEntry[]
}

/** A table for each hostname that somebody names, the most specific first, and one for the listener's own even if it is empty. */
export function listenerTables({ listener, spec }: ServedListener, { http, streams }: ListenerEntries): readonly RouteTable[] {
  if (!listener) return []
  const { key } = listener
  if (listener.protocol === 'tcp' || listener.protocol === 'tls') return [{ key, hostnames: [], http: [], tcp: orderStreams(streams), hasDefault: false }]
  const byHostname = new Map<string | undefined, HttpEntry[]>([[spec.hostname, []]])
  for (const { route, rules, hostnames } of http) for (const { hostname, written } of hostnames) getOrMake(byHostname, hostname, () => []).push({ route, rules, written })
  return [...byHostname]
    .sort(([a], [b]) => bySpecificity(a, b))
    .map(([hostname, entries]) => ({
      key, hostnames: hostname === undefined ? [] : [hostname], http: orderRules(entries), tcp: [], hasDefault: false,
    }))
}
