// The connections of one pool key: {who asks, whom, where, from which address}. One handshake at a time, several connections
// where one is busy, requests waiting in order. Makes no connection itself; never gives a stream to a session that drains.
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { ClientSession, OpenedStream, StreamRequest, UnsentStream } from './session.ts'

export interface EntryLimits {
  readonly maxConnectionsPerKey: number
  readonly maxWaitingPerKey: number
  /** Streams on the least busy connection that make another connection worth its handshake. */
  readonly spreadAtStreams: number
}

export interface EntryPlan {
  readonly limits: EntryLimits
  readonly clock: Clock
  readonly connect: () => Promise<ClientSession>
  /** A handshake ended, well or not. */
  readonly onConnected: () => void
  readonly onSessionClosed: (session: ClientSession, because: string) => void
  /** Where waiting is accounted for all keys together; false: one too many. */
  readonly mayWait: () => boolean
  readonly onWaitingEnds: () => void
}

export interface EntryAnswer {
  readonly outcome: OpenedStream | UnsentStream
  readonly session: ClientSession
  readonly isReused: boolean
}

interface Waiter {
  readonly request: StreamRequest
  readonly resolve: (answer: Promise<EntryAnswer>) => void
  readonly reject: (error: unknown) => void
}

type Connecting = { readonly t: 'idle' } | { readonly t: 'handshake' }

export class PoolEntry {
  readonly #plan: EntryPlan
  readonly #ready = new Set<ClientSession>()
  readonly #draining = new Set<ClientSession>()
  readonly #used = new WeakSet<ClientSession>()
  #waiters = new Set<Waiter>()
  #connecting: Connecting = { t: 'idle' }
  /** Why the connection that is being made is only for those who wait for it. */
  #drainNext: string | undefined

  constructor(plan: EntryPlan) {
    this.#plan = plan
  }

  get isEmpty(): boolean {
    return this.#ready.size === 0 && this.#draining.size === 0 && this.#waiters.size === 0 && this.#connecting.t === 'idle'
  }

  get sessions(): readonly ClientSession[] {
    return [...this.#ready, ...this.#draining]
  }

  get waiting(): number {
    return this.#waiters.size
  }

  get isConnecting(): boolean {
    return this.#connecting.t === 'handshake'
  }

  /** Its connections take nothing new from now on; one that is being made serves those who wait for it and no more. */
  retire(because: string, cut: boolean): void {
    if (this.#connecting.t === 'handshake') this.#drainNext = because
    for (const session of this.sessions) {
      if (cut) session.destroy(because)
      else session.drain(because)
    }
  }

  /** A stream's answer on the best connection there is or will be. Rejects as ClientSession.openStream and `connect` do. */
  open(request: StreamRequest): Promise<EntryAnswer> {
    // Who came earlier goes first.
    const session = this.#waiters.size === 0 ? this.#leastBusy() : undefined
    if (session) {
      const answer = this.#use(session, request)
      this.#connectIfWorthIt()
      return answer
    }
    const { limits, mayWait } = this.#plan
    if (this.#waiters.size >= limits.maxWaitingPerKey || !mayWait()) {
      return Promise.reject(new MeshError('OVERLOADED', 'too many connections wait for a tunnel to this peer', { detail: { because: 'waiting' } }))
    }
    const answer = new Promise<EntryAnswer>((resolve, reject) => this.#wait({ request, resolve, reject }))
    this.#connectIfWorthIt()
    return answer
  }

  #wait({ request, resolve, reject }: Waiter): void {
    const leave = (): void => {
      this.#waiters.delete(waiter)
      this.#plan.onWaitingEnds()
      cancelTimer()
      request.signal?.removeEventListener('abort', onAbort)
    }
    const waiter: Waiter = {
      request,
      resolve: (answer) => {
        leave()
        resolve(answer)
      },
      reject: (error) => {
        leave()
        reject(error)
      },
    }
    const onAbort = (): void => waiter.reject(new MeshError('CLOSED', 'the connection was given up while it waited for a tunnel'))
    const cancelTimer = this.#plan.clock.after(request.timeoutMs, () => waiter.reject(
      new MeshError('OVERLOADED', `no place in a tunnel within ${request.timeoutMs} ms`, { detail: { because: 'waitedTooLong' } }),
    ))
    this.#waiters.add(waiter)
    request.signal?.addEventListener('abort', onAbort, { once: true })
    if (request.signal?.aborted) onAbort()
  }

  /** The ready session with the fewest streams that has room for one; of several such the oldest, so that the others fall idle. */
  #leastBusy(): ClientSession | undefined {
    const nowMs = this.#plan.clock.nowMs()
    let best: ClientSession | undefined
    for (const session of this.#ready) {
      // The peer let us in with a certificate that is no more.
      if (session.facts.certified.notAfterMs <= nowMs) session.drain('certificateExpired')
      else if (session.room > 0 && (!best || session.streams < best.streams)) best = session
    }
    return best
  }

  async #use(session: ClientSession, request: StreamRequest): Promise<EntryAnswer> {
    const isReused = this.#used.has(session)
    this.#used.add(session)
    return { outcome: await session.openStream(request), session, isReused }
  }

  #connectIfWorthIt(): void {
    const { maxConnectionsPerKey, spreadAtStreams } = this.#plan.limits
    if (this.#connecting.t === 'handshake' || this.#ready.size >= maxConnectionsPerKey) return
    const best = this.#leastBusy()
    if (this.#waiters.size === 0 && (!best || best.streams < spreadAtStreams)) return
    this.#connecting = { t: 'handshake' }
    void this.#connect()
  }

  async #connect(): Promise<void> {
    try {
      const session = await this.#plan.connect()
      this.#connecting = { t: 'idle' }
      const because = this.#drainNext
      this.#drainNext = undefined
      this.#add(session)
      if (because === undefined) return
      this.#dispatch()
      session.drain(because)
    } catch (error) {
      this.#connecting = { t: 'idle' }
      this.#drainNext = undefined
      // Whoever waited did so for this handshake; each may have another address to try.
      for (const waiter of this.#waiters) waiter.reject(error)
    } finally {
      this.#dispatch()
      this.#plan.onConnected()
    }
  }

  #add(session: ClientSession): void {
    this.#ready.add(session)
    session.onChange = () => this.#onChange(session)
    // It may have changed before anybody listened.
    if (session.state.t !== 'ready') this.#onChange(session)
  }

  #onChange(session: ClientSession): void {
    const { state } = session
    if (state.t !== 'ready') this.#ready.delete(session)
    if (state.t === 'draining') this.#draining.add(session)
    if (state.t === 'closed') {
      this.#draining.delete(session)
      session.onChange = () => {}
      this.#plan.onSessionClosed(session, state.because)
    }
    if (this.#waiters.size > 0) this.#dispatch()
  }

  #dispatch(): void {
    for (const waiter of this.#waiters) {
      const session = this.#leastBusy()
      if (!session) break
      waiter.resolve(this.#use(session, waiter.request))
    }
    this.#connectIfWorthIt()
  }
}
