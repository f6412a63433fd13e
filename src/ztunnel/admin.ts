// The admin API: what this ztunnel does, as JSON over HTTP on a unix socket that only root can open. Read-only.
import { chmodSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { Server } from 'node:http'

/** Serves `state()` at /state and readiness at /ready; resolves when it listens. */
export async function serveAdmin(path: string, state: () => unknown, isReady: () => boolean): Promise<Server> {
  rmSync(path, { force: true }) // a socket left by a process that was killed
  const server = createServer((request, response) => {
    const answer = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
    }
    if (request.method !== 'GET') answer(405, { error: 'only GET is served' })
    else if (request.url === '/state') answer(200, state())
    else if (request.url === '/ready') answer(isReady() ? 200 : 503, { ready: isReady() })
    else answer(404, { error: 'try /state or /ready' })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path, resolve)
  })
  chmodSync(path, 0o600)
  return server
}
