// The certificates of the identities that run on this node: one per identity, with a key made here, fetched ahead of need and
// renewed long before they expire. A failed renewal never takes a certificate away that is still valid. Nobody else asks the CA.
import type { KeyObject } from 'node:crypto'
import type { CertificateSource, CertifiedKey } from '../core/certificates.ts'
import { systemClock } from '../core/clock.ts'
import type { Clock } from '../core/clock.ts'
import { MeshError, describeError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import { certifiedKey } from './certified-key.ts'
import { makeCsr, newKey } from './csr.ts'
import { FetchQueue } from './fetch-queue.ts'
import type { Priority } from './fetch-queue.ts'
import { certificatesOf } from './pem.ts'

export interface CertificateRequest {
  readonly identity: Identity
  readonly csrPem: string
  readonly ttlSeconds: number
}

/** The CA as a node sees it (ca-client.ts is one). */
export interface CertificateAuthorityClient {
  /** PEM: leaf first, roots last, the last element may hold several. Rejects with a MeshError; must settle by itself. */
  request(request: CertificateRequest): Promise<readonly string[]>
}

/** Where one identity's certificate stands. `current` may be older than its expiry; peek() tells. */
export type CertificateState =
  | { readonly t: 'waiting'; readonly priority: Priority; readonly current?: CertifiedKey }
  | { readonly t: 'fetching'; readonly sinceMs: number; readonly current?: CertifiedKey }
  | { readonly t: 'ready'; readonly current: CertifiedKey; readonly renewAtMs: number }
  | { readonly t: 'failed'; readonly because: string; readonly attempts: number; readonly retryAtMs: number; readonly current?: CertifiedKey }

export interface CertificateManagerOptions {
  readonly ca: CertificateAuthorityClient
  readonly logger: Logger
  /** Seconds asked for; a day by default. */
  readonly ttlSeconds?: number
  /** Requests at the CA at once. */
  readonly maxConcurrent?: number
  readonly clock?: Clock
  /** 0 to 1, for jitter. */
  readonly random?: () => number
  readonly revocation?: (chain: readonly Uint8Array[]) => string | undefined
  readonly newKey?: () => Promise<KeyObject>
}

interface Entry {
  readonly identity: Identity
  readonly key: string
  state: CertificateState
  attempts: number
  stopTimer: () => void
  readonly waiters: Set<(result: CertifiedKey | MeshError) => void>
}

const firstBackoffMs = 1_000
const maxBackoffMs = 150_000
/** While a connection waits, a failure is not slept upon for minutes. */
const maxBackoffWithWaitersMs = 5_000
/** However short the lifetime, the CA is not asked more often than this. */
const minRenewalMs = 500

export class CertificateManager implements CertificateSource {
  readonly #options: CertificateManagerOptions
  readonly #clock: Clock
  readonly #random: () => number
  readonly #queue: FetchQueue
  readonly #entries = new Map<string, Entry>()
  readonly #listeners = new Set<(identity: Identity) => void>()
  readonly #restored = new Map<string, CertifiedKey>()
  #rootsPem: readonly string[] = []
  #isClosed = false

  constructor(options: CertificateManagerOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#random = options.random ?? Math.random
    this.#queue = new FetchQueue(options.maxConcurrent ?? 8)
  }

  /** Fetches ahead of need, and keeps the certificate fresh until forget(). */
  prefetch(identity: Identity): void {
    this.#entryFor(identity, 'warmup')
  }

  /** Certificates of an earlier process: used where their identity is asked for, and renewed as if they had just come. */
  restore(certificates: readonly CertifiedKey[]): void {
    for (const certified of certificates) this.#restored.set(formatIdentity(certified.identity), certified)
  }

  /** The last workload of the identity has left the node: no renewal, and whoever waits is told. */
  forget(identity: Identity): void {
    const entry = this.#entries.get(formatIdentity(identity))
    if (!entry) return
    this.#drop(entry, new MeshError('CERTIFICATE_UNAVAILABLE', `${entry.key} does not run on this node any more`))
    this.#options.logger.debug({ identity: entry.key }, 'certificate forgotten')
  }

  async get(identity: Identity, timeoutMs: number): Promise<CertifiedKey> {
    if (this.#isClosed) throw new MeshError('CLOSED', 'the certificates are closed')
    const current = this.peek(identity)
    if (current) return current
    const entry = this.#entryFor(identity, 'realtime')
    return new Promise((resolve, reject) => {
      const done = (result: CertifiedKey | MeshError): void => {
        stop()
        entry.waiters.delete(done)
        if (result instanceof MeshError) reject(result)
        else resolve(result)
      }
      const stop = this.#clock.after(timeoutMs, () => {
        const { state } = entry
        const why = state.t === 'failed' ? `: ${state.because}` : state.t === 'waiting' ? ': the CA is busy with others' : ''
        done(new MeshError('CERTIFICATE_UNAVAILABLE', `no certificate for ${entry.key} within ${timeoutMs} ms${why}`))
      })
      entry.waiters.add(done)
      this.#hurry(entry)
    })
  }

  peek(identity: Identity): CertifiedKey | undefined {
    const current = this.#entries.get(formatIdentity(identity))?.state.current
    return current && this.#clock.nowMs() < current.notAfterMs ? current : undefined
  }

  onChange(listener: (identity: Identity) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  revocation(chain: readonly Uint8Array[]): string | undefined {
    return this.#options.revocation?.(chain)
  }

  /** Each identity and where it stands, for metrics, `sidestep certs` and the config dump. */
  states(): readonly { readonly identity: Identity; readonly state: CertificateState }[] {
    return [...this.#entries.values()].map(({ identity, state }) => ({ identity, state }))
  }

  /** Requests that wait and that run, for metrics. */
  load(): { readonly queued: number; readonly running: number } {
    return { queued: this.#queue.depth, running: this.#queue.running }
  }

  /** The newest trust bundle that the CA gave; empty before the first certificate. */
  get rootsPem(): readonly string[] {
    return this.#rootsPem
  }

  /** The CA can be reached again: what had failed is not left waiting. */
  retryNow(): void {
    for (const entry of this.#entries.values()) if (entry.state.t === 'failed') this.#enqueue(entry, 'renewal')
  }

  /** A certificate of ours that is revoked is shown no more, and another is asked for. To be called when what is revoked has changed. */
  replaceRevoked(): void {
    for (const entry of this.#entries.values()) {
      const { state } = entry
      if (!state.current || !this.#isRevoked(state.current)) continue
      this.#options.logger.warn({ identity: entry.key, serial: state.current.serial }, 'certificate of our own is revoked')
      const isFetching = state.t === 'fetching'
      entry.state = isFetching ? { t: 'fetching', sinceMs: state.sinceMs } : { t: 'waiting', priority: 'realtime' }
      if (!isFetching) this.#enqueue(entry, 'realtime')
    }
  }

  #isRevoked({ chainPem }: CertifiedKey): boolean {
    return this.revocation(certificatesOf(chainPem)) !== undefined
  }

  close(): void {
    this.#isClosed = true
    this.#queue.clear()
    for (const entry of this.#entries.values()) this.#drop(entry, new MeshError('CLOSED', 'the certificates are closed'))
    this.#listeners.clear()
  }

  #entryFor(identity: Identity, priority: Priority): Entry {
    const key = formatIdentity(identity)
    const known = this.#entries.get(key)
    if (known) return known
    const state: CertificateState = { t: 'waiting', priority }
    const entry: Entry = { identity, key, state, attempts: 0, stopTimer: () => undefined, waiters: new Set() }
    this.#entries.set(key, entry)
    if (this.#isClosed) return entry
    const restored = this.#restored.get(key)
    this.#restored.delete(key)
    if (restored && this.#clock.nowMs() < restored.notAfterMs && !this.#isRevoked(restored)) this.#install(entry, restored, this.#clock.nowMs())
    else this.#enqueue(entry, priority)
    return entry
  }

  /** Somebody waits: to the front of the queue, and no long sleep after a failure. */
  #hurry(entry: Entry): void {
    const { state } = entry
    if (state.t === 'waiting') this.#enqueue(entry, 'realtime')
    if (state.t === 'ready') this.#enqueue(entry, 'realtime')
    if (state.t === 'failed' && state.retryAtMs - this.#clock.nowMs() > maxBackoffWithWaitersMs) {
      this.#retryAfter(entry, { ...state, retryAtMs: this.#clock.nowMs() + this.#jittered(maxBackoffWithWaitersMs / 2, 0.2) }, 'realtime')
    }
  }

  #enqueue(entry: Entry, priority: Priority): void {
    entry.stopTimer()
    entry.state = { t: 'waiting', priority, ...kept(entry) }
    this.#queue.add(entry.key, priority, () => this.#fetch(entry))
  }

  async #fetch(entry: Entry): Promise<void> {
    const sinceMs = this.#clock.nowMs()
    entry.state = { t: 'fetching', sinceMs, ...kept(entry) }
    try {
      const key = await (this.#options.newKey ?? newKey)()
      const csrPem = await makeCsr(entry.identity, key)
      const chain = await this.#options.ca.request({ identity: entry.identity, csrPem, ttlSeconds: this.#options.ttlSeconds ?? 86_400 })
      const current = certifiedKey(chain, entry.identity, key, this.#clock.nowMs())
      if (this.#entries.get(entry.key) === entry) this.#install(entry, current, sinceMs)
    } catch (error) {
      if (this.#entries.get(entry.key) === entry) this.#fail(entry, error)
    }
  }

  #install(entry: Entry, current: CertifiedKey, issuedMs: number): void {
    // Half of what is left counted from now: from notBefore, which is set back, a short lifetime would be over at once.
    const wanted = this.#jittered((current.notAfterMs - issuedMs) / 2, 0.1)
    const renewInMs = Math.max(minRenewalMs, issuedMs + wanted - this.#clock.nowMs())
    entry.attempts = 0
    entry.state = { t: 'ready', current, renewAtMs: this.#clock.nowMs() + renewInMs }
    this.#schedule(entry, renewInMs, 'renewal')
    this.#options.logger.info(
      { identity: entry.key, serial: current.serial, notAfter: new Date(current.notAfterMs).toISOString(), renewInMs: Math.round(renewInMs) },
      'certificate ready',
    )
    const isNewBundle = current.rootsPem.join('') !== this.#rootsPem.join('')
    if (isNewBundle) this.#adoptRoots(current.rootsPem)
    for (const waiter of entry.waiters) waiter(current)
    this.#announce(entry.identity)
  }

  /** One CA, one bundle: a root that was added must be trusted by all identities, not only by the one renewed first. */
  #adoptRoots(rootsPem: readonly string[]): void {
    const isFirst = this.#rootsPem.length === 0
    this.#rootsPem = rootsPem
    if (isFirst) return
    this.#options.logger.info({ roots: rootsPem.length }, 'trust bundle changed')
    for (const entry of this.#entries.values()) {
      const { current } = entry.state
      if (!current || current.rootsPem === rootsPem) continue
      entry.state = { ...entry.state, current: { ...current, rootsPem } }
      this.#announce(entry.identity)
    }
  }

  #fail(entry: Entry, error: unknown): void {
    entry.attempts++
    const nowMs = this.#clock.nowMs()
    const longest = entry.waiters.size > 0 ? maxBackoffWithWaitersMs : maxBackoffMs
    const backoffMs = Math.min(maxBackoffMs, this.#jittered(Math.min(longest, firstBackoffMs * 2 ** Math.min(entry.attempts - 1, 20)), 0.2))
    const expiresInMs = (entry.state.current?.notAfterMs ?? 0) - nowMs
    // A retry after expiry would be a gap that one before it may save.
    const waitMs = expiresInMs > 0 ? Math.min(backoffMs, Math.max(expiresInMs - minRenewalMs, minRenewalMs)) : backoffMs
    const because = describeError(error)
    const facts = { identity: entry.key, attempts: entry.attempts, retryInMs: Math.round(waitMs), detail: because }
    this.#options.logger.warn({ ...facts, code: error instanceof MeshError ? error.code : undefined }, 'certificate not issued')
    this.#retryAfter(entry, { t: 'failed', because, attempts: entry.attempts, retryAtMs: nowMs + waitMs, ...kept(entry) }, 'renewal')
  }

  #retryAfter(entry: Entry, state: Extract<CertificateState, { t: 'failed' }>, priority: Priority): void {
    entry.state = state
    this.#schedule(entry, state.retryAtMs - this.#clock.nowMs(), priority)
  }

  #schedule(entry: Entry, ms: number, priority: Priority): void {
    entry.stopTimer()
    entry.stopTimer = this.#clock.after(ms, () => this.#enqueue(entry, entry.waiters.size > 0 ? 'realtime' : priority))
  }

  #drop(entry: Entry, why: MeshError): void {
    entry.stopTimer()
    this.#queue.remove(entry.key)
    this.#entries.delete(entry.key)
    for (const waiter of entry.waiters) waiter(why)
  }

  #announce(identity: Identity): void {
    for (const listener of this.#listeners) listener(identity)
  }

  #jittered(ms: number, part: number): number {
    return ms * (1 - part + 2 * part * this.#random())
  }
}

function kept(entry: Entry): { readonly current?: CertifiedKey } {
  return entry.state.current ? { current: entry.state.current } : {}
}
