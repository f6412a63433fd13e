// What happens to a request between the HTTP front and the forwarder, and to its answer on the way back, in a fixed order:
//
//   identify       who asks; headers that only a proxy may say are cleaned and set
//   authenticate   tokens of RequestAuthentication
//   authorize      policies, and authorizers that they name
//   route          which rule decides; a browser's preflight is answered by it
//   limit          rate limits of the rule
//   act            fault, redirect, fixed answer; or the request that is to be sent
//   send           from the cache or by the forwarder
//   answer         headers of the answer, or what there is to say where none came
//
// All of them read the same head: path, host and method are the client's until the request is made that is sent. Nothing is
// buffered here, and no phase is skipped for a request that an earlier one did not answer.
import type { Clock } from '../core/clock.ts'
import { describeError } from '../core/errors.ts'
import type { Backend, HttpRule, RequestMatch } from '../model/route.ts'
import type { NamespacedHostname, Service } from '../model/workload.ts'
import type { Chains, ConnectionContext } from './context.ts'
import type { Covered } from './covered.ts'
import { authenticate } from './filters/authentication.ts'
import { authorize, sourceOf } from './filters/authorization.ts'
import type { ExternalAuthorizer } from './filters/authorization.ts'
import type { CacheOutcome, ResponseCache, Send } from './filters/cache.ts'
import { changeAnswer, corsStep } from './filters/cors.ts'
import { injectFault } from './filters/fault.ts'
import { carryUpgraded, countMessages, finishing } from './filters/finish-record.ts'
import { makeIdentify } from './filters/identity-headers.ts'
import type { Identify, IdentityRules } from './filters/identity-headers.ts'
import type { TokenVerifier } from './filters/jwt.ts'
import { localAnswer } from './filters/local-answer.ts'
import type { LocalAnswer } from './filters/local-answer.ts'
import { sendMirrors } from './filters/mirror.ts'
import type { Passage } from './filters/passage.ts'
import type { RateLimits } from './filters/rate-limit.ts'
import { removeToken } from './filters/token-places.ts'
import type { BackendTarget, Forwarder, ForwardPlan } from './forwarding.ts'
import type { Handler, Request, Response } from './http/message.ts'
import type { ExchangeReason, LiveRecord, RecordFactory } from './record.ts'
import { filtersOf, rewritten, route, targetOf } from './router.ts'
import type { BackendChanges, CompiledRule, NamedFilter, Routed } from './router.ts'

export interface PhaseParts {
  readonly chains: Chains
  readonly forwarder: Forwarder
  readonly records: RecordFactory
  readonly serviceOf: (name: NamespacedHostname) => Service | undefined
  readonly clock: Clock
  /** 0 <= x < 1. */
  readonly random: () => number
  readonly identity: IdentityRules
  readonly tokens: TokenVerifier
  readonly external: ExternalAuthorizer
  readonly limits: RateLimits
  readonly cache: ResponseCache
  /** Whether the host that is asked for is one of the target's; absent: every host is. */
  readonly covered?: Covered
}

/** The handler never rejects: what fails inside is answered 500 and told to the record. */
export function makeHandler(parts: PhaseParts): Handler<ConnectionContext> {
  const phases = new Phases(parts)
  return async (request) => {
    const record = parts.records.begin(request)
    const messages = countMessages(request)
    try {
      return finishing(await phases.answer(request, record), request, record, messages)
    } catch (error) {
      record.because('internal', describeError(error))
      return finishing(
        localAnswer(request, { status: 500, message: 'the proxy failed to handle the request' }), request, record, messages,
      )
    }
  }
}

const noRoute = { status: 404, grpcStatus: 12, because: 'noRoute', message: 'no route matches this request' } as const
const foreignHost = { status: 421, because: 'noBackend', message: 'the host is not one of the service' } as const

/** How the answer of a rule is changed on its way back. */
interface AnswerChanges {
  readonly cors: ReturnType<typeof corsStep> & { t: 'goOn' }
  readonly rule: CompiledRule | undefined
  readonly backend: BackendChanges | undefined
}

class Phases {
  readonly #parts: PhaseParts
  readonly #identify: Identify

  constructor(parts: PhaseParts) {
    this.#parts = parts
    this.#identify = makeIdentify(parts.identity)
  }

  async answer(request: Request<ConnectionContext>, record: LiveRecord): Promise<Response> {
    const { connection } = request
    const target = this.#parts.covered ? this.#parts.covered(connection, request.head.authority) : connection.target
    if (!target) return this.#refuse({ request, record }, foreignHost)
    const passage = this.#begin(request, record, target === connection.target ? connection : { ...connection, target })
    const response = await this.#pass(passage)
    for (const [name, value] of passage.answerHeaders) response.headers.set(name, value)
    return response
  }

