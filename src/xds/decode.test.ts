import { create, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape, UnknownEnum } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AuthorizationSchema } from '../proto/security_pb.ts'
import type { ServiceSchema, WorkloadSchema } from '../proto/workload_pb.ts'
import { AddressSchema } from '../proto/workload_pb.ts'
import { policy, service, workload } from './arbitraries.ts'
import { decodeAddress, decodeAuthorization, decodeResource } from './decode.ts'
import { encodeAuthorization, encodeService, encodeWorkload } from './encode.ts'

function workloadBytes(fields: MessageInitShape<typeof WorkloadSchema>): Uint8Array {
  return toBinary(AddressSchema, create(AddressSchema, { type: { case: 'workload', value: fields } }))
}

function serviceBytes(fields: MessageInitShape<typeof ServiceSchema>): Uint8Array {
  return toBinary(AddressSchema, create(AddressSchema, { type: { case: 'service', value: fields } }))
}

function policyBytes(fields: MessageInitShape<typeof AuthorizationSchema>): Uint8Array {
  return toBinary(AuthorizationSchema, create(AuthorizationSchema, fields))
}

/** An enum value of a later version. */
const later = (value: number): UnknownEnum => value as UnknownEnum

/** Bytes of a length-delimited field of any number below 16. */
const field = (number: number, ...content: readonly number[]): number[] => [(number << 3) | 2, content.length, ...content]

describe('what we encode we decode', () => {
  test('workloads', () => {
    fc.assert(fc.property(workload, (value) => {
      expect(decodeAddress(encodeWorkload(value))).toEqual({ ok: true, value: { kind: 'workload', workload: value } })
    }))
  })

  test('services', () => {
    fc.assert(fc.property(service, (value) => {
      expect(decodeAddress(encodeService(value))).toEqual({ ok: true, value: { kind: 'service', service: value } })
    }))
  })

  test('policies, and what is not supported stays not supported', () => {
    fc.assert(fc.property(policy, (value) => {
      expect(decodeAuthorization(encodeAuthorization(value))).toEqual({ ok: true, value })
    }))
  })

  test('the order of a workload\'s services and names does not change the bytes', () => {
    fc.assert(fc.property(workload, (value) => {
      const { endpointNames } = value
      const turned = { ...value, services: new Map([...value.services].reverse()), ...(endpointNames && { endpointNames: new Map([...endpointNames].reverse()) }) }
      expect(encodeWorkload(turned)).toEqual(encodeWorkload(value))
    }))
  })
})

