// One try at one endpoint, for everybody who counts: the balancer, the endpoint, the cluster's slots. Ends exactly once, when
// the last byte of the answer went or nothing more will come.
import type { CallEnd } from '../../policy/l7/balancer/peak-ewma.ts'
import type { MadeBalancer } from '../../policy/l7/balancer/make.ts'
import type { ClusterEndpoint } from './endpoint.ts'

/** Who is told of the end. */
export interface AttemptOwner {
  attemptEnded(attempt: Attempt): void
  nowMs(): number
}

export const answered: CallEnd = Object.freeze({ t: 'answered' })
export const cancelled: CallEnd = Object.freeze({ t: 'cancelled' })
export const failed: CallEnd = Object.freeze({ t: 'failed' })

export class Attempt {
  readonly endpoint: ClusterEndpoint
  /** One connection is its own for so long. */
  readonly takesConnection: boolean
  readonly startedMs: number
  readonly #owner: AttemptOwner
  readonly #made: MadeBalancer | undefined
  #headMs: number | undefined
  #isOver = false

  constructor(owner: AttemptOwner, endpoint: ClusterEndpoint, made: MadeBalancer | undefined, takesConnection: boolean) {
    this.#owner = owner
    this.endpoint = endpoint
    this.#made = made && made.t !== 'stateless' ? made : undefined
    this.takesConnection = takesConnection
    this.startedMs = owner.nowMs()
    endpoint.active++
    this.#made?.balancer.begin(endpoint.id)
  }

  /** The head of an answer came. */
  head(): void {
    this.#headMs ??= this.#owner.nowMs()
  }

  end(end: CallEnd): void {
    if (this.#isOver) return
    this.#isOver = true
    const { endpoint } = this
    endpoint.active--
    const made = this.#made
    if (made?.t === 'leastRequest') made.balancer.end(endpoint.id)
    else if (made?.t === 'peakEwma') {
      const nowMs = this.#owner.nowMs()
      made.balancer.end(endpoint.id, (this.#headMs ?? nowMs) - this.startedMs, end, nowMs)
    }
    this.#owner.attemptEnded(this)
  }
}
