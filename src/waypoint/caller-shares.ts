// A share of a limit for each caller, by whatever names one; it is forgotten with the caller's last connection.
import type { ConnectionLimit, ConnectionShare } from '../member/connection-limit.ts'

interface Caller {
  readonly share: ConnectionShare
  open: number
}

export class CallerShares {
  readonly #limit: ConnectionLimit
  readonly #callers = new Map<string, Caller>()

  constructor(limit: ConnectionLimit) {
    this.#limit = limit
  }

  get callers(): number {
    return this.#callers.size
  }

  /** False where the limit, or what that caller may have of it, is reached; otherwise release() must follow once. */
  acquire(caller: string): boolean {
    let found = this.#callers.get(caller)
    if (!found) this.#callers.set(caller, (found = { share: this.#limit.share(), open: 0 }))
    const isFree = found.share.acquire()
    if (isFree) found.open++
    else if (found.open === 0) this.#callers.delete(caller)
    return isFree
  }

  release(caller: string): void {
    const found = this.#callers.get(caller)
    if (!found) return
    found.share.release()
    if (--found.open === 0) this.#callers.delete(caller)
  }
}
