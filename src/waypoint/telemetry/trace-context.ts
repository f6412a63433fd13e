// Trace context in the headers of requests: W3C (traceparent, tracestate) and B3 (one header, or several). Read strictly, since it comes
// from anybody: what breaks its format's rules is as good as none. Never throws.
import { formatTraceParent, parseTraceParent } from '../../hbone/traceparent.ts'
import type { HeaderValues } from '../../policy/l7/request-head.ts'

/** Who made the request, in the trace that it says it belongs to. */
export interface TraceContext {
  /** 32 lower-case hex digits; B3's short ones are filled up with zeros. */
  readonly traceId: string
  /** 16 lower-case hex digits. */
  readonly spanId: string
  /** Undefined where it leaves the decision to others (B3 may). */
  readonly isSampled: boolean | undefined
  /** Of the header that it was read from, and so what goes on beside W3C's. */
  readonly format: 'w3c' | 'b3' | 'b3multi'
  /** B3's debug flag: record it, whatever anybody's rate is. */
  readonly isDebug: boolean
  /** As it was sent; undefined where there is none, or it breaks the rules. */
  readonly state: string | undefined
}

export type TraceHeaders = readonly (readonly [name: string, value: string])[]

const none = /^0+$/
const b3Trace = /^(?:[0-9a-f]{16}|[0-9a-f]{32})$/
const b3Span = /^[0-9a-f]{16}$/
const b3Single = /^([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?$/
// W3C Trace Context, 3.3.1: keys, an equals sign, printable ASCII without comma and equals sign, which does not end with a space.
const stateMember = /^[ \t]*(?:[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~])?[ \t]*$/
const longestState = 512
const mostMembers = 32

export function readTraceContext(headers: HeaderValues): TraceContext | undefined {
  return readW3c(headers) ?? readB3(headers) ?? readB3Multi(headers)
}

function readW3c(headers: HeaderValues): TraceContext | undefined {
  // Two of them would be joined by a comma, which no version has.
  const parent = parseTraceParent(headers.get('traceparent'))
  if (!parent) return undefined
  return { ...parent, format: 'w3c', isDebug: false, state: readState(headers) }
}

function readState(headers: HeaderValues): string | undefined {
  const text = headers.get('tracestate')
  if (text === undefined || text === '' || text.length > longestState) return undefined
  const members = text.split(',')
  const keys = members.map((member) => member.trim().split('=', 1)[0] ?? '').filter((key) => key !== '')
  if (members.length > mostMembers || new Set(keys).size !== keys.length || !members.every((member) => stateMember.test(member))) return undefined
  return text
}

function readB3(headers: HeaderValues): TraceContext | undefined {
  const found = b3Single.exec(headers.get('b3')?.toLowerCase() ?? '')
  if (!found) return undefined
  const [, traceId = '', spanId = '', sampled] = found
  return b3(traceId, spanId, sampled === undefined ? undefined : sampled !== '0', sampled === 'd', 'b3')
}

function readB3Multi(headers: HeaderValues): TraceContext | undefined {
  const traceId = headers.get('x-b3-traceid')?.toLowerCase()
  const spanId = headers.get('x-b3-spanid')?.toLowerCase()
  if (traceId === undefined || spanId === undefined || !b3Trace.test(traceId) || !b3Span.test(spanId)) return undefined
  const isDebug = headers.get('x-b3-flags') === '1'
  const sampled = headers.get('x-b3-sampled')?.toLowerCase()
  const isSampled = sampled === '1' || sampled === 'true' ? true : sampled === '0' || sampled === 'false' ? false : undefined
  return b3(traceId, spanId, isDebug ? true : isSampled, isDebug, 'b3multi')
}

function b3(traceId: string, spanId: string, isSampled: boolean | undefined, isDebug: boolean, format: 'b3' | 'b3multi'): TraceContext | undefined {
  if (none.test(traceId) || none.test(spanId)) return undefined
  return { traceId: traceId.padStart(32, '0'), spanId, isSampled, isDebug, format, state: undefined }
}

/** What a request without a context of its own may still say: B3 lets a client decide on sampling alone. */
export function readSamplingWish(headers: HeaderValues): boolean | undefined {
  const single = headers.get('b3')
  if (single === '0') return false
  if (single === '1' || single === 'd') return true
  if (headers.get('x-b3-flags') === '1') return true
  const sampled = headers.get('x-b3-sampled')
  return sampled === '1' ? true : sampled === '0' ? false : undefined
}

const b3Names = ['b3', 'x-b3-traceid', 'x-b3-spanid', 'x-b3-parentspanid', 'x-b3-sampled', 'x-b3-flags'] as const

/**
 * The headers of a request that goes on: our span is its parent. W3C's always, and B3's where the request came with it. What is left
 * of formats that were not read is removed (an empty value), so that nobody behind us reads another trace from it.
 */
export function writeTraceContext(
  ours: { readonly traceId: string; readonly spanId: string; readonly isSampled: boolean }, parent: TraceContext | undefined, headers: HeaderValues,
): TraceHeaders {
  const written: (readonly [string, string])[] = [['traceparent', formatTraceParent(ours)]]
  if (headers.has('tracestate') && parent?.state === undefined) written.push(['tracestate', ''])
  const { traceId, spanId, isSampled } = ours
  if (parent?.format === 'b3') written.push(['b3', `${traceId}-${spanId}-${parent.isDebug ? 'd' : isSampled ? '1' : '0'}`])
  if (parent?.format === 'b3multi') {
    written.push(['x-b3-traceid', traceId], ['x-b3-spanid', spanId], ['x-b3-parentspanid', parent.spanId])
    written.push(parent.isDebug ? ['x-b3-flags', '1'] : ['x-b3-sampled', isSampled ? '1' : '0'])
  }
  for (const name of b3Names) {
    if (headers.has(name) && !written.some(([each]) => each === name)) written.push([name, ''])
  }
  return written
}
