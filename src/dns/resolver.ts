// Answers questions about mesh names, and says of all others that they go, verbatim, to the server that was asked. A mesh
// name with no address of the asked family is answered with nothing rather than passed on: it exists. While the mesh is not
// known yet, a name that looks like one of it is a failure: somebody outside would say that it does not exist.
import { canonicalIp, isIpv6Address } from '../core/address.ts'
import { mostRecords, readQuery, typeAsked, writeAnswer } from './message.ts'
import type { Answer, Query, RecordType, ResponseCode } from './message.ts'
import { addressOfReverseName, candidates, canonicalName, wildcardsOf } from './name.ts'
import type { Host, NameSource } from './name-source.ts'

/** The pod that asks, with what its resolv.conf says. */
export interface DnsClient {
  readonly namespace: string
  /** Canonical names, in order. */
  readonly searchDomains: readonly string[]
  /** Names with fewer dots are searched in those domains; 5, as Kubernetes has it, unless told. */
  readonly ndots?: number
}

export interface ResolverOptions {
  /** Seconds that clients may keep an answer. */
  readonly ttl?: number
  /** A number from 0 up to, not including, 1. Clients that take the first address share the load by it. */
  readonly random?: () => number
}

export type Resolution =
  | { readonly kind: 'answer'; readonly message: Buffer; readonly name: string; readonly type: RecordType; readonly rcode: ResponseCode }
  | { readonly kind: 'forward'; readonly type: RecordType }

type Found = { readonly host: Host; readonly endpointIps?: readonly string[]; readonly isWildcard: boolean }

/** An alias may stand for an alias; a circle of them must end. */
const maxAliases = 8
const defaultNdots = 5

export class Resolver {
  readonly #names: NameSource
  readonly #ttl: number
  readonly #random: () => number

  constructor(names: NameSource, { ttl = 30, random = Math.random }: ResolverOptions = {}) {
    this.#names = names
    this.#ttl = ttl
    this.#random = random
  }

  /** Never throws, whatever the bytes. */
  resolve(message: Uint8Array, client: DnsClient, transport: 'udp' | 'tcp'): Resolution {
    const query = readQuery(message)
    const name = query && canonicalName(query.name)
    if (!query || name === undefined) return { kind: 'forward', type: typeAsked(message) }
    const { type } = query
    const answers = this.#answers(query, name, client, mostRecords(query, transport))
    if (answers) return { kind: 'answer', message: writeAnswer(query, answers, transport), name, type, rcode: 'NOERROR' }
    if (!this.#names.isKnown && answerable.has(type) && this.#looksLikeOurs(name)) {
      return { kind: 'answer', message: writeAnswer(query, [], transport, 'SERVFAIL'), name, type, rcode: 'SERVFAIL' }
    }
    return { kind: 'forward', type }
  }

