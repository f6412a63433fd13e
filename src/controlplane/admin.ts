// Two small HTTP servers: the admin API on a unix socket that only its owner can open, which may change things, and metrics with
// readiness on a TCP port, which may not. What they answer and do is handed in.
import { chmodSync, mkdirSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { dirname } from 'node:path'
import { z } from 'zod'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'

const maxBodyBytes = 64 * 1024
const idleMs = 10_000

export const revokeRequestSchema = z.strictObject({ serial: z.string().regex(/^(0x)?[0-9a-fA-F:]{1,80}$/, 'must be a serial number in hex') })
export const rotateRequestSchema = z.strictObject({
  /** `begin` announces a new root; `continue` takes the steps that are due. */
  step: z.enum(['begin', 'continue']),
  /** How long the new root is announced before it signs; else until the last certificate of today has expired. */
  overlapSeconds: z.int().min(0).max(90 * 86_400).optional(),
})

export interface AdminActions {
  readonly status: () => unknown
  readonly isReady: () => boolean
  readonly revoke: (serial: string) => Promise<void>
  readonly rotate: (request: z.infer<typeof rotateRequestSchema>) => Promise<void>
}

/** Resolves when it listens. A socket that a killed process left is replaced. */
export async function serveAdmin(path: string, actions: AdminActions, logger: Logger): Promise<Server> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  rmSync(path, { force: true })
  const routes: Readonly<Record<string, (request: IncomingMessage) => Promise<unknown>>> = {
    'GET /status': async () => actions.status(),
    'POST /revoke': async (request) => actions.revoke(revokeRequestSchema.parse(await readJson(request)).serial),
    'POST /rotate': async (request) => actions.rotate(rotateRequestSchema.parse(await readJson(request))),
  }
  const server = createServer((request, response) => {
    if (request.url === '/ready') return ready(response, actions.isReady())
    const route = routes[`${request.method} ${request.url}`]
    if (!route) return fail(response, new MeshError('NOT_FOUND', 'try GET /status, GET /ready, POST /revoke or POST /rotate'))
    route(request).then((body) => answer(response, 200, body ?? {}), (error: unknown) => {
      logger.info({ request: `${request.method} ${request.url}`, because: describeError(error) }, 'admin request failed')
      fail(response, error)
    })
  })
  bound(server)
  // Made with this mode, not given it afterwards: there is no moment at which others could connect.
  const before = process.umask(0o177)
  try {
    await listen(server, { path })
  } finally {
    process.umask(before)
  }
  chmodSync(path, 0o600)
  return server
}

export interface MetricsSource {
  readonly contentType: string
  metrics(): Promise<string>
}

/** /metrics for Prometheus, /ready and /live for probes; GET only. BAD_CONFIG if the address cannot be had. */
export async function serveMetrics(host: string, port: number, registry: MetricsSource, isReady: () => boolean): Promise<Server> {
  const server = createServer((request, response) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') return void response.writeHead(405).end()
    if (request.url === '/ready') return ready(response, isReady())
    // Whoever can still answer at all: one that waits for the API server is not cured by being killed.
    if (request.url === '/live') return void response.writeHead(200, { 'content-type': 'text/plain' }).end('live\n')
    if (request.url !== '/metrics') return void response.writeHead(404, { 'content-type': 'text/plain' }).end('try /metrics, /ready or /live\n')
    registry.metrics().then(
      (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
      (error: unknown) => response.writeHead(500, { 'content-type': 'text/plain' }).end(`${describeError(error)}\n`),
    )
  })
  bound(server)
  await listen(server, { host, port })
  return server
}

function bound(server: Server): void {
  server.maxConnections = 200
  server.headersTimeout = idleMs
  server.requestTimeout = idleMs
  server.maxHeadersCount = 100
}

function listen(server: Server, where: { readonly path: string } | { readonly host: string; readonly port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => reject(new MeshError('BAD_CONFIG', `cannot listen: ${cause.message}`, { cause })))
    server.listen(where, resolve)
  })
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = []
  let sizeBytes = 0
  for await (const part of request) {
    const chunk = part as Buffer
    sizeBytes += chunk.length
    if (sizeBytes > maxBodyBytes) throw new MeshError('BAD_MESSAGE', `a request larger than ${maxBodyBytes} bytes`, { source: 'downstream' })
    parts.push(chunk)
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString('utf8'))
  } catch (cause) {
    throw new MeshError('BAD_MESSAGE', 'the request is not JSON', { source: 'downstream', cause })
  }
}

function ready(response: ServerResponse, isReady: boolean): void {
  answer(response, isReady ? 200 : 503, { ready: isReady })
}

function answer(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
}

function fail(response: ServerResponse, thrown: unknown): void {
  const error = thrown instanceof z.ZodError
    ? new MeshError('BAD_MESSAGE', z.prettifyError(thrown), { source: 'downstream' })
    : thrown instanceof MeshError ? thrown : new MeshError('COMMAND_FAILED', describeError(thrown))
  const status = error.code === 'NOT_FOUND' ? 404 : error.code === 'BAD_CONFIG' ? 409 : error.code === 'BAD_MESSAGE' ? 400 : 500
  if (!response.headersSent) answer(response, status, { code: error.code, message: error.message, hint: error.hint })
}
