// Properties of translation as a whole; what each kind means is tested beside each kind.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { objectKey, type ManifestObject } from '../../model/manifest.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import { anyObject, anyPod, fieldsOf, names, namespaces, object, tryObject } from './arbitraries.ts'
import { defaultSettings } from './settings.ts'
import { Translator } from './translator.ts'
import { anyWaypointObject } from './waypoints/arbitraries.ts'

type Step =
  | { readonly t: 'put'; readonly object: ManifestObject }
  | { readonly t: 'remove'; readonly index: number }
  | { readonly t: 'pod'; readonly pod: RunningPod }
  | { readonly t: 'removePod'; readonly index: number }
  | { readonly t: 'ips'; readonly service: string; readonly ips: readonly string[] | undefined }
  | { readonly t: 'flush' }

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ t: fc.constant('put' as const), object: anyObject }) },
  { weight: 2, arbitrary: fc.record({ t: fc.constant('remove' as const), index: fc.nat(20) }) },
  { weight: 3, arbitrary: fc.record({ t: fc.constant('pod' as const), pod: anyPod }) },
  { weight: 1, arbitrary: fc.record({ t: fc.constant('removePod' as const), index: fc.nat(10) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      t: fc.constant('ips' as const), service: fc.tuple(namespaces, names).map((parts) => parts.join('/')), ips: fc.constantFrom(['10.96.0.7'], undefined),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ t: 'flush' as const }) },
)

/** What is there after some steps. */
class Facts {
  readonly objects = new Map<string, ManifestObject>()
  readonly pods = new Map<string, RunningPod>()
  readonly ips = new Map<string, readonly string[]>()
}

const split = (id: string): [string, string] => {
  const [namespace = '', name = ''] = id.split('/')
  return [namespace, name]
}

/** The same with what gateways are about. */
const gatewayStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: step }, { weight: 3, arbitrary: fc.record({ t: fc.constant('put' as const), object: anyWaypointObject }) },
)

function play(steps: readonly Step[]): { translator: Translator; facts: Facts; told: Map<string, unknown> } {
  const translator = new Translator(defaultSettings)
  const facts = new Facts()
  const told = new Map<string, unknown>()
  const flush = (): void => {
    const delta = translator.flush()
    for (const workload of delta.workloads) told.set(workload.uid, workload)
    for (const service of delta.services) told.set(`${service.namespace}/${service.hostname}`, service)
    for (const policy of delta.policies) told.set(`policy ${policy.namespace}/${policy.name}`, policy)
    for (const name of delta.removedAddresses) told.delete(name)
    for (const name of delta.removedPolicies) told.delete(`policy ${name}`)
    const { waypoint, removedWaypoint } = translator.flushWaypoints()
    for (const [name, resource] of waypoint) told.set(`waypoint ${name}`, resource)
    for (const name of removedWaypoint) told.delete(`waypoint ${name}`)
  }
  for (const each of steps) {
    switch (each.t) {
      case 'put':
        facts.objects.set(objectKey(each.object), each.object)
        translator.put(each.object)
        break
      case 'remove': {
        const key = [...facts.objects.keys()][each.index]
        if (key === undefined) break
        facts.objects.delete(key)
        translator.remove(key)
        break
      }
      case 'pod':
        facts.pods.set(`${each.pod.namespace}/${each.pod.name}`, each.pod)
        translator.putPod(each.pod)
        break
      case 'removePod': {
        const key = [...facts.pods.keys()][each.index]
        if (key === undefined) break
        facts.pods.delete(key)
        translator.removePod(...split(key))
        break
      }
      case 'ips':
        if (each.ips) facts.ips.set(each.service, each.ips)
        else facts.ips.delete(each.service)
        translator.setServiceIps(...split(each.service), each.ips)
        break
      case 'flush':
        flush()
    }
  }
  flush()
  return { translator, facts, told }
}

/** From nothing, in an order that `seed` decides. */
function fresh(facts: Facts, seed: number): Translator {
  const translator = new Translator(defaultSettings)
  const actions = [
    ...[...facts.objects.values()].map((each) => () => translator.put(each)),
    ...[...facts.pods.values()].map((pod) => () => translator.putPod(pod)),
    ...[...facts.ips].map(([id, ips]) => () => translator.setServiceIps(...split(id), ips)),
  ]
  let state = seed
  const random = (bound: number): number => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31
    return state % bound
  }
  while (actions.length > 0) actions.splice(random(actions.length), 1)[0]?.()
  translator.flush()
  translator.flushWaypoints()
  return translator
}

const sorted = <T>(map: ReadonlyMap<string, T>): [string, T][] => [...map].sort(([a], [b]) => (a < b ? -1 : 1))
const resultOf = (translator: Translator): unknown => ({
  workloads: sorted(translator.workloads), services: sorted(translator.services), policies: sorted(translator.policies), remarks: sorted(translator.remarks), waypoints: sorted(translator.waypoints),
})

