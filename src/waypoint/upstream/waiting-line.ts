// Requests of one cluster that wait, for an endpoint that may be used or for a connection: in order, bounded in number and time,
// and after a while without progress they fail at once. Who is served gets what it waited for in the same step, so nobody can
// come between.
import type { Clock } from '../../core/clock.ts'
import { FailFastQueue } from '../../policy/l7/fail-fast-queue.ts'
import type { CircuitBreaker } from '../../policy/l7/circuit-breaker.ts'

export type WaitEnd<T> =
  | { readonly t: 'served'; readonly got: T }
  /** `full`: the breaker's limit; `tooLong`: nothing came free; `deadline` and `gone`: of the request itself. */
  | { readonly t: 'refused'; readonly because: 'full' | 'tooLong' | 'deadline' | 'gone' }

export interface LinePlan {
  readonly clock: Clock
  readonly waitMs: number
  readonly breaker: CircuitBreaker
  readonly onFailFast: (isOn: boolean) => void
}

interface Waiter<T> {
  readonly tryNow: () => T | undefined
  readonly settle: (end: WaitEnd<T>) => void
}

/** How often those who wait look again, should nobody tell them. */
const lookMs = 100

export class WaitingLine<T> {
  readonly #plan: LinePlan
  readonly #queue: FailFastQueue<Waiter<T>>
  #callOff: (() => void) | undefined
  #isFailingFast = false
  #isServing = false

  constructor(plan: LinePlan) {
    this.#plan = plan
    // Its bound is the breaker's, which may change.
    this.#queue = new FailFastQueue({ capacity: Number.POSITIVE_INFINITY, failFastAfterMs: plan.waitMs })
  }

  get size(): number {
    return this.#queue.size
  }

  get isFailingFast(): boolean {
    return this.#isFailingFast
  }

  /** `tryNow` takes what is wanted, if it is there. In order: who comes does not pass who waits. */
  take(tryNow: () => T | undefined): T | undefined {
    if (this.#queue.size > 0) return undefined
    const got = tryNow()
    if (got !== undefined && this.#isFailingFast) {
      this.#queue.available(this.#plan.clock.monotonicMs())
      this.#tell()
    }
    return got
  }

  /** After take() gave nothing. */
  wait(tryNow: () => T | undefined, signal: AbortSignal, leftMs: number | undefined): Promise<WaitEnd<T>> {
    const { clock, breaker } = this.#plan
    return new Promise((resolve) => {
      if (signal.aborted) {
        resolve({ t: 'refused', because: 'gone' })
        return
      }
      if (breaker.tryTake('pending').t === 'refused') {
        resolve({ t: 'refused', because: 'full' })
        return
      }
      const settle = (end: WaitEnd<T>): void => {
        breaker.release('pending')
        callOff?.()
        signal.removeEventListener('abort', onAbort)
        resolve(end)
      }
      const waiter: Waiter<T> = { tryNow, settle }
      const leave = (because: 'deadline' | 'gone'): void => {
        if (this.#queue.remove(waiter)) settle({ t: 'refused', because })
      }
      const onAbort = (): void => leave('gone')
      const isShort = leftMs !== undefined && leftMs < this.#plan.waitMs
      const callOff = isShort ? clock.after(leftMs, () => leave('deadline')) : undefined
      const answer = this.#queue.offer(waiter, clock.monotonicMs())
      this.#tell()
      if (answer !== 'queued') {
        settle({ t: 'refused', because: answer === 'full' ? 'full' : 'tooLong' })
        return
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#schedule()
    })
  }

  /** Something came free. */
  serve(): void {
    // Who is served may free something itself.
    if (this.#isServing || this.#queue.size === 0) return
    this.#isServing = true
    try {
      for (;;) {
        const next = this.#queue.peek()
        if (!next) break
        const got = next.tryNow()
        if (got === undefined) break
        this.#queue.take(this.#plan.clock.monotonicMs())
        next.settle({ t: 'served', got })
      }
    } finally {
      this.#isServing = false
    }
    this.#tell()
    this.#schedule()
  }

  /** Nobody is served any more. */
  close(): void {
    this.#callOff?.()
    for (let next = this.#queue.take(0); next; next = this.#queue.take(0)) next.settle({ t: 'refused', because: 'tooLong' })
  }

  #schedule(): void {
    const nextMs = this.#queue.nextMs
    if (nextMs === undefined || this.#callOff) return
    const { clock } = this.#plan
    const inMs = Math.max(1, Math.min(lookMs, nextMs - clock.monotonicMs()))
    this.#callOff = clock.after(inMs, () => {
      this.#callOff = undefined
      this.serve()
      for (const { settle } of this.#queue.expire(clock.monotonicMs())) settle({ t: 'refused', because: 'tooLong' })
      this.#tell()
      this.#schedule()
    })
  }

  #tell(): void {
    const isOn = this.#queue.state.t === 'failFast'
    if (isOn === this.#isFailingFast) return
    this.#isFailingFast = isOn
    this.#plan.onFailFast(isOn)
  }
}
