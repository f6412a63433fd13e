// Copies of requests whose answers nobody wants: bounded in number and time, counted with their destination's requests, and
// never in the way of anything. An answer is thrown away as it comes.
import { Readable } from 'node:stream'
import type { MeshError } from '../../core/errors.ts'
import type { ForwardPlan } from '../forwarding.ts'
import type { OutboundRequest, Outcome } from '../http/forward.ts'
import { answered, cancelled, failed } from './attempt.ts'
import type { Attempt } from './attempt.ts'
import type { Cluster, Wanted } from './cluster.ts'
import { discardAnswer } from './discard.ts'
import { callerOf } from './endpoint.ts'
import type { UpstreamEvents } from './events.ts'
import type { UpstreamLimits, UpstreamParts } from './parts.ts'
import { protocolFor } from './protocol.ts'
import { headersFor } from './outside.ts'

type Done = (because: 'answered' | 'failed') => void

function bodyOf({ buffer, byteOffset, byteLength }: Uint8Array): Pick<OutboundRequest, 'body' | 'contentLength'> {
  return { body: Readable.from([Buffer.from(buffer, byteOffset, byteLength)]), contentLength: byteLength }
}

export type MirrorPlan = Omit<ForwardPlan, 'rule' | 'record'>

export class Mirrors {
  readonly #parts: UpstreamParts
  readonly #limits: UpstreamLimits
  readonly #events: UpstreamEvents
  #running = 0

  constructor(parts: UpstreamParts, limits: UpstreamLimits, events: UpstreamEvents) {
    this.#parts = parts
    this.#limits = limits
    this.#events = events
  }

  get running(): number {
    return this.#running
  }

  send(plan: MirrorPlan, cluster: Cluster, body: Uint8Array | undefined): void {
    const { request } = plan
    const source = request.connection.caller.identity
    const protocol = protocolFor(request, cluster.appProtocol, cluster.policy)
    const wanted: Wanted = { takesConnection: protocol === 'http1', hash: undefined, sticky: undefined, tried: undefined }
    const caller = callerOf(source)
    // Nobody waits for a copy: where there is no room for it at once there is none.
    if (this.#running >= this.#limits.mirrors || cluster.breaker.tryRequest(caller).t === 'refused') {
      this.#events({ t: 'mirrored', cluster: cluster.name, because: 'shed' })
      return
    }
    const attempt = cluster.line.take(() => cluster.begin(wanted))
    if (!attempt) {
      cluster.breaker.releaseRequest(caller)
      this.#events({ t: 'mirrored', cluster: cluster.name, because: 'shed' })
      return
    }
    cluster.usedMs = attempt.startedMs
    this.#running++
    const ended = new AbortController()
    const callOff = this.#parts.clock.after(this.#limits.mirrorMs, () => ended.abort())
    const done: Done = (because) => {
      callOff()
      this.#running--
      cluster.breaker.releaseRequest(caller)
      this.#events({ t: 'mirrored', cluster: cluster.name, because })
    }
    const { head } = plan
    const outbound: OutboundRequest = {
      method: head.method, scheme: head.scheme, authority: head.authority, target: head.target, headers: headersFor(attempt.endpoint.facts, head.headers),
      signal: ended.signal, ...(body && bodyOf(body)),
    }
    void this.#carry(attempt, cluster, attempt.endpoint.pool(source, protocol, attempt.startedMs).send(outbound), done)
  }

  async #carry(attempt: Attempt, cluster: Cluster, sent: Promise<Outcome>, done: Done): Promise<void> {
    const outcome = await sent
    if (outcome.t === 'failure') {
      this.#failed(cluster, attempt, outcome.error)
      done('failed')
      return
    }
    attempt.head()
    if (outcome.t === 'upgraded') outcome.stream.destroy()
    discardAnswer(outcome.t === 'response' ? outcome.body : undefined, this.#parts.clock, () => {
      attempt.end(answered)
      done('answered')
    })
  }

  #failed(cluster: Cluster, attempt: Attempt, error: MeshError): void {
    const isOfEndpoint = error.source === 'upstream'
    attempt.end(isOfEndpoint ? failed : cancelled)
    if (isOfEndpoint) cluster.report(attempt.endpoint, 'gatewayError')
  }
}
