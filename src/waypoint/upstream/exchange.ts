// One request from the choice of an endpoint to the last byte of its answer: tries, and tries again where that is safe and
// allowed. Holds the request's place in every count until it has ended, whichever way; never throws, and keeps no more of a body
// than may be sent again.
import type { Duplex } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import type { Identity } from '../../core/identity.ts'
import type { Retry } from '../../model/route.ts'
import type { CallEnd } from '../../policy/l7/balancer/peak-ewma.ts'
import { formatGrpcTimeout, httpFromGrpc, parseGrpcStatus, parseGrpcTimeout, parsePushback } from '../../policy/l7/grpc.ts'
import { outcomeOfStatus } from '../../policy/l7/outlier.ts'
import { decideRetry, parseRetryAfter } from '../../policy/l7/retry-decision.ts'
import type { AttemptOutcome } from '../../policy/l7/retry-decision.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import type { ForwardOutcome, ForwardPlan } from '../forwarding.ts'
import type { Failure, OutboundRequest, Outcome } from '../http/forward.ts'
import type { ExchangeReason } from '../record.ts'
import { hashChoice } from './affinity.ts'
import type { HashChoice, Session, Sessions } from './affinity.ts'
import { answered, cancelled, failed } from './attempt.ts'
import type { Attempt } from './attempt.ts'
import type { Cluster, Wanted } from './cluster.ts'
import { discardAnswer } from './discard.ts'
import { callerOf } from './endpoint.ts'
import type { Protocol } from './endpoint.ts'
import type { UpstreamEvents } from './events.ts'
import { outcomeOfFailure, reasonOfFailure, refusedWait } from './failures.ts'
import { headersFor } from './outside.ts'
import type { UpstreamParts } from './parts.ts'
import { ReplayBody } from './replay-body.ts'
import type { ReplayRoom } from './replay-body.ts'
import { pause } from './pause.ts'
import { protocolFor } from './protocol.ts'

export interface ExchangeContext {
  readonly parts: UpstreamParts
  readonly events: UpstreamEvents
  readonly sessions: Sessions
  readonly room: ReplayRoom
}

/** Where no rule says anything of retries: what is safe for everybody. */
const retryWhereSafe: Retry = { attempts: 2, backoffMs: 25, statuses: [], on: ['connectFailure', 'refusedStream', 'reset'] }

const timeIsOver = 'the time for the request is over'

/** Waiting would not change it. */
const hopeless = { t: 'refused', because: 'tooLong' } as const

type Answer = Extract<Outcome, { t: 'response' }>

export class Exchange implements Wanted {
  readonly #plan: ForwardPlan
  readonly #cluster: Cluster
  readonly #context: ExchangeContext
  readonly #source: Identity | undefined
  readonly #caller: string
  readonly #protocol: Protocol
  readonly #body: ReplayBody | undefined
  readonly #retry: Retry
  readonly #deadlineMs: number | undefined
  readonly takesConnection: boolean
  hash: number | undefined
  sticky: string | undefined
  tried: Set<string> | undefined
  #session: Session | undefined
  #hashed: HashChoice | undefined
  #attempts = 0
  /** The try under way has all the time that is left. */
  #isTimeAll = false
  #holdsRetry = false
  #holdsRequest = false
  #callOffDeadline: (() => void) | undefined
  readonly #tryNow = (): Attempt | undefined => this.#cluster.begin(this)
  readonly #onInformation = (status: number, headers: HeaderMap): void => this.#plan.request.inform(status, headers)

  constructor(plan: ForwardPlan, cluster: Cluster, context: ExchangeContext) {
    this.#plan = plan
    this.#cluster = cluster
    this.#context = context
    const { request, rule } = plan
    this.#source = request.connection.caller.identity
    this.#caller = callerOf(this.#source)
    this.#protocol = protocolFor(request, cluster.appProtocol, cluster.policy)
    this.takesConnection = this.#protocol === 'http1'
    this.#body = request.hasBody ? new ReplayBody(request.body, context.room) : undefined
    this.#retry = rule?.retry ?? retryWhereSafe
    this.#deadlineMs = this.#deadline()
  }

