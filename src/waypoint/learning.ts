// Notes what leaves the mesh through this waypoint, by the Host or server name that was asked for: stands before the records of
// exchanges, which know what became of each. Whatever stays in the mesh costs one look at its target.
import type { LearnedDestinations } from '../member/learned-destinations.ts'
import type { LearnedProtocol } from '../model/ztunnel-views.ts'
import { hostOf } from '../policy/l7/request-head.ts'
import type { HeaderMap } from '../policy/l7/request-head.ts'
import type { AcceptFacts } from './accept.ts'
import type { ConnectionContext } from './context.ts'
import { isOutside } from './covered.ts'
import type { Covered } from './covered.ts'
import type { Attempt, ExchangeEnd, ExchangeReason, LiveRecord, RecordFactory } from './record.ts'

export interface LearningParts {
  readonly records: RecordFactory
  readonly learned: Pick<LearnedDestinations, 'saw'>
  readonly store: AcceptFacts['store']
  readonly covered: Covered
}

export function learningRecords(parts: LearningParts): RecordFactory {
  const { records } = parts
  return {
    begin: (request) => {
      const { connection, head } = request
      const record = records.begin(request)
      return leaves(parts, connection) ? new LearningRecord(record, parts, { context: connection, host: head.authority, protocol: 'http' }) : record
    },
    carry: (context) => {
      const record = records.carry(context)
      const { serverName: host } = context
      return leaves(parts, context) ? new LearningRecord(record, parts, { context, host, protocol: host === undefined ? 'tcp' : 'tls' }) : record
    },
  }
}

function leaves({ store }: LearningParts, { target, caller }: ConnectionContext): boolean {
  return target.t !== 'listener' && caller.identity !== undefined && isOutside(target, { store })
}

interface Asked {
  readonly context: ConnectionContext
  /** As the client said it. */
  readonly host: string | undefined
  readonly protocol: LearnedProtocol
}

/** Reasons for which nothing was sent because somebody did not want it. */
const refusals: ReadonlySet<ExchangeReason> = new Set(['denied', 'deniedByProvider', 'tokenMissing', 'tokenInvalid', 'noRoute'])

class LearningRecord implements LiveRecord {
  readonly #record: LiveRecord
  readonly #parts: LearningParts
  readonly #asked: Asked
  #reason: ExchangeReason | undefined
  #isNoted = false

  constructor(record: LiveRecord, parts: LearningParts, asked: Asked) {
    this.#record = record
    this.#parts = parts
    this.#asked = asked
  }

  /** It is on its way, so nobody minds; a connection may last for long from here. */
  attempt(attempt: Attempt): void {
    this.#note(true)
    this.#record.attempt(attempt)
  }

  because(reason: ExchangeReason, detail?: string): void {
    this.#reason ??= reason
    this.#record.because(reason, detail)
  }

  finish(end: ExchangeEnd): void {
    if (!this.#isNoted) this.#note(!this.#isRefused())
    this.#record.finish(end)
  }

  routed(rule: Parameters<LiveRecord['routed']>[0]): void {
    this.#record.routed(rule)
  }

  backend(service: Parameters<LiveRecord['backend']>[0]): void {
    this.#record.backend(service)
  }

  traceHeaders(): ReturnType<LiveRecord['traceHeaders']> {
    return this.#record.traceHeaders()
  }

  delayed(ms: number): void {
    this.#record.delayed(ms)
  }

  policyHit(hit: Parameters<LiveRecord['policyHit']>[0]): void {
    this.#record.policyHit(hit)
  }

  follow(read: Parameters<LiveRecord['follow']>[0]): void {
    this.#record.follow(read)
  }

  answered(status: number, headers: HeaderMap): void {
    this.#record.answered(status, headers)
  }

  /** A host that no entry covers has the same reason as an entry whose name leads nowhere. */
  #isRefused(): boolean {
    if (this.#reason === undefined) return false
    const { context, host } = this.#asked
    return refusals.has(this.#reason) || (this.#reason === 'noBackend' && this.#parts.covered(context, host) === undefined)
  }

  #note(allowed: boolean): void {
    if (this.#isNoted) return
    this.#isNoted = true
    const { context: { target, caller: { identity } }, host, protocol } = this.#asked
    if (!identity || target.t === 'listener') return
    const { namespace, serviceAccount } = identity
    const address = target.t === 'service' ? target.service.addresses.find(({ prefixLength }) => prefixLength === undefined)?.ip : target.workload.ips[0]
    // What says no name of its own goes by that of its entry.
    const name = host === undefined ? (target.t === 'service' ? target.service.hostname : undefined) : hostOf(host)
    this.#parts.learned.saw({ namespace, serviceAccount, host: name, address, port: target.port, protocol, allowed })
  }
}
