// Resources of waypoints over the wire: what is encoded comes back, the same content is the same bytes, and whatever else
// arrives is refused with a reason that shows no secret.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { z } from 'zod'
import { defaultTrafficPolicy, type DestinationPolicy } from '../model/route.ts'
import { parseWaypointResourceName, waypointResourceName, type WaypointResource } from '../model/waypoint-config.ts'
import { ResourceSchema } from '../proto/sidestep_waypoint_pb.ts'
import { decodeWaypointResource, encodeWaypointResource } from './waypoint-codec.ts'
import { waypointResource, waypointResources } from './waypoint-arbitraries.ts'
import { contentSchemas } from './waypoint-schema.ts'

type Kind = WaypointResource['kind']

// Both sides without `readonly`, which zod does not say; nothing else may differ, not even an optional field.
type Plain<T> = T extends ReadonlyMap<infer K, infer V> ? Map<K, Plain<V>> : T extends object ? { -readonly [Key in keyof T]: Plain<T[Key]> } : T
type Content<K extends Kind> = Plain<Omit<Extract<WaypointResource, { readonly kind: K }>, 'kind' | 'key'>>
type Read<K extends Kind> = Plain<z.output<(typeof contentSchemas)[K]>>

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
type Agreement = { readonly [K in Kind]: Same<Read<K>, Content<K>> }

// The compiler is the test: a schema that says something else than the model makes its `true` an error.
const agreement: Agreement = { routes: true, listener: true, destination: true, filter: true, security: true, provider: true, secret: true }

test('there is a schema for each kind of the model', () => {
  expect(Object.keys(contentSchemas).sort()).toEqual(Object.keys(agreement).sort())
})

const encoded = (kind: string, content: unknown, key = 'k'): Uint8Array =>
  toBinary(ResourceSchema, create(ResourceSchema, { kind, key, content: Buffer.from(typeof content === 'string' ? content : JSON.stringify(content)) }))

/** Every object inside, to be given one field more. */
function* objectsIn(value: unknown): Generator<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null) return
  if (!Array.isArray(value)) yield value as Record<string, unknown>
  for (const each of Object.values(value)) yield* objectsIn(each)
}

function contentOf(resource: WaypointResource): Record<string, unknown> {
  return JSON.parse(Buffer.from(fromBinary(ResourceSchema, encodeWaypointResource(resource)).content).toString()) as Record<string, unknown>
}

describe('what we encode we decode', () => {
  test.each(Object.entries(waypointResources))('%s', (_kind, arbitrary) => {
    fc.assert(fc.property(arbitrary as fc.Arbitrary<WaypointResource>, (resource) => {
      expect(decodeWaypointResource(encodeWaypointResource(resource))).toEqual({ ok: true, value: resource })
    }), { numRuns: 200 })
  })

  test('the order of maps does not change the bytes', () => {
    fc.assert(fc.property(waypointResources.destination, ({ destination, ...rest }) => {
      const turned: DestinationPolicy = {
        ...destination,
        ports: new Map([...destination.ports].reverse()),
        subsets: new Map([...destination.subsets].reverse().map(([name, subset]) => [name, { ...subset, labels: Object.fromEntries(Object.entries(subset.labels).reverse()) }])),
      }
      expect(encodeWaypointResource({ ...rest, destination: turned })).toEqual(encodeWaypointResource({ ...rest, destination }))
    }), { numRuns: 50 })
  })

  test('a name and its parts', () => {
    const part = fc.stringMatching(/^[a-z0-9][a-z0-9.-]{0,10}$/)
    fc.assert(fc.property(part, part, waypointResource, (namespace, name, resource) => {
      const gateway = { namespace, name }
      expect(parseWaypointResourceName(waypointResourceName(gateway, resource))).toEqual({ gateway, kind: resource.kind, key: resource.key })
    }), { numRuns: 200 })
    for (const none of ['', 'a', 'a/b', 'a/b/c', '/b/routes/k', 'a//routes/k', 'a/b//k']) expect(parseWaypointResourceName(none)).toBeUndefined()
    expect(parseWaypointResourceName('a/b/security/')).toEqual({ gateway: { namespace: 'a', name: 'b' }, kind: 'security', key: '' })
  })
})

