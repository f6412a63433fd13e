// The order of the Gateway API, held against a slow reading of its words: every request goes to the rule that they name, whatever
// routes there are and in whatever order they came.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { HttpRouteMatch } from '../../../model/manifest-route.ts'
import type { HttpRouteManifest, ManifestObject } from '../../../model/manifest.ts'
import { Routes } from '../../../policy/l7/route-table.ts'
import { headOf } from '../../../policy/l7/testing.ts'
import { defaultSettings } from '../settings.ts'
import { keyOf, make, shop, webService } from './testing.ts'
import { translateRoutes } from './translate.ts'

interface Request {
  readonly path: string
  readonly method: string
  readonly host: string
  readonly namespace: string
  readonly headers: Readonly<Record<string, string>>
  readonly query: Readonly<Record<string, string>>
}

function holds({ path, method, headers, queryParams }: HttpRouteMatch, request: Request): boolean {
  const segments = (text: string): string[] => text.split('/').filter((segment) => segment !== '')
  const prefix = segments(path.value)
  const isPath = path.type === 'Exact' ? request.path === path.value
    : path.type === 'PathPrefix' ? prefix.every((segment, i) => segments(request.path)[i] === segment)
      : new RegExp(`^(?:${path.value})$`).test(request.path)
  const first = <T extends { name: string }>(list: readonly T[], fold: (name: string) => string): T[] => list.filter((one, i) => list.findIndex((other) => fold(other.name) === fold(one.name)) === i)
  return isPath && (method === undefined || method === request.method)
    && first(headers, (name) => name.toLowerCase()).every(({ name, value }) => request.headers[name.toLowerCase()] === value)
    && first(queryParams, (name) => name).every(({ name, value }) => request.query[name] === value)
}

interface Candidate {
  readonly route: HttpRouteManifest
  readonly rule: number
  readonly match: HttpRouteMatch
  /** The route's hostname that holds for the request. */
  readonly hostname: string | undefined
}

/** The sentences of the specification one after the other, each keeping what it prefers. */
function best(candidates: readonly Candidate[]): Candidate | undefined {
  const distinct = (names: readonly string[]): number => new Set(names).size
  const largest = (list: readonly Candidate[], of: (each: Candidate) => number): Candidate[] => {
    const most = Math.max(...list.map(of))
    return list.filter((each) => of(each) === most)
  }
  const length = (value: string): number => (value === '/' ? 1 : value.replace(/\/$/, '').length)
  let left = [...candidates]
  left = largest(left, ({ hostname }) => (hostname === undefined || hostname.startsWith('*') ? 0 : hostname.length))
  left = largest(left, ({ hostname }) => hostname?.length ?? 0)
  left = largest(left, ({ match }) => (match.path.type === 'Exact' ? 1 : 0))
  left = largest(left, ({ match }) => (match.path.type === 'PathPrefix' ? length(match.path.value) : 0))
  left = largest(left, ({ match }) => (match.method === undefined ? 0 : 1))
  left = largest(left, ({ match }) => distinct(match.headers.map(({ name }) => name.toLowerCase())))
  left = largest(left, ({ match }) => distinct(match.queryParams.map(({ name }) => name)))
  left = largest(left, ({ route }) => -(route.metadata.creationTimestamp === undefined ? 8.64e15 : Date.parse(route.metadata.creationTimestamp)))
  const name = ({ route: { metadata } }: Candidate): string => `${metadata.namespace}/${metadata.name}`
  const [firstName] = left.map(name).sort()
  return left.filter((each) => name(each) === firstName).sort((a, b) => a.rule - b.rule)[0]
}

function candidatesOf(
  routes: readonly HttpRouteManifest[], request: Request,
  hostsOf: (route: HttpRouteManifest) => readonly (string | undefined)[],
): Candidate[] {
  const isHost = (hostname: string | undefined): boolean => hostname === undefined || hostname === request.host || (hostname.startsWith('*.') && request.host.endsWith(hostname.slice(1)))
  return routes.flatMap((route) => hostsOf(route).filter(isHost).flatMap((hostname) => route.spec.rules.flatMap((rule, i) => {
    const all: readonly HttpRouteMatch[] = rule.matches.length > 0 ? rule.matches : [{ path: { type: 'PathPrefix', value: '/' }, headers: [], queryParams: [] }]
    return all.filter((match) => holds(match, request)).map((match): Candidate => ({ route, rule: i, match, hostname }))
  })))
}

