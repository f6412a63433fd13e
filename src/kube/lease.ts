// One leader among several of us, by a Lease object. Whoever leads stops before anybody else may believe that it is over: it counts
// from before its last successful write was sent, others from when they saw that write, and each by its own clock's durations, so
// clocks may disagree about the time of day. What it cannot know is that it stood still: who writes asks `isLeading` just before.
import { systemClock, type Clock } from '../core/clock.ts'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { isConflict, isNotFound } from './answers.ts'
import { resourcePath, type CallOptions, type KubeApi, type KubeObject, type ResourceType } from './api.ts'

export interface LeaseOptions {
  readonly api: Pick<KubeApi, 'get' | 'create' | 'replace'>
  readonly log: Logger
  readonly namespace: string
  readonly name: string
  /** Ours alone: a pod's name with something new for each process. */
  readonly holder: string
  /** The signal is aborted the moment that leading ends. */
  readonly onLeading: (signal: AbortSignal) => void
  /**
   * Told once for each `onLeading`. Where it returns a promise, giving the lease up waits for it, but never past the lease's end;
   * leading again waits for it too.
   */
  readonly onLost: (because: LeaseLoss) => void | Promise<void>
  readonly clock?: Clock
  readonly times?: Partial<LeaseTimes>
}

/** `late`: it could not be renewed in time; `taken`: somebody else holds it; `released`: we gave it up. */
export type LeaseLoss = 'late' | 'taken' | 'released'

export interface LeaseTimes {
  /** Others take over a lease that was not renewed for so long. */
  readonly durationMs: number
  /** We stop leading when so long has passed since we sent the last renewal that succeeded. Less than `durationMs`. */
  readonly renewWithinMs: number
  /** Between attempts to renew or to acquire. */
  readonly everyMs: number
}

const defaultTimes: LeaseTimes = { durationMs: 15_000, renewWithinMs: 10_000, everyMs: 2_000 }

export const leaseType: ResourceType = { group: 'coordination.k8s.io', version: 'v1', plural: 'leases', kind: 'Lease', namespaced: true }

interface LeaseSpec {
  readonly holderIdentity: string
  readonly leaseDurationSeconds: number
  readonly leaseTransitions: number
  readonly acquireTime: string | undefined
}

/** The lease as it was when we saw it change last. */
interface Observed {
  readonly version: string
  readonly atMs: number
}

export interface LeaseState {
  readonly isLeading: boolean
  /** As last seen; empty for nobody. */
  readonly holder: string
  readonly because?: string
}

function readSpec(spec: unknown, defaultSeconds: number): LeaseSpec {
  const fields = typeof spec === 'object' && spec !== null ? (spec as Readonly<Record<string, unknown>>) : {}
  const { holderIdentity, leaseDurationSeconds, leaseTransitions, acquireTime } = fields
  return {
    holderIdentity: typeof holderIdentity === 'string' ? holderIdentity : '',
    // Bounded, or a nonsensical number would leave everybody without a leader for ever.
    leaseDurationSeconds: typeof leaseDurationSeconds === 'number' ? Math.min(Math.max(leaseDurationSeconds, 1), 3_600) : defaultSeconds,
    leaseTransitions: typeof leaseTransitions === 'number' ? leaseTransitions : 0,
    acquireTime: typeof acquireTime === 'string' ? acquireTime : undefined,
  }
}

export class Lease {
  readonly #options: LeaseOptions
  readonly #times: LeaseTimes
  readonly #clock: Clock
  readonly #path: string
  readonly #ended = new AbortController()
  #running: Promise<void> | undefined
  #observed: Observed | undefined
  /** As we wrote it last, while we lead and nobody else was seen to write. */
  #written: KubeObject | undefined
  #holder = ''
  #because: string | undefined
  /** While we lead. */
  #leading: { readonly abort: AbortController; validUntilMs: number; isTold: boolean; cancelTimer: () => void } | undefined
  #losing: Promise<void> = Promise.resolve()