describe('what a peer may send', () => {
  test('any bytes and any JSON give a value or a reason', () => {
    const kinds = fc.constantFrom(...Object.keys(contentSchemas), 'other', '')
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const decoded = decodeWaypointResource(bytes)
      if (!decoded.ok) expect(decoded.because).not.toBe('')
    }), { numRuns: 2000 })
    fc.assert(fc.property(kinds, fc.oneof(fc.jsonValue(), fc.object({ key: fc.constantFrom('tables', 'listener', 'destination', 'filter', 'security', 'provider') })), (kind, json) => {
      expect(typeof decodeWaypointResource(encoded(kind, JSON.stringify(json) ?? '')).ok).toBe('boolean')
    }), { numRuns: 2000 })
  })

  test('a valid message with bytes overwritten or cut gives a value or a reason', () => {
    const damage = fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { maxLength: 4 })
    fc.assert(fc.property(waypointResource.map(encodeWaypointResource), damage, fc.nat(2000), fc.boolean(), (bytes, changes, length, cut) => {
      const copy = Uint8Array.from(cut ? bytes.subarray(0, length) : bytes)
      for (const [at, value] of changes) if (at < copy.length) copy[at] = value
      expect(typeof decodeWaypointResource(copy).ok).toBe('boolean')
    }), { numRuns: 1000 })
  })

  test('a field that is not known refuses its resource wherever it is, but for hints on how endpoints are used', () => {
    let [refused, ignored] = [0, 0]
    fc.assert(fc.property(waypointResource, fc.nat(), (resource, which) => {
      const content = contentOf(resource)
      const objects = [...objectsIn(content)]
      const target = objects[which % objects.length]
      if (!target) return
      target['newer'] = 'x'
      const decoded = decodeWaypointResource(encoded(resource.kind, content, resource.key))
      if (decoded.ok) {
        expect(resource.kind).toBe('destination')
        expect(decoded.value).toEqual(resource)
        ignored++
      } else {
        expect(decoded.because).toContain('newer')
        refused++
      }
    }), { numRuns: 1000 })
    expect(refused).toBeGreaterThan(ignored)
    expect(ignored).toBeGreaterThan(0)
  })

  const destination = (policy: object): object => ({ destination: { key: 'a/b', policy: { ...defaultTrafficPolicy, ...policy }, ports: [], subsets: [] } })
  const tls = { mode: 'simple', subjectAltNames: [] }

  test('a newer hint is passed over, a newer demand on certificates is not', () => {
    expect(decodeWaypointResource(encoded('destination', destination({ tls, hedging: true, limits: { ...defaultTrafficPolicy.limits, bytes: 5 } })))).toMatchObject({ ok: true })
    expect(decodeWaypointResource(encoded('destination', destination({ tls: { ...tls, pinned: 'sha256' } })))).toMatchObject({ ok: false, because: expect.stringContaining('pinned') })
    expect(decodeWaypointResource(encoded('destination', destination({ loadBalancer: { kind: 'newest' } }))).ok).toBe(false)
  })

  test.each<[string, Uint8Array, RegExp]>([
    ['nothing', new Uint8Array(0), /not JSON/],
    ['an unknown kind', encoded('wasm', {}), /kind "wasm" is not known/],
    ['a kind of every object', encoded('constructor', {}), /kind "constructor" is not known/],
    ['no kind', encoded('', { tables: [] }), /kind "" is not known/],
    ['a field of a later version of the message', Uint8Array.from([...encoded('routes', { tables: [] }), (9 << 3) | 2, 1, 1]), /field 9/],
    ['content of another kind', encoded('routes', { listener: {} }), /tables/],
    ['two contents', encoded('secret', { authorities: 'x', tables: [] }), /tables/],
    ['bytes that are no text', toBinary(ResourceSchema, create(ResourceSchema, { kind: 'routes', key: 'k', content: Uint8Array.of(0x22, 0xff, 0x22) })), /not JSON/],
    ['a number that is none', encoded('destination', destination({ slowStartMs: null })), /destination\.policy\.slowStartMs/],
    ['a number beyond all', encoded('destination', JSON.stringify(destination({})).replace('10000,', '1e999,')), /destination\.policy/],
    ['a time that is over', encoded('destination', destination({ slowStartMs: -1 })), /slowStartMs/],
    ['a port beyond the last', encoded('destination', { destination: { key: 'a/b', policy: defaultTrafficPolicy, ports: [[65_536, defaultTrafficPolicy]], subsets: [] } }), /ports\.0\.0/],
    ['a prototype', encoded('secret', '{"__proto__":{"authorities":"x"}}'), /./],
    ['deep nesting', encoded('secret', `${'['.repeat(100_000)}${']'.repeat(100_000)}`), /./],
  ])('refused: %s', (_what, bytes, because) => {
    expect(decodeWaypointResource(bytes)).toEqual({ ok: false, because: expect.stringMatching(because) })
  })

  test('a secret that cannot be read is not quoted', () => {
    for (const content of [`{"certificate":{"chain":1,"privateKey":"VERY SECRET"}}`, `{"certificate":"VERY SECRET"`, `VERY SECRET`, `{"certificate":{"chain":"","privateKey":["VERY SECRET"]}}`]) {
      const decoded = decodeWaypointResource(encoded('secret', content))
      expect(decoded.ok).toBe(false)
      expect(JSON.stringify(decoded)).not.toContain('SECRET')
    }
  })

  test('labels with strange names stay what they are', () => {
    const labels = Object.fromEntries([['__proto__', 'x'], ['constructor', 'y']])
    const resource: WaypointResource = {
      kind: 'destination', key: 'a/b', destination: { key: 'a/b', policy: defaultTrafficPolicy, ports: new Map(), subsets: new Map([['v1', { labels, policy: defaultTrafficPolicy }]]) },
    }
    const decoded = decodeWaypointResource(encodeWaypointResource(resource))
    expect(decoded.ok && decoded.value.kind === 'destination' && Object.entries(decoded.value.destination.subsets.get('v1')?.labels ?? {})).toEqual([['__proto__', 'x'], ['constructor', 'y']])
  })
})