describe('translation', () => {
  test.each([['of ztunnels', step, 600], ['of gateways', gatewayStep, 250]])('%s comes to the same result by any way, and tells exactly the differences', (_whose, step, numRuns) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), fc.nat(), (steps, seed) => {
        const { translator, facts, told } = play(steps)
        expect(resultOf(translator)).toEqual(resultOf(fresh(facts, seed)))
        const all = [
          ...translator.workloads, ...translator.services, ...[...translator.policies].map(([key, policy]) => [`policy ${key}`, policy] as const),
          ...[...translator.waypoints].map(([key, resource]) => [`waypoint ${key}`, resource] as const),
        ]
        expect(sorted(told)).toEqual(sorted(new Map<string, unknown>(all)))
      }),
      { numRuns },
    )
  })

  test('an object that is bad changes nothing but what is said of it', () => {
    const bad = fc.constantFrom<ManifestObject>(
      object('AuthorizationPolicy', 'a/bad', { spec: { action: 'AUDIT', rules: [{}] } }),
      object('AuthorizationPolicy', 'b/bad', { spec: { action: 'CUSTOM', provider: { name: 'x' }, selector: { matchLabels: { app: '1' } } } }),
      object('AuthorizationPolicy', 'a/bad', { spec: { action: 'DENY', targetRefs: [{ kind: 'Service', name: 'x' }], rules: [{}] } }),
      object('PeerAuthentication', 'sidestep-system/bad', { spec: { selector: { matchLabels: { app: '1' } }, mtls: { mode: 'STRICT' } } }),
      object('EndpointSlice', 'a/bad', { addressType: 'IPv4', endpoints: [{ addresses: ['10.0.0.1'] }], ports: [{ port: 80 }] }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), bad, (steps, object) => {
        const { translator } = play(steps)
        const before = resultOf(translator)
        translator.put(object)
        expect(translator.flush()).toEqual({ workloads: [], services: [], policies: [], removedAddresses: [], removedPolicies: [] })
        expect(translator.flushWaypoints()).toEqual({ waypoint: new Map(), removedWaypoint: [] })
        expect(translator.remarksOf(objectKey(object))).not.toEqual({ problems: [], notes: [] })
        translator.remove(objectKey(object))
        translator.flush()
        translator.flushWaypoints()
        expect(resultOf(translator)).toEqual(before)
      }),
      { numRuns: 300 },
    )
  })

  test('an object that was only read at another place costs nothing', () => {
    const translator = new Translator(defaultSettings)
    const service = object('Service', 'a/x', { spec: { selector: { app: '1' }, ports: [{ port: 80 }] } })
    translator.put(service)
    translator.flush()
    translator.put({ ...service, origin: { file: 'other.yaml', line: 7 } })
    expect(translator.flush().services).toEqual([])
    expect(translator.objects.get('Service a/x')?.origin.line).toBe(7)
  })

  test('whatever a spec holds, it is refused by its schema or translated', () => {
    const kind = fc.constantFrom(...(Object.keys(fieldsOf) as (keyof typeof fieldsOf)[]))
    const noise = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.string(), fc.integer(), fc.constantFrom(['*'], {}, [], ['__proto__'], '0.0.0.0/0', '::ffff:10.0.0.1/100'))
    const mutate = (value: unknown, path: readonly number[], put: unknown): unknown => {
      const [at = 0, ...rest] = path
      if (typeof value !== 'object' || value === null || path.length === 0) return put
      const keys = Object.keys(value)
      if (keys.length === 0) return put
      const key = keys[at % keys.length] ?? ''
      const inner = mutate((value as Record<string, unknown>)[key], rest, put)
      return Array.isArray(value) ? value.map((each, i) => (String(i) === key ? inner : each)) : { ...value, [key]: inner }
    }
    fc.assert(
      fc.property(kind.chain((k) => fc.tuple(fc.constant(k), fieldsOf[k])), fc.array(fc.nat(9), { minLength: 1, maxLength: 6 }), noise, fc.array(anyPod, { maxLength: 3 }),
        ([k, fields], path, put, pods) => {
          const [found, problem] = tryObject(k, k === 'Node' ? 'x' : 'a/x', mutate(fields, path, put) as object)
          if (!found) {
            expect(problem).not.toBe('')
            return
          }
          const translator = new Translator(defaultSettings)
          translator.put(found)
          for (const pod of pods) translator.putPod(pod)
          translator.flush()
          translator.flushWaypoints()
          translator.remove(objectKey(found))
          translator.flush()
          translator.flushWaypoints()
          expect([...translator.services.keys(), ...translator.waypoints.keys()]).toEqual([])
        }),
      { numRuns: 2000 },
    )
  })
})
