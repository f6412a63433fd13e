// A small waypoint for the tests of this directory and of phases.ts: a front on a loopback port, the phases, and a forwarder that
// sends to loopback ports without balancing or retries. Records are kept to be looked at. Never imported by anything but tests.
import { createServer as createHttpServer } from 'node:http'
import type { RequestListener } from 'node:http'
import { createServer } from 'node:net'
import { Readable } from 'node:stream'
import { systemClock } from '../../core/clock.ts'
import type { Clock } from '../../core/clock.ts'
import { parseIdentity } from '../../core/identity.ts'
import { silentLogger } from '../../core/log.ts'
import type { AuthorizationL7 } from '../../model/authorization-l7.ts'
import type { JwtRule } from '../../model/manifest-traffic-auth.ts'
import type { GatewayListener, HttpRule, RouteTable } from '../../model/route.ts'
import type { AuthorizationProvider, RequestFilter } from '../../model/waypoint-config.ts'
import { serviceKey } from '../../model/workload.ts'
import type { Service } from '../../model/workload.ts'
import { L7Authorizer } from '../../policy/l7/authorization.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import { Routes } from '../../policy/l7/route-table.ts'
import { TcpRoutes } from '../../policy/l7/tcp-route.ts'
import { composePhases, defaultPhaseSettings } from '../compose-phases.ts'
import type { ComposedPhases, PhaseSettings } from '../compose-phases.ts'
import type { Chain, Chains, ConnectionContext, Target } from '../context.ts'
import type { ForwardOutcome, Forwarder, ForwardPlan } from '../forwarding.ts'
import { openUpstream } from '../http/forward.ts'
import type { Upstream } from '../http/forward.ts'
import { HttpFront } from '../http/serve.ts'
import { dial, listen } from '../http/testing.ts'
import type { ExchangeEnd, ExchangeReason, LiveRecord } from '../record.ts'
import { WaypointMetrics } from '../telemetry/metrics.ts'

export interface SeenRecord {
  rule: string | undefined
  service: string | undefined
  reasons: (readonly [ExchangeReason, string | undefined])[]
  hits: { readonly policy: string; readonly rule: number; readonly as: string }[]
  delayedMs: number
  answered: { readonly status: number } | undefined
  end: ExchangeEnd | undefined
}

export function serviceAt(name: string, port = 80, namespace = 'shop'): Service {
  return {
    name, namespace, hostname: `${name}.${namespace}.svc.cluster.local`, addresses: [{ network: '', ip: '10.96.0.20' }],
    ports: [{ servicePort: port, targetPort: port, appProtocol: 'http11' }], subjectAltNames: [], ipFamilies: 'automatic',
    isCanonical: true, isNamespaceLocal: false,
  }
}

export const shopService = serviceAt('web')
export const shopTarget: Target = { t: 'service', service: shopService, port: 80 }
export const frontend = parseIdentity('spiffe://cluster.local/ns/shop/sa/frontend')
export const waypointIdentity = parseIdentity('spiffe://cluster.local/ns/shop/sa/waypoint')

export function listenerTarget(protocol: 'http' | 'https' = 'http'): Target & { t: 'listener' } {
  const listener: GatewayListener = {
    key: 'Gateway shop/edge/web', gateway: { namespace: 'shop', name: 'edge' }, name: 'web', port: 8080, protocol,
  }
  return { t: 'listener', listener }
}

export function contextOf(more: Partial<ConnectionContext> = {}): ConnectionContext {
  return {
    caller: { identity: frontend, address: { ip: '10.1.0.7', port: 40_000 }, workload: undefined }, target: shopTarget, ...more,
  }
}

const outsider: ConnectionContext['caller'] = {
  identity: undefined, address: { ip: '203.0.113.9', port: 50_000 }, workload: undefined,
}

/** A client that comes to a listener and proved nothing. */
export function outsideContext(more: Partial<ConnectionContext> = {}): ConnectionContext {
  return { caller: outsider, target: listenerTarget(), ...more }
}

