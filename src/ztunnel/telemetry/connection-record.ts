// One record per connection, opened once and finished exactly once: log line and metrics come from the same facts at the
// same moment. Held with `using`: whoever forgets to finish it has it finished as cut by a drain, so none is lost.
// The fields are named as in Istio's ztunnel, so that what reads its log reads this one.
import type { SocketAddr } from '../../core/address.ts'
import { formatAddr } from '../../core/address.ts'
import { describeError, MeshError } from '../../core/errors.ts'
import { formatIdentity } from '../../core/identity.ts'
import type { Identity } from '../../core/identity.ts'
import type { Logger } from '../../core/log.ts'
import type { Peer, PeerWorkload, TrafficFacts } from '../../member/telemetry/labels.ts'
import { reasonOf, responseFlag, trafficLabels } from '../../member/telemetry/labels.ts'
import { logText } from '../../member/telemetry/log-text.ts'
import type { ZtunnelMetrics } from './metrics.ts'
import type { ReadBytes, TrafficCounters } from '../../member/telemetry/traffic-metrics.ts'

/** What the policies said of a connection that they let pass. `policy/rbac.ts` has them as Verdict. */
export interface AllowedBy {
  readonly because: string
  readonly policy?: string | undefined
  readonly rule?: number | undefined
  readonly dryRun?: readonly { readonly policy: string; readonly rule: number; readonly action: 'allow' | 'deny' }[]
}

export interface ConnectionFacts extends Omit<TrafficFacts, 'responseFlags'> {
  readonly sourceAddr: SocketAddr
  readonly destinationAddr: SocketAddr
  /** Where the tunnel leads, if there is one. */
  readonly hboneAddr?: SocketAddr | undefined
  readonly direction: 'outbound' | 'inbound'
  /** Only the side that judged knows. */
  readonly verdict?: AllowedBy | undefined
  /** The waypoint that spoke for the source. */
  readonly via?: Identity | undefined
  /** The peer named a source, and was not believed. */
  readonly isClaimIgnored?: true | undefined
  /** The name of a waypoint that was not ready, and that its owner lets connections past. */
  readonly waypointSkipped?: string | undefined
}

export interface Outcome {
  readonly bytesFromSource: number
  readonly bytesFromDestination: number
  /** A word of a closed set: `finished`, `resetBySource`, or why it was cut. */
  readonly because: string
  /** Of the kernel, where they were asked for: microseconds, and a count. */
  readonly rttUs?: number | undefined
  readonly retransmits?: number | undefined
}

const monotonic = (): number => performance.now()

export class ConnectionRecord implements Disposable {
  readonly #facts: ConnectionFacts
  readonly #logger: Logger
  readonly #counters: TrafficCounters
  readonly #startedAtMs: number
  readonly #now: () => number
  #read: ReadBytes = () => [0, 0]
  #isFinished = false

  /** `now` is a monotonic clock in milliseconds. */
  constructor(facts: ConnectionFacts, metrics: ZtunnelMetrics, logger: Logger, now: () => number = monotonic) {
    this.#facts = facts
    this.#logger = logger
    this.#now = now
    this.#startedAtMs = now()
    this.#counters = metrics.opened(trafficLabels({ ...facts, responseFlags: '-' }))
    for (const hit of facts.verdict?.dryRun ?? []) metrics.dryRun(hit)
  }

  /** Where the bytes so far can be read, so that a connection that lasts for days counts while it does. */
  follow(read: ReadBytes): void {
    this.#read = read
    this.#counters.follow(read)
  }

