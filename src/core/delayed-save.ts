// Writes something down some time after it changed, however often it changes meanwhile, and once more before the end. One write
// at a time; one that fails is told and tried again with the next change.

export interface DelayedSaveOptions {
  readonly save: () => Promise<void>
  readonly onFailure: (error: unknown) => void
  readonly delayMs: number
}

export class DelayedSave {
  readonly #options: DelayedSaveOptions
  #timer: NodeJS.Timeout | undefined
  #saving: Promise<void> = Promise.resolve()

  constructor(options: DelayedSaveOptions) {
    this.#options = options
  }

  changed(): void {
    this.#timer ??= setTimeout(() => this.#save(), this.#options.delayMs).unref()
  }

  /** Resolves when what changed is written, or could not be. */
  async close(): Promise<void> {
    if (this.#timer) this.#save()
    await this.#saving
  }

  #save(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const { save, onFailure } = this.#options
    this.#saving = this.#saving.then(save).catch(onFailure)
  }
}
