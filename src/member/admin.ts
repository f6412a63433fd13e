// The admin API as every proxy of ours has it: readiness, metrics, log levels, profiles and the wish to end, on a unix socket
// that only root can open and on loopback for people. What else there is to see of a proxy it gives as routes of its own.
// Changes nothing but log levels.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { Readiness } from '../model/ztunnel-state.ts'
import { logLevels } from '../model/ztunnel-views.ts'
import type { LogLevelName } from '../model/ztunnel-views.ts'
import { answerJson, answerText, refusalOfBrowser } from './admin-answers.ts'
import { listenTcp, listenUnix } from './admin-listener.ts'
import type { Handler, Listener } from './admin-listener.ts'
import { cpuProfile, heapProfile, profileSeconds } from './admin-profile.ts'
import { exposition } from './telemetry/exposition.ts'
import type { ProxyMetrics } from './telemetry/metrics.ts'

const gzipped = promisify(gzip)

/** What every admin API asks of its proxy. Each method is called when somebody asks and must not throw. */
export interface CommonSource {
  state(): unknown
  isReady(): Readiness
  /** Component to level; `default` for all others. LogLevels of log-levels.ts does both. */
  logLevels(): Readonly<Record<string, string>>
  /** All components where none is named. False if there is no such component. */
  setLogLevel(component: string | undefined, level: LogLevelName): boolean
  /** Ends the process as SIGTERM does. */
  quit(): void
}

export type Route<Source> = (source: Source, query: URLSearchParams, request: IncomingMessage, response: ServerResponse) => void | Promise<void>

/** What one proxy's API has beyond what all have. */
export interface AdminPages<Source> {
  /** Of the program, for the names of profiles. */
  readonly program: string
  readonly index: string
  /** By path. */
  readonly gets: Readonly<Record<string, Route<Source>>>
}

export interface AdminServersOptions<Source> {
  /** Empty for none. */
  readonly socketPath: string
  /** HOST:PORT each, or `none`; the settings have them. */
  readonly adminAddress: string
  readonly metricsAddress: string
  readonly readinessAddress: string
  readonly source: Source
  readonly pages: AdminPages<Source>
  readonly metrics: ProxyMetrics
  readonly logger: Logger
}

export interface AdminServers {
  /** Where they listen; undefined for those that are off or wait for their port. */
  readonly ports: { readonly admin: number | undefined; readonly metrics: number | undefined; readonly readiness: number | undefined }
  /** Ends all of them. An upgrade calls it when the successor is ready. */
  close(): Promise<void>
}

/** Resolves when the unix socket serves. The others are no reason not to start: where a port is taken they go on trying. */
export async function startAdminServers<Source extends CommonSource>(options: AdminServersOptions<Source>): Promise<AdminServers> {
  const { source, logger, metrics, pages, socketPath } = options
  const scraped = metricsHandler(metrics)
  const answer = pagesHandler(source, pages)
  // Here as well: whoever is on the machine, but not in the proxy's network namespace, has only the socket.
  const api: Handler = (request, response) => (request.url === '/metrics' ? scraped : answer)(request, response)
  const listen = (address: string, handler: Handler): Promise<Listener | undefined> =>
    address === 'none' ? Promise.resolve(undefined) : listenTcp(address, handler, logger)
  const unix = socketPath === '' ? undefined : await listenUnix(socketPath, api)
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
export function metricsHandler(metrics: ProxyMetrics): Handler {
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

/**
 * `GET /healthz/ready`: 200 or 503, with a sentence of what is waited for. `GET /healthz/live`: 200 from whoever can still
 * answer.
 */
export function readinessHandler({ isReady }: Pick<CommonSource, 'isReady'>): Handler {
  return safely((request, response) => {
    const { url, method } = request
    if ((url !== '/healthz/ready' && url !== '/healthz/live') || (method !== 'GET' && method !== 'HEAD')) {
      return answerJson(response, 404, { error: 'try GET /healthz/ready or /healthz/live' })
    }
    if (url === '/healthz/live') return answerText(response, 200, 'text/plain; charset=utf-8', 'live\n')
    const { ready, waitingFor } = isReady()
    answerText(response, ready ? 200 : 503, 'text/plain; charset=utf-8', ready ? 'ready\n' : `waiting for ${waitingFor.join(' and for ') || 'its start to end'}.\n`)
  })
}

function commonGets<Source extends CommonSource>({ program, index }: AdminPages<Source>): Readonly<Record<string, Route<Source>>> {
  return {
    '/': (_source, _query, _request, response) => answerText(response, 200, 'text/html; charset=utf-8', index),
    '/state': (source, _query, _request, response) => answerJson(response, 200, source.state()),
    '/ready': (source, _query, _request, response) => answerJson(response, source.isReady().ready ? 200 : 503, source.isReady()),
    '/logging': (source, _query, _request, response) => answerJson(response, 200, source.logLevels()),
    '/debug/pprof/profile': (_source, query, request, response) =>
      profile(query.get('seconds'), 10, `${program}-${process.pid}.cpuprofile`, cpuProfile, request, response),
    '/debug/pprof/heap': (_source, query, request, response) =>
      profile(query.get('seconds'), 5, `${program}-${process.pid}.heapprofile`, heapProfile, request, response),
  }
}

/** All of the API but the metrics. */
export function pagesHandler<Source extends CommonSource>(source: Source, pages: AdminPages<Source>): Handler {
  const gets = { ...commonGets(pages), ...pages.gets }
  const posts: Readonly<Record<string, Route<Source>>> = {
    '/logging': setLevels({ ...source.logLevels() }),
    '/quitquitquit': (asked, _query, _request, response) => {
      answerJson(response, 200, { ending: true })
      asked.quit()
    },
  }
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

/**
 * `level=LEVEL`, with `component=NAME` for one; or as Istio has it, `level=NAME:LEVEL,...`. `reset` goes back to `initial`
 * before. All of it or nothing.
 */
function setLevels(initial: Readonly<Record<string, string>>): Route<CommonSource> {
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
  seconds: string | null, fallback: number, filename: string, take: (seconds: number, signal: AbortSignal) => Promise<string>, request: IncomingMessage, response: ServerResponse,
): Promise<void> {
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  const wanted = profileSeconds(seconds, fallback)
  request.socket.setTimeout(0)
  const text = await take(wanted, gone.signal)
  answerText(response, 200, 'application/json', text, { 'content-disposition': `attachment; filename="${filename}"` })
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
