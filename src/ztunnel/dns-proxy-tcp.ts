// One captured DNS connection over TCP: many queries, pipelined, answered in whatever order the answers come (RFC 7766).
// Mesh names are answered here; for the rest one connection is made to the server that was asked, when first needed. A
// client that sends rubbish, does not read, or dawdles loses this connection and disturbs nobody else.
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { MeshError } from '../core/errors.ts'
import { FrameReader, frameOf } from '../dns/frames.ts'
import { serverFailure } from '../dns/message.ts'
import type { RecordType } from '../dns/message.ts'
import type { Resolution } from '../dns/resolver.ts'
import { abortSocket } from '../kernel/live-socket.ts'

/** Queries that wait for the server's answer at once. */
const maxOutstanding = 64
/** Bytes on their way to the server; no more is read from the client while there are more. */
const maxUnsentBytes = 128 * 1024
/** Without any query. */
const idleTimeoutMs = 30_000
/** For the rest of a query that has begun, for an answer, and for a client to read what it asked for. */
const progressTimeoutMs = 10_000
const sweepIntervalMs = 1_000

export interface DnsTcpParts {
  readonly resolve: (query: Buffer) => Resolution
  readonly dial: () => Promise<Duplex>
  readonly onQuery: (result: 'answered' | 'forwarded' | 'failed', type: RecordType, startedAt: number) => void
  /** Called once, with what was wrong if anything was. */
  readonly onClose: (because: MeshError | undefined) => void
}

interface Outstanding {
  /** What the client gets where the server cannot be reached; the query itself is not kept. */
  readonly failure: Buffer
  readonly type: RecordType
  readonly startedAt: number
}

/** The connection to the server. `unsent` is what waits for it to stand. */
type Upstream =
  | { readonly t: 'none' }
  | { readonly t: 'dialling'; readonly unsent: Buffer[]; bytes: number }
  | { readonly t: 'ready'; readonly stream: Duplex }

export class DnsTcpConnection {
  readonly #socket: Socket
  readonly #parts: DnsTcpParts
  readonly #fromClient = new FrameReader()
  /** By id. One may be in use twice: its answers are taken in order. */
  readonly #outstanding = new Map<number, Outstanding[]>()
  /** All that the server was ever asked on its present connection: an answer may have several messages. */
  #asked = new Set<number>()
  #outstandingCount = 0
  #queue: Buffer[] = []
  #upstream: Upstream = { t: 'none' }
  #hasEnded = false
  #isClosed = false
  #because: MeshError | undefined
  #lastProgressAt = performance.now()
  #lastQueryAt = performance.now()
  #sweeper: NodeJS.Timeout | undefined

  constructor(socket: Socket, parts: DnsTcpParts) {
    this.#socket = socket
    this.#parts = parts
  }

  start(): void {
    this.#socket.on('data', (chunk: Buffer) => this.#onBytes(chunk))
    this.#socket.on('end', () => this.drain())
    this.#socket.on('drain', () => this.#pump())
    // What went wrong is told by the close that follows.
    this.#socket.on('error', () => {})
    this.#socket.on('close', () => this.#closed())
    this.#sweeper = setInterval(() => this.#sweep(), sweepIntervalMs)
    this.#sweeper.unref()
    this.#socket.resume()
  }

  /** Reads no further; ends when all that was asked is answered. */
  drain(): void {
    this.#hasEnded = true
    this.#pump()
  }

  abort(): void {
    abortSocket(this.#socket)
  }

  #fail(because: MeshError): void {
    this.#because ??= because
    this.abort()
  }

  #onBytes(chunk: Buffer): void {
    if (this.#hasEnded) return
    if (!this.#fromClient.isPartial) this.#lastProgressAt = performance.now()
    try {
      const queries = this.#fromClient.push(chunk)
      if (queries.length > 0) this.#lastProgressAt = this.#lastQueryAt = performance.now()
      this.#queue = this.#queue.length === 0 ? queries : [...this.#queue, ...queries]
    } catch (error) {
      this.#fail(error instanceof MeshError ? error : new MeshError('BAD_MESSAGE', String(error), { cause: error }))
      return
    }
    this.#pump()
  }

  /** Whether a further query may be taken; if not, an answer, a drain or the client's reading will say so. */
  get #hasRoom(): boolean {
    const upstream = this.#upstream
    const unsent = upstream.t === 'dialling' ? upstream.bytes : upstream.t === 'ready' ? upstream.stream.writableLength : 0
    return !this.#socket.writableNeedDrain && this.#outstandingCount < maxOutstanding && unsent < maxUnsentBytes
  }

