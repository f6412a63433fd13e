// The admin API: what this ztunnel does, as JSON over HTTP, on a unix socket that only root can open and on loopback for
// people. Changes nothing but log levels; ends the process when asked to. Answers, servers and shapes are its neighbours.
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { serviceKey } from '../model/workload.ts'
import { explainRequestSchema, logLevels } from '../model/ztunnel-views.ts'
import type { LogLevelName } from '../model/ztunnel-views.ts'
import { answerJson, answerStream, answerText, list, refusalOfBrowser } from '../member/admin-answers.ts'
import { listenTcp, listenUnix } from '../member/admin-listener.ts'
import type { Handler, Listener } from '../member/admin-listener.ts'
import { cpuProfile, heapProfile, profileSeconds } from './admin-profile.ts'
import type { AdminSource } from './admin-source.ts'
import { certificateDump, certificateView, policyView, serviceView, workloadView } from './admin-views.ts'
import { exposition } from '../member/telemetry/exposition.ts'
import type { ZtunnelMetrics } from './telemetry/metrics.ts'

const gzipped = promisify(gzip)

export interface AdminOptions {
  readonly socketPath: string
  /** HOST:PORT each, or `none`; config.ts has them. */
  readonly adminAddress: string
  readonly metricsAddress: string
  readonly readinessAddress: string
  readonly source: AdminSource
  readonly metrics: ZtunnelMetrics
  readonly logger: Logger
}

export interface AdminServers {
  /** Where they listen; undefined for those that are off or wait for their port. */
  readonly ports: { readonly admin: number | undefined; readonly metrics: number | undefined; readonly readiness: number | undefined }
  /** Ends all of them. An upgrade calls it when the successor is ready. */
  close(): Promise<void>
}

/** Resolves when the unix socket serves. The others are no reason not to start: where a port is taken they go on trying. */
export async function startAdmin(options: AdminOptions): Promise<AdminServers> {
  const { source, logger, metrics } = options
  const scraped = metricsHandler(metrics)
  const answer = adminHandler(source)
  // Here as well: whoever is on the machine, but not in the node's network namespace, has only the socket.
  const api: Handler = (request, response) => (request.url === '/metrics' ? scraped : answer)(request, response)
  const listen = (address: string, handler: Handler): Promise<Listener | undefined> =>
    address === 'none' ? Promise.resolve(undefined) : listenTcp(address, handler, logger)
  const unix = await listenUnix(options.socketPath, api)
  const [admin, scrape, readiness] = await Promise.all([
    listen(options.adminAddress, guarded(api)), listen(options.metricsAddress, scraped), listen(options.readinessAddress, readinessHandler(source)),
  ])
  return {
    get ports() {
      return { admin: admin?.port, metrics: scrape?.port, readiness: readiness?.port }
    },
    async close() {
      await Promise.all([unix, admin, scrape, readiness].map((listener) => listener?.close()))
    },
  }
}

function guarded(handler: Handler): Handler {
  return (request, response) => {
    const because = refusalOfBrowser(request)
    if (because === undefined) handler(request, response)
    else answerJson(response, 403, { error: because })
  }
}

/** `GET /metrics` and `/stats/prometheus`; compressed and as OpenMetrics for those who prefer it. */
export function metricsHandler(metrics: ZtunnelMetrics): Handler {
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if (request.method !== 'GET') return answerJson(response, 405, { error: 'only GET is served' })
    if (request.url !== '/metrics' && request.url !== '/stats/prometheus') return answerJson(response, 404, { error: 'try /metrics' })
    const { type, text } = await exposition(metrics, request.headers.accept)
    const isCompressed = /\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))/.test(request.headers['accept-encoding'] ?? '')
    if (isCompressed) answerText(response, 200, type, await gzipped(text), { 'content-encoding': 'gzip', vary: 'accept-encoding' })
    else answerText(response, 200, type, text)
  }
  return safely(answer)
}

