// One record for each request, and for each connection that is carried as it is: opened once, finished exactly once. Log line, metrics
// and spans come from the same facts at the same moment, so a request is counted once however often it was tried.
import type { Identity } from '../../core/identity.ts'
import type { Clock } from '../../core/clock.ts'
import type { TrafficCounters } from '../../member/telemetry/traffic-metrics.ts'
import type { Service } from '../../model/workload.ts'
import type { HeaderValues } from '../../policy/l7/request-head.ts'
import type { ConnectionContext } from '../context.ts'
import type { Request } from '../http/message.ts'
import type { Attempt, ExchangeEnd, ExchangeReason, LiveRecord, RecordFactory } from '../record.ts'
import type { AccessLog } from './access-log/access-log.ts'
import type { ExchangeTrace, ExchangeTracer } from './exchange-spans.ts'
import type { Finished, PolicyHit } from './finished.ts'
import type { WaypointMetrics } from './metrics.ts'
import { connectionLabels, destinationOf, identityOf, sourceOf } from './request-labels.ts'
import type { Destination, Source } from './request-labels.ts'
import { responseFlags } from './response-flags.ts'

export interface RecordsOptions {
  readonly metrics: WaypointMetrics
  readonly accessLog: AccessLog
  readonly tracer: ExchangeTracer
  readonly clock: Clock
}

export function recordFactory(options: RecordsOptions): RecordFactory {
  return {
    begin: (request) => new Record(options, request.connection, request),
    carry: (context) => new Record(options, context, undefined),
  }
}

const noHits: readonly PolicyHit[] = []
/** More than that of one request nobody reads. */
const mostHits = 32

class Record implements LiveRecord, Finished {
  readonly context: ConnectionContext
  readonly request: Request<ConnectionContext> | undefined
  readonly startedAtMs: number
  durationMs = 0
  headMs: number | undefined
  status = 0
  grpcStatus: number | undefined
  answerHeaders: HeaderValues | undefined
  requestBytes = 0
  responseBytes = 0
  flags = '-'
  reason: ExchangeReason | undefined
  detail: string | undefined
  isCut = false
  attempts = 0
  upstreamAddress: string | undefined
  rule: { readonly origin: string; readonly name: string } | undefined
  hits = noHits
  destination: Destination
  readonly #options: RecordsOptions
  readonly #trace: ExchangeTrace
  readonly #beganMs: number
  #isDelayed = false
  #isFinished = false
  #counters: TrafficCounters | undefined

  constructor(options: RecordsOptions, context: ConnectionContext, request: Request<ConnectionContext> | undefined) {
    this.#options = options
    this.context = context
    this.request = request
    this.startedAtMs = options.clock.nowMs()
    this.#beganMs = options.clock.monotonicMs()
    this.destination = destinationOf(context)
    this.#trace = options.tracer.begin(context, request)
    options.metrics.begun(request ? 'request' : 'connection', 1)
  }

  get source(): Source {
    return sourceOf(this.context)
  }

  get destinationIdentity(): Identity | undefined {
    return identityOf(this.destination.workload)
  }

  get traceId(): string | undefined {
    return this.#trace.traceId
  }

  routed(rule: { readonly origin: string; readonly name: string } | undefined): void {
    this.rule = rule
  }

  backend(service: Service | undefined): void {
    this.destination = { service, workload: this.destination.workload }
  }

  attempt(attempt: Attempt): void {
    this.attempts++
    this.upstreamAddress = attempt.address
    this.destination = { service: attempt.service ?? this.destination.service, workload: attempt.workload }
    this.#trace.attempt(attempt)
  }

  because(reason: ExchangeReason, detail?: string): void {
    if (this.reason !== undefined) return
    this.reason = reason
    this.detail = detail
  }

  traceHeaders(): readonly (readonly [name: string, value: string])[] {
    return this.#trace.headers()
  }

  delayed(_ms: number): void {
    this.#isDelayed = true
    this.#options.metrics.fault('delay')
  }

  policyHit(hit: PolicyHit): void {
    if (this.hits.length < mostHits) this.hits = [...this.hits, hit]
    this.#options.metrics.policyHit(hit.policy, hit.as)
  }

  answered(status: number, headers: HeaderValues): void {
    this.status = status
    this.answerHeaders = headers
    this.headMs = this.#options.clock.monotonicMs() - this.#beganMs
  }

  follow(read: () => readonly [fromClient: number, toClient: number]): void {
    if (this.#counters || this.#isFinished || this.request) return
    this.#counters = this.#options.metrics.opened(connectionLabels(this.source, this.destination, '-'))
    this.#counters.follow(read)
  }

  finish(end: ExchangeEnd): void {
    if (this.#isFinished) return
    this.#isFinished = true
    const { metrics, accessLog, clock } = this.#options
    this.durationMs = clock.monotonicMs() - this.#beganMs
    this.status = end.status
    this.grpcStatus = end.grpcStatus
    this.requestBytes = end.requestBytes
    this.responseBytes = end.responseBytes
    this.isCut = end.isCut
    this.flags = responseFlags({ reason: this.reason, isDelayed: this.#isDelayed, attempts: this.attempts, isCut: end.isCut })
    if (this.reason === 'faultAbort') metrics.fault('abort')
    metrics.begun(this.request ? 'request' : 'connection', -1)
    if (this.request) this.#countRequest(this.request, end)
    else this.#countConnection(end)
    accessLog(this)
    this.#trace.end(this)
  }

  #countRequest({ isGrpc }: Request, { requestMessages = 0, responseMessages = 0 }: ExchangeEnd): void {
    const { source, destination, status, grpcStatus, flags, durationMs, requestBytes, responseBytes, reason } = this
    this.#options.metrics.request(
      { source, destination, status, grpcStatus, flags, protocol: isGrpc ? 'grpc' : 'http' },
      { durationMs, requestBytes, responseBytes, requestMessages, responseMessages }, reason,
    )
  }

  #countConnection({ requestBytes, responseBytes }: ExchangeEnd): void {
    const { metrics } = this.#options
    if (this.reason !== undefined) metrics.ended(this.reason)
    // It stood, if only so shortly that nobody followed it.
    if (this.#counters || this.reason === undefined) {
      const counters = this.#counters ?? metrics.opened(connectionLabels(this.source, this.destination, '-'))
      counters.closed(requestBytes, responseBytes)
      return
    }
    metrics.failed(connectionLabels(this.source, this.destination, this.flags), this.reason)
  }
}
