// Gathers lines of the log, so that whoever writes them is called for many at once: what a writer does for each call is more than what
// a line costs. Keeps a batch at most, and none for longer than told.
import type { Clock } from '../../../core/clock.ts'

/** Characters; a pipe takes twice that at once. */
const batchLength = 32_768
const defaultWaitMs = 50

export class LineBatch {
  readonly #write: (lines: string) => void
  readonly #clock: Clock
  readonly #waitMs: number
  #lines: string[] = []
  #length = 0
  #callOff: (() => void) | undefined

  constructor(write: (lines: string) => void, clock: Clock, waitMs = defaultWaitMs) {
    this.#write = write
    this.#clock = clock
    this.#waitMs = waitMs
  }

  /** With its newline. */
  readonly add = (line: string): void => {
    this.#lines.push(line)
    this.#length += line.length
    if (this.#length >= batchLength) this.flush()
    else this.#callOff ??= this.#clock.after(this.#waitMs, () => this.flush())
  }

  flush(): void {
    this.#callOff?.()
    this.#callOff = undefined
    if (this.#lines.length === 0) return
    const lines = this.#lines.join('')
    this.#lines = []
    this.#length = 0
    this.#write(lines)
  }
}