  constructor(options: LeaseOptions) {
    this.#options = options
    this.#times = { ...defaultTimes, ...options.times }
    this.#clock = options.clock ?? systemClock
    this.#path = resourcePath(leaseType, { namespace: options.namespace })
    if (this.#times.renewWithinMs >= this.#times.durationMs) {
      throw new MeshError('BAD_CONFIG', 'a lease must be given up before others may take it')
    }
  }

  /** Once. Tries until `close`. */
  start(): void {
    this.#running ??= this.#run()
  }

  /** True only as long as nobody else can have taken over; also right when a timer of ours is late. */
  get isLeading(): boolean {
    return this.#leading !== undefined && this.#clock.monotonicMs() < this.#leading.validUntilMs
  }

  state(): LeaseState {
    return { isLeading: this.isLeading, holder: this.#holder, ...(this.#because !== undefined && { because: this.#because }) }
  }

  /** Stops leading, waits for what `onLost` does, and gives the lease up, so that another takes it at once. Never rejects. */
  async close(): Promise<void> {
    if (this.#ended.signal.aborted) return this.#running
    const validUntilMs = this.#leading?.validUntilMs
    this.#ended.abort(new MeshError('CLOSED', 'the lease is closed'))
    this.#lose('released')
    await this.#running
    if (validUntilMs !== undefined) await this.#release(validUntilMs)
    return undefined
  }

  async #run(): Promise<void> {
    while (!this.#ended.signal.aborted) {
      try {
        await this.#attempt()
        this.#because = undefined
      } catch (error) {
        if (this.#ended.signal.aborted) return
        const because = describeError(error)
        if (because !== this.#because && !isConflict(error)) {
          this.#options.log.warn({ lease: this.#options.name, because }, 'lease could not be asked for')
        }
        this.#because = because
      }
      await this.#pause(this.#times.everyMs * (this.#leading ? 1 : 0.8 + Math.random() * 0.4))
    }
  }

  #pause(ms: number): Promise<void> {
    const { signal } = this.#ended
    if (signal.aborted) return Promise.resolve()
    return new Promise((done) => {
      const cancel = this.#clock.after(ms, finish)
      signal.addEventListener('abort', finish, { once: true })
      function finish(): void {
        cancel()
        signal.removeEventListener('abort', finish)
        done()
      }
    })
  }

  async #attempt(): Promise<void> {
    const { api, name, holder } = this.#options
    const call = { signal: this.#ended.signal, timeoutMs: Math.max(1_000, this.#times.renewWithinMs / 2) }
    if (this.isLeading && this.#written && await this.#renew(this.#written, call)) return
    let found: KubeObject
    try {
      found = await api.get(`${this.#path}/${encodeURIComponent(name)}`, call)
    } catch (error) {
      if (!isNotFound(error)) throw error
      this.#lose('taken')
      const sentMs = this.#clock.monotonicMs()
      const made = await api.create(this.#path, this.#object(undefined, undefined), call)
      this.#hold(made, sentMs)
      return
    }
    const now = this.#clock.monotonicMs()
    const spec = readSpec(found.spec, this.#times.durationMs / 1_000)
    this.#holder = spec.holderIdentity
    const version = found.metadata.resourceVersion ?? ''
    if (this.#observed?.version !== version) this.#observed = { version, atMs: now }
    const isOurs = spec.holderIdentity === holder
    if (!isOurs) {
      this.#lose('taken')
      // From when we saw it change, by our clock: what it says about the time of day may be another clock's.
      if (spec.holderIdentity !== '' && now < this.#observed.atMs + spec.leaseDurationSeconds * 1_000) return
    }
    const sentMs = this.#clock.monotonicMs()
    // The resourceVersion makes it fail if anybody else was quicker.
    const next = this.#object(found, isOurs ? spec : { ...spec, acquireTime: undefined })
    const written = await api.replace(`${this.#path}/${encodeURIComponent(name)}`, next, call)
    this.#hold(written, sentMs)
  }

  /** Without looking first: false if somebody else wrote meanwhile. */
  async #renew(written: KubeObject, call: CallOptions): Promise<boolean> {
    this.#written = undefined
    const sentMs = this.#clock.monotonicMs()
    const spec = readSpec(written.spec, this.#times.durationMs / 1_000)
    try {
      const { name } = this.#options
      this.#hold(await this.#options.api.replace(`${this.#path}/${encodeURIComponent(name)}`, this.#object(written, spec), call), sentMs)
      return true
    } catch (error) {
      if (isConflict(error) || isNotFound(error)) return false
      throw error
    }
  }

  #object(found: KubeObject | undefined, spec: LeaseSpec | undefined): unknown {
    const { holder, name, namespace } = this.#options
    const now = microTime(this.#clock.nowMs())
    const isNew = spec?.acquireTime === undefined
    return {
      ...found,
      apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: found?.metadata ?? { name, namespace },
      spec: {
        ...(found?.spec as object | undefined),
        holderIdentity: holder, leaseDurationSeconds: Math.ceil(this.#times.durationMs / 1_000), renewTime: now,
        acquireTime: isNew ? now : spec.acquireTime, leaseTransitions: (spec?.leaseTransitions ?? 0) + (spec && isNew ? 1 : 0),
      },
    }
  }

  #hold(written: KubeObject, sentMs: number): void {
    this.#holder = this.#options.holder
    this.#written = written
    this.#observed = { version: written.metadata.resourceVersion ?? '', atMs: this.#clock.monotonicMs() }
    // The time may have run out while the answer was on its way, or we were told to end.
    const validUntilMs = sentMs + this.#times.renewWithinMs
    if (this.#ended.signal.aborted || this.#clock.monotonicMs() >= validUntilMs) return
    if (this.#leading && this.#clock.monotonicMs() >= this.#leading.validUntilMs) this.#lose('late')
    const isNew = this.#leading === undefined
    const leading = this.#leading ?? { abort: new AbortController(), validUntilMs, isTold: false, cancelTimer: () => {} }
    leading.validUntilMs = validUntilMs
    leading.cancelTimer()
    leading.cancelTimer = this.#clock.after(validUntilMs - this.#clock.monotonicMs(), () => this.#lose('late'))
    this.#leading = leading
    if (!isNew) return
    this.#options.log.info({ lease: this.#options.name, holder: this.#options.holder }, 'leading')
    // What was begun as the last leader ends first.
    void this.#losing.then(() => {
      if (this.#leading !== leading) return
      leading.isTold = true
      this.#options.onLeading(leading.abort.signal)
    }).catch((error: unknown) => this.#options.log.error({ because: describeError(error) }, 'leader could not begin'))
  }

  #lose(because: LeaseLoss): void {
    const leading = this.#leading
    if (!leading) return
    this.#leading = undefined
    leading.cancelTimer()
    leading.abort.abort(new MeshError('CLOSED', `no longer the leader: ${because}`))
    this.#options.log.info({ lease: this.#options.name, because }, 'no longer leading')
    if (!leading.isTold) return
    this.#losing = this.#losing.then(() => this.#options.onLost(because)).catch((error: unknown) => {
      this.#options.log.error({ because: describeError(error) }, 'leader could not end')
    })
  }

  async #release(validUntilMs: number): Promise<void> {
    const { api, name, holder, log } = this.#options
    let isEnded = false
    await Promise.race([
      this.#losing.then(() => { isEnded = true }),
      new Promise<void>((done) => this.#clock.after(Math.max(0, validUntilMs - this.#clock.monotonicMs()), done)),
    ])
    // Still at work: others wait until the lease is over.
    if (!isEnded) return
    try {
      const found = await api.get(`${this.#path}/${encodeURIComponent(name)}`, { timeoutMs: 3_000 })
      const spec = readSpec(found.spec, 1)
      if (spec.holderIdentity !== holder) return
      const released = { ...(found.spec as object), holderIdentity: '', leaseDurationSeconds: 1, renewTime: microTime(this.#clock.nowMs()) }
      await api.replace(`${this.#path}/${encodeURIComponent(name)}`, { ...found, spec: released }, { timeoutMs: 3_000 })
    } catch (error) {
      // It ends by itself then.
      log.info({ lease: name, because: describeError(error) }, 'lease could not be given up')
    }
  }
}

/** As Kubernetes writes it, with six digits. */
export function microTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z')
}
