// A body on its way to the client, of which a copy is kept for as long as there is room. Slower than its reader it never is, and
// a body that fails, or is given up, is kept by nobody.
import { Readable } from 'node:stream'

export interface Collector {
  /** Asked for each chunk; after the first no, nothing more is asked and nothing kept. */
  mayKeep(bytes: number): boolean
  /** Exactly once: with the whole, or with nothing. */
  done(body: Buffer | undefined): void
}

export class CollectingBody extends Readable {
  readonly #source: Readable
  readonly #collector: Collector
  #chunks: Buffer[] | undefined = []
  #isDone = false

  constructor(source: Readable, collector: Collector) {
    super({ highWaterMark: 65_536 })
    this.#source = source
    this.#collector = collector
    this.on('error', () => {
      // Who reads it sees the failure; nobody may be there yet.
    })
    source.pause()
    source.on('data', (chunk: Buffer) => this.#onData(chunk))
    source.on('end', () => {
      this.#finish(this.#chunks && Buffer.concat(this.#chunks))
      this.push(null)
    })
    source.on('error', (error) => this.destroy(error))
    source.on('close', () => {
      if (!this.#isDone) this.destroy(source.errored ?? new Error('closed before its end'))
    })
    if (source.destroyed && !source.readableEnded) this.destroy(source.errored ?? new Error('closed before its end'))
  }

  #onData(chunk: Buffer): void {
    if (this.#chunks && !this.#collector.mayKeep(chunk.length)) this.#chunks = undefined
    this.#chunks?.push(chunk)
    if (!this.push(chunk)) this.#source.pause()
  }

  #finish(body: Buffer | undefined): void {
    if (this.#isDone) return
    this.#isDone = true
    this.#chunks = undefined
    this.#collector.done(body)
  }

  override _read(): void {
    this.#source.resume()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#finish(undefined)
    this.#source.destroy()
    done(error)
  }
}
