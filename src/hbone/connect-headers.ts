// The headers of a CONNECT request, both ways: what we know becomes header text, what a peer sent becomes what we know.
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http2'
import type { Authority } from './authority.ts'
import { formatAuthority } from './authority.ts'
import { formatBaggage, parseBaggage } from './baggage.ts'
import type { Baggage } from './baggage.ts'
import { formatForwarded, parseForwarded } from './forwarded.ts'
import type { Forwarded } from './forwarded.ts'
import { formatTraceParent, parseTraceParent } from './traceparent.ts'
import type { TraceParent } from './traceparent.ts'

export interface ConnectHeaders {
  readonly baggage?: Baggage
  readonly forwarded?: Forwarded
  readonly traceParent?: TraceParent
  /** `x-forwarded-network`: only within double HBONE (reference 1.6). */
  readonly forwardedNetwork?: string
}

export function writeConnectHeaders(authority: Authority, headers: ConnectHeaders): OutgoingHttpHeaders {
  const baggage = headers.baggage ? formatBaggage(headers.baggage) : ''
  const forwarded = headers.forwarded ? formatForwarded(headers.forwarded) : ''
  return {
    ':method': 'CONNECT',
    ':authority': formatAuthority(authority),
    ...(baggage !== '' && { baggage }),
    ...(forwarded !== '' && { forwarded }),
    ...(headers.traceParent && { traceparent: formatTraceParent(headers.traceParent) }),
    ...(headers.forwardedNetwork !== undefined && { 'x-forwarded-network': headers.forwardedNetwork }),
  }
}

/** What cannot be understood is left out: none of these headers decides anything. */
export function readConnectHeaders(headers: IncomingHttpHeaders): ConnectHeaders {
  const forwarded = parseForwarded(textOf(headers['forwarded']))
  const traceParent = parseTraceParent(textOf(headers['traceparent']))
  const network = textOf(headers['x-forwarded-network'])
  const baggage = textOf(headers['baggage'])
  return {
    ...(baggage !== undefined && { baggage: parseBaggage(baggage) }),
    ...(forwarded && { forwarded }),
    ...(traceParent && { traceParent }),
    ...(network !== undefined && network.length <= 253 && { forwardedNetwork: network }),
  }
}

function textOf(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}
