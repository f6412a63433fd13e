// Requests of our own to services of the mesh: authorizers, and issuers that live in it. They go as ours, through the forwarder
// that everybody's requests go through, and their answers are read whole, within bounds.
import { Readable } from 'node:stream'
import type { Clock } from '../../core/clock.ts'
import type { Identity } from '../../core/identity.ts'
import { MeshError } from '../../core/errors.ts'
import type { Service } from '../../model/workload.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import type { ConnectionContext } from '../context.ts'
import type { Forwarder } from '../forwarding.ts'
import { noBody } from '../http/request-body.ts'
import type { Request } from '../http/message.ts'
import type { ExchangeRecord } from '../record.ts'

export interface MeshCall {
  readonly service: Service
  readonly port: number
  readonly method: string
  /** Default: the service's hostname. */
  readonly authority?: string
  /** Path and query. */
  readonly target: string
  readonly headers: HeaderMap
  readonly body?: Uint8Array
  readonly isGrpc?: boolean
  readonly timeoutMs: number
  /** Of the answer's body. */
  readonly maxBytes: number
  /** Gives it up when its cause is gone. */
  readonly signal?: AbortSignal
}

export interface MeshAnswer {
  readonly status: number
  readonly headers: HeaderMap
  readonly body: Buffer
  readonly trailers: HeaderMap | undefined
}

/** A call is part of another exchange, or of none: nobody counts it as one. */
export const silentRecord: ExchangeRecord = {
  routed() {}, backend() {}, attempt() {}, because() {}, traceHeaders: () => [], delayed() {}, policyHit() {},
}

export interface MeshCallerParts {
  readonly forwarder: Forwarder
  readonly clock: Clock
  readonly own: () => Identity | undefined
}

/** Rejects with a MeshError when no whole answer came. */
export type CallMesh = (call: MeshCall) => Promise<MeshAnswer>

export function makeMeshCaller({ forwarder, clock, own }: MeshCallerParts): CallMesh {
  return async (call) => {
    const abort = new AbortController()
    const giveUp = (): void => abort.abort(new MeshError('REQUEST_CUT', 'who asked is gone', { source: 'downstream' }))
    const callOff = clock.after(
      call.timeoutMs,
      () => abort.abort(new MeshError('UPSTREAM_TIMEOUT', `no answer within ${call.timeoutMs} ms`, { source: 'upstream' })),
    )
    call.signal?.addEventListener('abort', giveUp, { once: true })
    const stopped = new Promise<never>((_, reject) => {
      abort.signal.addEventListener('abort', () => reject(abort.signal.reason as Error), { once: true })
    })
    // The answer may come first, and then nobody waits for this.
    stopped.catch(() => {})
    try {
      if (call.signal?.aborted === true) giveUp()
      return await Promise.race([exchange(call, { forwarder, own, signal: abort.signal }), stopped])
    } finally {
      callOff()
      call.signal?.removeEventListener('abort', giveUp)
      if (!abort.signal.aborted) abort.abort(new MeshError('CLOSED', 'the call is over'))
    }
  }
}

async function exchange(
  call: MeshCall, { forwarder, own, signal }: Pick<MeshCallerParts, 'forwarder' | 'own'> & { readonly signal: AbortSignal },
): Promise<MeshAnswer> {
  const authority = call.authority ?? call.service.hostname
  const to = { t: 'service', service: call.service, port: call.port } as const
  const head = { method: call.method, scheme: 'http', authority, target: call.target, headers: call.headers } as const
  const outcome = await forwarder.forward({
    request: requestOf(call, authority, own(), signal), head, to, rule: undefined, record: silentRecord,
  })
  if (outcome.t === 'upgraded') {
    outcome.stream.destroy()
    throw new MeshError('UPSTREAM_RESET', 'an upgrade that nobody asked for', { source: 'upstream' })
  }
  if (outcome.t === 'failed') throw new MeshError(
    'UPSTREAM_RESET', outcome.message, { source: 'upstream', detail: { because: outcome.because } },
  )
  const chunks: Buffer[] = []
  let length = 0
  const { body } = outcome
  if (body) {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      length += chunk.length
      if (length > call.maxBytes) throw new MeshError(
        'BAD_MESSAGE', `an answer of more than ${call.maxBytes} bytes`, { source: 'upstream' },
      )
      chunks.push(chunk)
    }
  }
  return { status: outcome.status, headers: outcome.headers, body: Buffer.concat(chunks), trailers: outcome.trailers() }
}

/** As if it had come from outside: what the forwarder needs of one. */
function requestOf(
  call: MeshCall, authority: string, own: Identity | undefined, signal: AbortSignal,
): Request<ConnectionContext> {
  const [path = '/', query = ''] = call.target.split('?', 2)
  const { body } = call
  return {
    head: { method: call.method, scheme: 'http', authority, path: { path, matched: path }, query, headers: call.headers },
    body: body && body.length > 0 ? Readable.from([Buffer.from(body)], { objectMode: false }) : noBody(),
    hasBody: body !== undefined && body.length > 0, ...(body && { contentLength: body.length }),
    trailers: () => undefined, acceptsTrailers: true, protocol: call.isGrpc === true ? 'http2' : 'http1',
    isGrpc: call.isGrpc === true, signal,
    connection: {
      caller: { identity: own, address: { ip: '127.0.0.1', port: 0 }, workload: undefined },
      target: { t: 'service', service: call.service, port: call.port },
    },
    inform() {},
  }
}