export function ruleOf(parts: Partial<HttpRule> = {}): HttpRule {
  return {
    origin: 'HTTPRoute shop/web', name: 'rule', matches: [], mirrors: [], timeouts: {}, filters: [],
    action: { t: 'forward', backends: [{ service: shopService, port: 80, weight: 1 }] }, ...parts,
  }
}

export interface WorldParts {
  readonly rules?: readonly HttpRule[]
  readonly tables?: readonly RouteTable[]
  readonly policies?: readonly AuthorizationL7[]
  readonly jwtRules?: readonly JwtRule[]
  readonly filters?: Readonly<Record<string, RequestFilter>>
  readonly providers?: readonly AuthorizationProvider[]
  readonly context?: ConnectionContext
  readonly settings?: Partial<PhaseSettings>
  readonly clock?: Clock
  readonly random?: () => number
}

/** What a backend is: its service, and where it really listens. */
export interface Backing {
  readonly service: Service
  readonly port: number
  readonly protocol?: 'http1' | 'http2'
}

export interface World {
  readonly port: number
  readonly url: string
  readonly records: SeenRecord[]
  readonly mirrored: { readonly plan: Omit<ForwardPlan, 'rule' | 'record'>; readonly body: string | undefined }[]
  readonly plans: ForwardPlan[]
  readonly phases: ComposedPhases
  /** That the front had with the handler. */
  readonly errors: unknown[]
  /** Of the next connections. */
  context: ConnectionContext
  /** In place of the upstream, where it gives an outcome. */
  intercept: ((plan: ForwardPlan) => ForwardOutcome | undefined) | undefined
  change(parts: Pick<WorldParts, 'rules' | 'tables' | 'policies' | 'jwtRules' | 'filters' | 'providers'>): void
  close(): Promise<void>
}

export async function startWorld(parts: WorldParts, backings: readonly Backing[] = []): Promise<World> {
  let config = parts
  let chain = chainOf(parts)
  const chains: Chains = {
    chainOf: () => chain,
    filter: (key) => config.filters?.[key],
    provider: (name) => config.providers?.find((each) => each.name === name),
  }
  const upstreams = new Map<string, Upstream>(backings.map(({
    service, port, protocol = 'http1',
  }) => [serviceKey(service), openUpstream({
    protocol, clock: systemClock, connect: () => dial(port), connectTimeoutMs: 2_000, idleTimeoutMs: 10_000, maxConnections: 50,
  })]))
  const records: SeenRecord[] = []
  const mirrored: World['mirrored'] = []
  const plans: ForwardPlan[] = []
  const services = [shopService, ...backings.map(({ service }) => service)]
  const forwarder = doubleOf(upstreams, (plan) => {
    plans.push(plan)
    return world.intercept?.(plan)
  }, (plan, body) => mirrored.push({ plan, body: body && Buffer.from(body).toString() }))
  const phases = composePhases({ counters: new WaypointMetrics(),
    chains, forwarder, clock: parts.clock ?? systemClock, random: parts.random ?? Math.random, own: () => waypointIdentity,
    log: silentLogger,
    serviceOf: (name) => services.find((service) => serviceKey(service) === serviceKey(name)),
    records: { begin: () => recordInto(records), carry: () => recordInto(records) },
    settings: { ...defaultPhaseSettings, mayFetchLocally: true, ...parts.settings },
  })
  const errors: unknown[] = []
  const front = new HttpFront<ConnectionContext>({
    clock: systemClock, handler: phases.handler, onHandlerError: (error) => errors.push(error),
  })
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    void front.detectAndServe(socket, { connection: world.context, scheme: 'http' }).then(({ t }) => {
      if (t !== 'http1' && t !== 'http2') socket.destroy()
    })
  })
  const port = await listen(server)
  const world: World = {
    port, url: `http://127.0.0.1:${port}`, records, mirrored, plans, phases, errors, context: parts.context ?? contextOf(),
    intercept: undefined,
    change(more) {
      config = { ...config, ...more }
      chain = chainOf(config)
    },
    async close() {
      front.close()
      await new Promise((done) => server.close(done))
      for (const upstream of upstreams.values()) upstream.destroy()
      await phases.close()
    },
  }
  return world
}