  async run(): Promise<ForwardOutcome> {
    const cluster = this.#cluster
    const nowMs = cluster.nowMs()
    cluster.usedMs = nowMs
    const place = cluster.breaker.tryRequest(this.#caller)
    if (place.t === 'refused') {
      this.#context.events({ t: 'breaker', cluster: cluster.name, because: place.because })
      return this.#fail(503, 'breakerOpen', place.because, 'too many requests are under way', 1)
    }
    this.#holdsRequest = true
    cluster.budget.request(nowMs)
    this.#affinity()
    for (;;) {
      const attempt = await this.#begin()
      if (!('endpoint' in attempt)) return attempt
      const outcome = await this.#send(attempt)
      if (this.#holdsRetry) {
        this.#holdsRetry = false
        cluster.breaker.release('retries')
      }
      if (outcome.t === 'upgraded') return this.#upgraded(attempt, outcome.headers, outcome.stream)
      const waitMs = outcome.t === 'failure' ? this.#afterFailure(attempt, outcome) : this.#afterAnswer(attempt, outcome)
      if (typeof waitMs !== 'number') return waitMs
      if (!await pause(this.#context.parts.clock, waitMs, this.#plan.request.signal)) return this.#gone()
    }
  }

  async #begin(): Promise<Attempt | ForwardOutcome> {
    const { line } = this.#cluster
    const leftMs = this.#leftMs()
    if (leftMs !== undefined && leftMs <= 0) return this.#fail(504, 'requestTimeout', undefined, timeIsOver)
    const at = line.take(this.#tryNow)
    if (at) return at
    const end = this.#cluster.isHopeless ? hopeless : await line.wait(this.#tryNow, this.#plan.request.signal, leftMs)
    if (end.t === 'served') return end.got
    if (end.because === 'gone') return this.#gone()
    if (end.because === 'full') this.#context.events({ t: 'breaker', cluster: this.#cluster.name, because: 'pending' })
    const { status, reason, detail, message, retryAfterSeconds } = refusedWait(end.because, this.#cluster)
    return this.#fail(status, reason, detail, message, retryAfterSeconds)
  }

  #send(attempt: Attempt): Promise<Outcome> {
    const { request, head, rule, record } = this.#plan
    const { facts } = attempt.endpoint
    this.#attempts++
    record.attempt({ service: this.#cluster.service, workload: facts.workload, address: facts.address })
    const leftMs = this.#leftMs()
    if (leftMs !== undefined && request.isGrpc) head.headers.set('grpc-timeout', formatGrpcTimeout(leftMs))
    const perTryMs = least(positive(rule?.timeouts.backendRequestMs), positive(this.#retry.perTryTimeoutMs))
    const headTimeoutMs = least(perTryMs, leftMs)
    this.#isTimeAll = leftMs !== undefined && headTimeoutMs === leftMs
    const idleTimeoutMs = positive(rule?.timeouts.idleMs)
    const { contentLength, upgrade } = request
    const outbound: { -readonly [K in keyof OutboundRequest]: OutboundRequest[K] } = {
      method: head.method, scheme: this.#cluster.policy.tls ? 'https' : head.scheme, authority: head.authority,
      target: head.target, headers: headersFor(facts, head.headers),
      acceptsTrailers: request.acceptsTrailers || request.isGrpc, signal: request.signal, onInformation: this.#onInformation,
    }
    if (this.#body) {
      outbound.body = this.#body.open()
      outbound.trailers = request.trailers
      if (contentLength !== undefined) outbound.contentLength = contentLength
    }
    if (upgrade !== undefined) outbound.upgrade = upgrade
    if (headTimeoutMs !== undefined) outbound.headTimeoutMs = headTimeoutMs
    if (idleTimeoutMs !== undefined) outbound.idleTimeoutMs = idleTimeoutMs
    return attempt.endpoint.pool(this.#source, this.#protocol, attempt.startedMs).send(outbound)
  }

  /** How long until the next try; or how the request has ended. */
  #afterFailure(attempt: Attempt, failure: Failure): number | ForwardOutcome {
    const { kind, error } = failure
    const isOver = kind === 'timeout' && this.#isTimeAll
    const outcome = isOver ? undefined : outcomeOfFailure(failure)
    const isOfEndpoint = outcome !== undefined || kind === 'badAnswer'
    attempt.end(isOfEndpoint ? failed : cancelled)
    // Who says that it takes no more is not ill.
    if (isOfEndpoint && kind !== 'refusedStream') this.#cluster.report(attempt.endpoint, 'gatewayError')
    const waitMs = outcome && this.#decide(attempt, outcome)
    if (waitMs !== undefined) return waitMs
    if (kind === 'cancelled') return this.#gone()
    const { status, reason } = isOver ? { status: 504, reason: 'requestTimeout' as const } : reasonOfFailure(failure)
    return this.#fail(status, reason, error.code, error.message, reason === 'breakerOpen' ? 1 : undefined)
  }

  #afterAnswer(attempt: Attempt, answer: Answer): number | ForwardOutcome {
    const { status, headers } = answer
    const { request } = this.#plan
    attempt.head()
    const code = request.isGrpc ? parseGrpcStatus(headers.get('grpc-status')) : undefined
    if (status < 400 && (code === undefined || code === 0)) {
      if (!request.isGrpc || code === 0) this.#cluster.report(attempt.endpoint, 'success')
      return this.#answer(attempt, answer, answered)
    }
    const retryAfterMs = parseRetryAfter(headers.get('retry-after'), this.#context.parts.clock.nowMs())
    const pushback = parsePushback(headers.get('grpc-retry-pushback-ms'))
    const judged = code === undefined ? status : httpFromGrpc(code)
    this.#cluster.report(attempt.endpoint, outcomeOfStatus(judged))
    const isGood = judged < 500 && judged !== 429
    const end: CallEnd = isGood ? answered : { t: 'failed', ...(retryAfterMs !== undefined && { retryAfterMs }) }
    const outcome: AttemptOutcome = {
      t: 'response', status,
      ...(code !== undefined && { grpcStatus: code }), ...(retryAfterMs !== undefined && { retryAfterMs }),
      ...(pushback !== undefined && { pushback }),
    }
    const waitMs = this.#decide(attempt, outcome)
    if (waitMs === undefined) return this.#answer(attempt, answer, end)
    discardAnswer(answer.body, this.#context.parts.clock, () => attempt.end(end))
    return waitMs
  }

  /** Milliseconds until the next try, with its place taken; undefined where there is none. */
  #decide({ endpoint }: Attempt, outcome: AttemptOutcome): number | undefined {
    const { request, head } = this.#plan
    const cluster = this.#cluster
    const { parts: { random }, events } = this.#context
    if (request.signal.aborted) return undefined
    const leftMs = this.#leftMs()
    const decision = decideRetry(this.#retry, {
      outcome, method: head.method, isGrpc: request.isGrpc, hasIdempotencyKey: head.headers.has('idempotency-key'),
      isBodyReplayable: this.#body === undefined || this.#body.isReplayable, isAnswerStarted: false, attempts: this.#attempts,
      ...(leftMs !== undefined && { leftMs }),
    }, {
      random,
      breaker: () => (this.#holdsRetry = cluster.breaker.tryTake('retries').t === 'taken'),
      budget: () => cluster.budget.tryRetry(cluster.nowMs()),
    })
    if (decision.t === 'retry') {
      events({ t: 'retried', cluster: cluster.name, because: outcome.t })
      this.tried ??= new Set()
      this.tried.add(endpoint.id)
      return decision.waitMs
    }
    if (this.#holdsRetry) cluster.breaker.release('retries')
    this.#holdsRetry = false
    const { because } = decision
    if (because !== 'succeeded' && because !== 'notAsked') events({ t: 'notRetried', cluster: cluster.name, because })
    if (because === 'breaker') events({ t: 'breaker', cluster: cluster.name, because: 'retries' })
    return undefined
  }

  #answer(attempt: Attempt, answer: Answer, end: CallEnd): ForwardOutcome {
    const { body } = answer
    this.#body?.commit()
    this.#tell(attempt, answer.headers)
    if (!body) {
      attempt.end(end)
      this.#release()
      return answer
    }
    body.once('close', () => this.#bodyClosed(attempt, answer, end))
    const leftMs = this.#leftMs()
    if (leftMs !== undefined) {
      this.#callOffDeadline = this.#context.parts.clock.after(Math.max(1, leftMs), () => body.destroy(timedOut()))
    }
    return answer
  }

  #bodyClosed(attempt: Attempt, { body, headers, trailers }: Answer, end: CallEnd): void {
    const { errored, readableEnded } = body ?? {}
    const code = errored instanceof MeshError ? errored.code : undefined
    const isOurs = code === 'UPSTREAM_TIMEOUT' && errored instanceof MeshError && errored.source === 'internal'
    if (readableEnded !== true && (code === 'UPSTREAM_RESET' || code === 'UPSTREAM_TIMEOUT')) {
      const because = isOurs ? 'requestTimeout' : code === 'UPSTREAM_RESET' ? 'upstreamReset' : 'upstreamTimeout'
      this.#plan.record.because(because, 'in the middle of the answer')
      if (!isOurs) this.#cluster.report(attempt.endpoint, 'gatewayError')
      attempt.end(isOurs ? cancelled : failed)
    } else if (readableEnded !== true) attempt.end(cancelled)
    else if (this.#plan.request.isGrpc && !headers.has('grpc-status')) {
      const status = httpFromGrpc(parseGrpcStatus(trailers()?.get('grpc-status')) ?? 2)
      this.#cluster.report(attempt.endpoint, outcomeOfStatus(status))
      attempt.end(status < 500 && status !== 429 ? end : failed)
    } else attempt.end(end)
    this.#release()
  }

  #upgraded(attempt: Attempt, headers: HeaderMap, stream: Duplex): ForwardOutcome {
    attempt.head()
    this.#cluster.report(attempt.endpoint, 'success')
    this.#body?.commit()
    this.#tell(attempt, headers)
    const done = (): void => {
      attempt.end(answered)
      this.#release()
    }
    if (stream.closed) done()
    else stream.once('close', done)
    return { t: 'upgraded', headers, stream }
  }

  #affinity(): void {
    const { rule, request } = this.#plan
    if (rule?.sessionPersistence) {
      this.#session = this.#context.sessions.find(rule, request.head, this.#cluster.ids)
      this.sticky = this.#session?.endpoint
    }
    if (this.#cluster.policy.loadBalancer.kind !== 'consistentHash') return
    this.#hashed = hashChoice(this.#cluster.policy.loadBalancer, request.head, request.connection.caller.address.ip)
    this.hash = this.#hashed?.hash
  }

  #tell({ endpoint }: Attempt, headers: HeaderMap): void {
    const isSecure = this.#plan.request.head.scheme === 'https'
    if (this.#session) this.#context.sessions.tell(this.#session, endpoint.id, headers, isSecure)
    if (this.#hashed?.setCookie !== undefined) headers.append('set-cookie', this.#hashed.setCookie)
  }

  #gone(): ForwardOutcome {
    const isGone = this.#plan.request.signal.aborted || this.#body?.cut === undefined
    return this.#fail(isGone ? 499 : 400, 'clientGone', undefined, 'the client did not stay, or did not send all of its request')
  }

  #fail(
    status: number, because: ExchangeReason, detail: string | undefined, message: string, retryAfterSeconds?: number,
  ): ForwardOutcome {
    this.#plan.record.because(because, detail)
    this.#body?.discard()
    this.#release()
    return { t: 'failed', status, because, message, ...(retryAfterSeconds !== undefined && { retryAfterSeconds }) }
  }

  #release(): void {
    this.#callOffDeadline?.()
    if (this.#holdsRetry) this.#cluster.breaker.release('retries')
    this.#holdsRetry = false
    if (!this.#holdsRequest) return
    this.#holdsRequest = false
    this.#cluster.breaker.releaseRequest(this.#caller)
  }

  #deadline(): number | undefined {
    const { request, rule, head } = this.#plan
    const grpcMs = request.isGrpc ? parseGrpcTimeout(head.headers.get('grpc-timeout')) : undefined
    const ms = least(request.upgrade === undefined ? positive(rule?.timeouts.requestMs) : undefined, grpcMs)
    return ms === undefined ? undefined : this.#cluster.nowMs() + ms
  }

  #leftMs(): number | undefined {
    return this.#deadlineMs === undefined ? undefined : this.#deadlineMs - this.#cluster.nowMs()
  }
}

function timedOut(): MeshError {
  return new MeshError('UPSTREAM_TIMEOUT', timeIsOver, { source: 'internal' })
}

function positive(ms: number | undefined): number | undefined {
  return ms !== undefined && ms > 0 ? ms : undefined
}

function least(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined ? b : b === undefined ? a : Math.min(a, b)
}
