// What the tests of this room share: backends on loopback that are workloads of a mesh, a forwarder before them, and requests as
// the phases make them. Never imported by anything but tests.
import { once } from 'node:events'
import http from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import http2 from 'node:http2'
import type { ServerHttp2Stream } from 'node:http2'
import type { AddressInfo, Server } from 'node:net'
import { Readable } from 'node:stream'
import { systemClock } from '../../core/clock.ts'
import { silentLogger } from '../../core/log.ts'
import { defaultTrafficPolicy } from '../../model/route.ts'
import type { DestinationPolicy, HttpRule, TrafficPolicy } from '../../model/route.ts'
import { WorkloadStore } from '../../model/workload-store.ts'
import type { AppProtocol, Service, Workload } from '../../model/workload.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import { normalisePath } from '../../policy/l7/path.ts'
import type { ConnectionContext } from '../context.ts'
import type { BackendTarget, ForwardOutcome } from '../forwarding.ts'
import type { Request } from '../http/message.ts'
import type { Attempt, ExchangeReason, ExchangeRecord } from '../record.ts'
import type { UpstreamEvent } from './events.ts'
import { UpstreamForwarder } from './forwarder.ts'
import type { UpstreamParts } from './parts.ts'

export const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }
export const waypointIdentity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'waypoint' }

export function workload(name: string, port: number, more: Partial<Workload> = {}): Workload {
  return {
    uid: `cluster//Pod/shop/${name}`, name, namespace: 'shop', ips: ['127.0.0.1'], network: '', trustDomain: 'cluster.local', serviceAccount: 'backend', node: 'a',
    clusterId: 'cluster', tunnelProtocol: 'none', nativeTunnel: false, isHostNetwork: false, canonicalName: name, canonicalRevision: 'latest',
    workloadType: 'pod', workloadName: name, isHealthy: true, capacity: 1, locality: { region: '', zone: '', subzone: '' }, policies: [],
    services: new Map([['shop/api.shop', [{ servicePort: 80, targetPort: port, appProtocol: 'unknown' as const }]]]),
    ...more,
  }
}

export function service(appProtocol: AppProtocol = 'unknown', more: Partial<Service> = {}): Service {
  return {
    name: 'api', namespace: 'shop', hostname: 'api.shop', addresses: [{ network: '', ip: '10.96.0.9' }],
    ports: [{ servicePort: 80, targetPort: 80, appProtocol, name: 'http' }], subjectAltNames: [], ipFamilies: 'automatic', isCanonical: true, isNamespaceLocal: false,
    ...more,
  }
}

export class Recorded implements ExchangeRecord {
  readonly attempts: Attempt[] = []
  readonly reasons: (readonly [ExchangeReason, string | undefined])[] = []
  routed(): void {}
  backend(): void {}
  policyHit(): void {}
  delayed(): void {}
  attempt(attempt: Attempt): void {
    this.attempts.push(attempt)
  }
  because(reason: ExchangeReason, detail?: string): void {
    this.reasons.push([reason, detail])
  }
  traceHeaders(): readonly (readonly [string, string])[] {
    return [['traceparent', '00-0123456789abcdef0123456789abcdef-0123456789abcdef-01']]
  }
}

export interface Ask {
  readonly method: string
  readonly path: string
  readonly headers: readonly (readonly [string, string])[]
  readonly body: Readable | string
  readonly rule: HttpRule
  readonly to: BackendTarget
  readonly protocol: 'http1' | 'http2'
  readonly upgrade: string
  readonly signal: AbortSignal
  readonly address: string
  readonly source: typeof identity | undefined
  readonly authority: string
}

export interface Answered {
  readonly outcome: ForwardOutcome
  readonly record: Recorded
  readonly informed: number[]
}

export class World {
  readonly store = new WorkloadStore()
  readonly events: UpstreamEvent[] = []
  readonly destinations = new Map<string, DestinationPolicy>()
  readonly forwarder: UpstreamForwarder
  readonly parts: UpstreamParts
  readonly #closing: (() => unknown)[] = []
  self: Workload | undefined

  constructor(parts: Partial<UpstreamParts> = {}, appProtocol: AppProtocol = 'unknown') {
    this.store.apply({ services: [service(appProtocol)] })
    this.parts = {
      store: this.store, self: () => this.self, destination: (key) => this.destinations.get(key), secret: () => undefined, tunnels: undefined,
      identity: waypointIdentity, sourceKey: 'test', clock: systemClock, random: Math.random, log: silentLogger,
      sessionKeys: { keys: [Buffer.alloc(32, 7)] }, events: (event) => this.events.push(event), ...parts,
    }
    this.forwarder = new UpstreamForwarder(this.parts)
  }

  onClose(call: () => unknown): void {
    this.#closing.push(call)
  }

  policy(policy: Partial<TrafficPolicy>, more: Partial<DestinationPolicy> = {}): void {
    this.destinations.set('shop/api.shop', { key: 'shop/api.shop', policy: { ...defaultTrafficPolicy, slowStartMs: 0, ...policy }, ports: new Map(), subsets: new Map(), ...more })
    this.forwarder.policiesChanged(this.destinations.values())
  }

  get service(): Service {
    return this.store.service('shop/api.shop') ?? service()
  }

