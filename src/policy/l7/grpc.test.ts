import fc from 'fast-check'
import { expect, test } from 'vitest'
import { encodeGrpcMessage, formatGrpcTimeout, grpcFromHttp, httpFromGrpc, isGrpc, parseGrpcStatus, parseGrpcTimeout,
  parsePushback } from './grpc.ts'

test('statuses as gRPC clients and proxies map them', () => {
  expect([400, 401, 403, 404, 429, 502, 503, 504, 500, 418].map(grpcFromHttp)).toEqual([13, 16, 7, 12, 14, 14, 14, 14, 2, 2])
  expect([0, 4, 5, 7, 8, 12, 14, 16, 99].map(httpFromGrpc)).toEqual([200, 504, 404, 403, 429, 501, 503, 401, 500])
  expect(['0', '16', '17', '-1', 'x', '', undefined].map(parseGrpcStatus)).toEqual([0, 16, 2, undefined, undefined, undefined,
    undefined])
})

test('deadlines', () => {
  expect(['1H', '2M', '3S', '4m', '5u', '6n', '99999999S'].map(parseGrpcTimeout)).toEqual([3_600_000, 120_000, 3000, 4, 0.005,
    0.000006, 99_999_999_000])
  for (const bad of ['', '1', 'S', '123456789m', '1s', '-1S', '1.5S', ' 1S', '1S ']) expect(parseGrpcTimeout(bad)).toBeUndefined()
  fc.assert(fc.property(fc.double({ min: 0, max: 1e13, noNaN: true }), (ms) => {
    const text = formatGrpcTimeout(ms)
    const back = parseGrpcTimeout(text)
    expect(back).toBeDefined()
    expect(back ?? Infinity).toBeLessThanOrEqual(ms)
    expect(ms - (back ?? 0)).toBeLessThanOrEqual(Math.max(1e-3, ms * 0.04))
  }))
  fc.assert(fc.property(fc.string(), (text) => {
    parseGrpcTimeout(text)
    parsePushback(text)
    isGrpc(text)
  }))
})

test('content types, messages and pushback', () => {
  expect(['application/grpc', 'application/grpc+proto', 'Application/GRPC; x', 'application/grpc-web', 'application/json',
    undefined].map(isGrpc))
    .toEqual([true, true, true, false, false, false])
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => {
    const encoded = encodeGrpcMessage(text)
    expect(encoded).toMatch(/^[\x20-\x7e]*$/)
    expect(decodeURIComponent(encoded)).toBe(text.toWellFormed())
  }))
  expect(['100', '-1', 'x', undefined].map(parsePushback)).toEqual([100, 'stop', 'stop', undefined])
})
