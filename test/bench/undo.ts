// What must be undone, however the bench ends: in reverse order, once, and one failure does not stop the rest.
import { describeError } from '../../src/core/errors.ts'

export class Undo {
  readonly #steps: (() => unknown)[] = []
  #done: Promise<void> | undefined

  get isOver(): boolean {
    return this.#done !== undefined
  }

  /** A step added too late is taken at once. */
  add(step: () => unknown): void {
    this.#steps.push(step)
    if (this.isOver) void this.#run()
  }

  /** Registers what a start that is still under way will have made. */
  async start<T>(starting: Promise<T>, undo: (made: T) => unknown): Promise<T> {
    this.add(async () => {
      // A start that failed has cleaned up itself.
      const made = await starting.then((value) => ({ value }), () => undefined)
      if (made) await undo(made.value)
    })
    return starting
  }

  run(): Promise<void> {
    this.#done ??= this.#run()
    return this.#done
  }

  async #run(): Promise<void> {
    for (let step = this.#steps.pop(); step; step = this.#steps.pop()) {
      try {
        await step()
      } catch (error) {
        process.stderr.write(`bench: clean-up: ${describeError(error)}\n`)
      }
    }
  }
}
