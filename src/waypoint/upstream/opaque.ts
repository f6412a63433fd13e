// Connections whose bytes nobody looks into: an endpoint as for requests, another one where no connection can be made, and each
// counted for as long as it lasts. Nothing was sent yet when a try fails, so every failure may be tried again.
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import type { ErrorCode } from '../../core/errors.ts'
import type { Clock } from '../../core/clock.ts'
import { parseTraceParent } from '../../hbone/traceparent.ts'
import type { TraceParent } from '../../hbone/traceparent.ts'
import type { TrafficPolicy } from '../../model/route.ts'
import type { ConnectionContext } from '../context.ts'
import type { ExchangeReason, ExchangeRecord } from '../record.ts'
import { connectionHash } from './affinity.ts'
import { answered, cancelled, failed } from './attempt.ts'
import type { Attempt } from './attempt.ts'
import type { Cluster, Wanted } from './cluster.ts'
import { refusedWait } from './failures.ts'

/** Waiting would not change it. */
const hopeless = { t: 'refused', because: 'tooLong' } as const
/** Endpoints that are tried for one connection. */
const mostAttempts = 3

class OpaqueWish implements Wanted {
  readonly takesConnection = false
  readonly sticky = undefined
  readonly hash: number | undefined
  tried: Set<string> | undefined

  constructor({ loadBalancer }: TrafficPolicy, sourceIp: string) {
    this.hash = connectionHash(loadBalancer, sourceIp)
  }
}

/** Rejects with NO_HEALTHY_UPSTREAM, OVERLOADED, or the error of the last endpoint. The record knows the reason. */
export async function connectOpaque(
  cluster: Cluster, context: ConnectionContext, record: ExchangeRecord, clock: Clock, signal: AbortSignal,
): Promise<Duplex> {
  const { caller } = context
  const wish = new OpaqueWish(cluster.policy, caller.address.ip)
  cluster.usedMs = cluster.nowMs()
  for (let tries = 1; ; tries++) {
    const attempt = await begin(cluster, wish, record, signal)
    const { facts } = attempt.endpoint
    record.attempt({ service: cluster.service, workload: facts.workload, address: facts.address })
    try {
      const own = { client: caller.address, traceParent: traceOf(record) }
      const stream = await within(cluster, clock, signal, (given) =>
        cluster.connect(attempt.endpoint, caller.identity, 'opaque', given, own))
      attempt.head()
      cluster.report(attempt.endpoint, 'success')
      stream.once('close', () => attempt.end(answered))
      if (stream.closed) attempt.end(answered)
      return stream
    } catch (cause) {
      const error = meaning(cause)
      const isOurs = ['OVERLOADED', 'CERTIFICATE_UNAVAILABLE', 'POLICY_DENIED', 'CLOSED'].includes(error.code)
      attempt.end(isOurs ? cancelled : failed)
      if (!isOurs) cluster.report(attempt.endpoint, 'gatewayError')
      wish.tried ??= new Set()
      wish.tried.add(attempt.endpoint.id)
      if (!isOurs && tries < mostAttempts && !signal.aborted) continue
      record.because(signal.aborted ? 'clientGone' : (reasons[error.code] ?? 'connectFailure'), error.code)
      throw error
    }
  }
}

const reasons: Partial<Record<ErrorCode, ExchangeReason>> = { POLICY_DENIED: 'denied', OVERLOADED: 'breakerOpen' }

function meaning(cause: unknown): MeshError {
  if (cause instanceof MeshError) return cause
  return new MeshError('CONNECT_FAILED', 'the connection could not be made', { source: 'upstream', cause })
}

/** Ours, so that the destination's spans hang below it. */
function traceOf(record: ExchangeRecord): TraceParent | undefined {
  return parseTraceParent(record.traceHeaders().find(([name]) => name === 'traceparent')?.[1])
}

async function begin(cluster: Cluster, wish: OpaqueWish, record: ExchangeRecord, signal: AbortSignal): Promise<Attempt> {
  const tryNow = (): Attempt | undefined => cluster.begin(wish)
  const at = cluster.line.take(tryNow)
  if (at) return at
  const end = cluster.isHopeless ? hopeless : await cluster.line.wait(tryNow, signal, undefined)
  if (end.t === 'served') return end.got
  if (end.because === 'gone') {
    record.because('clientGone')
    throw new MeshError('CLOSED', 'the client has gone', { source: 'downstream' })
  }
  const { reason, detail, message } = refusedWait(end.because, cluster)
  record.because(reason, detail)
  const code = reason === 'noBackend' || reason === 'noHealthyBackend' ? 'NO_HEALTHY_UPSTREAM' : 'OVERLOADED'
  throw new MeshError(code, message, { detail: { because: reason } })
}

/** The policy's time for a connection holds for the whole way: tunnel, TCP and TLS. */
async function within(
  cluster: Cluster, clock: Clock, signal: AbortSignal, connect: (signal: AbortSignal) => Promise<Duplex>,
): Promise<Duplex> {
  const abort = new AbortController()
  const given = Promise.withResolvers<never>()
  const giveUp = (error: MeshError): void => {
    abort.abort(error)
    given.reject(error)
  }
  const onAbort = (): void => giveUp(new MeshError('CLOSED', 'the client has gone', { source: 'downstream' }))
  const callOff = clock.after(cluster.policy.connectTimeoutMs, () => {
    giveUp(new MeshError('CONNECT_TIMEOUT', 'no connection to the backend in time', { source: 'upstream' }))
  })
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    if (signal.aborted) onAbort()
    const made = connect(abort.signal)
    made.then((stream) => abort.signal.aborted && stream.destroy(), () => {
      // Told by the race below, or too late to matter.
    })
    return await Promise.race([made, given.promise])
  } finally {
    callOff()
    signal.removeEventListener('abort', onAbort)
  }
}