/** `GET /healthz/ready`: 200 or 503, with a sentence of what is waited for. */
export function readinessHandler({ isReady }: Pick<AdminSource, 'isReady'>): Handler {
  return safely((request, response) => {
    if (request.url !== '/healthz/ready' || (request.method !== 'GET' && request.method !== 'HEAD')) return answerJson(response, 404, { error: 'try GET /healthz/ready' })
    const { ready, waitingFor } = isReady()
    answerText(response, ready ? 200 : 503, 'text/plain; charset=utf-8', ready ? 'ready\n' : `waiting for ${waitingFor.join(' and for ') || 'its start to end'}.\n`)
  })
}

type Route = (source: AdminSource, query: URLSearchParams, request: IncomingMessage, response: ServerResponse) => void | Promise<void>

const gets: Readonly<Record<string, Route>> = {
  '/': (_source, _query, _request, response) => answerText(response, 200, 'text/html; charset=utf-8', indexPage),
  '/state': (source, _query, _request, response) => answerJson(response, 200, source.state()),
  '/ready': (source, _query, _request, response) => answerJson(response, source.isReady().ready ? 200 : 503, source.isReady()),
  '/workloads': (source, _query, _request, response) => answerStream(response, list(source.workloads(), workloadView)),
  '/services': (source, _query, _request, response) =>
    answerStream(response, list(source.services(), (service) => serviceView(service, source.endpoints(serviceKey(service))))),
  '/policies': (source, _query, _request, response) => answerStream(response, list(source.policies(), policyView)),
  '/connections': (source, _query, _request, response) => answerStream(response, list(source.connections(), (connection) => connection)),
  '/certificates': (source, _query, _request, response) => answerStream(response, list(source.certificates(), certificateView)),
  '/config_dump': configDump,
  '/logging': (source, _query, _request, response) => answerJson(response, 200, source.logLevels()),
  '/explain': (source, query, _request, response) => {
    const asked = explainRequestSchema.safeParse({ ...Object.fromEntries(query), mesh: query.get('mesh') === 'true' })
    if (asked.success) answerJson(response, 200, source.explain(asked.data))
    else answerJson(response, 400, { error: asked.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ') })
  },
  '/debug/pprof/profile': (_source, query, request, response) => profile(query.get('seconds'), 10, 'cpuprofile', cpuProfile, request, response),
  '/debug/pprof/heap': (_source, query, request, response) => profile(query.get('seconds'), 5, 'heapprofile', heapProfile, request, response),
}

const postsAlways: Readonly<Record<string, Route>> = {
  '/quitquitquit': (source, _query, _request, response) => {
    answerJson(response, 200, { ending: true })
    source.quit()
  },
}

/** All of the API. */
export function adminHandler(source: AdminSource): Handler {
  const posts: Readonly<Record<string, Route>> = { ...postsAlways, '/logging': setLevels({ ...source.logLevels() }) }
  return safely(async (request, response) => {
    const { pathname, searchParams } = new URL(`http://admin${request.url ?? '/'}`)
    const routes = request.method === 'GET' ? gets : request.method === 'POST' ? posts : {}
    const route = Object.hasOwn(routes, pathname) ? routes[pathname] : undefined
    // No request has a body; one that does is not read.
    if (request.headers['transfer-encoding'] !== undefined || Number(request.headers['content-length'] ?? 0) > 0) {
      response.setHeader('connection', 'close')
      if (!route || Number(request.headers['content-length'] ?? Infinity) > 65_536) return answerJson(response, 413, { error: 'requests have no body' })
    }
    if (route) return await route(source, searchParams, request, response)
    const isKnown = Object.hasOwn(gets, pathname) || Object.hasOwn(posts, pathname)
    if (isKnown) answerJson(response, 405, { error: `${pathname} is not for ${request.method ?? ''}` })
    else answerJson(response, 404, { error: 'GET / lists what there is' })
  })
}

/** Istio's config dump, field by field. */
function configDump(source: AdminSource, _query: URLSearchParams, _request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { version, config, stagedServices } = source.configDump()
  const connections = source.connections()
  const state = source.state()
  const workloadState = Object.fromEntries(state.pods.map(({ namespace, name, ...info }) => {
    const own = connections.filter(({ pod }) => pod === `${namespace}/${name}`)
    const of = (direction: 'inbound' | 'outbound'): unknown[] => own.filter((connection) => connection.direction === direction)
    return [`${namespace}/${name}`, { state: 'Up', connections: { inbound: of('inbound'), outbound: of('outbound') }, info }]
  }))
  const value = (given: unknown) => ({ t: 'value', value: given }) as const
  return answerStream(response, {
    version: value(version), config: value(config), state: value(state), staticConfig: value({}), stagedServices: value(stagedServices), workloadState: value(workloadState),
    certificates: list(source.certificates(), certificateDump),
    workloads: list(source.workloads(), workloadView),
    services: list(source.services(), (service) => serviceView(service, source.endpoints(serviceKey(service)))),
    policies: list(source.policies(), policyView),
  })
}

/**
 * `level=LEVEL`, with `component=NAME` for one; or as Istio has it, `level=NAME:LEVEL,...`. `reset` goes back to `initial` before.
 * All of it or nothing.
 */
function setLevels(initial: Readonly<Record<string, string>>): Route {
  return (source, query, _request, response) => {
    const parts = (query.get('level') ?? '').split(',').filter((part) => part !== '')
    const wanted = parts.map((part): [string | undefined, string] => {
      const colon = part.lastIndexOf(':')
      return colon < 0 ? [query.get('component') ?? undefined, part] : [part.slice(0, colon), part.slice(colon + 1)]
    })
    if (wanted.length === 0 && !query.has('reset')) return answerJson(response, 400, { error: `say ?level= and one of ${logLevels.join(', ')}` })
    const known = source.logLevels()
    for (const [component, level] of wanted) {
      if (!isLevel(level)) return answerJson(response, 400, { error: `${JSON.stringify(level)} is none of ${logLevels.join(', ')}` })
      if (component !== undefined && !Object.hasOwn(known, component)) {
        return answerJson(response, 404, { error: `no component ${JSON.stringify(component)}; there are ${Object.keys(known).join(', ')}` })
      }
    }
    const before = query.has('reset') ? [[undefined, initial['default'] ?? 'info'] as const, ...Object.entries(initial)] : []
    for (const [component, level] of [...before, ...wanted]) if (isLevel(level)) source.setLogLevel(component, level)
    answerJson(response, 200, source.logLevels())
  }
}

const isLevel = (text: string): text is LogLevelName => (logLevels as readonly string[]).includes(text)

async function profile(
  seconds: string | null, fallback: number, kind: string, take: (seconds: number, signal: AbortSignal) => Promise<string>, request: IncomingMessage, response: ServerResponse,
): Promise<void> {
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  const wanted = profileSeconds(seconds, fallback)
  request.socket.setTimeout(0)
  const text = await take(wanted, gone.signal)
  answerText(response, 200, 'application/json', text, { 'content-disposition': `attachment; filename="ztunnel-${process.pid}.${kind}"` })
}

/** Nobody who asks can end the process by an error. */
function safely(handler: (request: IncomingMessage, response: ServerResponse) => void | Promise<void>): Handler {
  const failed = (response: ServerResponse, error: unknown): void => {
    if (response.headersSent) response.destroy()
    else if (error instanceof MeshError) answerJson(response, error.code === 'OVERLOADED' ? 429 : 400, { error: error.message })
    else answerJson(response, 500, { error: describeError(error) })
  }
  return (request, response) => {
    request.resume()
    Promise.try(handler, request, response).catch((error: unknown) => failed(response, error))
  }
}

const indexPage = readFileSync(new URL('./admin-index.html', import.meta.url), 'utf8')
