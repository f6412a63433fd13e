// A request's body that can be sent more than once: the first try reads it as it comes, and what went by is kept, up to a limit,
// for the next. Nothing is read that no try asked for, and a try that ends leaves the rest where it is.
import { Readable } from 'node:stream'
import { largestReplayBytes } from '../../policy/l7/retry-decision.ts'

/** What all kept bodies together may take. */
export class ReplayRoom {
  readonly #most: number
  #used = 0

  constructor(most: number) {
    this.#most = most
  }

  get used(): number {
    return this.#used
  }

  take(bytes: number): boolean {
    if (this.#used + bytes > this.#most) return false
    this.#used += bytes
    return true
  }

  giveBack(bytes: number): void {
    this.#used -= bytes
  }
}

type SourceState = { readonly t: 'flowing' } | { readonly t: 'ended' } | { readonly t: 'cut'; readonly error: Error }

export class ReplayBody {
  readonly #source: Readable
  readonly #room: ReplayRoom
  /** Undefined once it is not kept any more. */
  #kept: Buffer[] | undefined = []
  #keptBytes = 0
  #isAnyGiven = false
  #isListening = false
  #state: SourceState = { t: 'flowing' }
  #reader: TryBody | undefined

  constructor(source: Readable, room: ReplayRoom) {
    this.#source = source
    this.#room = room
  }

  /** Whether another try can have all of it. */
  get isReplayable(): boolean {
    return this.#state.t !== 'cut' && (this.#kept !== undefined || !this.#isAnyGiven)
  }

  /** The client has failed, and so will every try. */
  get cut(): Error | undefined {
    return this.#state.t === 'cut' ? this.#state.error : undefined
  }

  /** Of the next try; the one before gets nothing any more. */
  open(): Readable {
    this.#reader?.leave()
    const reader = new TryBody(this, this.#kept ?? [])
    this.#reader = reader
    return reader
  }

  /** There will be no other try. */
  commit(): void {
    this.#room.giveBack(this.#keptBytes)
    this.#keptBytes = 0
    this.#kept = undefined
  }

  /** Nobody wants the rest. */
  discard(): void {
    this.commit()
    this.#reader?.leave()
    this.#reader = undefined
    if (!this.#source.destroyed) this.#source.destroy()
  }

  pull(): void {
    if (this.#state.t === 'ended') {
      this.#reader?.push(null)
      return
    }
    if (this.#state.t === 'cut') {
      this.#reader?.destroy(this.#state.error)
      return
    }
    if (!this.#isListening) this.#listen()
    this.#source.resume()
  }

  stop(reader: TryBody): void {
    if (this.#reader !== reader) return
    this.#reader = undefined
    if (this.#isListening && this.#state.t === 'flowing') this.#source.pause()
  }

  #listen(): void {
    this.#isListening = true
    const source = this.#source
    source.on('data', (chunk: Buffer) => this.#onData(chunk))
    source.on('end', () => {
      if (this.#state.t !== 'flowing') return
      this.#state = { t: 'ended' }
      if (this.#reader?.isCaughtUp) this.#reader.push(null)
    })
    source.on('error', (error) => this.#onCut(error))
    source.on('close', () => this.#onCut(source.errored ?? new Error('the body was not sent to its end')))
    if (source.destroyed) this.#onCut(source.errored ?? new Error('the body was not sent to its end'))
  }

  #onData(chunk: Buffer): void {
    this.#isAnyGiven = true
    if (this.#kept) {
      if (this.#keptBytes + chunk.length <= largestReplayBytes && this.#room.take(chunk.length)) {
        this.#keptBytes += chunk.length
        this.#kept.push(chunk)
      } else this.commit()
    }
    if (this.#reader?.receive(chunk) !== true) this.#source.pause()
  }

  #onCut(error: Error): void {
    if (this.#state.t !== 'flowing') return
    this.#state = { t: 'cut', error }
    this.#reader?.destroy(error)
  }
}

/** What one try reads. */
class TryBody extends Readable {
  readonly #owner: ReplayBody
  #before: Buffer[]

  constructor(owner: ReplayBody, before: readonly Buffer[]) {
    super({ highWaterMark: 65_536 })
    this.#owner = owner
    this.#before = [...before]
    this.on('error', () => {
      // Whoever sends it tells.
    })
  }

  /** It has asked for more than what the tries before it had read. */
  get isCaughtUp(): boolean {
    return this.#before.length === 0
  }

  /** Whether it wants more. */
  receive(chunk: Buffer): boolean {
    if (this.#before.length === 0) return this.push(chunk)
    this.#before.push(chunk)
    return false
  }

  /** Another try reads now. */
  leave(): void {
    if (!this.destroyed) this.destroy()
  }

  override _read(): void {
    const before = this.#before
    if (before.length === 0) {
      this.#owner.pull()
      return
    }
    this.#before = []
    let wantsMore = true
    for (const chunk of before) wantsMore = this.push(chunk)
    // Nobody asks again for what is already asked for.
    if (wantsMore && !this.destroyed) this.#owner.pull()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#before = []
    this.#owner.stop(this)
    done(error)
  }
}