  count(t: UpstreamEvent['t'], because?: string): number {
    return this.events.filter((event) => event.t === t && (because === undefined || ('because' in event && event.because === because))).length
  }

  /** An HTTP/1.1 server that is an endpoint of the service. */
  async backend(name: string, handler: (req: IncomingMessage, res: ServerResponse) => void, more: Partial<Workload> = {}): Promise<{ readonly server: http.Server; readonly port: number }> {
    const server = http.createServer(handler)
    const port = await this.listen(server)
    this.add(workload(name, port, more))
    return { server, port }
  }

  async http2Backend(name: string, onStream: (stream: ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void): Promise<{ readonly server: http2.Http2Server; readonly port: number }> {
    const server = http2.createServer({ settings: { enableConnectProtocol: true } })
    const sessions = new Set<http2.ServerHttp2Session>()
    server.on('session', (session) => sessions.add(session))
    server.on('stream', (stream: ServerHttp2Stream, headers) => {
      stream.on('error', () => {
        // Cut on purpose.
      })
      onStream(stream, headers)
    })
    const port = await this.listen(server as unknown as Server)
    this.onClose(() => {
      for (const session of sessions) session.destroy()
    })
    this.add(workload(name, port))
    return { server, port }
  }

  add(...workloads: readonly Workload[]): void {
    this.store.apply({ workloads })
  }

  remove(name: string): void {
    this.store.apply({ removedAddresses: [`cluster//Pod/shop/${name}`] })
  }

  async listen(server: Server | http.Server): Promise<number> {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    this.onClose(() => {
      if ('closeAllConnections' in server) server.closeAllConnections()
      server.close()
    })
    return (server.address() as AddressInfo).port
  }

  context(ask: Partial<Ask> = {}): ConnectionContext {
    return {
      caller: { identity: 'source' in ask ? ask.source : identity, address: { ip: ask.address ?? '10.0.0.1', port: 1234 }, workload: undefined },
      target: { t: 'service', service: this.service, port: 80 },
    }
  }

  async ask(ask: Partial<Ask> = {}): Promise<Answered> {
    const record = new Recorded()
    const informed: number[] = []
    const { method = 'GET', path = '/', headers = [], body, protocol = 'http1', upgrade, signal = new AbortController().signal, authority = 'api.shop' } = ask
    const map = HeaderMap.of(headers)
    const [plain = '', query = ''] = path.split('?')
    const normal = normalisePath(plain)
    if (normal.t !== 'path') throw new Error('a path that is none')
    const contentLength = typeof body === 'string' ? Buffer.byteLength(body) : undefined
    const request: Request<ConnectionContext> = {
      head: { method, scheme: 'http', authority, path: normal, query, headers: map },
      body: typeof body === 'string' ? Readable.from([Buffer.from(body)]) : body ?? Readable.from([]),
      hasBody: body !== undefined, trailers: () => undefined, acceptsTrailers: false, protocol,
      isGrpc: map.get('content-type')?.startsWith('application/grpc') === true, signal, connection: this.context(ask),
      inform: (status) => informed.push(status),
      ...(contentLength !== undefined && { contentLength }),
      ...(upgrade !== undefined && { upgrade }),
    }
    const outcome = await this.forwarder.forward({
      request, record, rule: ask.rule, to: ask.to ?? { t: 'service', service: this.service, port: 80 },
      head: { method, scheme: 'http', authority, target: path, headers: map.copy() },
    })
    return { outcome, record, informed }
  }

  /** Status and body; -1 for an answer that was cut. */
  async get(ask: Partial<Ask> = {}): Promise<{ readonly status: number; readonly body: string; readonly headers: HeaderMap | undefined; readonly record: Recorded }> {
    const { outcome, record } = await this.ask(ask)
    if (outcome.t === 'failed') return { status: outcome.status, body: outcome.because, headers: undefined, record }
    if (outcome.t === 'upgraded') return { status: 101, body: '', headers: outcome.headers, record }
    try {
      return { status: outcome.status, body: outcome.body ? await textOf(outcome.body) : '', headers: outcome.headers, record }
    } catch {
      // What came before the cut is of no interest.
      return { status: -1, body: 'cut', headers: outcome.headers, record }
    }
  }

  /** Nothing is under way, and nothing is kept. */
  idle(): boolean {
    return this.forwarder.stats().every(({ active, pending, retries }) => active + pending + retries === 0) && this.forwarder.held.replayBytes === 0
  }

  async close(): Promise<void> {
    this.forwarder.close({ cut: true })
    for (const call of this.#closing.reverse()) await call()
  }
}

export async function textOf(body: Readable): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of body) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

export function rule(more: Partial<HttpRule> = {}): HttpRule {
  return {
    origin: 'HTTPRoute shop/api', name: '0', matches: [], action: { t: 'forward', backends: [{ service: { namespace: 'shop', hostname: 'api.shop' }, port: 80, weight: 1 }] },
    mirrors: [], timeouts: {}, filters: [], ...more,
  }
}

/** Of a request for `/`. */
export function plainHead(headers: readonly (readonly [string, string])[]): Request['head'] {
  return { method: 'GET', scheme: 'http', authority: 'api.shop', path: { path: '/', matched: '/' }, query: '', headers: HeaderMap.of(headers) }
}
