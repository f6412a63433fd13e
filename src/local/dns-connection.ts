// One TCP connection to the cluster's name server: questions one behind the other, answered in whatever order the answers come
// (RFC 7766). A client that sends rubbish, does not read or dawdles loses its connection and disturbs nobody else.
import type { Socket } from 'node:net'
import { FrameReader, frameOf } from '../dns/frames.ts'

/** Questions of one connection that wait for an answer at once; no more is read meanwhile. */
const maxOutstanding = 16
/** Without a question that came whole, or an answer that left whole. */
const idleMs = 10_000

/** Undefined where there is nothing to say. Must not throw or reject. */
export type Respond = (message: Buffer) => Buffer | undefined | Promise<Buffer | undefined>

export class DnsConnection {
  readonly #socket: Socket
  readonly #respond: Respond
  readonly #reader = new FrameReader()
  readonly #timer: NodeJS.Timeout
  #queue: Buffer[] = []
  #outstanding = 0
  #hasEnded = false

  /** Takes over a socket with half-close allowed that nobody has read from. */
  constructor(socket: Socket, respond: Respond, { timeoutMs = idleMs } = {}) {
    this.#socket = socket
    this.#respond = respond
    this.#timer = setTimeout(() => this.abort(), timeoutMs)
    socket.on('data', (chunk: Buffer) => this.#onBytes(chunk))
    socket.on('end', () => {
      this.#hasEnded = true
      this.#pump()
    })
    socket.on('drain', () => this.#pump())
    // What went wrong is nobody's concern but the client's; the close that follows is dealt with.
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(this.#timer)
      this.#queue = []
    })
  }

  abort(): void {
    this.#socket.resetAndDestroy()
  }

  #onBytes(chunk: Buffer): void {
    try {
      const messages = this.#reader.push(chunk)
      if (messages.length > 0) this.#timer.refresh()
      this.#queue.push(...messages)
    } catch {
      this.abort() // no DNS message
      return
    }
    this.#pump()
  }

  #pump(): void {
    let taken = 0
    while (!this.#socket.destroyed && this.#outstanding < maxOutstanding && !this.#socket.writableNeedDrain) {
      const message = this.#queue[taken]
      if (!message) break
      taken++
      void this.#answer(message)
    }
    this.#queue.splice(0, taken)
    if (this.#socket.destroyed) return
    if (this.#queue.length > 0) this.#socket.pause()
    else if (this.#hasEnded && this.#outstanding === 0) this.#socket.end()
    else this.#socket.resume()
  }

  /** What is known at once is written at once: only what waits for others counts as outstanding. */
  #answer(message: Buffer): void {
    const answer = this.#respond(message)
    if (!(answer instanceof Promise)) {
      this.#write(answer)
      return
    }
    this.#outstanding++
    void answer.then((later) => {
      this.#outstanding--
      this.#write(later)
      this.#pump()
    })
  }

  #write(answer: Buffer | undefined): void {
    if (answer && this.#socket.writable) this.#socket.write(frameOf(answer), () => this.#timer.refresh())
  }
}