  async #pass(passage: Passage): Promise<Response> {
    const { chains } = this.#parts
    if (passage.chain.jwtRules.length > 0) {
      const refused = await authenticate(passage, this.#parts.tokens)
      if (refused) return refused
    }
    const refused = await authorize(passage, chains, this.#parts.external)
    if (refused) return refused
    if (passage.tokenToRemove) passage.head.query = removeToken(passage.head, passage.tokenToRemove)
    const routed = route(passage.chain, passage.context.target, passage.head)
    if (routed.t === 'none') return this.#refuse(passage, noRoute)
    if (routed.t === 'default') return this.#sendAsIs(passage)
    return this.#obey(passage, routed)
  }

  #begin(request: Request<ConnectionContext>, record: LiveRecord, context: ConnectionContext): Passage {
    const { head } = request
    const { remoteIp } = this.#identify(context, head.scheme, head.headers)
    return {
      request, record, context, remoteIp, chain: this.#parts.chains.chainOf(context.target), token: undefined,
      tokenToRemove: undefined, hasCredentials: false, answerHeaders: [],
      head: {
        method: head.method, scheme: head.scheme, authority: head.authority, path: head.path, query: head.query,
        headers: head.headers,
        ...sourceOf(context.caller),
      },
    }
  }

  /** limit and act. */
  async #obey(passage: Passage, { compiled, match }: Routed & { t: 'rule' }): Promise<Response> {
    const { record, request, head } = passage
    const { rule } = compiled
    record.routed(rule)
    if (compiled.problem !== undefined) return this.#broken(passage, compiled.problem)
    const filters = filtersOf(rule, this.#parts.chains)
    if (filters.t === 'missing') return this.#broken(passage, `${filters.key} is not known`)
    // A preflight is answered here and costs nobody anything; scripts may read that they were refused.
    const cors = corsStep(compiled, head)
    if (cors.t === 'answer') {
      record.because('preflight')
      return cors.response
    }
    const ours: AnswerChanges = { cors, rule: undefined, backend: undefined }
    if (filters.limits.length > 0) {
      const refused = await this.#parts.limits.step(passage, rule, filters.limits)
      if (refused) return changed(refused, ours)
    }
    if (rule.fault) {
      const aborted = await injectFault(rule.fault, request, { ...this.#parts, record })
      if (aborted) {
        record.because('faultAbort')
        return changed(aborted, ours)
      }
    }
    switch (rule.action.t) {
      case 'redirect': return this.#redirect(passage, compiled, match, cors)
      case 'respond': {
        record.because('responded')
        const { status, body = '' } = rule.action
        const response = localAnswer(
          request, { status, message: `answered ${status} by the route`, body: { type: 'text/plain', text: body } },
        )
        return changed(response, { cors, rule: compiled, backend: undefined })
      }
      case 'forward': return this.#forward(passage, compiled, match, { cors, cache: filters.cache })
      default: return rule.action satisfies never
    }
  }

  #redirect(passage: Passage, compiled: CompiledRule, match: RequestMatch | undefined, cors: AnswerChanges['cors']): Response {
    const { context: { target }, head, record, request } = passage
    const answer = compiled.redirect?.answer(head, match, target.t === 'listener' ? target.listener.port : target.port)
    if (!answer) return this.#refuse(passage, { status: 400, because: 'routeBroken', message: 'the redirect leads nowhere' })
    record.because('redirected')
    const response = localAnswer(
      request,
      {
        status: answer.status, message: `moved to ${answer.location}`, headers: [['location', answer.location]],
        body: { type: 'text/plain', text: '' },
      },
    )
    return changed(response, { cors, rule: compiled, backend: undefined })
  }

  async #forward(
    passage: Passage, compiled: CompiledRule, match: RequestMatch | undefined,
    { cors, cache }: { readonly cors: AnswerChanges['cors']; readonly cache: NamedFilter<'cache'> | undefined },
  ): Promise<Response> {
    const { rule } = compiled
    // A session that stands is not moved to another backend by chance.
    const session = rule.sessionPersistence && this.#parts.forwarder.sessionBackend?.(rule, passage.request.head)
    const choice = session ? { t: 'backend' as const, backend: session } : compiled.weights?.choose(this.#parts.random())
    if (choice?.t !== 'backend') return this.#broken(passage, choice?.detail ?? choice?.because ?? 'no backends')
    const to = this.#backendTarget(choice.backend)
    if (!to) return this.#refuse(
      passage, { status: 503, because: 'noBackend', message: 'the backend of this route is not known' },
    )
    const sent = rewritten(passage.head, compiled, match)
    if (!sent) return this.#refuse(passage, { status: 400, because: 'routeBroken', message: 'the rewritten path is no path' })
    const backend = compiled.backends.get(choice.backend)
    const { headers } = passage.head
    const lookup = cache && this.#parts.cache.begin(passage, rule, cache)
    compiled.request?.apply(headers)
    const outgoing = { method: passage.head.method, scheme: passage.head.scheme, ...sent, headers }
    // Each mirror has changes of its own beside the rule's, and not the backend's.
    const mirrored = rule.mirrors.length > 0 ? { ...outgoing, headers: headers.copy() } : undefined
    backend?.request?.apply(headers)
    const changes: AnswerChanges = { cors, rule: compiled, backend }
    const plan = this.#plan(passage, outgoing, to, rule)
    const send: Send = async (each) => {
      if (mirrored) await sendMirrors(
        compiled, each.request, mirrored, { ...this.#parts, targetOf: (mirror) => this.#backendTarget(mirror.backend) },
      )
      return this.#parts.forwarder.forward(each)
    }
    return this.#respond(passage, lookup ? await this.#parts.cache.answer(lookup, plan, send) : await send(plan), changes)
  }

  /** To what the client asked for, without a rule. */
  async #sendAsIs(passage: Passage): Promise<Response> {
    const { head, record, context: { target } } = passage
    record.routed(undefined)
    if (target.t === 'listener') return this.#refuse(passage, noRoute)
    const outgoing = {
      method: head.method, scheme: head.scheme, authority: head.authority, target: targetOf(head.path.path, head.query),
      headers: head.headers,
    }
    return this.#respond(
      passage, await this.#parts.forwarder.forward(this.#plan(passage, outgoing, target, undefined)), undefined,
    )
  }

  #plan(
    { request, record, context }: Passage, head: ForwardPlan['head'], to: BackendTarget, rule: HttpRule | undefined,
  ): ForwardPlan {
    record.backend(to.t === 'service' ? to.service : context.target.t === 'service' ? context.target.service : undefined)
    for (const [name, value] of record.traceHeaders()) {
      if (value === '') head.headers.delete(name)
      else head.headers.set(name, value)
    }
    return { request, head, to, rule, record }
  }

  #respond(passage: Passage, outcome: CacheOutcome, changes: AnswerChanges | undefined): Response {
    const { request, record } = passage
    switch (outcome.t) {
      case 'kept':
        record.because('fromCache')
        return changed(outcome.response, changes)
      case 'response': {
        const { status, headers, body, trailers } = outcome
        this.#parts.cache.noteAnswer(passage, status, headers)
        return changed({ t: 'response', status, headers, trailers, ...(body && { body }) }, changes)
      }
      case 'upgraded':
        return changed(
          { t: 'upgrade', headers: outcome.headers, carry: (stream) => carryUpgraded(stream, outcome.stream, record) }, changes,
        )
      case 'failed': {
        const { status, because, message, retryAfterSeconds } = outcome
        record.because(because, message)
        const response = localAnswer(request, {
          status, message, ...(because === 'overloaded' && { grpcStatus: 14 }),
          ...((because === 'requestTimeout' || because === 'upstreamTimeout') && { grpcStatus: 4 }),
          ...(retryAfterSeconds !== undefined && { headers: [['retry-after', String(retryAfterSeconds)]] }),
        })
        return changed(response, changes)
      }
      default: return outcome satisfies never
    }
  }

  #refuse({ request, record }: Pick<Passage, 'request' | 'record'>, { because, ...answer }: LocalAnswer & { readonly because: ExchangeReason }): Response {
    record.because(because, answer.message)
    return localAnswer(request, answer)
  }

  /** What the route's owner has to mend; the client learns no more than that. */
  #broken({ request, record }: Passage, detail: string): Response {
    record.because('routeBroken', detail)
    return localAnswer(request, { status: 500, grpcStatus: 14, message: 'the route of this request cannot be served' })
  }

  #backendTarget({ service: name, port, subset }: Backend): BackendTarget | undefined {
    const service = this.#parts.serviceOf(name)
    return service && { t: 'service', service, port, ...(subset !== undefined && { subset }) }
  }
}

/** The backend's changes first, then the rule's; CORS is the rule's last word. */
function changed<Some extends Response>(response: Some, changes: AnswerChanges | undefined): Some {
  if (!changes) return response
  changes.backend?.response?.apply(response.headers)
  changes.rule?.response?.apply(response.headers)
  changeAnswer(response.headers, changes.cors.headers)
  return response
}

