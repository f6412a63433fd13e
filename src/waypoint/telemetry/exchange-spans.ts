// The spans of an exchange: a server's for what the client asked, and a client's for what we asked on its behalf, which is the parent of
// whatever the backend records. A trace that comes with a request goes on; its maker decided whether it is recorded. Without a
// collector nothing is recorded, and the headers of others pass as they are.
import { logText } from '../../member/telemetry/log-text.ts'
import type { PeerWorkload } from '../../member/telemetry/labels.ts'
import type { Attributes, OpenSpan, Tracing } from '../../member/telemetry/tracing.ts'
import { freshTraceParent } from '../../hbone/traceparent.ts'
import type { Service } from '../../model/workload.ts'
import { hostOf } from '../../policy/l7/request-head.ts'
import type { ConnectionContext } from '../context.ts'
import type { Request } from '../http/message.ts'
import type { Attempt } from '../record.ts'
import type { Finished } from './finished.ts'
import { readSamplingWish, readTraceContext, writeTraceContext } from './trace-context.ts'
import type { TraceHeaders } from './trace-context.ts'

export interface ExchangeTrace {
  readonly traceId: string | undefined
  /** For the request that goes on; begins the client's span. */
  headers(): TraceHeaders
  attempt(attempt: Attempt): void
  end(finished: Finished): void
}

export interface ExchangeTracer {
  begin(context: ConnectionContext, request: Request<ConnectionContext> | undefined): ExchangeTrace
}

export interface TracerOptions {
  readonly tracing: Tracing
  /** 0 to 1: how many of the traces that begin here are recorded. */
  readonly ratio: number
  /** From 0 to below 1. */
  readonly chance?: () => number
}

const noHeaders: TraceHeaders = []
const nothing = (): void => {}
const untraced: ExchangeTrace = { traceId: undefined, headers: () => noHeaders, attempt: nothing, end: nothing }
const passing = (traceId: string, headers: TraceHeaders = noHeaders): ExchangeTrace => ({ ...untraced, traceId, headers: () => headers })

/** Where no collector is named. */
export const passingTracer: ExchangeTracer = {
  begin(_context, request) {
    const parent = request && readTraceContext(request.head.headers)
    return parent ? passing(parent.traceId) : untraced
  },
}

export function exchangeTracer({ tracing, ratio, chance = Math.random }: TracerOptions): ExchangeTracer {
  /** A connection that carried one is done with what its ztunnel began: a trace is no list of all requests of a day. */
  const joined = new WeakSet<ConnectionContext>()
  const isDrawn = (): boolean => ratio > 0 && (ratio >= 1 || chance() < ratio)

  return {
    begin(context, request) {
      const headers = request?.head.headers
      const parent = headers && readTraceContext(headers)
      const isSampled = parent?.isSampled ?? (headers && readSamplingWish(headers)) ?? isDrawn()
      if (!isSampled) {
        if (parent?.isSampled === false) return passing(parent.traceId)
        // So that nobody behind us decides anew.
        const ours = parent ? { traceId: parent.traceId, spanId: parent.spanId, isSampled: false } : freshTraceParent()
        return passing(ours.traceId, headers ? writeTraceContext(ours, parent, headers) : noHeaders)
      }
      const tunnel = context.traceParent && { traceId: context.traceParent.traceId, spanId: context.traceParent.parentId }
      const isFirst = !joined.has(context)
      joined.add(context)
      const method = request ? methodOf(request) : 'tcp'
      const server = parent ? tracing.start(method, 'server', parent, tunnel) : tracing.start(method, 'server', isFirst ? tunnel : undefined, tunnel)
      return new RecordedExchange(tracing, server, (span) => {
        const ours = { ...span, isSampled: true }
        return headers ? writeTraceContext(ours, parent, headers) : writeTraceContext(ours, undefined, noRequest)
      })
    },
  }
}

const noRequest = { get: () => undefined, all: () => [], has: () => false }

class RecordedExchange implements ExchangeTrace {
  readonly #tracing: Tracing
  readonly #server: OpenSpan
  readonly #write: (span: { traceId: string; spanId: string }) => TraceHeaders
  #client: OpenSpan | undefined
  #attempts = 0

  constructor(tracing: Tracing, server: OpenSpan, write: (span: { traceId: string; spanId: string }) => TraceHeaders) {
    this.#tracing = tracing
    this.#server = server
    this.#write = write
  }

  get traceId(): string {
    return this.#server.traceId
  }

  headers(): TraceHeaders {
    this.#client ??= this.#tracing.start('send', 'client', this.#server)
    const { traceId, spanId } = this.#client
    return this.#write({ traceId, spanId })
  }