  /** Below the cluster's domain, or a single label, which nobody outside has. */
  #looksLikeOurs(name: string): boolean {
    const { clusterDomain } = this.#names
    return name === clusterDomain || name.endsWith(`.${clusterDomain}`) || !name.includes('.')
  }

  /** Undefined where the question is not about the mesh. */
  #answers(query: Query, name: string, client: DnsClient, limit: number): Answer[] | undefined {
    switch (query.type) {
      case 'A':
      case 'AAAA':
        return this.#addresses(query.type, name, client, limit)
      case 'SRV':
        return this.#services(name, client)
      case 'PTR':
        return this.#pointer(name, client)
      default:
        return undefined
    }
  }

  #addresses(type: 'A' | 'AAAA', name: string, client: DnsClient, limit: number): Answer[] | undefined {
    for (const candidate of candidates(name, client.searchDomains, client.ndots ?? defaultNdots)) {
      const found = this.#find(candidate.name, client)
      if (!found) continue
      // The client's resolver need not try its other search domains: the alias says where the name really is.
      const needsAlias = candidate.isStripped && !found.isWildcard
      return this.#records(type, found, client, limit, needsAlias ? [candidate.name] : [])
    }
    return undefined
  }

  /** Addresses behind the aliases that led there; undefined where the last alias stands for a name that is not ours. */
  #records(type: 'A' | 'AAAA', found: Found, client: DnsClient, limit: number, aliases: readonly string[]): Answer[] | undefined {
    const target = found.endpointIps ? undefined : found.host.alias
    if (target !== undefined) {
      const next = aliases.length < maxAliases ? this.#find(target, client) : undefined
      return next && this.#records(type, next, client, limit, [...aliases, target])
    }
    const ips = found.endpointIps?.filter((ip) => isIpv6Address(ip) === (type === 'AAAA')) ?? (type === 'A' ? found.host.ipv4 : found.host.ipv6)
    const owners: ({ owner: string } | undefined)[] = [undefined, ...aliases.map((owner) => ({ owner }))]
    return [
      ...aliases.map((alias, index): Answer => ({ type: 'CNAME', ...owners[index], ttl: this.#ttl, target: alias })),
      ...this.#sample(ips, limit + 1).map((ip): Answer => ({ type, ...owners.at(-1), ttl: this.#ttl, ip })),
    ]
  }

  /** The host itself, one endpoint of a headless service, or the most specific wildcard. */
  #find(name: string, { namespace }: DnsClient): Found | undefined {
    const exact = this.#names.host(name, namespace)
    if (exact) return { host: exact, isWildcard: false }
    const dot = name.indexOf('.')
    const parent = dot < 0 ? undefined : this.#names.host(name.slice(dot + 1), namespace)
    const endpointIps = parent?.endpoint(name.slice(0, dot))
    if (parent && endpointIps) return { host: parent, endpointIps, isWildcard: false }
    for (const wildcard of wildcardsOf(name)) {
      const host = this.#names.host(wildcard, namespace)
      if (host) return { host, isWildcard: true }
    }
    return undefined
  }

  /** `_port._protocol.host` (RFC 2782): the service itself, or each endpoint of a headless one. */
  #services(name: string, client: DnsClient): Answer[] | undefined {
    const [, port, protocol, rest] = /^_([^.]+)\._(tcp|udp)\.(.+)$/.exec(name) ?? []
    if (port === undefined || rest === undefined) return undefined
    for (const candidate of candidates(rest, client.searchDomains, client.ndots ?? defaultNdots)) {
      const host = this.#names.host(candidate.name, client.namespace)
      if (!host) continue
      const targets = host.targets(port, protocol === 'udp' ? 'udp' : 'tcp')
      const weight = Math.max(1, Math.floor(100 / (targets?.length ?? 1)))
      return targets?.map((target): Answer => ({ type: 'SRV', ttl: this.#ttl, priority: 0, weight, port: target.port, target: target.name }))
    }
    return undefined
  }

  #pointer(name: string, { namespace }: DnsClient): Answer[] | undefined {
    const address = addressOfReverseName(name)
    const ip = address === undefined ? undefined : canonicalIp(address)
    const target = ip === undefined ? undefined : this.#names.hostnameOf(ip, namespace)
    return target === undefined ? undefined : [{ type: 'PTR', ttl: this.#ttl, target }]
  }

  /** At most `count` of the list, in random order: Fisher and Yates, with a note of each exchange instead of a copy of all. */
  #sample(list: readonly string[], count: number): string[] {
    const sample: string[] = []
    const moved = new Map<number, string>()
    for (let i = 0; i < Math.min(count, list.length); i++) {
      const j = i + Math.floor(this.#random() * (list.length - i))
      const [here, there] = [moved.get(i) ?? list[i], moved.get(j) ?? list[j]]
      if (here === undefined || there === undefined) break
      sample.push(there)
      moved.set(j, here)
    }
    return sample
  }
}

const answerable: ReadonlySet<RecordType> = new Set(['A', 'AAAA', 'SRV'])
