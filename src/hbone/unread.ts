// What peers have sent and nobody has read: each stream may have a window's worth of it, and thousands of readers that do not
// read would have gigabytes. HTTP/2's connection window does not stop them, because Node opens it again before anybody reads.
// So all sessions of the process share a budget: where it is used up, their streams' windows shrink until it is free again.
// Never drops a byte, and a reader that keeps up notices little.
import type { Http2Session, Http2Stream } from 'node:http2'
import type { Clock } from '../core/clock.ts'
import { streamWindowBytes } from './settings.ts'

export interface UnreadLimits {
  /** Above it windows shrink; below half of it they are as they were. */
  readonly budgetBytes: number
  /** HTTP/2's own default: enough for a good rate on a short way. */
  readonly smallWindowBytes: number
  readonly lookMs: number
}

const defaultLimits: UnreadLimits = { budgetBytes: 64 * 1_048_576, smallWindowBytes: 65_535, lookMs: 50 }

interface Watched {
  readonly session: Http2Session
  readonly streams: Set<Http2Stream>
  isSmall: boolean
}

export class UnreadBudget {
  readonly #limits: UnreadLimits
  readonly #sessions = new Set<Watched>()
  #streams = 0
  #isTight = false
  #isLooking = false

  constructor(limits: Partial<UnreadLimits> = {}) {
    this.#limits = { ...defaultLimits, ...limits }
  }

  /** Returns what to call with each stream of the session. */
  watch(session: Http2Session, clock: Clock): (stream: Http2Stream) => void {
    const watched: Watched = { session, streams: new Set(), isSmall: false }
    this.#sessions.add(watched)
    session.once('close', () => {
      this.#sessions.delete(watched)
      this.#streams -= watched.streams.size
      watched.streams.clear()
    })
    return (stream) => {
      if (session.destroyed || stream.destroyed) return
      watched.streams.add(stream)
      this.#streams++
      stream.once('close', () => {
        if (watched.streams.delete(stream)) this.#streams--
      })
      this.#look(clock)
    }
  }

  /** So few streams cannot use it up, and then nobody looks. */
  get #isWorthALook(): boolean {
    return this.#isTight || this.#streams * streamWindowBytes > this.#limits.budgetBytes
  }

  #look(clock: Clock): void {
    if (this.#isLooking || !this.#isWorthALook) return
    this.#isLooking = true
    clock.after(this.#limits.lookMs, () => {
      this.#isLooking = false
      this.#decide()
      this.#look(clock)
    })
  }

  #decide(): void {
    const { budgetBytes } = this.#limits
    const bytes = this.bytes
    if (bytes > budgetBytes) this.#isTight = true
    else if (bytes < budgetBytes / 2) this.#isTight = false
    for (const watched of this.#sessions) if (watched.isSmall !== this.#isTight) this.#resize(watched)
  }

  #resize(watched: Watched): void {
    const { session } = watched
    // One that ends needs none; one that still waits for an answer to its settings is asked the next time.
    if (session.closed || session.destroyed || session.pendingSettingsAck) return
    watched.isSmall = this.#isTight
    session.settings({ initialWindowSize: this.#isTight ? this.#limits.smallWindowBytes : streamWindowBytes })
  }

  /** What waits to be read now. */
  get bytes(): number {
    let sum = 0
    for (const { streams } of this.#sessions) for (const stream of streams) sum += stream.readableLength
    return sum
  }

  get isTight(): boolean {
    return this.#isTight
  }
}

/** The process's own. */
export const unread = new UnreadBudget()