  attempt({ address, workload }: Attempt): void {
    // The first is told by the span's own attributes.
    if (++this.#attempts > 1) this.#client?.event('retry', { 'server.address': address, ...(workload && { 'istio.upstream.workload': logText(workload.name) }) })
  }

  end(finished: Finished): void {
    const name = nameOf(finished)
    const attributes = commonAttributes(finished)
    const error = errorOf(finished)
    this.#server.rename(name)
    this.#server.set({ ...attributes, ...serverAttributes(finished), ...(error !== undefined && { 'error.type': error }) })
    if (error !== undefined && (finished.status >= 500 || finished.status === 0 || isGrpcFault(finished.grpcStatus))) this.#server.fail(messageOf(finished))
    if (this.#client) {
      this.#client.rename(name)
      this.#client.set({ ...attributes, ...clientAttributes(finished), ...(error !== undefined && { 'error.type': error }) })
      if (error !== undefined) this.#client.fail(messageOf(finished))
      this.#client.end()
    }
    this.#server.end()
  }
}

const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH', 'QUERY'])
/** What is not a known method is one word, so that names of spans are few. */
const methodOf = ({ head }: Request): string => (methods.has(head.method) ? head.method : 'HTTP')
/** Of a server, in the semantic conventions for gRPC. */
const isGrpcFault = (status: number | undefined): boolean => status !== undefined && [2, 4, 12, 13, 14, 15].includes(status)

function nameOf({ request, rule, context: { target } }: Finished): string {
  const method = request ? methodOf(request) : 'tcp'
  if (rule) return logText(`${method} ${rule.origin} ${rule.name}`)
  switch (target.t) {
    case 'service': return `${method} ${target.service.hostname}`
    case 'workload': return `${method} ${target.workload.workloadName}`
    case 'listener': return `${method} ${target.listener.key}`
    default: return target satisfies never
  }
}

function errorOf({ reason, status, grpcStatus, isCut }: Finished): string | undefined {
  if (status < 400 && !isCut && (grpcStatus ?? 0) === 0 && status !== 0) return undefined
  if (reason !== undefined) return reason
  if (grpcStatus !== undefined && grpcStatus !== 0) return String(grpcStatus)
  if (status >= 400) return String(status)
  return isCut ? 'cut' : undefined
}

const messageOf = ({ reason, detail, status }: Finished): string => logText(detail ?? reason ?? `status ${status}`)

function commonAttributes({ request, rule, status, grpcStatus, flags, source, destination }: Finished): Attributes {
  return {
    ...(request && {
      'http.request.method': methodOf(request), 'url.scheme': request.head.scheme, 'server.address': hostOf(request.head.authority),
      'network.protocol.name': 'http', 'network.protocol.version': request.protocol === 'http1' ? '1.1' : '2',
      ...(status > 0 && { 'http.response.status_code': status }),
      ...(request.isGrpc && { 'rpc.system.name': 'grpc', 'rpc.method': logText(request.head.path.path.slice(1)) }),
      ...(grpcStatus !== undefined && { 'rpc.response.status_code': String(grpcStatus) }),
    }),
    'network.transport': 'tcp', response_flags: flags,
    ...(rule && { 'http.route': logText(`${rule.origin} ${rule.name}`) }),
    ...peer('downstream', source.peer.workload, undefined), ...peer('upstream', destination.workload, destination.service),
  }
}

function serverAttributes({ request, context, requestBytes, responseBytes, source, hits }: Finished): Attributes {
  const { ip, port } = context.caller.address
  const userAgent = request?.head.headers.get('user-agent')
  return {
    'client.address': ip, 'client.port': port, 'http.request.body.size': requestBytes, 'http.response.body.size': responseBytes,
    // Without the query: it may hold what nobody should keep.
    ...(request && { 'url.path': logText(request.head.path.path) }),
    ...(userAgent !== undefined && { 'user_agent.original': logText(userAgent) }),
    ...(source.identity !== undefined && { 'istio.downstream.principal': source.identity }),
    ...(hits.length > 0 && { 'sidestep.policy_hits': logText(hits.map(({ policy, rule, as }) => `${as} ${policy} rule ${rule}`).join(', ')) }),
  }
}

function clientAttributes({ upstreamAddress, attempts }: Finished): Attributes {
  return { ...(upstreamAddress !== undefined && { 'network.peer.address': upstreamAddress }), ...(attempts > 1 && { 'http.request.resend_count': attempts - 1 }) }
}

function peer(side: 'downstream' | 'upstream', workload: PeerWorkload | undefined, service: Service | undefined): Attributes {
  return {
    ...(workload && {
      [`istio.${side}.workload`]: logText(workload.workloadName), [`istio.${side}.namespace`]: logText(workload.namespace),
      [`istio.${side}.canonical_service`]: logText(workload.canonicalName), [`istio.${side}.canonical_revision`]: logText(workload.canonicalRevision),
      [`istio.${side}.cluster_id`]: logText(workload.clusterId),
    }),
    ...(service && { [`istio.${side}.service`]: logText(service.hostname) }),
  }
}