describe('what a peer may send', () => {
  test('any bytes give a value or a reason', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), fc.constantFrom('address' as const, 'authorization' as const), (bytes, type) => {
      const decoded = decodeResource(type, bytes)
      if (!decoded.ok) expect(decoded.because).not.toBe('')
    }), { numRuns: 5000 })
  })

  test('a valid message with bytes overwritten or cut gives a value or a reason', () => {
    const valid = fc.oneof(workload.map(encodeWorkload), service.map(encodeService), policy.map(encodeAuthorization))
    const damage = fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 4 })
    fc.assert(fc.property(valid, damage, fc.nat(400), fc.boolean(), (bytes, changes, length, cut) => {
      const copy = Uint8Array.from(cut ? bytes.subarray(0, length) : bytes)
      for (const [at, value] of changes) if (at < copy.length) copy[at] = value
      for (const decode of [decodeAddress, decodeAuthorization]) expect(typeof decode(copy).ok).toBe('boolean')
    }), { numRuns: 2000 })
  })

  test('absent fields get the defaults of the protocol', () => {
    const decoded = decodeAddress(workloadBytes({ uid: 'c//Pod/a/b', addresses: [Uint8Array.of(10, 0, 0, 1)] }))
    expect(decoded).toMatchObject({
      ok: true,
      value: { workload: { uid: 'c//Pod/a/b', ips: ['10.0.0.1'], trustDomain: 'cluster.local', serviceAccount: 'default', capacity: 1, isHealthy: true } },
    })
  })

  test('an IPv4 address in its IPv6 spelling is an IPv4 address, and so is its range', () => {
    const mapped = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 2, 0)
    expect(decodeAddress(workloadBytes({ uid: 'u', addresses: [mapped] }))).toMatchObject({ value: { workload: { ips: ['10.1.2.0'] } } })
    expect(decodeAddress(serviceBytes({ namespace: 'n', hostname: 'h', addresses: [{ address: mapped, length: 120 }] }))).toMatchObject({
      value: { service: { addresses: [{ ip: '10.1.2.0', prefixLength: 24 }] } },
    })
    expect(decodeAddress(serviceBytes({ namespace: 'n', hostname: 'h', addresses: [{ address: mapped, length: 95 }] })).ok).toBe(false)
  })

  test.each<[string, Uint8Array, RegExp]>([
    ['nothing', new Uint8Array(0), /neither/],
    ['no uid', workloadBytes({}), /uid is missing/],
    ['an address of 5 bytes', workloadBytes({ uid: 'u', addresses: [new Uint8Array(5)] }), /5 bytes/],
    ['an empty address', workloadBytes({ uid: 'u', addresses: [new Uint8Array(0)] }), /0 bytes/],
    ['mTLS of old', workloadBytes({ uid: 'u', tunnelProtocol: 2 }), /tunnel protocol 2/],
    ['an unknown tunnel', workloadBytes({ uid: 'u', tunnelProtocol: later(7) }), /tunnel protocol 7/],
    ['an unknown type', workloadBytes({ uid: 'u', workloadType: later(9) }), /workload type 9/],
    ['an unknown status', workloadBytes({ uid: 'u', status: later(2) }), /status 2/],
    ['an unknown network mode', workloadBytes({ uid: 'u', networkMode: later(2) }), /network mode 2/],
    ['a service without namespace', workloadBytes({ uid: 'u', services: { host: { ports: [] } } }), /does not name a service/],
    ['a service with two slashes', workloadBytes({ uid: 'u', services: { 'a/b/c': { ports: [] } } }), /does not name a service/],
    ['a port over 65535', workloadBytes({ uid: 'u', services: { 'a/b': { ports: [{ servicePort: 65_536 }] } } }), /service port 65536/],
    ['an unknown application protocol', workloadBytes({ uid: 'u', services: { 'a/b': { ports: [{ appProtocol: later(6) }] } } }), /application protocol 6/],
    ['a waypoint without destination', workloadBytes({ uid: 'u', waypoint: {} }), /no destination/],
    ['an unknown application tunnel', workloadBytes({ uid: 'u', applicationTunnel: { protocol: later(3) } }), /application tunnel 3/],
    ['a service without hostname', serviceBytes({ namespace: 'n' }), /hostname is missing/],
    ['a prefix too long', serviceBytes({ namespace: 'n', hostname: 'h', addresses: [{ address: new Uint8Array(4), length: 33 }] }), /prefix length 33/],
    ['an unspecified scope', serviceBytes({ namespace: 'n', hostname: 'h', loadBalancing: { routingPreference: [0] } }), /routing scope 0/],
    ['an unknown visibility', serviceBytes({ namespace: 'n', hostname: 'h', visibility: later(2) }), /visibility 2/],
  ])('refused: %s', (_, bytes, because) => {
    expect(decodeAddress(bytes)).toEqual({ ok: false, because: expect.stringMatching(because) })
  })

  test.each<[string, Uint8Array, RegExp]>([
    ['no name', policyBytes({ namespace: 'n' }), /name is missing/],
    ['an unknown scope', policyBytes({ name: 'p', namespace: 'n', scope: later(3) }), /scope 3/],
    ['an unknown action', policyBytes({ name: 'p', namespace: 'n', action: later(2) }), /action 2/],
    ['a string match of no kind', policyBytes({ name: 'p', namespace: 'n', rules: [{ clauses: [{ matches: [{ principals: [{}] }] }] }] }), /without a kind/],
    ['a source of 3 bytes', policyBytes({ name: 'p', namespace: 'n', rules: [{ clauses: [{ matches: [{ sourceIps: [{ address: new Uint8Array(3) }] }] }] }] }), /3 bytes/],
    ['a port over 65535', policyBytes({ name: 'p', namespace: 'n', rules: [{ clauses: [{ matches: [{ destinationPorts: [70_000] }] }] }] }), /70000/],
  ])('refused policy: %s', (_, bytes, because) => {
    expect(decodeAuthorization(bytes)).toEqual({ ok: false, because: expect.stringMatching(because) })
  })
})

describe('a policy that cannot be evaluated here says so instead of losing a condition', () => {
  const head = [...field(1, 0x70), ...field(2, 0x6e)]

  test('extensions of the policy and of a match', () => {
    expect(decodeAuthorization(policyBytes({ name: 'p', namespace: 'n', extensions: [{ name: 'jwt' }] }))).toMatchObject({
      value: { unsupported: 'extension jwt' },
    })
    const nested = policyBytes({ name: 'p', namespace: 'n', rules: [{ clauses: [{ matches: [{ extensions: [{ name: 'geo' }] }] }] }] })
    expect(decodeAuthorization(nested)).toMatchObject({ value: { unsupported: 'extension geo' } })
  })

  test('a field of a later version in a rule, a clause, a match or a string match', () => {
    const newField = field(14, 1)
    const cases: readonly (readonly [string, number[]])[] = [
      ['field 14 of a rule', field(5, ...newField)],
      ['field 14 of a clause', field(5, ...field(1, ...newField))],
      ['field 14 of a match', field(5, ...field(1, ...field(2, ...newField)))],
      ['field 14 of a string match', field(5, ...field(1, ...field(2, ...field(3, ...newField))))],
    ]
    for (const [reason, bytes] of cases) {
      expect(decodeAuthorization(Uint8Array.from([...head, ...bytes]))).toMatchObject({ ok: true, value: { unsupported: reason } })
    }
  })
})
