// A request's body between a server's parser and whoever sends it on: pulls only when read, notices a client that stops sending, and
// may be destroyed without harm to the connection, on which the answer may still have to go. Keeps no more than a high-water mark.
import { Readable } from 'node:stream'
import type { Clock } from '../../core/clock.ts'
import { MeshError } from '../../core/errors.ts'

export interface BodyPlan {
  readonly clock: Clock
  readonly idleMs: number
  /** Before anything is pulled: tells a client that waits to go on. */
  readonly onFirstRead: () => void
  /** Somebody waits, and nothing came for `idleMs`. The body is destroyed. */
  readonly onSlow: () => void
}

const bufferBytes = 65_536

export function cutRequest(because: string, detail: Readonly<Record<string, unknown>> = {}): MeshError {
  return new MeshError('REQUEST_CUT', 'the client did not send its request to the end', { source: 'downstream', detail: { because, ...detail } })
}

export class RequestBody extends Readable {
  readonly #source: Readable
  readonly #plan: BodyPlan
  /** Sees each chunk as it comes, for who counts. */
  tap: ((chunk: Buffer) => void) | undefined
  #isStarted = false
  #bytes = 0
  #isWaiting = false
  #isEnded = false
  #lastMs = 0
  #callOff: (() => void) | undefined
  #discarded: { left: number; readonly onTooMuch: () => void } | undefined

  constructor(source: Readable, plan: BodyPlan) {
    super({ highWaterMark: bufferBytes })
    this.#source = source
    this.#plan = plan
    // It is looked at by who reads it; destroyed unread, it is nobody's failure.
    this.on('error', () => {})
  }

  /** Whether anybody has asked for the first byte. */
  get isStarted(): boolean {
    return this.#isStarted
  }

  /** How many were given to who reads it. */
  get bytes(): number {
    return this.#bytes
  }

  /** The client has sent all of it. */
  get isComplete(): boolean {
    return this.#isEnded
  }

  /** The answer is out and nobody will read the rest: throw away so much of it, then call. */
  discardRest(limitBytes: number, onTooMuch: () => void): void {
    this.#discarded = { left: limitBytes, onTooMuch }
    this.#listen()
    if (!this.destroyed) this.destroy()
    this.#source.resume()
  }

  #listen(): void {
    if (this.#isStarted) return
    this.#isStarted = true
    const source = this.#source
    source.on('data', (chunk: Buffer) => this.#onData(chunk))
    source.on('end', () => this.#onEnd())
    source.on('error', () => {
      // 'close' follows.
    })
    source.on('close', () => this.#cut())
    // Node tells the end of an HTTP/2 stream without data even if nobody reads.
    if (source.readableEnded) this.#onEnd()
    else if (source.destroyed) this.#cut()
  }

  #onEnd(): void {
    // Node ends a stream that was cut, too.
    if (this.#isEnded || (this.#source.destroyed && this.#source.errored !== null)) return
    this.#isEnded = true
    this.#callOff?.()
    if (!this.destroyed) this.push(null)
  }

  override _read(): void {
    if (!this.#isStarted) {
      this.#plan.onFirstRead()
      this.#listen()
    }
    if (this.#isEnded) return
    this.#isWaiting = true
    this.#lastMs = this.#plan.clock.monotonicMs()
    this.#watch()
    this.#source.resume()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#callOff?.()
    if (!this.#isEnded && !this.#discarded) this.#source.pause()
    done(error)
  }

  #onData(chunk: Buffer): void {
    if (this.#discarded) {
      this.#discarded.left -= chunk.length
      if (this.#discarded.left < 0) this.#discarded.onTooMuch()
      return
    }
    if (this.destroyed) {
      this.#source.pause()
      return
    }
    this.#lastMs = this.#plan.clock.monotonicMs()
    this.#bytes += chunk.length
    this.tap?.(chunk)
    if (this.push(chunk)) return
    this.#isWaiting = false
    this.#source.pause()
  }

  #cut(): void {
    if (!this.#isEnded && !this.destroyed) this.destroy(cutRequest('clientGone'))
  }

  /** One timer for many chunks: it looks how long ago the last one was. */
  #watch(): void {
    if (this.#callOff || this.#isEnded) return
    const { clock, idleMs } = this.#plan
    const left = this.#isWaiting ? idleMs - (clock.monotonicMs() - this.#lastMs) : idleMs
    this.#callOff = clock.after(Math.max(1, left), () => {
      this.#callOff = undefined
      if (this.destroyed || this.#isEnded || !this.#isWaiting) return
      if (clock.monotonicMs() - this.#lastMs < idleMs) {
        this.#watch()
        return
      }
      this.#plan.onSlow()
      this.destroy(cutRequest('slowBody'))
    })
  }
}

/** Of a request without a body. */
export function noBody(): Readable {
  const body = new Readable({ read() {} })
  body.push(null)
  return body
}
