// The headers of a CONNECT request, both ways: what we know becomes header text, what a peer sent becomes what we know.
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http2'
import { formatIdentity, parseIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { Authority } from './authority.ts'
import { formatAuthority } from './authority.ts'
import { formatBaggage, parseBaggage } from './baggage.ts'
import type { Baggage } from './baggage.ts'
import { formatForwarded, parseForwarded } from './forwarded.ts'
import type { Forwarded } from './forwarded.ts'
import { formatTraceParent, parseTraceParent } from './traceparent.ts'
import type { TraceParent } from './traceparent.ts'

const sourceHeader = 'x-sidestep-source-identity'

export interface ConnectHeaders {
  readonly baggage?: Baggage
  readonly forwarded?: Forwarded
  readonly traceParent?: TraceParent
  /** `x-forwarded-network`: only within double HBONE (reference 1.6). */
  readonly forwardedNetwork?: string
  /** `x-sidestep-source-identity`: for whom a waypoint connects. Of a peer that is none it means nothing; who reads it decides. */
  readonly sourceIdentity?: Identity
}

/** What came. */
export interface ReceivedHeaders extends ConnectHeaders {
  /** There is a source identity, given twice or not precisely one: nobody may be taken for the waypoint itself because of that. */
  readonly isSourceUnreadable?: true
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
    ...(headers.sourceIdentity && { [sourceHeader]: formatIdentity(headers.sourceIdentity) }),
  }
}

/** What cannot be understood is left out; of the source identity, which may decide something, it is also said. */
export function readConnectHeaders(headers: IncomingHttpHeaders): ReceivedHeaders {
  const forwarded = parseForwarded(textOf(headers['forwarded']))
  const traceParent = parseTraceParent(textOf(headers['traceparent']))
  const network = textOf(headers['x-forwarded-network'])
  const baggage = textOf(headers['baggage'])
  return {
    ...(baggage !== undefined && { baggage: parseBaggage(baggage) }),
    ...(forwarded && { forwarded }),
    ...(traceParent && { traceParent }),
    ...(network !== undefined && network.length <= 253 && { forwardedNetwork: network }),
    ...sourceOf(headers[sourceHeader]),
  }
}

/** Values of a header that came twice are joined, which is no identity. */
function sourceOf(value: string | string[] | undefined): Pick<ReceivedHeaders, 'sourceIdentity' | 'isSourceUnreadable'> {
  if (value === undefined) return {}
  const sourceIdentity = typeof value === 'string' ? parseIdentity(value) : undefined
  return sourceIdentity ? { sourceIdentity } : { isSourceUnreadable: true }
}

function textOf(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}