const paths = ['/', '/a', '/a/b', '/a/b/c', '/ab', '/b']
const path = fc.oneof(
  fc.record({ type: fc.constantFrom('Exact', 'PathPrefix'), value: fc.constantFrom(...paths, '/a/') }),
  fc.record({ type: fc.constant('RegularExpression'), value: fc.constantFrom('/a.*', '/[ab]', '/.*/b') }),
)
const named = (names: readonly string[]) => fc.uniqueArray(fc.record({ name: fc.constantFrom(...names), value: fc.constantFrom('1', '2') }), { maxLength: 2, selector: ({ name }) => name })
const match = fc.record({ path, method: fc.constantFrom('GET', 'POST'), headers: named(['x', 'X', 'y']), queryParams: named(['q', 'r']) }, { requiredKeys: [] })
const rules = fc.array(fc.record({ matches: fc.array(match, { maxLength: 3 }), backendRefs: fc.constant([{ name: 'web', port: 80 }]) }), { minLength: 1, maxLength: 3 })
const hostnames = fc.uniqueArray(fc.constantFrom('a.com', 'x.a.com', '*.a.com', '*.x.a.com', '*.com', 'b.org'), { maxLength: 3 })
const created = fc.constantFrom<object>({}, { creationTimestamp: '2020-01-01T00:00:00Z' }, { creationTimestamp: '2021-01-01T00:00:00Z' })
const request: fc.Arbitrary<Request> = fc.record({
  path: fc.constantFrom(...paths), method: fc.constantFrom('GET', 'POST', 'PUT'), host: fc.constantFrom('a.com', 'x.a.com', 'y.x.a.com', 'b.org', 'c.net'), namespace: fc.constantFrom('shop', 'guest', 'third'),
  headers: fc.dictionary(fc.constantFrom('x', 'y'), fc.constantFrom('1', '2')), query: fc.dictionary(fc.constantFrom('q', 'r'), fc.constantFrom('1', '2')),
})

function routesUnder(parent: object, from: readonly string[]): fc.Arbitrary<HttpRouteManifest[]> {
  const one = fc.record({ name: fc.constantFrom('r', 's', 't', 'r-1'), namespace: fc.constantFrom(...from), rules, hostnames, created })
  return fc.uniqueArray(one, { minLength: 1, maxLength: 5, selector: ({ name, namespace }) => `${namespace}/${name}` })
    .map((list) => list.map((each) => make('HTTPRoute', `${each.namespace}/${each.name}`, { parentRefs: [parent], rules: each.rules, hostnames: each.hostnames }, each.created)))
}

/** What the tables say: the rule's origin and position, or why there is none. */
function decide(
  objects: readonly ManifestObject[], key: string, { path, method, host, namespace, headers, query }: Request,
): string {
  const tables = translateRoutes([...shop, ...objects], defaultSettings).tables.filter((table) => table.key === key)
  const decision = new Routes(tables).match(headOf(path, {
    method, authority: host, sourceNamespace: namespace, headers: Object.entries(headers), query: Object.entries(query).map(([name, value]) => `${name}=${value}`).join('&'),
  }))
  if (decision.t !== 'rule') return decision.t
  return decision.rule.action.t === 'respond' ? 'none' : `${decision.rule.origin} ${decision.rule.name}`
}

const told = (found: Candidate | undefined): string => (found ? `HTTPRoute ${found.route.metadata.namespace}/${found.route.metadata.name} ${found.rule}` : 'none')

test('under a Service: the callers\' own routes, else the producer\'s, each in the order of the specification', () => {
  fc.assert(fc.property(routesUnder({ ...webService, namespace: 'shop' }, ['shop', 'guest']), fc.array(request, { minLength: 1, maxLength: 8 }), (routes, requests) => {
    for (const each of requests) {
      const consumers = routes.filter(({ metadata }) => metadata.namespace !== 'shop' && metadata.namespace === each.namespace)
      const producers = routes.filter(({ metadata }) => metadata.namespace === 'shop')
      const group = consumers.length > 0 ? consumers : producers
      const expected = group.length === 0 ? 'default' : told(best(candidatesOf(group, each, () => [undefined])))
      expect(decide(routes, keyOf('shop/web'), each)).toBe(expected)
    }
  }), { numRuns: 200 })
})

test('under a Gateway: the most specific host first, of those that the listener has', () => {
  const listenerHost = fc.constantFrom(undefined, '*.a.com', 'x.a.com', '*.com')
  const isWithin = (narrow: string, wide: string): boolean => narrow === wide || (wide.startsWith('*.') && narrow !== wide.slice(2) && narrow.endsWith(wide.slice(1)))
  const isOf = (hostname: string | undefined, host: string): boolean => hostname === undefined || isWithin(host, hostname)
  fc.assert(fc.property(routesUnder({ name: 'edge' }, ['shop']), listenerHost, fc.array(request, { minLength: 1, maxLength: 8 }), (routes, hostname, requests) => {
    const gateway = make('Gateway', 'shop/edge', { gatewayClassName: 'sidestep-ingress', listeners: [{ name: 'l', port: 80, protocol: 'HTTP', ...(hostname === undefined ? {} : { hostname }) }] })
    const hostsOf = ({ spec }: HttpRouteManifest): readonly (string | undefined)[] => (spec.hostnames.length === 0 ? [undefined] : spec.hostnames)
    for (const each of requests) {
      const expected = isOf(hostname, each.host) ? told(best(candidatesOf(routes, each, hostsOf))) : 'none'
      expect(decide([gateway, ...routes], 'Gateway shop/edge/l', each)).toBe(expected)
    }
  }), { numRuns: 200 })
})
