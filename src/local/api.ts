// The daemon's API: HTTP with JSON on a unix socket that only root can reach. It translates requests to calls of the mesh
// and errors to answers; shapes are in model/local-status.ts.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import {
  applyRequestSchema, execRequestSchema, runRequestSchema, type ApiError, type ApplyResult, type RunResult,
} from '../model/local-status.ts'
import { objectKey } from '../model/manifest.ts'
import type { LocalMesh } from './mesh.ts'

const maxBodyBytes = 8 << 20
const noEndMs = 2 ** 31 - 1

const logQuerySchema = z.object({
  namespace: z.string(),
  name: z.string(),
  container: z.string().optional(),
  follow: z.enum(['true', 'false']).default('false'),
  tail: z.coerce.number().int().min(0).max(1_000_000).optional(),
  /** Wait for the container to come into being rather than answer 404. */
  wait: z.enum(['true', 'false']).default('false'),
})
const podQuerySchema = z.object({ namespace: z.string(), name: z.string() })

type Handler = (request: IncomingMessage, response: ServerResponse, query: URLSearchParams) => Promise<void>

/** Serves until `close`. */
export async function serveApi(mesh: LocalMesh, logger: Logger): Promise<{ close(): Promise<void> }> {
  const routes: Readonly<Record<string, Handler>> = {
    'GET /status': async (_request, response) => json(response, 200, await mesh.fullStatus()),
    'POST /exec': async (request, response) => {
      const { namespace, name, container, command } = execRequestSchema.parse(await readJson(request))
      json(response, 200, mesh.execPlan(namespace, name, container, command))
    },
    'POST /run': async (request, response) => {
      mesh.run(runRequestSchema.parse(await readJson(request)))
      json(response, 201, {})
    },
    'POST /apply': async (request, response) => {
      const { manifest } = applyRequestSchema.parse(await readJson(request))
      json(response, 200, { objects: mesh.apply(manifest).map(objectKey) } satisfies ApplyResult)
    },
    'DELETE /applied': async (_request, response, query) => {
      const { key } = parseQuery(z.object({ key: z.string().max(600) }), query)
      if (!mesh.unapply(key)) throw new MeshError('NOT_FOUND', `${key} was not applied; if it is in a file, remove it there`)
      json(response, 200, {})
    },
    'POST /restart-gateway': async (_request, response, query) => {
      const { namespace, name } = parseQuery(podQuerySchema, query)
      mesh.restartGateway(namespace, name)
      json(response, 200, {})
    },
    'GET /wait': async (_request, response, query) => {
      const { namespace, name } = parseQuery(podQuerySchema, query)
      await podExists(mesh, namespace, name)
      const pod = mesh.pod(namespace, name)
      await mesh.waitUntil(() => response.destroyed || pod.isFinished || pod.isTerminating, noEndMs)
      const state = pod.container()?.state
      json(response, 200, { code: state?.t === 'terminated' ? state.code : 137 } satisfies RunResult)
    },
    'DELETE /pods': async (_request, response, query) => {
      const { namespace, name } = parseQuery(podQuerySchema, query)
      if (!mesh.unapply(`Pod ${namespace}/${name}`)) {
        throw new MeshError('NOT_FOUND', `pod ${namespace}/${name} was not made by sidestep run; remove it from its file`)
      }
      json(response, 200, {})
    },
    'POST /replace-ztunnel': async (_request, response, query) => {
      await mesh.replaceZtunnel(parseQuery(z.object({ node: z.string() }), query).node)
      json(response, 200, {})
    },
    'GET /logs': (_request, response, query) => streamLog(mesh, response, parseQuery(logQuerySchema, query)),
  }
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://localhost')
    const handler = routes[`${request.method} ${url.pathname}`]
    if (!handler) return fail(response, new MeshError('NOT_FOUND', `no such request: ${request.method} ${url.pathname}`))
    handler(request, response, url.searchParams).catch((error: unknown) => {
      logger.info({ request: `${request.method} ${url.pathname}`, because: String(error) }, 'request failed')
      fail(response, error)
    })
  })
  await listen(server, mesh.paths.apiSocket)
  return {
    close: () => new Promise((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    }),
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
}

/** A pod that was asked for a moment ago appears with the next step. */
async function podExists(mesh: LocalMesh, namespace: string, name: string): Promise<void> {
  const id = `${namespace}/${name}`
  const there = (): boolean => mesh.status().pods.some((pod) => `${pod.namespace}/${pod.name}` === id && pod.node !== '')
  await mesh.waitUntil(there, 5000, () => mesh.status().pods.find((pod) => `${pod.namespace}/${pod.name}` === id)?.reason ?? 'no such pod')
}

async function streamLog(mesh: LocalMesh, response: ServerResponse, query: z.infer<typeof logQuerySchema>): Promise<void> {
  const { namespace, name, container } = query
  if (query.wait === 'true') {
    await podExists(mesh, namespace, name)
    const waited = mesh.pod(namespace, name)
    await mesh.waitUntil(() => response.destroyed || waited.isTerminating || waited.container(container) !== undefined, noEndMs)
  }
  const log = mesh.log(namespace, name, container)
  const pod = mesh.pod(namespace, name)
  const gone = new AbortController()
  response.on('close', () => gone.abort())
  response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' })
  response.flushHeaders()
  let position = query.tail === undefined ? 0 : log.tail(query.tail)
  while (!gone.signal.aborted) {
    const isOver = query.follow === 'false' || pod.isFinished || log.isClosed
    const { data, next } = log.read(position)
    position = next
    if (data.length === 0) {
      if (isOver) break
      // Either there is more to read, or the pod has come to its end.
      const ended = new AbortController()
      await Promise.race([
        log.waitForMore(position, AbortSignal.any([gone.signal, ended.signal])),
        mesh.waitUntil(() => ended.signal.aborted || gone.signal.aborted || pod.isFinished, noEndMs),
      ])
      ended.abort()
    } else if (!response.write(data)) {
      await new Promise<void>((resolve) => {
        response.once('drain', resolve)
        gone.signal.addEventListener('abort', () => resolve(), { once: true })
      })
    }
  }
  response.end()
}

function parseQuery<T>(schema: z.ZodType<T>, query: URLSearchParams): T {
  return schema.parse(Object.fromEntries(query))
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

function json(response: ServerResponse, status: number, value: unknown): void {
  if (response.headersSent) return void response.end()
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(`${JSON.stringify(value)}\n`)
}

function fail(response: ServerResponse, thrown: unknown): void {
  const error = thrown instanceof z.ZodError
    ? new MeshError('BAD_MESSAGE', z.prettifyError(thrown), { source: 'downstream' })
    : thrown instanceof MeshError ? thrown : new MeshError('COMMAND_FAILED', thrown instanceof Error ? thrown.message : String(thrown))
  const status = error.code === 'NOT_FOUND' ? 404 : error.code === 'ALREADY_RUNNING' ? 409 : error.code === 'BAD_MANIFEST' || error.source === 'downstream' ? 400 : 500
  json(response, status, { code: error.code, message: error.message, hint: error.hint } satisfies ApiError)
}
