// Writes statuses, and nothing that is there already: a merge of the fields that differ, refused by the API server where the object is
// not the one that was looked at. What fails is left alone for a while and computed anew; the writer itself never tries again.
import { isDeepStrictEqual } from 'node:util'
import { describeError, MeshError } from '../../core/errors.ts'
import type { Clock } from '../../core/clock.ts'
import type { Logger } from '../../core/log.ts'
import { isConflict, isForbidden, isNotFound } from '../../kube/answers.ts'
import { resourcePath, type KubeApi } from '../../kube/api.ts'
import { observedId, type ObservedObject, type ObservedObjects } from './observed-objects.ts'
import { Pauses, TokenBucket } from './rate.ts'

type Json = Readonly<Record<string, unknown>>

const perSecond = 25
const burst = 50
const atOnce = 4
/** How long a kind is left alone of which nothing can be written: its definition has no status, or our role no right. */
const kindPauseMs = 300_000

export interface StatusWriterOptions {
  readonly api: Pick<KubeApi, 'patch'>
  readonly observed: ObservedObjects
  readonly clock: Clock
  readonly logger: Logger
  /** There is something to compute anew, in so many milliseconds. */
  readonly again: (ms: number) => void
}

interface Write {
  readonly object: ObservedObject
  readonly change: Json
}

/** What was written last, and what the API server made of it: fields that it does not know are not there afterwards. */
interface Settled {
  readonly uid: string
  readonly change: string
  readonly status: Json
}

export class StatusWriter {
  readonly #options: StatusWriterOptions
  readonly #queue = new Map<string, Write>()
  readonly #underWay = new Map<string, Promise<void>>()
  readonly #settled = new Map<string, Settled>()
  readonly #bucket: TokenBucket
  readonly #pauses: Pauses
  /** By type: until when. */
  readonly #unwritable = new Map<string, number>()
  readonly #ended = new AbortController()
  #cancelTimer: (() => void) | undefined
  #writes = 0

  constructor(options: StatusWriterOptions) {
    this.#options = options
    this.#bucket = new TokenBucket(perSecond, burst, options.clock)
    this.#pauses = new Pauses(options.clock)
  }

  /** Requests sent so far. */
  get writes(): number {
    return this.#writes
  }

  /** The newest wish for an object counts. True if it is going to be written: not where that was done before, and undone by nobody. */
  write(object: ObservedObject, change: Json): boolean {
    const id = observedId(object)
    if (this.#isFutile(id, object, change)) return false
    this.#queue.set(id, { object, change })
    this.#next()
    return true
  }

  /** It is right as it is. */
  forget(object: ObservedObject): void {
    this.#queue.delete(observedId(object))
  }

  #isFutile(id: string, object: ObservedObject, change: Json): boolean {
    const untilMs = this.#unwritable.get(typeName(object)) ?? 0
    if (untilMs > this.#options.clock.monotonicMs()) return true
    const settled = this.#settled.get(id)
    return settled?.uid === object.uid && settled.change === plainly(change) && isDeepStrictEqual(settled.status, object.status)
  }

  #next(): void {
    if (this.#ended.signal.aborted || this.#cancelTimer) return
    for (const [id, write] of this.#queue) {
      if (this.#underWay.size >= atOnce) return
      if (this.#underWay.has(id)) continue
      if (this.#pauses.left(id) > 0) {
        // It is computed anew when its time is over.
        this.#queue.delete(id)
        this.#options.again(this.#pauses.left(id))
        continue
      }
      const waitMs = this.#bucket.take()
      if (waitMs > 0) {
        this.#cancelTimer = this.#options.clock.after(waitMs, () => {
          this.#cancelTimer = undefined
          this.#next()
        })
        return
      }
      this.#queue.delete(id)
      this.#underWay.set(id, this.#send(id, write).finally(() => {
        this.#underWay.delete(id)
        this.#next()
      }))
    }
  }

  async #send(id: string, { object, change }: Write): Promise<void> {
    const { api, observed, logger, clock, again } = this.#options
    const { namespace, name, uid, resourceVersion } = object
    this.#writes += 1
    try {
      const answer = await api.patch(
        resourcePath(object.type, { namespace, name, subresource: 'status' }), { metadata: { uid, resourceVersion }, status: change }, 'merge', { signal: this.#ended.signal },
      )
      this.#pauses.succeeded(id)
      observed.written(object, answer)
      const { status } = observed.get(id) ?? object
      this.#settled.set(id, { uid, change: plainly(change), status })
    } catch (error) {
      if (this.#ended.signal.aborted) return
      // Somebody else wrote it meanwhile, or it is gone; the watch will say so, and what is to be written is computed anew.
      const isKindUnwritable = isForbidden(error) || (isNotFound(error) && error instanceof MeshError && error.message.includes('could not find the requested resource'))
      if (isKindUnwritable) this.#unwritable.set(typeName(object), clock.monotonicMs() + kindPauseMs)
      const ms = this.#pauses.failed(id)
      if (!isNotFound(error) || isKindUnwritable) again(ms)
      logger[isConflict(error) || isNotFound(error) ? 'debug' : 'warn']({ object: id, because: describeError(error) }, 'status was not written')
    }
  }

  /** Ends what is under way: who leads no longer must not write. */
  async close(): Promise<void> {
    this.#ended.abort(new MeshError('CLOSED', 'statuses are written by somebody else now'))
    this.#queue.clear()
    this.#cancelTimer?.()
    await Promise.all(this.#underWay.values())
  }
}

function typeName({ type: { group, version, plural } }: ObservedObject): string {
  return `${plural}.${version}.${group}`
}

/** Without the times, which are new in each attempt. */
function plainly(change: Json): string {
  return JSON.stringify(change, (key, value: unknown) => (key === 'lastTransitionTime' ? undefined : value))
}
