// Answers questions about mesh names, and says of all others that they go, verbatim, to the server that was asked. A mesh
// name with no address of the asked family is answered with nothing rather than passed on: it exists.
import { canonicalIp, isIpv6Address } from '../core/address.ts'
import { readQuery, writeAnswer } from './message.ts'
import type { Answer, Query } from './message.ts'
import { addressOfReverseName, candidates, canonicalName, wildcardsOf } from './name.ts'
import type { Candidate } from './name.ts'
import type { Host, NameSource } from './name-source.ts'

/** The pod that asks, with what its resolv.conf says. */
export interface DnsClient {
  readonly namespace: string
  /** Canonical names, in order. */
  readonly searchDomains: readonly string[]
}

export interface ResolverOptions {
  /** Seconds that clients may keep an answer. */
  readonly ttl?: number
  /** Order of several addresses: a function that shuffles in place, so that clients that take the first share the load. */
  readonly shuffle?: (list: string[]) => string[]
}

export type Resolution = { readonly kind: 'answer'; readonly message: Buffer; readonly name: string } | { readonly kind: 'forward' }

const forward: Resolution = { kind: 'forward' }

export class Resolver {
  readonly #names: NameSource
  readonly #ttl: number
  readonly #shuffle: (list: string[]) => string[]

  constructor(names: NameSource, { ttl = 30, shuffle = shuffled }: ResolverOptions = {}) {
    this.#names = names
    this.#ttl = ttl
    this.#shuffle = shuffle
  }

  /** Never throws, whatever the bytes. */
  resolve(message: Uint8Array, client: DnsClient, transport: 'udp' | 'tcp'): Resolution {
    const query = readQuery(message)
    const name = query && canonicalName(query.name)
    if (!query || name === undefined) return forward
    const answers = this.#answers(query, name, client)
    return answers ? { kind: 'answer', message: writeAnswer(query, answers, transport), name } : forward
  }

  /** Undefined where the question is not about the mesh. */
  #answers(query: Query, name: string, client: DnsClient): Answer[] | undefined {
    switch (query.type) {
      case 'A':
      case 'AAAA':
        return this.#addresses(query, query.type, name, client)
      case 'SRV':
        return this.#services(query, name, client)
      case 'PTR':
        return this.#pointer(query, name, client)
      default:
        return undefined
    }
  }

  #addresses(query: Query, type: 'A' | 'AAAA', name: string, client: DnsClient): Answer[] | undefined {
    for (const candidate of candidates(name, client.searchDomains)) {
      const found = this.#find(candidate, client)
      if (!found) continue
      const ips = this.#shuffle(found.ips.filter((ip) => isIpv6Address(ip) === (type === 'AAAA')))
      // The resolver need not try its other search domains: the alias says where the name really is.
      const needsAlias = candidate.isStripped && !found.isWildcard
      const owner = needsAlias ? candidate.name : query.name
      const alias: Answer[] = needsAlias ? [{ type: 'CNAME', name: query.name, ttl: this.#ttl, data: candidate.name }] : []
      return [...alias, ...ips.map((ip): Answer => ({ type, name: owner, ttl: this.#ttl, data: ip }))]
    }
    return undefined
  }

  /** The host itself, one endpoint of a headless service, or the most specific wildcard. */
  #find({ name }: Candidate, { namespace }: DnsClient): { ips: readonly string[]; isWildcard: boolean } | undefined {
    const exact = this.#names.host(name, namespace)
    if (exact) return { ips: exact.ips, isWildcard: false }
    const dot = name.indexOf('.')
    const parent = dot < 0 ? undefined : this.#names.host(name.slice(dot + 1), namespace)
    const endpoint = parent?.endpoints.find((each) => each.name === name.slice(0, dot))
    if (endpoint) return { ips: endpoint.ips, isWildcard: false }
    for (const wildcard of wildcardsOf(name)) {
      const host = this.#names.host(wildcard, namespace)
      if (host) return { ips: host.ips, isWildcard: true }
    }
    return undefined
  }

  /** `_port._protocol.host` (RFC 2782): the service itself, or each endpoint of a headless one. */
  #services(query: Query, name: string, client: DnsClient): Answer[] | undefined {
    const [, portName, protocol, rest] = /^_([^.]+)\._(tcp|udp)\.(.+)$/.exec(name) ?? []
    if (portName === undefined || rest === undefined) return undefined
    for (const candidate of candidates(rest, client.searchDomains)) {
      const host = this.#names.host(candidate.name, client.namespace)
      if (!host) continue
      const port = host.ports.find((each) => each.name === portName && each.protocol === protocol)
      const targets = port ? targetsOf(host) : []
      return targets.map((target): Answer => ({
        type: 'SRV', name: query.name, ttl: this.#ttl, data: { priority: 0, weight: Math.floor(100 / targets.length), port: port?.port ?? 0, target },
      }))
    }
    return undefined
  }

  #pointer(query: Query, name: string, { namespace }: DnsClient): Answer[] | undefined {
    const address = addressOfReverseName(name)
    const ip = address === undefined ? undefined : canonicalIp(address)
    const hostname = ip === undefined ? undefined : this.#names.hostnameOf(ip, namespace)
    return hostname === undefined ? undefined : [{ type: 'PTR', name: query.name, ttl: this.#ttl, data: hostname }]
  }
}

function targetsOf(host: Host): string[] {
  return host.endpoints.length > 0 ? host.endpoints.map(({ name }) => `${name}.${host.hostname}`) : [host.hostname]
}

/** Fisher and Yates. */
function shuffled(list: string[]): string[] {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    const [a, b] = [list[i], list[j]]
    if (a !== undefined && b !== undefined) [list[i], list[j]] = [b, a]
  }
  return list
}
