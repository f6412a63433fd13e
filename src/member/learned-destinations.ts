// What each namespace was seen talking to outside the mesh: read by whoever wants to write the entries that allow it. Decides
// nothing. Pods choose hosts, ports and how many there are of them, so everything is bounded, and one namespace never costs
// another an entry; what was unused for longest leaves. Kept in memory alone.
import { canonicalIp } from '../core/address.ts'
import type { Clock } from '../core/clock.ts'
import type { LearnedProtocol } from '../model/ztunnel-views.ts'

export interface OutsideSeen {
  readonly namespace: string
  readonly serviceAccount: string
  /** As somebody said it: a Host, a server name, or the host of a ServiceEntry. What is no name is as if it were not there. */
  readonly host?: string | undefined
  /** Where the pod connected to; canonical. */
  readonly address?: string | undefined
  readonly port: number
  readonly protocol: LearnedProtocol
  readonly allowed: boolean
}

export interface LearnedDestination {
  readonly namespace: string
  /** Of whoever connected last. */
  readonly serviceAccount: string
  /** Lower case, at most 253 characters of a-z, 0-9, `.`, `-` and `_`; where it is known, it is what tells one from another. */
  readonly host?: string
  readonly address?: string
  readonly port: number
  readonly protocol: LearnedProtocol
  /** Requests and connections. */
  readonly count: number
  /** Milliseconds since 1970. */
  readonly firstSeenMs: number
  readonly lastSeenMs: number
  readonly verdict: 'allowed' | 'denied'
}

export interface LearnedOptions {
  readonly clock: Pick<Clock, 'nowMs'>
  readonly maxNamespaces?: number
  /** Of each namespace. */
  readonly maxDestinations?: number
}

const hostPattern = /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*$/

export class LearnedDestinations {
  readonly #options: Required<LearnedOptions>
  /** Both in order of use, what was used last at the end. */
  readonly #namespaces = new Map<string, Map<string, LearnedDestination>>()
  #size = 0

  constructor(options: LearnedOptions) {
    this.#options = { maxNamespaces: 200, maxDestinations: 500, ...options }
  }

  /** Of all namespaces. */
  get size(): number {
    return this.#size
  }

  saw({ namespace, serviceAccount, port, protocol, allowed, ...where }: OutsideSeen): void {
    const { host, address } = placeOf(where)
    if (host === undefined && address === undefined) return
    const own = this.#of(namespace)
    const key = `${host ?? address} ${port}`
    const known = own.get(key)
    const now = this.#options.clock.nowMs()
    if (known) own.delete(key)
    else this.#makeRoom(own)
    own.set(known ? key : copyOf(key), {
      namespace, serviceAccount, ...(host !== undefined && { host: known?.host ?? copyOf(host) }), ...(address !== undefined && { address }), port, protocol,
      count: (known?.count ?? 0) + 1, firstSeenMs: known?.firstSeenMs ?? now, lastSeenMs: now, verdict: allowed ? 'allowed' : 'denied',
    })
  }

  list(): LearnedDestination[] {
    return [...this.#namespaces.values()].flatMap((own) => [...own.values()])
  }

  #of(namespace: string): Map<string, LearnedDestination> {
    const own = this.#namespaces.get(namespace) ?? new Map<string, LearnedDestination>()
    const isKnown = this.#namespaces.delete(namespace)
    const [oldest] = this.#namespaces
    if (!isKnown && oldest && this.#namespaces.size >= this.#options.maxNamespaces) {
      this.#namespaces.delete(oldest[0])
      this.#size -= oldest[1].size
    }
    this.#namespaces.set(namespace, own)
    return own
  }

  #makeRoom(own: Map<string, LearnedDestination>): void {
    const [oldest] = own.keys()
    if (oldest !== undefined && own.size >= this.#options.maxDestinations) own.delete(oldest)
    else this.#size++
  }
}

/** An address in place of a name is an address. */
function placeOf({ host, address }: Pick<OutsideSeen, 'host' | 'address'>): Pick<OutsideSeen, 'host' | 'address'> {
  if (host === undefined || host.length > 256) return { address }
  const name = host.toLowerCase().replace(/\.$/, '')
  const ip = canonicalIp(name.startsWith('[') && name.endsWith(']') ? name.slice(1, -1) : name)
  if (ip !== undefined) return { address: address ?? ip }
  // Digits and dots that are no address would be read as a misspelt one; names below `invalid` lead nowhere (RFC 2606), and
  // entries that open an address are given one.
  return hostPattern.test(name) && !/^[\d.]+$|\.invalid$/.test(name) ? { host: name, address } : { address }
}

/** A part of a string keeps all of it in memory, and here it stays. */
function copyOf(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1')
}
