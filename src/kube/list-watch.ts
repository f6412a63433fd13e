// All objects of one kind, kept up to date: a list in pages, then a watch from there, resumed where it ended, listed anew where the
// server has forgotten. The listener's view is the server's in the end, whatever happens between. Of an object only what `trim` takes
// is kept, by the listener; here stays one resourceVersion for each.
import { Backoff } from '../core/backoff.ts'
import { systemClock, type Clock } from '../core/clock.ts'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { apiError, isGone, isNotFound, refusalOfEvent } from './answers.ts'
import { resourcePath, type KubeObject, type WatchOptions } from './api.ts'
import type { WatchApi } from './client.ts'

export interface ListWatchOptions<T> extends WatchOptions<T> {
  readonly api: WatchApi
  readonly log: Logger
  readonly clock?: Clock
  /** `trim` gets objects with metadata alone: for kinds whose rest is large and not needed. */
  readonly isMetadataOnly?: boolean
  /** A kind that the server does not know has no objects, rather than being an error. */
  readonly mayBeAbsent?: boolean
  readonly limits?: Partial<ListWatchLimits>
}

export interface ListWatchLimits {
  /** Objects in one page of a list. */
  readonly pageSize: number
  /** The server is asked to end a watch after this long, and up to twice as long. */
  readonly watchSeconds: number
  /** A watch without a byte for so long is taken for dead. Servers send a bookmark about once a minute. */
  readonly silenceMs: number
  readonly listTimeoutMs: number
  readonly firstBackoffMs: number
  readonly maxBackoffMs: number
}

const defaultLimits: ListWatchLimits = {
  pageSize: 500, watchSeconds: 240, silenceMs: 150_000, listTimeoutMs: 60_000, firstBackoffMs: 500, maxBackoffMs: 30_000,
}

/** For status and metrics. */
export interface ListWatchState {
  /** `waiting`: for the next attempt, `because` of what went wrong. */
  readonly t: 'idle' | 'listing' | 'watching' | 'waiting' | 'closed'
  /** Everything there was has been told once. */
  readonly isSynced: boolean
  readonly objects: number
  /** When the server last told something: a list, an event or a bookmark. As Date.now(). */
  readonly lastHeardMs: number | undefined
  /** Lists after the first. */
  readonly relists: number
  /** Watches that were begun. */
  readonly watches: number
  /** The last thing that went wrong; absent while all is well. */
  readonly because?: string
}

/** A watch that ended sooner, and told nothing, is no success: it is not begun anew at once. */
const shortWatchMs = 1_000
/** So often is a watch resumed that fails otherwise than by being too old; then everything is listed. */
const resumeAttempts = 3

interface Known {
  version: string
  /** The attempt at a list in which, or after which, it was seen last. */
  attempt: number
}

interface WatchEvent {
  readonly type: string
  readonly object: Readonly<Record<string, unknown>>
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function readEvent(value: unknown): WatchEvent {
  const { type, object } = isRecord(value) ? value : {}
  if (typeof type === 'string' && isRecord(object)) return { type, object }
  throw new MeshError('BAD_MESSAGE', 'a line of a watch is no event', { source: 'upstream' })
}

export class ListWatch<T> {
  readonly #options: ListWatchOptions<T>
  readonly #limits: ListWatchLimits
  readonly #clock: Clock
  readonly #path: string
  readonly #apiVersion: string
  readonly #known = new Map<string, Known>()
  readonly #backoff: Backoff
  readonly #ended = new AbortController()
  readonly #synced = Promise.withResolvers<void>()
  /** Where the watch goes on from; undefined: list first. */
  #version: string | undefined
  #t: ListWatchState['t'] = 'idle'
  #isSynced = false
  #lists = 0
  /** Of lists; those that failed half-way have told of some objects too. */
  #attempt = 0
  #watches = 0
  #lastHeardMs: number | undefined
  #because: string | undefined
  #running: Promise<void> = Promise.resolve()

  constructor(options: ListWatchOptions<T>) {
    this.#options = options
    this.#limits = { ...defaultLimits, ...options.limits }
    this.#clock = options.clock ?? systemClock
    this.#path = resourcePath(options.type, options.namespace === undefined ? {} : { namespace: options.namespace })
    this.#apiVersion = options.type.group === '' ? options.type.version : `${options.type.group}/${options.type.version}`
    this.#backoff = new Backoff({ firstMs: this.#limits.firstBackoffMs, maxMs: this.#limits.maxBackoffMs })
    // Who never asks is not told that it was closed.
    this.#synced.promise.catch(() => {})
  }

