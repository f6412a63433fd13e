// Whether the process that runs now serves, as far as was seen: looked at often until it does, and now and then from there on.
const askAgainMs = 100
const lookMs = 2000

export interface ServingWatchOptions {
  /** Undefined between two runs. */
  readonly pid: () => number | undefined
  /** Whether the process of that pid answers that it serves. Must not reject, and must end in bounded time. */
  readonly isServing: (pid: number) => Promise<boolean>
  /** After it began to serve, or does not any more. */
  readonly onChange: () => void
}

export class ServingWatch {
  readonly #options: ServingWatchOptions
  #timer: NodeJS.Timeout | undefined
  #servingPid: number | undefined
  #isStopping = false

  constructor(options: ServingWatchOptions) {
    this.#options = options
    void this.#look()
  }

  /** False for a process that took the place of the one that was seen to serve. */
  get isServing(): boolean {
    return this.#servingPid !== undefined && this.#servingPid === this.#options.pid()
  }

  async #look(): Promise<void> {
    const pid = this.#options.pid()
    const isServing = pid !== undefined && await this.#options.isServing(pid)
    if (this.#isStopping) return
    const was = this.isServing
    this.#servingPid = isServing ? pid : undefined
    if (this.isServing !== was) this.#options.onChange()
    this.#timer = setTimeout(() => void this.#look(), this.isServing ? lookMs : askAgainMs)
    this.#timer.unref()
  }

  stop(): void {
    this.#isStopping = true
    clearTimeout(this.#timer)
  }
}
