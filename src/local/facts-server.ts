// Tells whoever connects to its unix socket what runs: all there is, and then what changes (model/running-pod.ts has the lines).
// What waits for a client is names, not words: of a fact that changed ten times only the last state is sent, so a slow client
// costs little, and one that stops reading is cut off.
import { rmSync } from 'node:fs'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import type { Logger } from '../core/log.ts'
import { encodeLine } from '../core/ndjson.ts'
import { noRuntimeFacts } from '../model/running-pod.ts'
import type { FactLine, RuntimeFacts } from '../model/running-pod.ts'

export interface FactsServerOptions {
  readonly path: string
  readonly logger: Logger
  /** How long a client may leave unread what was written to it. */
  readonly stalledMs?: number
}

const defaultStalledMs = 30_000
/** Nobody but control planes connects; two are one that takes over from another. */
const maxClients = 16

type Kind = 'pods' | 'serviceIps'

interface Client {
  readonly socket: Socket
  /** By kind and `namespace/name`: what this client was not told yet. */
  readonly waiting: Map<string, readonly [Kind, string]>
  isSynced: boolean
  timer: NodeJS.Timeout | undefined
}

export class FactsServer {
  readonly #options: FactsServerOptions
  readonly #clients = new Set<Client>()
  #facts: RuntimeFacts = noRuntimeFacts
  #server: Server | undefined

  constructor(options: FactsServerOptions) {
    this.#options = options
  }

  async listen(): Promise<void> {
    const { path } = this.#options
    rmSync(path, { force: true })
    const server = createServer((socket) => this.#accept(socket))
    server.maxConnections = maxClients
    this.#server = server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
  }

  get clients(): number {
    return this.#clients.size
  }

  /** All facts as they are now; they must not be changed afterwards. Only differences are sent. */
  update(facts: RuntimeFacts): void {
    const before = this.#facts
    this.#facts = facts
    if (this.#clients.size === 0) return
    const changed = [...differences('pods', before.pods, facts.pods), ...differences('serviceIps', before.serviceIps, facts.serviceIps)]
    if (changed.length === 0) return
    for (const client of this.#clients) {
      for (const [kind, id] of changed) client.waiting.set(`${kind} ${id}`, [kind, id])
      this.#pump(client)
    }
  }

  #accept(socket: Socket): void {
    const client: Client = { socket, waiting: new Map(), isSynced: false, timer: undefined }
    for (const id of this.#facts.pods.keys()) client.waiting.set(`pods ${id}`, ['pods', id])
    for (const id of this.#facts.serviceIps.keys()) client.waiting.set(`serviceIps ${id}`, ['serviceIps', id])
    this.#clients.add(client)
    // It has nothing to say; reading is how its end is seen.
    socket.resume()
    // 'close' follows and is where it is dealt with.
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(client.timer)
      this.#clients.delete(client)
    })
    socket.on('drain', () => {
      clearTimeout(client.timer)
      client.timer = undefined
      this.#pump(client)
    })
    this.#pump(client)
  }

  #pump(client: Client): void {
    // A timer that runs means that the socket is full.
    if (client.timer !== undefined) return
    for (const [key, [kind, id]] of client.waiting) {
      client.waiting.delete(key)
      if (!client.socket.write(encodeLine(this.#line(kind, id)))) return this.#full(client)
    }
    if (client.isSynced) return
    client.isSynced = true
    if (!client.socket.write(encodeLine({ t: 'synced' } satisfies FactLine))) this.#full(client)
  }

  #full(client: Client): void {
    const { stalledMs = defaultStalledMs, logger, path } = this.#options
    client.timer = setTimeout(() => {
      logger.warn({ 'facts.socket': path, stalledMs, waiting: client.waiting.size }, 'a reader of facts has stopped reading, cutting it off')
      client.socket.destroy()
    }, stalledMs)
  }

  #line(kind: Kind, id: string): FactLine {
    const slash = id.indexOf('/')
    const who = { namespace: id.slice(0, slash), name: id.slice(slash + 1) }
    if (kind === 'pods') {
      const pod = this.#facts.pods.get(id)
      return pod ? { t: 'pod', pod } : { t: 'podGone', ...who }
    }
    const ips = this.#facts.serviceIps.get(id)
    return ips ? { t: 'serviceIps', ...who, ips: [...ips] } : { t: 'serviceIpsGone', ...who }
  }

  async close(): Promise<void> {
    for (const { socket } of this.#clients) socket.destroy()
    const server = this.#server
    if (server) await new Promise<void>((resolve) => server.close(() => resolve()))
  }
}

function* differences<T>(kind: Kind, before: ReadonlyMap<string, T>, after: ReadonlyMap<string, T>): Generator<readonly [Kind, string]> {
  for (const id of before.keys()) if (!after.has(id)) yield [kind, id]
  for (const [id, value] of after) if (!isDeepStrictEqual(before.get(id), value)) yield [kind, id]
}