  /** Once. Tells the listener from now on until `close`; never rejects or throws, but says in `state` what is wrong. */
  start(): void {
    if (this.#t !== 'idle') return
    this.#t = 'listing'
    this.#running = this.#run()
  }

  /** Resolves when everything there was has been told; rejects with CLOSED. */
  synced(): Promise<void> {
    return this.#synced.promise
  }

  state(): ListWatchState {
    return {
      t: this.#t, isSynced: this.#isSynced, objects: this.#known.size, lastHeardMs: this.#lastHeardMs, relists: Math.max(0, this.#lists - 1),
      watches: this.#watches, ...(this.#because !== undefined && { because: this.#because }),
    }
  }

  /** Nothing is told after it, and nothing is removed by it. */
  close(): void {
    if (this.#t === 'closed') return
    this.#t = 'closed'
    this.#ended.abort(new MeshError('CLOSED', `the watch of ${this.#path} is closed`))
    this.#synced.reject(new MeshError('CLOSED', `the watch of ${this.#path} is closed`))
  }

  /** Resolves when nothing of it is under way any more. */
  async ended(): Promise<void> {
    await this.#running
  }

  get #isClosed(): boolean {
    return this.#ended.signal.aborted
  }

  async #run(): Promise<void> {
    let failedResumes = 0
    while (!this.#isClosed) {
      try {
        if (this.#version === undefined) await this.#list()
        const isGood = await this.#watch()
        failedResumes = 0
        if (isGood) this.#backoff.succeeded()
        else await this.#wait('the watch ended at once')
      } catch (error) {
        if (this.#isClosed) return
        failedResumes += 1
        if (isGone(error) || failedResumes >= resumeAttempts) {
          this.#version = undefined
          failedResumes = 0
        }
        await this.#wait(describeError(error), error)
      }
    }
  }

  async #wait(because: string, error?: unknown): Promise<void> {
    const waitMs = this.#backoff.next()
    const { log, type } = this.#options
    // Ended watches and forgotten versions belong to life; one line each time that something new is wrong.
    const isOrdinary = error === undefined || isGone(error)
    const fields = { kind: type.kind, group: type.group, because, waitMs }
    if (!isOrdinary && because !== this.#because) log.warn(fields, 'kubernetes watch interrupted')
    else log.debug(fields, 'kubernetes watch waits')
    this.#because = because
    if (this.#isClosed) return
    this.#t = 'waiting'
    await new Promise<void>((done) => {
      const stop = this.#clock.after(waitMs, finish)
      const { signal } = this.#ended
      signal.addEventListener('abort', finish, { once: true })
      function finish(): void {
        stop()
        signal.removeEventListener('abort', finish)
        done()
      }
    })
  }

  #query(): Record<string, string | number | boolean | undefined> {
    return { labelSelector: this.#options.labelSelector, fieldSelector: this.#options.fieldSelector }
  }

  async #list(): Promise<void> {
    this.#t = 'listing'
    let version: string
    try {
      version = await this.#pages(this.#limits.pageSize)
    } catch (error) {
      if (isGone(error)) {
        // The pages took longer than the server remembers; in one piece it cannot happen.
        version = await this.#pages(0)
      } else if (this.#options.mayBeAbsent === true && isNotFound(error)) {
        this.#forgetAll()
        this.#finishList(undefined)
        throw error
      } else throw error
    }
    if (this.#isClosed) return
    for (const [key, known] of this.#known) {
      if (known.attempt === this.#attempt) continue
      this.#known.delete(key)
      this.#tellRemoved(key)
    }
    this.#finishList(version)
  }

  #finishList(version: string | undefined): void {
    this.#version = version
    this.#lists += 1
    this.#isSynced = true
    if (version !== undefined) {
      this.#because = undefined
      this.#lastHeardMs = this.#clock.nowMs()
    }
    this.#synced.resolve()
  }

  /** Tells what is new as it comes; the resourceVersion of the list. */
  async #pages(limit: number): Promise<string> {
    this.#attempt += 1
    let next: string | undefined
    for (;;) {
      const page = await this.#options.api.page(this.#path, {
        query: { ...this.#query(), limit, continue: next }, signal: this.#ended.signal, timeoutMs: this.#limits.listTimeoutMs,
        ...(this.#options.isMetadataOnly !== undefined && { isMetadataOnly: this.#options.isMetadataOnly }),
      })
      if (this.#isClosed) return page.resourceVersion
      this.#lastHeardMs = this.#clock.nowMs()
      for (const item of page.items) this.#see(item)
      if (page.next === undefined) return page.resourceVersion
      next = page.next
    }
  }

  /** Whether it was worth something: lasted, or told something. */
  async #watch(): Promise<boolean> {
    if (this.#isClosed) return true
    this.#t = 'watching'
    this.#watches += 1
    const fromMs = this.#clock.monotonicMs()
    const { watchSeconds, silenceMs } = this.#limits
    const timeoutSeconds = Math.ceil(watchSeconds * (1 + Math.random()))
    let isTold = false
    // For a server that neither ends it nor falls silent.
    const late = new AbortController()
    const stop = this.#clock.after(timeoutSeconds * 1_000 + 30_000, () => late.abort())
    try {
      await this.#options.api.watch(this.#path, {
        query: { ...this.#query(), allowWatchBookmarks: true, resourceVersion: this.#version, timeoutSeconds },
        signal: AbortSignal.any([this.#ended.signal, late.signal]), silenceMs,
        ...(this.#options.isMetadataOnly !== undefined && { isMetadataOnly: this.#options.isMetadataOnly }),
        onEvent: (value) => {
          if (this.#isClosed) return
          this.#take(readEvent(value))
          isTold = true
          this.#because = undefined
          this.#backoff.succeeded()
        },
      })
    } catch (error) {
      // Only a watch that was over in any case.
      if (!late.signal.aborted) throw error
    } finally {
      stop()
    }
    return isTold || this.#clock.monotonicMs() - fromMs >= shortWatchMs
  }

  #take({ type, object }: WatchEvent): void {
    if (type === 'ERROR') throw refusalOfEvent(this.#path, object)
    const { metadata } = object
    if (!isRecord(metadata) || typeof metadata['resourceVersion'] !== 'string') {
      throw new MeshError('BAD_MESSAGE', 'an event of a watch has no resourceVersion', { source: 'upstream' })
    }
    if (type !== 'BOOKMARK') {
      const whole = { apiVersion: this.#apiVersion, kind: this.#options.type.kind, ...object } as unknown as KubeObject
      if (typeof metadata['name'] !== 'string') throw apiError('WATCH', this.#path, 500, 'BadEvent', 'an event is of an object without a name')
      if (type === 'DELETED') this.#forget(whole)
      else if (type === 'ADDED' || type === 'MODIFIED') this.#see(whole)
      else throw new MeshError('BAD_MESSAGE', `a watch tells an event of type ${JSON.stringify(type.slice(0, 50))}`, { source: 'upstream' })
    }
    this.#version = metadata['resourceVersion']
    this.#lastHeardMs = this.#clock.nowMs()
  }

  #keyOf({ metadata }: KubeObject): string {
    return this.#options.type.namespaced ? `${metadata.namespace ?? ''}/${metadata.name}` : metadata.name
  }

  #see(object: KubeObject): void {
    const key = this.#keyOf(object)
    const known = this.#known.get(key)
    const version = object.metadata.resourceVersion ?? ''
    if (known && known.version === version && version !== '') {
      known.attempt = this.#attempt
      return
    }
    const trimmed = this.#trim(key, object)
    if (trimmed === undefined) {
      if (this.#known.delete(key)) this.#tellRemoved(key)
      return
    }
    this.#known.set(key, { version, attempt: this.#attempt })
    this.#tell(() => this.#options.listener.put(key, trimmed))
  }

  /** What cannot be understood is left out, rather than kept as it was: nobody goes by what is no longer so. */
  #trim(key: string, object: KubeObject): T | undefined {
    try {
      return this.#options.trim(object)
    } catch (error) {
      this.#options.log.warn({ kind: this.#options.type.kind, key, because: describeError(error) }, 'kubernetes object left out')
      return undefined
    }
  }

  #forget(object: KubeObject): void {
    const key = this.#keyOf(object)
    if (this.#known.delete(key)) this.#tellRemoved(key)
  }

  #forgetAll(): void {
    const keys = [...this.#known.keys()]
    this.#known.clear()
    for (const key of keys) this.#tellRemoved(key)
  }

  #tellRemoved(key: string): void {
    this.#tell(() => this.#options.listener.remove(key))
  }

  /** A listener that throws has a defect, for which the view of everything else must not pay. */
  #tell(call: () => void): void {
    try {
      call()
    } catch (error) {
      this.#options.log.error({ kind: this.#options.type.kind, because: describeError(error) }, 'listener of a kubernetes watch failed')
    }
  }
}
