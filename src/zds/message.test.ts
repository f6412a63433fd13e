// The agent's messages: what was encoded is decoded, and nothing else gets through than a request or BAD_MESSAGE.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { array, assert, constantFrom, integer, property, record, string, uint8Array } from 'fast-check'
import { expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { WorkloadRequestSchema, WorkloadResponseSchema } from '../proto/zds_pb.ts'
import { checkHello, decodeAck, decodeRequest, encodeAck, encodeHello, encodeRequest, maxZdsBytes } from './message.ts'
import type { ZdsRequest } from './message.ts'

const name = array(constantFrom(...'abcxyz019'), { minLength: 1, maxLength: 60 }).map((letters) => letters.join(''))

const encode = encodeRequest

test('the bytes are those of Istio', () => {
  expect(Buffer.from(encodeHello()).toString('hex')).toBe('0801')
  expect(Buffer.from(encodeAck()).toString('hex')).toBe('0a00')
  expect(Buffer.from(encodeAck('no')).toString('hex')).toBe('0a040a026e6f')
  // add { uid "u1" workload_info { name "p" namespace "ns" service_account "sa" } }
  const add = Buffer.from('0a110a027531120b0a017012026e731a027361', 'hex')
  expect(decodeRequest(add, 1)).toEqual({ t: 'add', uid: 'u1', name: 'p', namespace: 'ns', serviceAccount: 'sa' })
  expect(() => decodeRequest(add.subarray(0, -1), 1)).toThrow(MeshError)
  // del's uid is field 2, keep's is field 1
  expect(decodeRequest(Buffer.from('120412027531', 'hex'), 0)).toEqual({ t: 'delete', uid: 'u1' })
  expect(decodeRequest(Buffer.from('2a040a027531', 'hex'), 0)).toEqual({ t: 'keep', uid: 'u1' })
  expect(decodeRequest(Buffer.from('1a00', 'hex'), 0)).toEqual({ t: 'snapshot' })
})

test('what is encoded is decoded, with exactly the descriptors of its kind', () => {
  const add = record({ uid: name, namespace: name, name, serviceAccount: name })
  assert(property(add, integer({ min: 0, max: 3 }), (each, descriptors) => {
    const requests: ZdsRequest[] = [{ t: 'add', ...each }, { t: 'keep', uid: each.uid }, { t: 'delete', uid: each.uid }, { t: 'snapshot' }]
    for (const request of requests) {
      if (descriptors === (request.t === 'add' ? 1 : 0)) expect(decodeRequest(encode(request), descriptors)).toEqual(request)
      else expect(() => decodeRequest(encode(request), descriptors)).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
    }
  }))
})

test('any bytes, and any change to a message: a request or BAD_MESSAGE', () => {
  const safely = (bytes: Uint8Array, descriptors: number): void => {
    try {
      const request = decodeRequest(bytes, descriptors)
      expect(['add', 'keep', 'delete', 'snapshot']).toContain(request.t)
    } catch (error) {
      expect(error).toMatchObject({ name: 'MeshError', code: 'BAD_MESSAGE' })
    }
  }
  assert(property(uint8Array({ maxLength: maxZdsBytes }), integer({ min: 0, max: 2 }), safely), { numRuns: 2_000 })
  const message = encode({ t: 'add', uid: 'uid', namespace: 'shop', name: 'catalogue-1', serviceAccount: 'catalogue' })
  assert(property(integer({ min: 0, max: message.length - 1 }), integer({ min: 0, max: 255 }), integer({ min: 0, max: message.length }), (at, value, length) => {
    const changed = Uint8Array.from(message)
    changed[at] = value
    safely(changed.subarray(0, length), 1)
  }), { numRuns: 2_000 })
})

test.each([
  ['no uid', { t: 'add', uid: '', namespace: 'a', name: 'a', serviceAccount: 'a' }],
  ['a uid without end', { t: 'add', uid: 'x'.repeat(254), namespace: 'a', name: 'a', serviceAccount: 'a' }],
  ['a name with a slash, which would change the identity', { t: 'add', uid: 'u', namespace: 'a/sa/admin', name: 'a', serviceAccount: 'a' }],
  ['no service account', { t: 'add', uid: 'u', namespace: 'a', name: 'a', serviceAccount: '' }],
  ['capitals', { t: 'add', uid: 'u', namespace: 'a', name: 'A', serviceAccount: 'a' }],
] as const)('a pod with %s is refused', (_what, request) => {
  expect(() => decodeRequest(encode(request), 1)).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
})

test('a pod without its name, and an empty message, are refused', () => {
  const nameless = create(WorkloadRequestSchema, { payload: { case: 'add', value: { uid: 'u' } } })
  expect(() => decodeRequest(toBinary(WorkloadRequestSchema, nameless), 1)).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
  expect(() => decodeRequest(new Uint8Array(), 0)).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
})

test('an answer is short, whatever the error says', () => {
  assert(property(string({ maxLength: 5_000 }), (text) => {
    const bytes = encodeAck(text)
    expect(bytes.length).toBeLessThan(maxZdsBytes)
    expect(fromBinary(WorkloadResponseSchema, bytes).payload).toMatchObject({ case: 'ack' })
  }))
})

test('the agent takes a greeting and answers, and nothing else', () => {
  checkHello(encodeHello())
  for (const other of ['', '0800', '0802', '0a00', 'ff']) expect(() => checkHello(Buffer.from(other, 'hex'))).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
  expect(decodeAck(encodeAck())).toBe('')
  expect(decodeAck(encodeAck('no'))).toBe('no')
  assert(property(uint8Array({ maxLength: 300 }), (bytes) => {
    for (const decode of [checkHello, decodeAck]) {
      try {
        decode(bytes)
      } catch (error) {
        expect(error).toMatchObject({ name: 'MeshError', code: 'BAD_MESSAGE' })
      }
    }
  }), { numRuns: 2_000 })
})