function chainOf({ rules, tables, policies = [], jwtRules = [] }: WorldParts): Chain {
  const all = tables ?? (rules ? [{ key: 'shop/web', hostnames: [], http: rules, tcp: [], hasDefault: false }] : [])
  return {
    key: 'shop/web.shop.svc.cluster.local:80', routes: new Routes(all), tcp: new TcpRoutes(all),
    authorizer: new L7Authorizer(policies), jwtRules, hasHttpRules: true,
  }
}

function doubleOf(
  upstreams: ReadonlyMap<string, Upstream>, intercept: (plan: ForwardPlan) => ForwardOutcome | undefined,
  onMirror: (plan: Omit<ForwardPlan, 'rule' | 'record'>, body: Uint8Array | undefined) => void,
): Forwarder {
  return {
    async forward(plan) {
      const instead = intercept(plan)
      if (instead) return instead
      const { request, head, to } = plan
      const upstream = to.t === 'service' ? upstreams.get(serviceKey(to.service)) : [...upstreams.values()][0]
      if (!upstream) return { t: 'failed', status: 503, because: 'noHealthyBackend', message: 'no backend is there' }
      const outcome = await upstream.send({
        ...head, trailers: request.trailers, acceptsTrailers: request.acceptsTrailers, signal: request.signal,
        ...(request.hasBody && { body: request.body }),
        ...(request.contentLength !== undefined && { contentLength: request.contentLength }),
        ...(request.upgrade !== undefined && { upgrade: request.upgrade }),
        onInformation: (status, headers) => request.inform(status, headers),
      })
      if (outcome.t !== 'failure') return outcome
      return {
        t: 'failed', status: outcome.kind === 'timeout' ? 504 : 503,
        because: outcome.kind === 'connectFailure' ? 'connectFailure' : 'upstreamReset',
        message: `the backend failed: ${outcome.kind}`,
      }
    },
    mirror: onMirror,
    connect: () => Promise.reject(new Error('not here')),
    stats: () => [],
  }
}

function recordInto(records: SeenRecord[]): LiveRecord {
  const seen: SeenRecord = {
    rule: undefined, service: undefined, reasons: [], hits: [], delayedMs: 0, answered: undefined, end: undefined,
  }
  records.push(seen)
  return {
    routed: (rule) => void (seen.rule = rule?.name),
    backend: (service) => void (seen.service = service?.name),
    attempt() {},
    because: (reason, detail) => void seen.reasons.push([reason, detail]),
    traceHeaders: () => [['traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'], ['b3', '']],
    delayed: (ms) => void (seen.delayedMs += ms),
    policyHit: (hit) => void seen.hits.push(hit),
    follow() {},
    answered: (status) => void (seen.answered = { status }),
    finish: (end) => void (seen.end ??= end),
  }
}

export interface Backend {
  readonly port: number
  close(): Promise<void>
}

export async function startBackend(listener: RequestListener): Promise<Backend> {
  const server = createHttpServer(listener)
  const port = await listen(server)
  return {
    port,
    async close() {
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    },
  }
}

/** Answers with what it was asked, as JSON. */
export const echo: RequestListener = (req, res) => {
  const chunks: Buffer[] = []
  req.on('data', (chunk: Buffer) => chunks.push(chunk))
  req.on('end', () => {
    res.setHeader('content-type', 'application/json')
    res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.headers, body: Buffer.concat(chunks).toString() }))
  })
}

export interface Echoed {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

export function responseOf(status: number, headers: HeaderMap, body = ''): ForwardOutcome {
  return {
    t: 'response', status, headers, body: Readable.from([Buffer.from(body)], { objectMode: false }), trailers: () => undefined,
  }
}

