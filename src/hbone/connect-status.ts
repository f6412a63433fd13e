// What the status of a CONNECT's answer means, both ways: the server's error becomes a status, the client's status an error.
// The wire knows few statuses (reference 1.7 and 7), so the way back is coarser than the way out; never the other way round.
import { MeshError } from '../core/errors.ts'
import type { ErrorCode } from '../core/errors.ts'

/** 403 and 404 are a waypoint's: it does not stand before that destination, or knows none. */
export type RefusalStatus = 400 | 401 | 403 | 404 | 429 | 503

/**
 * The status that tells the client of this error. 401 and not 403 is what Istio's ztunnel answers when a policy denies; what
 * could not be understood or asks for somebody else is 400; what the destination or we cannot do now is 503.
 */
export function statusOfError(code: ErrorCode): RefusalStatus {
  switch (code) {
    case 'POLICY_DENIED': return 401
    case 'BAD_MESSAGE':
    case 'PEER_IDENTITY_MISMATCH': return 400
    case 'TOO_MANY_CONNECTIONS':
    case 'OVERLOADED': return 429
    default: return 503
  }
}

/** The error of an answer that is no success. `detail.status` has the number. Retry is allowed where another endpoint may do better. */
export function errorOfStatus(status: number, detail: Readonly<Record<string, unknown>> = {}): MeshError {
  const facts = { source: 'upstream', detail: { ...detail, status } } as const
  if (status === 401 || status === 403) return new MeshError('POLICY_DENIED', `the peer's policy refuses this connection (${status})`, facts)
  if (status === 429) return new MeshError('OVERLOADED', 'the peer is overloaded (429)', facts)
  if (status === 504) return new MeshError('CONNECT_TIMEOUT', 'the peer could not reach the destination in time (504)', facts)
  if (status === 502 || status === 503) {
    return new MeshError('TUNNEL_REFUSED', `the peer could not reach the destination (${status})`, { ...facts, retry: 'always' })
  }
  return new MeshError('TUNNEL_REFUSED', `the peer refuses this request (${status})`, facts)
}
