// What holds for every set of objects: their order makes no difference, nothing throws, the wire can carry it, and no gateway is
// told a private key that its owner did not let it have.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { objectKey, type ManifestObject } from '../../../model/manifest.ts'
import { parseWaypointResourceName, waypointResourceName } from '../../../model/waypoint-config.ts'
import { decodeWaypointResource, encodeWaypointResource } from '../../../xds/waypoint-codec.ts'
import { serviceBindings } from '../routes/bindings.ts'
import { World } from '../routes/world.ts'
import { defaultSettings } from '../settings.ts'
import { anyWaypointObject, waypointWorld } from './arbitraries.ts'
import { translateWaypoints, type WaypointTranslation } from './translate.ts'

const translate = (objects: readonly ManifestObject[]): WaypointTranslation => translateWaypoints(objects, defaultSettings)

test('the arbitrary worlds are worth something', () => {
  const kinds = new Map<string, number>()
  for (const objects of fc.sample(waypointWorld, { numRuns: 300, seed: 1 })) {
    for (const { kind, ...resource } of translate(objects).resources.values()) {
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
      if ('certificate' in resource) kinds.set('certificate', (kinds.get('certificate') ?? 0) + 1)
    }
  }
  for (const kind of ['routes', 'listener', 'destination', 'filter', 'security', 'provider', 'secret', 'certificate']) expect(`${kind} ${(kinds.get(kind) ?? 0) >= 3}`).toBe(`${kind} true`)
  expect(new Set(fc.sample(anyWaypointObject, { numRuns: 500, seed: 1 }).map(({ kind }) => kind)).size).toBeGreaterThan(20)
})

test('any objects in any order give the same, without throwing', () => {
  fc.assert(fc.property(waypointWorld.chain((objects) => fc.tuple(fc.constant(objects), fc.shuffledSubarray(objects, { minLength: objects.length }))), ([objects, shuffled]) => {
    const [first, second] = [translate(objects), translate(shuffled)]
    expect([...second.resources]).toEqual([...first.resources])
    expect([...second.findings]).toEqual([...first.findings])
  }), { numRuns: 200 })
})

test('what a gateway is told is its own, and comes out of the wire as it went in', () => {
  fc.assert(fc.property(waypointWorld, (objects) => {
    const world = new World(objects, defaultSettings)
    const bindings = serviceBindings(world, defaultSettings)
    const known = new Set(objects.map(objectKey))
    for (const [name, resource] of translate(objects).resources) {
      const gateway = parseWaypointResourceName(name)?.gateway ?? { namespace: '', name: '' }
      expect(waypointResourceName(gateway, resource)).toBe(name)
      expect(known.has(`Gateway ${gateway.namespace}/${gateway.name}`)).toBe(true)
      expect(decodeWaypointResource(encodeWaypointResource(resource))).toEqual({ ok: true, value: resource })
      if (resource.kind === 'routes' && !resource.key.startsWith('Gateway ')) {
        expect(bindings.get(resource.key.slice(0, resource.key.lastIndexOf(':')))).toMatchObject({ t: 'bound', waypoint: gateway })
      }
      if (resource.kind === 'secret') {
        const [, from = '', secret = ''] = /^(?:Secret|ConfigMap) ([^/]+)\/(.+)$/.exec(resource.key) ?? []
        const isChosen = [...bindings].some(([key, binding]) => key.startsWith(`${from}/`) && binding.t === 'bound' && binding.waypoint.namespace === gateway.namespace && binding.waypoint.name === gateway.name)
        const isGranted = world.mayName({ group: 'gateway.networking.k8s.io', kind: 'Gateway', namespace: gateway.namespace }, { group: '', kind: 'Secret', namespace: from, name: secret })
        expect(from === gateway.namespace || isChosen || isGranted).toBe(true)
      }
    }
  }), { numRuns: 300 })
})

test('no word of a Secret is in what is said of objects', () => {
  fc.assert(fc.property(waypointWorld, (objects) => {
    expect(JSON.stringify([...translate(objects).findings])).not.toMatch(/BEGIN|PRIVATE KEY|MI[GHI][A-Za-z0-9+/]{8}/)
  }), { numRuns: 100 })
})
