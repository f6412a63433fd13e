// The order in which a gateway is told: whatever changes and however late it answers, no route that it has been sent points to a
// service that it has not, and in the end it has all there is.
import { create } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { waypointResourceName, type WaypointResource } from '../model/waypoint-config.ts'
import { serviceKey } from '../model/workload.ts'
import { DeltaDiscoveryRequestSchema } from '../proto/discovery_pb.ts'
import { decodeFrame, parseResponse } from './frames.ts'
import { NodeRecord } from './node-records.ts'
import { NodeStream, type XdsCall } from './node-stream.ts'
import { typeOfUrl, typeUrls, type ResourceType } from './resource-types.ts'
import { serverDefaults } from './server-options.ts'
import { XdsStore } from './store.ts'
import { aService } from './testing.ts'
import { decodeWaypointResource } from './waypoint-codec.ts'

const way = { namespace: 'shop', name: 'way' }
const other = { namespace: 'other', name: 'way' }
const services = ['a', 'b', 'c', 'd'] as const
type Name = (typeof services)[number]
const key = (name: Name): string => serviceKey(aService(name))
/** A resource that points to a service. */
const routeTo = (name: Name | undefined, version = ''): WaypointResource => ({ kind: 'secret', key: 'route', authorities: `${name === undefined ? '' : key(name)} ${version}` })
const routeName = waypointResourceName(way, routeTo(undefined))

/** A gateway's pod at the other end of a stream, which reads at once and answers when it is told to. */
class Gateway {
  readonly stream: NodeStream
  readonly held = new Set<string>()
  target = ''
  readonly unanswered = new Map<ResourceType, string>()

  constructor(store: XdsStore, pushBytes: number) {
    const record = new NodeRecord('w')
    record.gateway = way
    const call = { write: (bytes: Buffer) => this.#read(bytes), emit: () => true }
    this.stream = new NodeStream(call as unknown as XdsCall, record, { store, limits: { ...serverDefaults.limits, pushBytes }, orderMs: 60_000, onPush: undefined })
    for (const type of ['address', 'waypoint'] as const) this.#say({ typeUrl: typeUrls[type] })
  }

  #say(request: { readonly typeUrl: string; readonly responseNonce?: string }): void {
    this.stream.handle(create(DeltaDiscoveryRequestSchema, request))
  }

  #read(bytes: Buffer): void {
    const { typeUrl, nonce, removed, frames } = parseResponse(bytes)
    const type = typeOfUrl(typeUrl)
    if (!type) throw new Error('a response of no type')
    expect(this.unanswered.has(type)).toBe(false)
    this.unanswered.set(type, nonce)
    for (const name of removed) {
      this.held.delete(name)
      if (name === routeName) this.target = ''
    }
    for (const frame of frames) {
      const { name, value } = decodeFrame(frame)
      this.held.add(name)
      const decoded = type === 'waypoint' ? decodeWaypointResource(value) : undefined
      if (decoded?.ok && decoded.value.kind === 'secret') this.target = decoded.value.authorities?.split(' ')[0] ?? ''
    }
    if (this.target !== '') expect([...this.held]).toContain(this.target)
  }

  answer(type: ResourceType): void {
    const responseNonce = this.unanswered.get(type)
    if (responseNonce === undefined) return
    this.unanswered.delete(type)
    this.#say({ typeUrl: typeUrls[type], responseNonce })
  }

  pump(): void {
    for (const type of ['authorization', 'address'] as const) this.stream.pump(type)
  }
}

type Step =
  | { readonly do: 'change'; readonly there: readonly Name[]; readonly target: number; readonly version: number }
  | { readonly do: 'elsewhere' } | { readonly do: 'pump' } | { readonly do: 'compact' } | { readonly do: 'answer'; readonly type: 'address' | 'waypoint' }
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('change' as const), there: fc.subarray([...services]), target: fc.nat(4), version: fc.nat(2) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('answer' as const), type: fc.constantFrom('address' as const, 'waypoint' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('pump' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('elsewhere' as const, 'compact' as const) }) },
)

test('no route points to what is not there, and everything arrives', () => {
  fc.assert(fc.property(fc.array(step, { maxLength: 40 }), fc.constantFrom(1, 200, 1e9), (steps, pushBytes) => {
    const store = new XdsStore()
    const gateway = new Gateway(store, pushBytes)
    let elsewhere = 0
    try {
      for (const each of steps) {
        switch (each.do) {
          case 'change': {
            const target = each.there[each.target]
            store.apply({
              services: each.there.map((name) => aService(name, { isCanonical: each.version > 0 })),
              removedAddresses: services.filter((name) => !each.there.includes(name)).map(key),
              ...(target === undefined && each.version === 0 ? { removedWaypoint: [routeName] } : { waypoint: new Map([[routeName, routeTo(target, String(each.version))]]) }),
            })
            break
          }
          case 'elsewhere': {
            const resource: WaypointResource = { kind: 'secret', key: 'x', authorities: String(elsewhere++) }
            store.apply({ waypoint: new Map([[waypointResourceName(other, resource), resource]]) })
            break
          }
          case 'pump':
            gateway.pump()
            break
          case 'compact':
            for (const type of ['address', 'waypoint'] as const) store.logs[type].compact(gateway.stream.position(type) ?? 0, 100)
            break
          case 'answer':
            gateway.answer(each.type)
            break
        }
      }
      gateway.pump()
      for (let i = 0; gateway.unanswered.size > 0; i++) {
        expect(i).toBeLessThan(100)
        gateway.answer('address')
        gateway.answer('waypoint')
      }
      expect([...gateway.held].sort()).toEqual([...store.logs.address.names(), ...[...store.logs.waypoint.names()].filter((name) => name === routeName)].sort())
      for (const type of ['address', 'waypoint'] as const) expect(gateway.stream.typeStatus(type)).toMatchObject({ behind: 0, waitingSinceMs: undefined })
    } finally {
      gateway.stream.over()
    }
  }), { numRuns: 3000 })
})
