// Events about objects, for people who ask kubectl what is wrong. They are a courtesy: at most a few for each object, the same one
// only now and then, none kept when the API server is away, and nothing waits for them.
import { createHash, randomBytes } from 'node:crypto'
import { systemClock, type Clock } from '../core/clock.ts'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { isNotFound } from './answers.ts'
import { resourcePath, type KubeApi, type KubeObject, type ResourceType } from './api.ts'
import { microTime } from './lease.ts'

/** What an event is about. */
export type Regarding = Pick<KubeObject, 'apiVersion' | 'kind' | 'metadata'>

export interface KubeEvent {
  readonly type: 'Normal' | 'Warning'
  /** One word in PascalCase, as in `NotCaptured`. */
  readonly reason: string
  /** What was being done, one word in PascalCase, as in `Capture`. */
  readonly action: string
  /** A sentence for people; what is longer than 1024 bytes is cut. */
  readonly note: string
}

export interface EventRecorderOptions {
  readonly api: Pick<KubeApi, 'create' | 'patch'>
  readonly log: Logger
  /** As in `sidestep.dev/agent`. */
  readonly controller: string
  /** The pod that says it. */
  readonly instance: string
  readonly clock?: Clock
  readonly limits?: Partial<EventLimits>
}

export interface EventLimits {
  /** The same event of the same object is only counted for so long; then its count is written. */
  readonly repeatMs: number
  /** Events of one object at once; one more each `refillMs`. */
  readonly burstPerObject: number
  readonly refillMs: number
  /** Events that are remembered, and objects whose rate is. */
  readonly remembered: number
  /** Written at once; what comes beyond twenty times that is dropped. */
  readonly atOnce: number
}

const defaultLimits: EventLimits = { repeatMs: 600_000, burstPerObject: 10, refillMs: 60_000, remembered: 4_000, atOnce: 4 }

const eventType: ResourceType = { group: 'events.k8s.io', version: 'v1', plural: 'events', kind: 'Event', namespaced: true }
const largestNoteBytes = 1_024

interface Remembered {
  readonly name: string
  readonly namespace: string
  writtenMs: number
  /** Since it was made. */
  count: number
}

interface Allowance {
  left: number
  atMs: number
}

export class EventRecorder {
  readonly #options: EventRecorderOptions
  readonly #limits: EventLimits
  readonly #clock: Clock
  readonly #remembered = new Map<string, Remembered>()
  readonly #allowances = new Map<string, Allowance>()
  readonly #queue: (() => Promise<unknown>)[] = []
  readonly #ended = new AbortController()
  #underWay = 0
  #dropped = 0

  constructor(options: EventRecorderOptions) {
    this.#options = options
    this.#limits = { ...defaultLimits, ...options.limits }
    this.#clock = options.clock ?? systemClock
  }

  /** Events that nobody will see, since they were too many. */
  get dropped(): number {
    return this.#dropped
  }

