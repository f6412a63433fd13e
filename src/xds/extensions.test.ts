// What travels beside Istio's own fields: that Istio's peers can pass over it, that we pass over theirs, and that nothing of ours
// is half believed.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape, UnknownEnum } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ServiceExtensionSchema, WorkloadExtensionSchema } from '../proto/sidestep_workload_pb.ts'
import type { ExtensionSchema } from '../proto/workload_pb.ts'
import { AddressSchema } from '../proto/workload_pb.ts'
import { service, workload } from './arbitraries.ts'
import { decodeAddress } from './decode.ts'
import { encodeService, encodeWorkload } from './encode.ts'
import { aService, aWorkload } from './testing.ts'

type Wire = MessageInitShape<typeof ExtensionSchema>

const serviceUrl = 'type.googleapis.com/sidestep.workload.v1.ServiceExtension'
const workloadUrl = 'type.googleapis.com/sidestep.workload.v1.WorkloadExtension'
const ofService = (content: MessageInitShape<typeof ServiceExtensionSchema>): Wire =>
  ({ name: 'sidestep.dev/service', config: { typeUrl: serviceUrl, value: toBinary(ServiceExtensionSchema, create(ServiceExtensionSchema, content)) } })
const ofWorkload = (content: MessageInitShape<typeof WorkloadExtensionSchema>): Wire =>
  ({ name: 'sidestep.dev/workload', config: { typeUrl: workloadUrl, value: toBinary(WorkloadExtensionSchema, create(WorkloadExtensionSchema, content)) } })
const later = (value: number): UnknownEnum => value as UnknownEnum

function serviceWith(...extensions: readonly Wire[]) {
  const value = { namespace: 'n', hostname: 'h', ports: [{ servicePort: 80 }, { servicePort: 81 }], extensions: [...extensions] }
  return decodeAddress(toBinary(AddressSchema, create(AddressSchema, { type: { case: 'service', value } })))
}

function workloadWith(...extensions: readonly Wire[]) {
  return decodeAddress(toBinary(AddressSchema, create(AddressSchema, { type: { case: 'workload', value: { uid: 'u', extensions: [...extensions] } } })))
}

describe('on Istio\'s wire', () => {
  test('our extensions change no other field, and what has none of our facts has no extension', () => {
    fc.assert(fc.property(workload, service, (aWorkload, aService) => {
      const { egress, endpointNames, waypointFailure, labels, ...plainWorkload } = aWorkload
      const { sessionAffinity, isHeadless, udpPorts, waypointFailure: serviceFailure, ...rest } = aService
      const plainService = { ...rest, ports: rest.ports.map(({ servicePort, targetPort, appProtocol }) => ({ servicePort, targetPort, appProtocol })) }
      const pairs = [
        [encodeWorkload(aWorkload), encodeWorkload(plainWorkload), egress !== undefined || endpointNames !== undefined || waypointFailure !== undefined || labels !== undefined],
        [encodeService(aService), encodeService(plainService), sessionAffinity !== undefined || isHeadless || udpPorts !== undefined || serviceFailure !== undefined || rest.ports.some(({ name }) => name !== undefined)],
      ] as const
      for (const [bytes, plain, hasFacts] of pairs) {
        const seen = fromBinary(AddressSchema, bytes)
        expect(seen.type.value?.extensions.length).toBe(hasFacts ? 1 : 0)
        if (seen.type.value) seen.type.value.extensions = []
        expect(toBinary(AddressSchema, seen)).toEqual(plain)
      }
    }))
  })

  test('messages of a control plane that is not ours have no facts of ours', () => {
    const foreign: Wire = { name: 'istio.io/something', config: { typeUrl: 'type.googleapis.com/x.Y', value: Uint8Array.of(255, 255) } }
    for (const extensions of [[], [foreign], [{ name: '' }]]) {
      const decoded = [serviceWith(...extensions), workloadWith(...extensions)]
      expect(decoded).toMatchObject([{ ok: true }, { ok: true }])
      for (const key of ['sessionAffinity', 'isHeadless', 'udpPorts', 'egress', 'endpointNames', 'waypointFailure', '"name":"']) {
        expect(JSON.stringify(decoded).replaceAll('"name":""', '')).not.toContain(key)
      }
    }
  })

  test('ours is found among others, and what a later version adds to it is passed over', () => {
    const newer = Uint8Array.of(...toBinary(WorkloadExtensionSchema, create(WorkloadExtensionSchema, { egress: 3 })), (15 << 3) | 2, 1, 7)
    const mine: Wire = { name: 'sidestep.dev/workload', config: { typeUrl: workloadUrl, value: newer } }
    expect(workloadWith({ name: 'other' }, mine)).toMatchObject({ ok: true, value: { workload: { egress: 'deny' } } })
  })
})

