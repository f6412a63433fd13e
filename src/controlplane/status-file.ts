// Keeps a file with the newest status: written whole under another name and then renamed, readable by its owner only, and no
// more often than it is worth in a large mesh.
import { open, rename, rm } from 'node:fs/promises'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'

const shortestPauseMs = 200
/** Of all time at most this part goes into writing. */
const share = 0.05

export class StatusFile {
  readonly #path: string
  readonly #content: () => Promise<unknown>
  readonly #logger: Logger
  #written = ''
  #timer: NodeJS.Timeout | undefined
  #notBeforeMs = 0
  #isWriting = false
  #isStale = false
  #isClosed = false
  #idle: Promise<void> = Promise.resolve()

  /** `content` is asked for at the time of writing. */
  constructor(path: string, content: () => Promise<unknown>, logger: Logger) {
    this.#path = path
    this.#content = content
    this.#logger = logger
  }

  /** Something may be different now: it is written soon, if it is. */
  changed(): void {
    if (this.#isClosed) return
    this.#isStale = true
    if (this.#isWriting || this.#timer) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#idle = this.#write()
    }, Math.max(0, this.#notBeforeMs - performance.now()))
  }

  async #write(): Promise<void> {
    const startedMs = performance.now()
    this.#isWriting = true
    this.#isStale = false
    try {
      const text = `${JSON.stringify(await this.#content(), undefined, 1)}\n`
      if (text !== this.#written) {
        await writeWhole(this.#path, text)
        this.#written = text
      }
    } catch (error) {
      this.#logger.warn({ 'status.file': this.#path, because: describeError(error) }, 'status file cannot be written')
    }
    this.#isWriting = false
    const nowMs = performance.now()
    this.#notBeforeMs = nowMs + Math.max(shortestPauseMs, (nowMs - startedMs) / share)
    if (this.#isStale) this.changed()
  }

  /** Writes what is left to write. The file stays. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#isClosed = true
    await this.#idle
    if (this.#isStale) await this.#write()
  }
}

async function writeWhole(path: string, text: string): Promise<void> {
  const draft = `${path}.${process.pid}.new`
  try {
    await rm(draft, { force: true })
    // Made anew, so that it is ours and has this mode from its first byte.
    await using handle = await open(draft, 'wx', 0o600)
    await handle.writeFile(text)
    await rename(draft, path)
  } catch (error) {
    await rm(draft, { force: true })
    throw error
  }
}
