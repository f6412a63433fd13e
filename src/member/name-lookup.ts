// Addresses of endpoints that the mesh knows by name only, looked up when somebody connects. Asks the name servers of the
// namespace that the proxy runs in, never those of a pod, and no hosts file; remembers answers as long as they say. Bounded in
// time, names and questions under way, and it holds no thread while it waits.
import { Resolver } from 'node:dns/promises'
import { isIP } from 'node:net'
import type { Clock } from '../core/clock.ts'
import { systemClock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'

export interface NameLookupOptions {
  readonly clock?: Clock
  /** `IP:PORT`; those of /etc/resolv.conf unless told. */
  readonly servers?: readonly string[]
  /** Milliseconds for the first of two tries at each server. */
  readonly timeoutMs?: number
  readonly maxNames?: number
  readonly maxQuestions?: number
  /** 0 <= x < 1. */
  readonly random?: () => number
}

type Family = 4 | 6

interface Remembered {
  readonly addresses: readonly string[]
  readonly untilMs: number
}

/** Seconds. An answer of 0 still serves those who ask at the same time, and a mistake of a year does not stay for one. */
const leastTtl = 1
const mostTtl = 300
/** For a name that does not exist. */
const absentTtl = 5
/** What is old is better than nothing while no server answers (RFC 8767), for so long at a time. */
const staleTtl = 10
/** Servers may have changed: the file that names them is read again after a failure, this often at most. */
const rereadMs = 10_000

export class NameLookup {
  readonly #options: Required<Omit<NameLookupOptions, 'servers'>> & Pick<NameLookupOptions, 'servers'>
  /** By family and name; what was used last is last. */
  readonly #known = new Map<string, Remembered>()
  readonly #asking = new Map<string, Promise<readonly string[]>>()
  #resolver: Resolver
  #resolverSinceMs: number

  constructor(options: NameLookupOptions = {}) {
    this.#options = { clock: systemClock, timeoutMs: 2_000, maxNames: 4_096, maxQuestions: 1_024, random: Math.random, ...options }
    this.#resolver = this.#newResolver()
    this.#resolverSinceMs = this.#options.clock.monotonicMs()
  }

  /**
   * One of the addresses, of the family that is preferred if there is one. Rejects with CONNECT_UNREACHABLE, `detail.because`
   * 'nameNotFound' or 'nameServersFailed', or with OVERLOADED.
   */
  async lookup(hostname: string, preferIpv6: boolean): Promise<string> {
    if (isIP(hostname) !== 0) return hostname
    const name = hostname.toLowerCase()
    const asked = this.#both(name, preferIpv6 ? [6, 4] : [4, 6])
    let failure: unknown
    for (const addresses of asked) {
      try {
        const found = await addresses
        if (found.length > 0) return this.#rotated(found)[0] ?? ''
      } catch (error) {
        failure ??= error
      }
    }
    throw failure ?? notFound(name)
  }

  /** All of them, IPv4 first, each family beginning anywhere. Rejects as `lookup` does. */
  async all(hostname: string): Promise<readonly string[]> {
    if (isIP(hostname) !== 0) return [hostname]
    const name = hostname.toLowerCase()
    const settled = await Promise.allSettled(this.#both(name, [4, 6]))
    const found = settled.flatMap((each) => (each.status === 'fulfilled' ? this.#rotated(each.value) : []))
    if (found.length > 0) return found
    throw settled.find((each) => each.status === 'rejected')?.reason ?? notFound(name)
  }

  /** Both are on their way; one that is not waited for must not end the process. */
  #both(name: string, families: readonly Family[]): Promise<readonly string[]>[] {
    const asked = families.map((family) => this.#addresses(name, family))
    for (const addresses of asked) addresses.catch(() => {})
    return asked
  }

  #rotated(list: readonly string[]): readonly string[] {
    const first = Math.floor(this.#options.random() * list.length)
    return [...list.slice(first), ...list.slice(0, first)]
  }

  async #addresses(name: string, family: Family): Promise<readonly string[]> {
    const key = `${family} ${name}`
    const known = this.#known.get(key)
    if (known && known.untilMs > this.#options.clock.monotonicMs()) {
      this.#remember(key, known)
      return known.addresses
    }
    let asking = this.#asking.get(key)
    if (!asking) {
      if (this.#asking.size >= 2 * this.#options.maxQuestions) {
        throw new MeshError('OVERLOADED', 'too many names are being looked up', { detail: { because: 'lookups' } })
      }
      asking = this.#ask(key, name, family, known).finally(() => this.#asking.delete(key))
      this.#asking.set(key, asking)
    }
    return await asking
  }

  async #ask(key: string, name: string, family: Family, old: Remembered | undefined): Promise<readonly string[]> {
    const remember = (addresses: readonly string[], seconds: number): readonly string[] => {
      this.#remember(key, { addresses, untilMs: this.#options.clock.monotonicMs() + seconds * 1_000 })
      return addresses
    }
    try {
      const records = family === 4 ? await this.#resolver.resolve4(name, { ttl: true }) : await this.#resolver.resolve6(name, { ttl: true })
      const ttl = Math.min(...records.map((record) => record.ttl))
      return remember(records.map(({ address }) => address), Math.min(mostTtl, Math.max(leastTtl, ttl)))
    } catch (cause) {
      if (isAbsence(cause)) return remember([], absentTtl)
      this.#reread()
      if (old && old.addresses.length > 0) return remember(old.addresses, staleTtl)
      throw new MeshError('CONNECT_UNREACHABLE', `the name ${name} could not be looked up`, { source: 'upstream', detail: { because: 'nameServersFailed' }, cause })
    }
  }

  #remember(key: string, remembered: Remembered): void {
    this.#known.delete(key)
    this.#known.set(key, remembered)
    if (this.#known.size <= 2 * this.#options.maxNames) return
    for (const oldest of this.#known.keys()) {
      this.#known.delete(oldest)
      return
    }
  }

  #newResolver(): Resolver {
    const { servers, timeoutMs } = this.#options
    const resolver = new Resolver({ timeout: timeoutMs, tries: 2, maxTimeout: 2 * timeoutMs })
    if (servers) resolver.setServers(servers)
    return resolver
  }

  #reread(): void {
    const nowMs = this.#options.clock.monotonicMs()
    if (nowMs - this.#resolverSinceMs < rereadMs) return
    this.#resolverSinceMs = nowMs
    // What the old one was asked it still answers.
    this.#resolver = this.#newResolver()
  }

  /** Names and families that are remembered. */
  get size(): number {
    return this.#known.size
  }
}

function notFound(name: string): MeshError {
  return new MeshError('CONNECT_UNREACHABLE', `there is no address for the name ${name}`, { source: 'upstream', detail: { because: 'nameNotFound' } })
}

/** The name has no such address, or is none; anything else says nothing about it. */
function isAbsence(error: unknown): boolean {
  return error instanceof Error && 'code' in error && ['ENOTFOUND', 'ENODATA', 'EBADNAME'].includes(String(error.code))
}
