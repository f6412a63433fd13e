// Waiting for something to become true in a thing that tells when it changed.
import { MeshError } from '../core/errors.ts'

const lookAgainMs = 500

export class Waiting {
  readonly #wakes = new Set<() => void>()

  /** Something changed: whoever waits looks again. */
  wake(): void {
    for (const wake of this.#wakes) wake()
  }

  /** Asks after every change. COMMAND_FAILED with `why()` after `timeoutMs`. */
  async until(check: () => boolean, timeoutMs: number, why: () => string = () => 'the condition does not hold'): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!check()) {
      const leftMs = deadline - performance.now()
      if (leftMs <= 0) throw new MeshError('COMMAND_FAILED', `not ready after ${timeoutMs} ms: ${why()}`)
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer)
          this.#wakes.delete(done)
          resolve()
        }
        const timer = setTimeout(done, Math.min(leftMs, lookAgainMs))
        this.#wakes.add(done)
      })
    }
  }
}
