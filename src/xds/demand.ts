// Names that an on-demand client has asked for, and who waits for the answers. The answer to a name is that there is such a
// resource now or that there is none; both may change later, and the subscription stays.
import { MeshError } from '../core/errors.ts'

export type Answer = 'present' | 'absent'

interface Asked {
  answer: Answer | undefined
  readonly waiting: Set<(answer: Answer) => void>
}

export class Demand {
  readonly #asked = new Map<string, Asked>()
  readonly #maxNames: number

  constructor(maxNames: number) {
    this.#maxNames = maxNames
  }

  get names(): string[] {
    return [...this.#asked.keys()]
  }

  /** Whether the name is new and has to be subscribed to. Throws OVERLOADED when there are too many. */
  ask(name: string): boolean {
    if (this.#asked.has(name)) return false
    if (this.#asked.size >= this.#maxNames) {
      throw new MeshError('OVERLOADED', `more than ${this.#maxNames} names asked for`, { detail: { limit: 'maxNames' } })
    }
    this.#asked.set(name, { answer: undefined, waiting: new Set() })
    return true
  }

  answered(name: string, answer: Answer): void {
    const asked = this.#asked.get(name)
    if (!asked) return
    asked.answer = answer
    for (const resolve of asked.waiting) resolve(answer)
    asked.waiting.clear()
  }

  /** What was there is no more. A name that has no answer yet keeps waiting. */
  withdrawn(name: string): void {
    const asked = this.#asked.get(name)
    if (asked?.answer) asked.answer = 'absent'
  }

  /** The last answer, or the next one. Rejects with CONTROL_PLANE_UNAVAILABLE if none comes in time. */
  async answerTo(name: string, timeoutMs: number): Promise<Answer> {
    const asked = this.#asked.get(name)
    if (asked?.answer) return asked.answer
    return await new Promise((resolve, reject) => {
      const settle = (answer: Answer): void => {
        clearTimeout(timer)
        resolve(answer)
      }
      const timer = setTimeout(() => {
        asked?.waiting.delete(settle)
        reject(new MeshError('CONTROL_PLANE_UNAVAILABLE', `no answer about ${name} within ${timeoutMs} ms`, { source: 'upstream' }))
      }, timeoutMs)
      asked?.waiting.add(settle)
    })
  }
}
