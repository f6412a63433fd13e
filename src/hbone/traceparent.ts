// The `traceparent` header (W3C Trace Context, level 1): made fresh for each connection of an application, continued by the
// side that receives it. Never throws; a header that breaks the rules is as good as none.
import { randomFillSync } from 'node:crypto'

export interface TraceParent {
  /** 32 lower-case hex digits, not all zero. */
  readonly traceId: string
  /** 16 lower-case hex digits, not all zero. */
  readonly spanId: string
  readonly isSampled: boolean
}

/** Drawn many at a time: a call for each connection costs more than the rest of its headers. */
const pool = Buffer.allocUnsafeSlow(4_096)
let used = pool.length

function pooledRandom(size: number): Buffer {
  if (used + size > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  return pool.subarray(used, (used += size))
}

const pattern = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/

export function parseTraceParent(header: string | undefined): TraceParent | undefined {
  const found = header === undefined || header.length > 256 ? null : pattern.exec(header)
  if (!found) return undefined
  const [, version = '', traceId = '', spanId = '', flags = '', more] = found
  // Version ff is forbidden; version 00 has exactly four fields, later ones may have more (section 3.2.4).
  if (version === 'ff' || (version === '00' && more !== undefined)) return undefined
  if (/^0+$/.test(traceId) || /^0+$/.test(spanId)) return undefined
  return { traceId, spanId, isSampled: (Number.parseInt(flags, 16) & 1) === 1 }
}

export function formatTraceParent({ traceId, spanId, isSampled }: TraceParent): string {
  return `00-${traceId}-${spanId}-${isSampled ? '01' : '00'}`
}

/** A trace of its own, not sampled. `random` gives that many random bytes. */
export function freshTraceParent(random: (size: number) => Buffer = pooledRandom): TraceParent {
  return { traceId: nonZero(random, 16), spanId: nonZero(random, 8), isSampled: false }
}

/** The same trace, a span of our own. */
export function continueTraceParent(parent: TraceParent, random: (size: number) => Buffer = pooledRandom): TraceParent {
  return { ...parent, spanId: nonZero(random, 8) }
}

function nonZero(random: (size: number) => Buffer, size: number): string {
  const hex = random(size).toString('hex')
  return /^0+$/.test(hex) ? `${hex.slice(1)}1` : hex
}
