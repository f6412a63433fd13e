// Lets a number of jobs run at once and has the others wait, each key in turn, so that a pod that wants a thousand
// handshakes does not delay a pod that wants one. Both running and waiting are bounded.

type Waiter = (admitted: boolean) => void

export class FairGate {
  readonly #maxRunning: number
  readonly #maxWaiting: number
  readonly #queues = new Map<string, Waiter[]>()
  #running = 0
  #waiting = 0

  constructor(maxRunning: number, maxWaiting: number) {
    this.#maxRunning = maxRunning
    this.#maxWaiting = maxWaiting
  }

  get running(): number {
    return this.#running
  }

  get waiting(): number {
    return this.#waiting
  }

  /** False: no place, because too many wait and others have fewer waiting. After true, leave() must follow once. */
  enter(key: string): Promise<boolean> {
    if (this.#running < this.#maxRunning) {
      this.#running++
      return Promise.resolve(true)
    }
    if (this.#waiting >= this.#maxWaiting && !this.#makeRoom(key)) return Promise.resolve(false)
    return new Promise((resolve) => {
      const queue = this.#queues.get(key)
      if (queue) queue.push(resolve)
      else this.#queues.set(key, [resolve])
      this.#waiting++
    })
  }

  leave(): void {
    const next = this.#queues.entries().next().value
    if (!next) {
      this.#running--
      return
    }
    const [key, queue] = next
    const waiter = queue.shift()
    // To the end of the round: the next one to leave lets another key in.
    this.#queues.delete(key)
    if (queue.length > 0) this.#queues.set(key, queue)
    this.#waiting--
    waiter?.(true)
  }

  /** Sends away the newest of the longest queue, unless that is the newcomer's own. */
  #makeRoom(key: string): boolean {
    let longest: [string, Waiter[]] | undefined
    for (const entry of this.#queues) if (!longest || entry[1].length > longest[1].length) longest = entry
    if (!longest || longest[0] === key || longest[1].length <= (this.#queues.get(key)?.length ?? 0) + 1) return false
    const victim = longest[1].pop()
    if (longest[1].length === 0) this.#queues.delete(longest[0])
    this.#waiting--
    victim?.(false)
    return true
  }
}
