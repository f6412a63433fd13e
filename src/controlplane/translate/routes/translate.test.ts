// What holds for every set of objects: the order in which they came makes no difference, nothing throws, every accepted route is
// told of, every name that a table uses exists, and no rule of one namespace holds for callers of another's.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { objectKey } from '../../../model/manifest.ts'
import { tryObject } from '../arbitraries.ts'
import { defaultSettings } from '../settings.ts'
import { routeKinds, routeSpecs, routeWorld } from './arbitraries.ts'
import { serviceBindings } from './bindings.ts'
import { translateRoutes } from './translate.ts'
import { World } from './world.ts'

test('the arbitrary objects are worth something: of each kind most pass their schema', () => {
  for (const kind of routeKinds) {
    const drawn = fc.sample(routeSpecs[kind] ?? fc.constant({}), { numRuns: 60, seed: 1 })
    const read = drawn.filter((spec) => tryObject(kind, kind === 'GatewayClass' ? 'x' : 'a/x', { spec })[0] !== undefined)
    expect(`${kind} ${read.length >= 20}`).toBe(`${kind} true`)
  }
})

test('any objects in any order give the same, without throwing', () => {
  fc.assert(fc.property(routeWorld.chain((objects) => fc.tuple(fc.constant(objects), fc.shuffledSubarray(objects, { minLength: objects.length }))), ([objects, shuffled]) => {
    const before = structuredClone(objects)
    const first = translateRoutes(objects, defaultSettings)
    expect(translateRoutes(shuffled, defaultSettings)).toEqual(first)
    expect([...translateRoutes(shuffled, defaultSettings).findings]).toEqual([...first.findings])
    expect(serviceBindings(new World(shuffled, defaultSettings), defaultSettings)).toEqual(serviceBindings(new World(objects, defaultSettings), defaultSettings))
    expect(objects).toEqual(before)
  }), { numRuns: 250 })
})

test('whatever tables say makes sense', () => {
  fc.assert(fc.property(routeWorld, (objects) => {
    const { tables, filters, destinations, findings, listeners } = translateRoutes(objects, defaultSettings)
    const services = new World(objects, defaultSettings).targets
    const known = new Set(objects.map(objectKey))
    expect(new Set(tables.map(({ key, hostnames }) => `${key} ${hostnames.join()}`)).size).toBe(tables.length)
    for (const { key, http, tcp } of tables) {
      expect(services.has(key.slice(0, key.lastIndexOf(':'))) || listeners.some((listener) => listener.key === key)).toBe(true)
      const owner = key.startsWith('Gateway ') ? undefined : key.slice(0, key.indexOf('/'))
      for (const rule of [...http, ...tcp]) {
        expect(known.has(rule.origin)).toBe(true)
        const from = /^(?:HTTPRoute|GRPCRoute|TCPRoute|TLSRoute|VirtualService) ([^/]+)\//.exec(rule.origin)?.[1]
        const callers = 'matches' in rule ? rule.matches.map(({ sourceNamespaces }) => sourceNamespaces) : [rule.sourceNamespaces]
        // Nobody's requests are routed by a namespace that is neither the service's, nor a root, nor their own.
        if (owner !== undefined && from !== undefined && from !== owner && from !== 'istio-system') for (const each of callers) expect(each).toEqual([from])
        const backends = 'action' in rule ? (rule.action.t === 'forward' ? rule.action.backends : []) : rule.backends
        for (const { service, port, broken, subset } of backends) {
          if (broken !== undefined) continue
          const target = services.get(`${service.namespace}/${service.hostname}`)
          expect(target?.ports.some(({ number }) => number === port)).toBe(true)
          if (subset !== undefined) expect(destinations.get(`${service.namespace}/${service.hostname}`)?.subsets.has(subset)).toBe(true)
        }
        if ('filters' in rule) for (const each of rule.filters) expect(filters.has(each)).toBe(true)
      }
    }
    for (const object of objects) {
      if (object.kind !== 'HTTPRoute' && object.kind !== 'GRPCRoute' && object.kind !== 'TCPRoute' && object.kind !== 'TLSRoute') continue
      const { parents = [], notes = [], problems = [] } = findings.get(objectKey(object)) ?? {}
      // Each parent is answered for, or somebody else's.
      expect(parents.length + notes.filter((note) => note.includes('somebody else')).length).toBeGreaterThanOrEqual(object.spec.parentRefs.length > 0 ? 1 : 0)
      for (const { accepted, resolvedRefs } of parents) if (!accepted.status || !resolvedRefs.status) expect(problems).not.toEqual([])
    }
  }), { numRuns: 250 })
})