describe('what is broken of ours', () => {
  test('an egress mode of a later version is one that cannot be read: nothing may leave', () => {
    expect(workloadWith(ofWorkload({ egress: later(9) }))).toMatchObject({ value: { workload: { egress: 'unreadable' } } })
  })

  test.each<[string, ReturnType<typeof decodeAddress>, RegExp]>([
    ['twice', workloadWith(ofWorkload({ egress: 1 }), ofWorkload({ egress: 3 })), /given twice/],
    ['without content', workloadWith({ name: 'sidestep.dev/workload' }), /nothing/],
    ['of another type', workloadWith({ name: 'sidestep.dev/workload', config: { typeUrl: serviceUrl, value: new Uint8Array(0) } }), /ServiceExtension/],
    ['bytes that are none', workloadWith({ name: 'sidestep.dev/workload', config: { typeUrl: workloadUrl, value: Uint8Array.of(255) } }), /cannot be read/],
    ['a name of an endpoint with dots', workloadWith(ofWorkload({ endpointNames: { 'a/b': 'web.shop' } })), /no name for an endpoint/],
    ['too few names of ports', serviceWith(ofService({ portNames: ['http'] })), /1 names for 2 ports/],
    ['a UDP port over 65535', serviceWith(ofService({ udpPorts: [{ name: 'dns', port: 65_536 }] })), /65536/],
  ])('refuses the resource: %s', (_, decoded, because) => {
    expect(decoded).toEqual({ ok: false, because: expect.stringMatching(because) })
  })

  test('any bytes in the place of ours give a value or a reason', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (value) => {
      for (const decoded of [
        serviceWith({ name: 'sidestep.dev/service', config: { typeUrl: serviceUrl, value } }),
        workloadWith({ name: 'sidestep.dev/workload', config: { typeUrl: workloadUrl, value } }),
      ]) if (!decoded.ok) expect(decoded.because).not.toBe('')
    }), { numRuns: 3000 })
  })
})

test('a service and an endpoint come back with everything that ours says', () => {
  const named = aService('db', {
    ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'http11', name: 'http' }, { servicePort: 81, targetPort: 81, appProtocol: 'tcp' }],
    sessionAffinity: { kind: 'clientIp', timeoutSeconds: 60 }, isHeadless: true, udpPorts: [{ name: 'dns', port: 53 }], waypointFailure: 'open',
  })
  expect(decodeAddress(encodeService(named))).toEqual({ ok: true, value: { kind: 'service', service: named } })
  const endpoint = aWorkload('db-0', { egress: 'audit', endpointNames: new Map([['shop/db.shop.svc.cluster.local', 'db-0']]), waypointFailure: 'open' })
  expect(decodeAddress(encodeWorkload(endpoint))).toEqual({ ok: true, value: { kind: 'workload', workload: endpoint } })
})

describe('labels', () => {
  test('are told up to a limit, shared where equal, and a message with more is refused', () => {
    const many = Object.fromEntries(Array.from({ length: 70 }, (_, i) => [`l${String(i).padStart(2, '0')}`, 'x']))
    const decoded = decodeAddress(encodeWorkload(aWorkload('a', { labels: many })))
    expect(decoded).toMatchObject({ ok: true, value: { workload: { labels: { l00: 'x', l62: 'x' } } } })
    expect(JSON.stringify(decoded)).not.toContain('l63')
    const [one, other] = [1, 2].map(() => decodeAddress(encodeWorkload(aWorkload('a', { labels: { version: 'v2', app: 'web' } }))))
    const labelsOf = (each: typeof one): unknown => (each?.ok && 'workload' in each.value ? each.value.workload?.labels : undefined)
    expect(labelsOf(one)).toEqual({ app: 'web', version: 'v2' })
    expect(labelsOf(one)).toBe(labelsOf(other))
    expect(workloadWith(ofWorkload({ labels: many }))).toMatchObject({ ok: false })
  })
})