  /** Never throws, and waits for nothing. */
  record(regarding: Regarding, event: KubeEvent): void {
    if (this.#ended.signal.aborted) return
    const { metadata, kind, apiVersion } = regarding
    const about = `${apiVersion} ${kind} ${metadata.namespace ?? ''}/${metadata.name} ${metadata.uid ?? ''}`
    const key = createHash('sha256').update(JSON.stringify([about, event.type, event.reason, event.note])).digest('base64')
    const now = this.#clock.monotonicMs()
    const known = this.#remembered.get(key)
    if (known) {
      known.count += 1
      if (now - known.writtenMs < this.#limits.repeatMs) return
      known.writtenMs = now
      this.#later(() => this.#repeat(key, known, regarding, event))
      return
    }
    if (!this.#isAllowed(about, now)) {
      this.#dropped += 1
      return
    }
    const made: Remembered = {
      name: `${metadata.name.slice(0, 200).replace(/[.-]+$/, '')}.${randomBytes(8).toString('hex')}`,
      namespace: metadata.namespace ?? 'default', writtenMs: now, count: 1,
    }
    this.#remembered.set(key, made)
    forgetOldest(this.#remembered, this.#limits.remembered)
    this.#later(() => this.#create(made, regarding, event))
  }

  /** What is not written yet is forgotten. */
  close(): void {
    this.#ended.abort()
    this.#queue.length = 0
  }

  #isAllowed(about: string, now: number): boolean {
    const { burstPerObject, refillMs, remembered } = this.#limits
    const { left, atMs } = this.#allowances.get(about) ?? { left: burstPerObject, atMs: now }
    const refilled = Math.min(burstPerObject, left + (now - atMs) / refillMs)
    this.#allowances.delete(about)
    this.#allowances.set(about, { left: refilled < 1 ? refilled : refilled - 1, atMs: now })
    forgetOldest(this.#allowances, remembered)
    return refilled >= 1
  }

  #later(write: () => Promise<unknown>): void {
    if (this.#queue.length >= this.#limits.atOnce * 20) {
      this.#dropped += 1
      return
    }
    this.#queue.push(write)
    this.#next()
  }

  #next(): void {
    if (this.#underWay >= this.#limits.atOnce) return
    const write = this.#queue.shift()
    if (!write) return
    this.#underWay += 1
    void write().catch((error: unknown) => {
      this.#dropped += 1
      if (!this.#ended.signal.aborted) this.#options.log.debug({ because: describeError(error) }, 'event was not written')
    }).finally(() => {
      this.#underWay -= 1
      this.#next()
    })
  }

  #create({ name, namespace }: Remembered, { apiVersion, kind, metadata }: Regarding, event: KubeEvent): Promise<unknown> {
    const { api, controller, instance } = this.#options
    return api.create(resourcePath(eventType, { namespace }), {
      apiVersion: 'events.k8s.io/v1', kind: 'Event', metadata: { name, namespace }, eventTime: microTime(this.#clock.nowMs()),
      reportingController: controller, reportingInstance: instance.slice(0, 128), type: event.type, reason: event.reason, action: event.action,
      note: cut(event.note),
      regarding: {
        apiVersion, kind, name: metadata.name, ...(metadata.namespace !== undefined && { namespace: metadata.namespace }),
        ...(metadata.uid !== undefined && { uid: metadata.uid }),
        ...(metadata.resourceVersion !== undefined && { resourceVersion: metadata.resourceVersion }),
      },
    }, { signal: this.#ended.signal, timeoutMs: 10_000 })
  }

  async #repeat(key: string, known: Remembered, regarding: Regarding, event: KubeEvent): Promise<void> {
    const { name, namespace, count } = known
    const series = { count, lastObservedTime: microTime(this.#clock.nowMs()) }
    try {
      const path = resourcePath(eventType, { namespace, name })
      await this.#options.api.patch(path, { series }, 'merge', { signal: this.#ended.signal, timeoutMs: 10_000 })
    } catch (error) {
      if (!isNotFound(error)) throw error
      // API servers forget events after an hour.
      const again: Remembered = { ...known, name: `${name.slice(0, -16)}${randomBytes(8).toString('hex')}`, count: 1 }
      this.#remembered.set(key, again)
      await this.#create(again, regarding, event)
    }
  }
}

/** Maps keep the order in which keys came. */
function forgetOldest(map: Map<string, unknown>, most: number): void {
  for (const [oldest] of map) {
    if (map.size <= most) return
    map.delete(oldest)
  }
}

function cut(note: string): string {
  const bytes = Buffer.from(note, 'utf8')
  if (bytes.length <= largestNoteBytes) return note
  // A character that was cut in two would be an unreadable one.
  return `${bytes.subarray(0, largestNoteBytes - 3).toString('utf8').replace(/\uFFFD+$/u, '')}…`
}
