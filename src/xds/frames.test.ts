import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DeltaDiscoveryRequestSchema, DeltaDiscoveryResponseSchema } from '../proto/discovery_pb.ts'
import { StatusSchema } from '../proto/rpc_pb.ts'
import { encodeWorkload } from './encode.ts'
import { decodeFrame, encodeFrame, encodeResponse, parseResponse } from './frames.ts'
import { readRefusal, refusalStatus } from './refusal.ts'
import { ResourceCache } from './resource-cache.ts'
import { typeUrls } from './resource-types.ts'
import { aWorkload } from './testing.ts'

const raw = fc.record({
  name: fc.string(),
  version: fc.string(),
  aliases: fc.array(fc.string(), { maxLength: 3 }),
  value: fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
})

describe('responses', () => {
  test('put together from frames are what protobuf makes of the same', () => {
    fc.assert(fc.property(fc.array(raw, { maxLength: 4 }), fc.array(fc.string(), { maxLength: 3 }), fc.string(), (resources, removed, nonce) => {
      const typeUrl = typeUrls.address
      const bytes = encodeResponse({ typeUrl, nonce, systemVersion: '7', removed }, resources.map((each) => encodeFrame(each, typeUrl)))
      const message = fromBinary(DeltaDiscoveryResponseSchema, bytes)
      expect(message).toMatchObject({ typeUrl, nonce, systemVersionInfo: '7', removedResources: removed })
      expect(message.resources.map(({ name, version, aliases }) => ({ name, version, aliases }))).toEqual(
        resources.map(({ name, version, aliases }) => ({ name, version, aliases })),
      )
      const parsed = parseResponse(toBinary(DeltaDiscoveryResponseSchema, message))
      expect(parsed).toMatchObject({ typeUrl, nonce, removed })
      expect(parsed.frames.map(decodeFrame)).toEqual(resources.map((each) => ({ ...each, typeUrl })))
    }))
  })

  test('of any bytes are parsed or refused with an error, quickly', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      try {
        for (const frame of parseResponse(bytes).frames) decodeFrame(frame)
      } catch (error) {
        expect(error).toBeInstanceOf(Error)
      }
    }), { numRuns: 5000 })
  })

  test('with a broken resource among good ones refuse that one', async () => {
    const cache = new ResourceCache('address')
    const workload = aWorkload('cart')
    const good = encodeResponse({ typeUrl: typeUrls.address, nonce: 'n', systemVersion: '', removed: [] }, [
      encodeFrame({ name: workload.uid, version: '1', aliases: [], value: encodeWorkload(workload) }, typeUrls.address),
      encodeFrame({ name: 'other name', version: '1', aliases: [], value: encodeWorkload(workload) }, typeUrls.address),
      encodeFrame({ name: workload.uid, version: '1', aliases: [], value: encodeWorkload(workload) }, typeUrls.authorization),
      Uint8Array.of(0x12, 2, 0xff, 0xff),
    ])
    const read = await cache.read(parseResponse(good).frames, [])
    expect(read.delta.workloads).toEqual([workload])
    expect(read.rejections.map(({ name }) => name)).toEqual(['other name', workload.uid, ''])
  })
})

describe('refusals', () => {
  test('come back as they were said', () => {
    fc.assert(fc.property(fc.array(fc.record({ name: fc.string({ minLength: 1 }), because: fc.string() }), { minLength: 1, maxLength: 5 }), (rejections) => {
      const { errorDetail } = refusalStatus(rejections)
      const bytes = toBinary(DeltaDiscoveryRequestSchema, create(DeltaDiscoveryRequestSchema, errorDetail === undefined ? {} : { errorDetail }))
      const status = fromBinary(DeltaDiscoveryRequestSchema, bytes).errorDetail
      expect(status && readRefusal(status, [])).toEqual(rejections)
    }))
  })

  test('in text alone are found by the names that were pushed, or stand for the whole push', () => {
    const status = create(StatusSchema, { message: 'failed to apply: shop/cart: bad port' })
    expect(readRefusal(status, ['shop/cart', 'shop/pay'])).toEqual([{ name: 'shop/cart', because: 'failed to apply: shop/cart: bad port' }])
    expect(readRefusal(status, ['shop/pay'])).toEqual([{ name: '', because: 'failed to apply: shop/cart: bad port' }])
  })

  test('of any bytes are read', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (value) => {
      const status = create(StatusSchema, { message: 'm', details: [{ typeUrl: 'type.googleapis.com/google.rpc.BadRequest', value }] })
      expect(readRefusal(status, []).length).toBeGreaterThan(0)
    }), { numRuns: 1000 })
  })

  test('of a whole mesh stay small', () => {
    const rejections = Array.from({ length: 100_000 }, (_, i) => ({ name: `n${i}`, because: 'x'.repeat(1000) }))
    const { errorDetail } = refusalStatus(rejections)
    expect(toBinary(DeltaDiscoveryRequestSchema, create(DeltaDiscoveryRequestSchema, errorDetail === undefined ? {} : { errorDetail })).length).toBeLessThan(200_000)
  })
})
