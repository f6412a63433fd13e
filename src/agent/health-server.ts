// The node agent's port for probes and Prometheus: /healthz/ready, /healthz/live and /metrics. Says nothing else, and nothing of pods.
import { createServer } from 'node:http'
import type { Server, ServerResponse } from 'node:http'
import type { Registry } from 'prom-client'
import { MeshError } from '../core/errors.ts'

export interface HealthOptions {
  /** HOST:PORT. */
  readonly address: string
  readonly registry: Registry
  /** What is waited for, sentences without a full stop; empty when ready. */
  readonly waitingFor: () => readonly string[]
}

/** Resolves when it listens; SYSCALL_FAILED where it cannot. */
export async function serveHealth({ address, registry, waitingFor }: HealthOptions): Promise<Server> {
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (request, response) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') return say(response, 405, 'only GET is served\n')
    switch (request.url) {
      case '/healthz/live': return say(response, 200, 'live\n')
      case '/healthz/ready': {
        const left = waitingFor()
        return say(response, left.length === 0 ? 200 : 503, left.length === 0 ? 'ready\n' : `waiting for ${left.join(' and for ')}.\n`)
      }
      case '/metrics':
        return void registry.metrics().then((text) => say(response, 200, text, registry.contentType), () => say(response, 500, 'the metrics cannot be read\n'))
      default: return say(response, 404, 'try /healthz/ready or /metrics\n')
    }
  })
  server.maxConnections = 100
  const colon = address.lastIndexOf(':')
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => reject(new MeshError('SYSCALL_FAILED', `cannot listen on ${address}: ${cause.message}`, { cause })))
    server.listen(Number(address.slice(colon + 1)), address.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), resolve)
  })
  return server
}

function say(response: ServerResponse, status: number, text: string, type = 'text/plain; charset=utf-8'): void {
  response.writeHead(status, { 'content-type': type }).end(text)
}
