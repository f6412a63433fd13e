// HTTP servers for people and monitoring: small, bounded in connections, sizes and times, and never a reason for the proxy
// not to serve. During an upgrade two ztunnels live on one node: the newer one gets the port when the older one leaves it.
import { chmodSync, renameSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Logger } from '../core/log.ts'

export type Handler = (request: IncomingMessage, response: ServerResponse) => void

export interface Listener {
  /** Where it listens; undefined for a unix socket and until the port is free. */
  readonly port: number | undefined
  /** Ends it; answers under way are cut. */
  close(): Promise<void>
}

const retryMs = 500

function boundedServer(handler: Handler): Server {
  const server = createServer({ maxHeaderSize: 8_192, headersTimeout: 5_000, requestTimeout: 10_000, keepAliveTimeout: 5_000, connectionsCheckingInterval: 1_000 }, handler)
  server.maxConnections = 64
  // Whoever does not read its answer for that long keeps its memory for nothing. Profiles turn it off for themselves.
  server.setTimeout(30_000)
  return server
}

function closeAll(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}

/** On a unix socket that only root can open; what was there before under that name is replaced in one step. */
export async function listenUnix(path: string, handler: Handler): Promise<Listener> {
  const server = boundedServer(handler)
  // Under another name first: it is never there with wrong permissions, and closing removes that name, not our successor's.
  const early = `${path}.${process.pid}`
  rmSync(early, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(early, resolve)
  })
  chmodSync(early, 0o600)
  renameSync(early, path)
  const inode = inodeOf(path)
  return {
    port: undefined,
    async close() {
      if (inode !== undefined && inodeOf(path) === inode) rmSync(path, { force: true })
      await closeAll(server)
    },
  }
}

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino
}

/** `address`: HOST:PORT. Resolves at the first attempt, whatever its result; while the port is taken it goes on trying. */
export async function listenTcp(address: string, handler: Handler, logger: Logger): Promise<Listener> {
  const colon = address.lastIndexOf(':')
  const host = address.slice(0, colon).replace(/^\[(.*)\]$/, '$1')
  const port = Number(address.slice(colon + 1))
  const server = boundedServer(handler)
  let timer: NodeJS.Timeout | undefined
  let hasWarned = false
  await new Promise<void>((resolve) => {
    const attempt = (): void => void server.listen({ host, port })
    server.on('listening', resolve)
    server.on('error', (error) => {
      if (!hasWarned) logger.warn({ address, error: error.message }, 'address cannot be listened on yet, trying on')
      hasWarned = true
      timer = setTimeout(attempt, retryMs)
      timer.unref()
      resolve()
    })
    attempt()
  })
  return {
    get port() {
      return server.listening ? (server.address() as AddressInfo).port : undefined
    },
    async close() {
      clearTimeout(timer)
      if (server.listening) await closeAll(server)
    },
  }
}