  /** The first call counts; later ones, and dispose after one, do nothing. */
  finish(outcome: Outcome): void {
    if (this.#isFinished) return
    this.#isFinished = true
    const { bytesFromSource, bytesFromDestination, because, rttUs, retransmits } = outcome
    this.#counters.closed(bytesFromSource, bytesFromDestination)
    this.#logger.info({
      ...logFields(this.#facts), bytes_sent: bytesFromSource, bytes_recv: bytesFromDestination, duration: durationText(this.#now() - this.#startedAtMs),
      verdict: 'allowed', reason: because, ...verdictFields(this.#facts.verdict),
      ...(rttUs !== undefined && { rtt: `${rttUs}us` }), ...(retransmits !== undefined && { retransmits }),
    }, 'connection complete')
  }

  [Symbol.dispose](): void {
    if (this.#isFinished) return
    const [bytesFromSource, bytesFromDestination] = this.#read()
    this.finish({ bytesFromSource, bytesFromDestination, because: 'closedByDrain' })
  }
}

/** A connection that was refused or could not be made: counted and logged once. `durationMs`: until that was known. */
export function recordFailure(facts: ConnectionFacts, error: unknown, metrics: ZtunnelMetrics, logger: Logger, durationMs: number): void {
  const reason = reasonOf(error)
  const flag = responseFlag(error)
  metrics.failed(trafficLabels({ ...facts, responseFlags: flag }), reason)
  const detail = error instanceof MeshError ? error.detail : {}
  const dryRun = dryRunHits(detail['dryRun'])
  for (const hit of dryRun) metrics.dryRun(hit)
  logger.warn({
    ...logFields(facts), bytes_sent: 0, bytes_recv: 0, duration: durationText(durationMs), verdict: flag === 'DENY' ? 'denied' : 'failed', reason,
    ...(typeof detail['policy'] === 'string' && { policy: logText(detail['policy']) }), ...(typeof detail['rule'] === 'number' && { rule: detail['rule'] }),
    ...dryRunFields(dryRun), code: error instanceof MeshError ? error.code : undefined, error: logText(describeError(error)),
  }, flag === 'DENY' ? 'connection refused' : 'connection failed')
}

/** The fixed, dotted names that every line about a connection has; absent where not known. */
export function logFields({ source, destination, service, sourceAddr, destinationAddr, hboneAddr, direction, via, isClaimIgnored, waypointSkipped }: ConnectionFacts): object {
  return {
    direction,
    'src.addr': formatAddr(sourceAddr),
    ...peerFields('src', source),
    ...(via && { 'src.via': logText(formatIdentity(via)) }),
    ...(isClaimIgnored && { source_claim: 'ignored' }),
    'dst.addr': formatAddr(destinationAddr),
    ...(hboneAddr && { 'dst.hbone_addr': formatAddr(hboneAddr) }),
    ...(service && { 'dst.service': logText(service.hostname) }),
    ...(waypointSkipped !== undefined && { 'dst.waypoint': logText(waypointSkipped), because: 'waypointSkipped' }),
    ...peerFields('dst', destination),
  }
}

const workloadFields = { src: new WeakMap<PeerWorkload, object>(), dst: new WeakMap<PeerWorkload, object>() }

function fieldsOf(prefix: 'src' | 'dst', workload: PeerWorkload): object {
  const known = workloadFields[prefix].get(workload)
  if (known) return known
  const fields = {
    [`${prefix}.workload`]: logText(workload.name), [`${prefix}.namespace`]: logText(workload.namespace), [`${prefix}.cluster`]: logText(workload.clusterId),
  }
  workloadFields[prefix].set(workload, fields)
  return fields
}

function peerFields(prefix: 'src' | 'dst', { workload, identity }: Peer): object {
  return {
    ...(workload && fieldsOf(prefix, workload)),
    ...(identity && { [`${prefix}.identity`]: logText(formatIdentity(identity)) }),
  }
}

function verdictFields(verdict: AllowedBy | undefined): object {
  if (!verdict) return {}
  const { because, policy, rule, dryRun = [] } = verdict
  return { allowed_because: because, ...(policy !== undefined && { policy: logText(policy) }), ...(rule !== undefined && { rule }), ...dryRunFields(dryRun) }
}

function dryRunFields(hits: NonNullable<AllowedBy['dryRun']>): object {
  return hits.length === 0 ? {} : { dry_run: hits.map(({ policy, rule, action }) => `${action} ${logText(policy)} rule ${rule}`).join(', ') }
}

/** From an error's facts, which are of no particular type. */
function dryRunHits(value: unknown): NonNullable<AllowedBy['dryRun']> {
  return Array.isArray(value) ? (value as NonNullable<AllowedBy['dryRun']>) : []
}

const durationText = (ms: number): string => `${Math.round(ms)}ms`
