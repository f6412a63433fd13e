import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { MeshError } from './errors.ts'
import { decodeLines, encodeLine } from './ndjson.ts'

function collect(maxBytes: number): { feed: (chunk: Buffer) => void; values: unknown[]; errors: MeshError[] } {
  const values: unknown[] = []
  const errors: MeshError[] = []
  return { feed: decodeLines(maxBytes, (v) => values.push(v), (e) => errors.push(e)), values, errors }
}

/** Cuts a buffer at the given places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const cuts = [...new Set(places.map((p) => p % (bytes.length + 1)))].sort((a, b) => a - b)
  return [0, ...cuts].map((from, i) => bytes.subarray(from, [...cuts, bytes.length][i]))
}

describe('lines of JSON', () => {
  test('what was encoded comes out, however the stream was cut', () => {
    fc.assert(
      fc.property(fc.array(fc.jsonValue()), fc.array(fc.nat()), (sent, places) => {
        const c = collect(1 << 20)
        for (const part of cut(Buffer.from(sent.map(encodeLine).join('')), places)) c.feed(part)
        expect(c.errors).toEqual([])
        expect(c.values).toEqual(JSON.parse(JSON.stringify(sent)))
      }),
    )
  })

  test('any bytes give values or BAD_MESSAGE, and the next good line is still read', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.array(fc.nat()), (noise, places) => {
        const c = collect(64)
        for (const part of cut(Buffer.concat([noise, Buffer.from('\n{"ok":1}\n')]), places)) c.feed(part)
        expect(c.values.at(-1)).toEqual({ ok: 1 })
        for (const error of c.errors) expect(error.code).toBe('BAD_MESSAGE')
      }),
    )
  })

  test('an overlong line is reported once and skipped', () => {
    const c = collect(10)
    for (let i = 0; i < 100; i++) c.feed(Buffer.from('xxxxx'))
    c.feed(Buffer.from('\n1\n'))
    expect(c.errors.map((e) => e.code)).toEqual(['BAD_MESSAGE'])
    expect(c.values).toEqual([1])
  })

  test('a line without its newline is not a line', () => {
    const c = collect(100)
    c.feed(Buffer.from('{"a":1}'))
    expect(c.values).toEqual([])
  })
})
