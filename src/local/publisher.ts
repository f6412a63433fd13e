// Ports of this machine's loopback address that lead to ingresses of the mesh, so that a browser here can open them: bytes are
// carried as they are. It listens on 127.0.0.1 and nowhere else, and what it holds open is bounded.
import { createServer, type Server, type Socket } from 'node:net'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { LocalStatus } from '../model/local-status.ts'

const host = '127.0.0.1'
const dialTimeoutMs = 5_000
const retryMs = 2_000
/** Of all ports together; a browser has a handful. */
const defaultMaxConnections = 512

/** Somebody wants this. `ip` is absent while the ingress has no address; with a `problem` nothing is opened. */
export interface PublishWish {
  /** `namespace/name` of the Gateway. */
  readonly gateway: string
  readonly hostPort: number
  readonly port: number
  readonly ip: string | undefined
  readonly scheme: 'http' | 'https' | 'tcp'
  readonly problem: string
}

export interface PublisherOptions {
  /** A connection from inside the mesh's network. */
  readonly dial: (ip: string, port: number, timeoutMs: number) => Promise<Socket>
  readonly logger: Logger
  /** After a port began to listen, or could not. */
  readonly onChange: () => void
  readonly maxConnections?: number
}

interface Entry {
  wish: PublishWish
  server: Server | undefined
  /** Why it does not listen; empty if it does. */
  because: string
  readonly sockets: Set<Socket>
  retry: NodeJS.Timeout | undefined
}

export class Publisher {
  readonly #options: PublisherOptions
  readonly #entries = new Map<number, Entry>()
  /** What cannot be had: of two that want one port, the second. */
  #rejected: readonly (PublishWish & { readonly because: string })[] = []
  #isClosed = false

  constructor(options: PublisherOptions) {
    this.#options = options
  }

  /** All that is wanted now. A port that somebody has already stays his; connections of a port that stays go on. */
  update(wishes: readonly PublishWish[]): void {
    if (this.#isClosed) return
    const wanted = new Map<number, PublishWish>()
    const rejected: (PublishWish & { because: string })[] = []
    for (const wish of wishes) {
      const other = wanted.get(wish.hostPort)
      if (wish.problem !== '') rejected.push({ ...wish, because: wish.problem })
      else if (other) rejected.push({ ...wish, because: `the port ${wish.hostPort} leads to ${other.gateway} already` })
      else wanted.set(wish.hostPort, wish)
    }
    this.#rejected = rejected
    for (const [hostPort, entry] of this.#entries) {
      const wish = wanted.get(hostPort)
      if (wish?.gateway === entry.wish.gateway && wish.port === entry.wish.port) entry.wish = wish
      else this.#close(hostPort, entry)
    }
    for (const [hostPort, wish] of wanted) if (!this.#entries.has(hostPort)) this.#open(hostPort, wish)
  }

  #open(hostPort: number, wish: PublishWish): void {
    const entry: Entry = { wish, server: undefined, because: 'not listening yet', sockets: new Set(), retry: undefined }
    this.#entries.set(hostPort, entry)
    this.#listen(hostPort, entry)
  }

  #listen(hostPort: number, entry: Entry): void {
    const server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (socket) => void this.#carry(entry, socket))
    entry.server = server
    server.on('error', (error) => {
      if (this.#entries.get(hostPort) !== entry) return
      if (entry.because === 'not listening yet') this.#options.logger.warn({ hostPort, gateway: entry.wish.gateway, because: error.message }, 'port cannot be published, trying again')
      entry.because = error.message
      entry.retry = setTimeout(() => this.#listen(hostPort, entry), retryMs)
      entry.retry.unref()
      this.#options.onChange()
    })
    server.listen({ host, port: hostPort }, () => {
      if (this.#entries.get(hostPort) !== entry) return void server.close()
      entry.because = ''
      this.#options.onChange()
    })
  }

  async #carry(entry: Entry, client: Socket): Promise<void> {
    // Whoever goes away while we dial, or later, is dealt with by 'close'.
    client.on('error', () => {})
    const { ip, port, gateway } = entry.wish
    const open = [...this.#entries.values()].reduce((sum, { sockets }) => sum + sockets.size, 0)
    if (ip === undefined || open >= (this.#options.maxConnections ?? defaultMaxConnections)) return void client.resetAndDestroy()
    entry.sockets.add(client)
    client.on('close', () => entry.sockets.delete(client))
    try {
      const server = await this.#options.dial(ip, port, dialTimeoutMs)
      server.on('error', () => {})
      if (client.destroyed) return void server.destroy()
      // An end is passed on as an end, a failure as a failure.
      client.on('close', (hadError) => (hadError ? server.resetAndDestroy() : server.destroySoon()))
      server.on('close', (hadError) => (hadError ? client.resetAndDestroy() : client.destroySoon()))
      client.pipe(server)
      server.pipe(client)
    } catch (error) {
      this.#options.logger.info({ gateway, port, because: describeError(error) }, 'ingress cannot be reached')
      client.resetAndDestroy()
    }
  }

  #close(hostPort: number, entry: Entry): void {
    this.#entries.delete(hostPort)
    clearTimeout(entry.retry)
    entry.server?.close()
    for (const socket of entry.sockets) socket.destroy()
  }

  status(): LocalStatus['published'] {
    const told = ({ gateway, hostPort, port, scheme }: PublishWish, because: string, connections: number): LocalStatus['published'][number] =>
      ({ gateway, port, address: `${host}:${hostPort}`, url: scheme === 'tcp' ? '' : `${scheme}://${host}:${hostPort}/`, listening: because === '', because, connections })
    return [
      ...[...this.#entries.values()].map(({ wish, because, sockets }) => told(wish, because, sockets.size)),
      ...this.#rejected.map((wish) => told(wish, wish.because, 0)),
    ].sort((a, b) => (a.address < b.address ? -1 : 1))
  }

  close(): void {
    this.#isClosed = true
    for (const [hostPort, entry] of this.#entries) this.#close(hostPort, entry)
  }
}