  #pump(): void {
    if (this.#isClosed || this.#socket.destroyed) return
    let taken = 0
    while (this.#hasRoom && !this.#socket.destroyed) {
      const query = this.#queue[taken]
      if (!query) break
      taken++
      this.#query(query)
    }
    this.#queue.splice(0, taken)
    if (this.#upstream.t === 'ready' && !this.#socket.writableNeedDrain) this.#upstream.stream.resume()
    if (this.#hasEnded && this.#queue.length === 0 && this.#outstandingCount === 0) {
      this.#socket.end()
      // A peer that never ends its side would keep it half open.
      if (!this.#socket.readableEnded) this.#socket.resume()
    } else if (this.#queue.length > 0) this.#socket.pause()
    else this.#socket.resume()
  }

  #query(query: Buffer): void {
    const startedAt = performance.now()
    const resolution = this.#parts.resolve(query)
    if (resolution.kind === 'answer') {
      this.#reply(resolution.message)
      this.#parts.onQuery(resolution.rcode === 'NOERROR' ? 'answered' : 'failed', resolution.type, startedAt)
      return
    }
    const id = query.readUInt16BE(0)
    const entry: Outstanding = { failure: serverFailure(query), type: resolution.type, startedAt }
    const same = this.#outstanding.get(id)
    if (same) same.push(entry)
    else this.#outstanding.set(id, [entry])
    this.#outstandingCount++
    this.#send(id, frameOf(query))
  }

  #reply(message: Uint8Array): void {
    if (!this.#socket.destroyed && this.#socket.writable) this.#socket.write(frameOf(message))
  }

  #send(id: number, frame: Buffer): void {
    const upstream = this.#upstream
    this.#asked.add(id)
    switch (upstream.t) {
      case 'ready':
        upstream.stream.write(frame)
        return
      case 'dialling':
        upstream.unsent.push(frame)
        upstream.bytes += frame.length
        return
      case 'none': {
        const dialling: Upstream = { t: 'dialling', unsent: [frame], bytes: frame.length }
        this.#upstream = dialling
        this.#parts.dial().then((stream) => this.#connected(stream, dialling.unsent), () => this.#unreachable())
        return
      }
      default:
        upstream satisfies never
    }
  }

  #connected(stream: Duplex, unsent: readonly Buffer[]): void {
    const reader = new FrameReader()
    // An error comes with a close.
    stream.on('error', () => {})
    if (this.#isClosed) {
      stream.destroy()
      return
    }
    this.#upstream = { t: 'ready', stream }
    stream.on('data', (chunk: Buffer) => {
      try {
        for (const answer of reader.push(chunk)) this.#answer(answer)
      } catch {
        stream.destroy() // the server speaks something else; its close ends the connection
        return
      }
      if (this.#socket.writableNeedDrain) stream.pause()
      this.#pump()
    })
    stream.on('drain', () => this.#pump())
    stream.on('end', () => stream.destroy())
    stream.on('close', () => this.#lost(stream))
    for (const frame of unsent) stream.write(frame)
  }

  #answer(answer: Buffer): void {
    const id = answer.readUInt16BE(0)
    // Nobody asked: not passed on.
    if (!this.#asked.has(id)) return
    this.#lastProgressAt = this.#lastQueryAt = performance.now()
    this.#reply(answer)
    const entry = this.#take(id)
    if (entry) this.#parts.onQuery('forwarded', entry.type, entry.startedAt)
  }

  #take(id: number): Outstanding | undefined {
    const entries = this.#outstanding.get(id)
    const entry = entries?.shift()
    if (entries?.length === 0) this.#outstanding.delete(id)
    if (entry) this.#outstandingCount--
    return entry
  }

  /** No connection to the server: each query fails, and the next one tries again. */
  #unreachable(): void {
    this.#upstream = { t: 'none' }
    this.#asked = new Set()
    for (const { failure, type, startedAt } of this.#takeAll()) {
      this.#reply(failure)
      this.#parts.onQuery('failed', type, startedAt)
    }
    this.#pump()
  }

  /** The server hung up: between queries that is its right; with queries unanswered the client sees what it would have seen. */
  #lost(stream: Duplex): void {
    if (this.#upstream.t !== 'ready' || this.#upstream.stream !== stream) return
    this.#upstream = { t: 'none' }
    this.#asked = new Set()
    if (this.#outstandingCount > 0) this.#fail(new MeshError('CONNECT_FAILED', 'the DNS server ended the connection', { source: 'upstream' }))
  }

  #takeAll(): Outstanding[] {
    const all = [...this.#outstanding.values()].flat()
    this.#outstanding.clear()
    this.#outstandingCount = 0
    return all
  }

  #sweep(): void {
    const now = performance.now()
    // Their order is that of asking, but for an id that is in use twice.
    const [oldest] = this.#outstanding.values().next().value ?? []
    const isLate = oldest !== undefined && now - oldest.startedAt > progressTimeoutMs
    const isWaiting = this.#outstandingCount > 0 || this.#queue.length > 0 || this.#fromClient.isPartial || this.#socket.writableLength > 0 || this.#hasEnded
    if (isLate || (isWaiting ? now - this.#lastProgressAt > progressTimeoutMs : now - this.#lastQueryAt > idleTimeoutMs)) {
      this.#fail(new MeshError('CONNECT_TIMEOUT', isWaiting ? 'a DNS query or answer did not come to an end in time' : 'no DNS query for a while'))
    }
  }

  #closed(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearInterval(this.#sweeper)
    for (const { type, startedAt } of this.#takeAll()) this.#parts.onQuery('failed', type, startedAt)
    this.#queue = []
    if (this.#upstream.t === 'ready') this.#upstream.stream.destroy()
    this.#upstream = { t: 'none' }
    this.#parts.onClose(this.#because)
  }
}
