// An answer's body between an upstream's parser and whoever sends it to the client. Pulls and stops the source through two calls, ends
// or fails exactly once, and being destroyed by its reader cancels the exchange. Keeps no more than a high-water mark and one chunk.
import { Readable } from 'node:stream'
import type { Clock } from '../../core/clock.ts'

export interface AnswerSource {
  readonly clock: Clock
  readonly idleTimeoutMs: number | undefined
  pause(): void
  resume(): void
  /** The reader wants no more. Not called after the end. */
  cancel(): void
  onIdle(): Error
}

export class AnswerBody extends Readable {
  readonly #source: AnswerSource
  #isOver = false
  #isWaiting = false
  #lastMs = 0
  #callOff: (() => void) | undefined

  constructor(source: AnswerSource) {
    super({ highWaterMark: 65_536 })
    this.#source = source
    // Who reads it sees the failure; nobody may be there yet.
    this.on('error', () => {})
  }

  give(chunk: Buffer): void {
    if (this.destroyed) return
    this.#lastMs = this.#source.clock.monotonicMs()
    if (this.push(chunk)) return
    this.#isWaiting = false
    this.#source.pause()
  }

  finish(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#callOff?.()
    if (!this.destroyed) this.push(null)
  }

  fail(error: Error): void {
    this.#isOver = true
    this.destroy(error)
  }

  /** All of it, if all has come and nobody reads it yet; it is told and ends as if it were read bit by bit. */
  takeWhole(): Buffer | undefined {
    if (!this.#isOver || this.destroyed || this.readableFlowing !== null || this.readableLength === 0) return undefined
    const whole: unknown = this.read()
    return Buffer.isBuffer(whole) ? whole : undefined
  }

  override _read(): void {
    this.#isWaiting = true
    this.#lastMs = this.#source.clock.monotonicMs()
    this.#watch()
    this.#source.resume()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#callOff?.()
    if (!this.#isOver) {
      this.#isOver = true
      this.#source.cancel()
    }
    done(error)
  }

  #watch(): void {
    const { clock, idleTimeoutMs } = this.#source
    if (idleTimeoutMs === undefined || this.#callOff || this.#isOver) return
    const left = idleTimeoutMs - (clock.monotonicMs() - this.#lastMs)
    this.#callOff = clock.after(Math.max(1, left), () => {
      this.#callOff = undefined
      if (this.#isOver || !this.#isWaiting) return
      if (clock.monotonicMs() - this.#lastMs < idleTimeoutMs) this.#watch()
      else this.destroy(this.#source.onIdle())
    })
  }
}
