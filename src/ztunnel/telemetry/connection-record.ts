// One record per connection, opened once and finished exactly once: log line and metrics come from the same facts at the
// same moment. Held with `using`: whoever forgets to finish it has it finished as cut by a drain, so none is lost.
import type { SocketAddr } from '../../core/address.ts'
import { formatAddr } from '../../core/address.ts'
import { formatIdentity } from '../../core/identity.ts'
import type { Logger } from '../../core/log.ts'
import type { TrafficFacts } from './labels.ts'
import { trafficLabels } from './labels.ts'
import type { TrafficCounters, ZtunnelMetrics } from './metrics.ts'

export interface ConnectionFacts extends Omit<TrafficFacts, 'responseFlags'> {
  readonly sourceAddr: SocketAddr
  readonly destinationAddr: SocketAddr
  /** Where the tunnel leads, if there is one. */
  readonly hboneAddr?: SocketAddr | undefined
  readonly direction: 'outbound' | 'inbound'
}

export interface Outcome {
  readonly bytesFromSource: number
  readonly bytesFromDestination: number
  /** A word of a closed set: `finished`, `resetBySource`, or an error's code. */
  readonly because: string
  /** Of the kernel, where they were asked for: microseconds, and a count. */
  readonly rttUs?: number
  readonly retransmits?: number
}

const cutByDrain: Outcome = { bytesFromSource: 0, bytesFromDestination: 0, because: 'closedByDrain' }

export class ConnectionRecord implements Disposable {
  readonly #facts: ConnectionFacts
  readonly #logger: Logger
  readonly #counters: TrafficCounters
  readonly #startedAtMs: number
  readonly #now: () => number
  #isFinished = false

  /** `now` is a monotonic clock in milliseconds. */
  constructor(facts: ConnectionFacts, metrics: ZtunnelMetrics, logger: Logger, now: () => number = () => performance.now()) {
    this.#facts = facts
    this.#logger = logger
    this.#now = now
    this.#startedAtMs = now()
    this.#counters = metrics.opened(trafficLabels({ ...facts, responseFlags: '-' }))
  }

  /** The first call counts; later ones, and dispose after one, do nothing. */
  finish(outcome: Outcome): void {
    if (this.#isFinished) return
    this.#isFinished = true
    this.#counters.addBytes(outcome.bytesFromSource, outcome.bytesFromDestination)
    this.#counters.closed()
    this.#logger.info({ ...logFields(this.#facts), ...outcomeFields(outcome), durationMs: Math.round(this.#now() - this.#startedAtMs) }, 'connection closed')
  }

  [Symbol.dispose](): void {
    this.finish(cutByDrain)
  }
}

function outcomeFields({ bytesFromSource, bytesFromDestination, because, rttUs, retransmits }: Outcome): object {
  return { bytesSent: bytesFromSource, bytesRecv: bytesFromDestination, because, ...(rttUs !== undefined && { rttUs }), ...(retransmits !== undefined && { retransmits }) }
}

/** The fixed, dotted names that every line about a connection has; absent where not known. */
export function logFields({ source, destination, service, sourceAddr, destinationAddr, hboneAddr, direction }: ConnectionFacts): object {
  return {
    direction,
    'src.addr': formatAddr(sourceAddr),
    'dst.addr': formatAddr(destinationAddr),
    ...(hboneAddr && { 'dst.hboneAddr': formatAddr(hboneAddr) }),
    ...(source.workload && { 'src.workload': source.workload.name, 'src.namespace': source.workload.namespace }),
    ...(source.identity && { 'src.identity': formatIdentity(source.identity) }),
    ...(destination.workload && { 'dst.workload': destination.workload.name, 'dst.namespace': destination.workload.namespace }),
    ...(destination.identity && { 'dst.identity': formatIdentity(destination.identity) }),
    ...(service && { 'dst.service': service.hostname }),
  }
}
