import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { readSamplingWish, readTraceContext, writeTraceContext } from './trace-context.ts'

const traceId = '0af7651916cd43dd8448eb211c80319c'
const spanId = 'b7ad6b7169203331'
const of = (...entries: (readonly [string, string])[]): HeaderMap => HeaderMap.of(entries)
const ours = { traceId, spanId: '00f067aa0ba902b7', isSampled: true }

describe('reading', () => {
  test('W3C with its state', () => {
    const read = (state: string) => readTraceContext(of(['traceparent', `00-${traceId}-${spanId}-01`], ['tracestate', state]))
    expect(read('congo=t61rcWkgMzE,rojo=00f067aa0ba902b7')).toEqual({
      traceId, spanId, isSampled: true, isDebug: false, format: 'w3c', state: 'congo=t61rcWkgMzE,rojo=00f067aa0ba902b7',
    })
    expect(read('fw529a3039@dt=a b;c, ,x=1')?.state).toBe('fw529a3039@dt=a b;c, ,x=1')
    // Too long, too many, the same twice, not of the form: the state goes, the trace stays.
    for (const bad of ['a'.repeat(513), Array.from({ length: 33 }, (_, i) => `k${i}=1`).join(','), 'a=1,a=2', 'A=1', 'a', 'a=\u00e9', 'a=b=c', '=x']) {
      expect(read(bad)).toMatchObject({ traceId, state: undefined })
    }
  })

  test.each([
    `00-${traceId}-${spanId}`, `00-${traceId}-${spanId}-01-x`, `ff-${traceId}-${spanId}-01`, `00-${'0'.repeat(32)}-${spanId}-01`, `00-${traceId}-${'0'.repeat(16)}-01`,
    `00-${traceId.toUpperCase()}-${spanId}-01`, ` 00-${traceId}-${spanId}-01`, '', `00-${traceId}-${spanId}-0g`,
  ])('no W3C: %s', (value) => expect(readTraceContext(of(['traceparent', value]))).toBeUndefined())

  test('two of a header are none', () => {
    expect(readTraceContext(of(['traceparent', `00-${traceId}-${spanId}-01`], ['traceparent', `00-${traceId}-${spanId}-01`]))).toBeUndefined()
    expect(readTraceContext(of(['b3', `${traceId}-${spanId}-1`], ['b3', `${traceId}-${spanId}-1`]))).toBeUndefined()
  })

  test.each([
    [`${traceId}-${spanId}-1`, true, false], [`${traceId}-${spanId}-0`, false, false], [`${traceId}-${spanId}-d`, true, true], [`${traceId}-${spanId}`, undefined, false],
    [`${traceId}-${spanId}-1-05e3ac9a4f6e3b90`, true, false], [`${traceId.toUpperCase()}-${spanId.toUpperCase()}-1`, true, false],
  ])('B3 in one header: %s', (value, isSampled, isDebug) => {
    expect(readTraceContext(of(['b3', value]))).toEqual({ traceId, spanId, isSampled, isDebug, format: 'b3', state: undefined })
  })

  test('B3 in several headers, and short trace ids', () => {
    expect(readTraceContext(of(['X-B3-TraceId', 'a3ce929d0e0e4736'], ['X-B3-SpanId', spanId], ['X-B3-Sampled', '0'])))
      .toMatchObject({ traceId: '0000000000000000a3ce929d0e0e4736', isSampled: false, format: 'b3multi' })
    expect(readTraceContext(of(['x-b3-traceid', traceId], ['x-b3-spanid', spanId], ['x-b3-flags', '1']))).toMatchObject({ isSampled: true, isDebug: true })
    expect(readTraceContext(of(['x-b3-traceid', traceId]))).toBeUndefined()
    expect(readTraceContext(of(['x-b3-traceid', '0'.repeat(32)], ['x-b3-spanid', spanId]))).toBeUndefined()
  })

  test('W3C goes before B3, and B3 stands in where it is broken', () => {
    const b3 = ['b3', `${traceId}-1111111111111111-0`] as const
    expect(readTraceContext(of(['traceparent', `00-${traceId}-${spanId}-01`], b3))).toMatchObject({ spanId, format: 'w3c' })
    expect(readTraceContext(of(['traceparent', 'nonsense'], b3))).toMatchObject({ spanId: '1111111111111111', format: 'b3' })
  })

  test('a wish about sampling without a trace', () => {
    expect([['b3', '0'], ['b3', '1'], ['b3', 'd'], ['x-b3-sampled', '1'], ['x-b3-sampled', '0'], ['x-b3-flags', '1'], ['b3', 'x']]
      .map(([name = '', value = '']) => readSamplingWish(of([name, value])))).toEqual([false, true, true, true, false, true, undefined])
  })
})

describe('writing', () => {
  const written = (headers: HeaderMap) => Object.fromEntries(writeTraceContext(ours, readTraceContext(headers), headers))

  test('W3C always, B3 as it came', () => {
    const traceparent = `00-${traceId}-00f067aa0ba902b7-01`
    expect(written(of())).toEqual({ traceparent })
    expect(written(of(['b3', `${traceId}-${spanId}-1`]))).toEqual({ traceparent, b3: `${traceId}-00f067aa0ba902b7-1` })
    expect(written(of(['x-b3-traceid', traceId], ['x-b3-spanid', spanId], ['x-b3-parentspanid', '1'.repeat(16)], ['x-b3-sampled', '1']))).toEqual({
      traceparent, 'x-b3-traceid': traceId, 'x-b3-spanid': '00f067aa0ba902b7', 'x-b3-parentspanid': spanId, 'x-b3-sampled': '1',
    })
  })

  test('what was not read does not go on', () => {
    const parent = ['traceparent', `00-${traceId}-${spanId}-01`] as const
    expect(written(of(['traceparent', 'nonsense'], ['tracestate', 'a=1']))).toMatchObject({ tracestate: '' })
    expect(written(of(parent, ['tracestate', 'a=1']))).not.toHaveProperty('tracestate')
    expect(written(of(parent, ['b3', `${traceId}-1111111111111111-0`], ['x-b3-sampled', '0']))).toMatchObject({ b3: '', 'x-b3-sampled': '' })
  })
})

test('whatever the headers are, what goes on is one valid trace', () => {
  const name = fc.constantFrom('traceparent', 'tracestate', 'b3', 'x-b3-traceid', 'x-b3-spanid', 'x-b3-sampled', 'x-b3-flags', 'x-b3-parentspanid')
  const value = fc.oneof(fc.string({ maxLength: 80 }), fc.constantFrom(`00-${traceId}-${spanId}-01`, `${traceId}-${spanId}-d`, traceId, spanId, '1', '0', 'a=1,b=2'))
  fc.assert(fc.property(fc.array(fc.tuple(name, value), { maxLength: 8 }), (entries) => {
    const headers = of(...entries)
    const result = of(...entries)
    for (const [key, text] of writeTraceContext(ours, readTraceContext(headers), headers)) {
      if (text === '') result.delete(key)
      else result.set(key, text)
    }
    for (const each of ['traceparent', 'b3', 'x-b3-traceid', 'x-b3-spanid']) expect(result.all(each).length).toBeLessThan(2)
    expect(readTraceContext(result)).toMatchObject({ traceId, spanId: ours.spanId, isSampled: true, format: 'w3c' })
    result.delete('traceparent')
    const other = readTraceContext(result)
    if (other) expect(other).toMatchObject({ traceId, spanId: ours.spanId, isSampled: true })
  }))
})
