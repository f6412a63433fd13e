// What becomes of one DNS message that a pod sent to the cluster's name server. Names of the cluster are answered, with authority
// also where there is none; everything else is somebody else's. No I/O; never throws, whatever the bytes. Nothing leaves for
// outside but plain questions: pods must not change or copy zones of servers that trust this machine.
import { canonicalIp, ipToBytes } from '../core/address.ts'
import { headerBytes, readQuery, serverFailure, writeAnswer } from '../dns/message.ts'
import type { Answer, Query } from '../dns/message.ts'
import { addressOfReverseName, canonicalName } from '../dns/name.ts'
import { Resolver, type Resolution } from '../dns/resolver.ts'
import { podRanges, serviceRanges } from './addresses.ts'
import { clusterDomain, type LocalNames } from './dns-names.ts'

export type Transport = 'udp' | 'tcp'

export type Judgement =
  | { readonly t: 'answer'; readonly message: Buffer }
  /** The question goes on as it is. */
  | { readonly t: 'outside' }
  /** Names of the cluster that stand for one outside, the last of `aliases`, whose addresses are asked for. */
  | { readonly t: 'alias'; readonly query: Query; readonly aliases: readonly Answer[]; readonly target: string }
  | { readonly t: 'drop' }

/** Seconds: as CoreDNS has it, so that what comes is soon seen. */
const negativeTtl = 5
const ttl = 30
const maxAliases = 8
const flagResponse = 0x80
const opcodeMask = 0x78
const flagTruncated = 0x02
/** Keys, signatures and transfers of whole zones (RFC 6895 section 3.1); ANY is not among them. */
const firstMetaType = 249
const lastMetaType = 254

/** `96.10.in-addr.arpa` for `10.96.0.0/16`; the range ends at a label. */
export function reverseZone(range: string): string {
  const [ip = '', bits] = range.split('/')
  const bytes = [...(ipToBytes(ip) ?? [])]
  const isV6 = ip.includes(':')
  const nibbles = (): string[] => bytes.flatMap((byte) => [(byte >> 4).toString(16), (byte & 15).toString(16)])
  const labels = isV6 ? nibbles() : bytes.slice(12).map(String)
  return [...labels.slice(0, Number(bits) / (isV6 ? 4 : 8)).reverse(), isV6 ? 'ip6.arpa' : 'in-addr.arpa'].join('.')
}

const zones = [clusterDomain, ...[serviceRanges, podRanges].flatMap(({ v4, v6 }) => [reverseZone(v4), reverseZone(v6)])]

/** No records, not for want of room. */
function isEmpty({ message, rcode }: Extract<Resolution, { kind: 'answer' }>): boolean {
  return rcode === 'NOERROR' && message.readUInt16BE(6) === 0 && ((message[2] ?? 0) & flagTruncated) === 0
}

export class ClusterZone {
  readonly #names: LocalNames
  readonly #resolver: Resolver

  constructor(names: LocalNames) {
    this.#names = names
    this.#resolver = new Resolver(names, { ttl })
  }

  judge(message: Uint8Array, transport: Transport): Judgement {
    const flags = message[2] ?? 0
    // Whoever answers answers starts a quarrel that never ends.
    if (message.length < headerBytes || (flags & flagResponse) !== 0) return { t: 'drop' }
    const query = readQuery(message)
    if (!query) return { t: 'answer', message: serverFailure(message, (flags & opcodeMask) === 0 ? 'FORMERR' : 'NOTIMP') }
    const type = Buffer.from(query.question).readUInt16BE(query.question.length - 4)
    if (type >= firstMetaType && type <= lastMetaType) return { t: 'answer', message: serverFailure(message, 'REFUSED') }
    const name = query.name.toLowerCase()
    const zone = zones.find((each) => name === each || name.endsWith(`.${each}`))
    if (zone === undefined) return { t: 'outside' }
    const resolution = this.#resolver.resolve(message, { namespace: '', searchDomains: [] }, transport)
    if (resolution.kind === 'answer' && !isEmpty(resolution)) return { t: 'answer', message: resolution.message }
    if (this.#names.host(name)?.alias !== undefined) return this.#alias(query, message, name, transport)
    return this.#absent(query, message, name, zone, transport)
  }

  #alias(query: Query, message: Uint8Array, name: string, transport: Transport): Judgement {
    const aliases: Answer[] = []
    let target = name
    for (let next = this.#names.host(target)?.alias; next !== undefined; next = this.#names.host(target)?.alias) {
      if (aliases.length === maxAliases) return { t: 'answer', message: serverFailure(message) }
      aliases.push({ type: 'CNAME', ...(target === name ? {} : { owner: target }), ttl, target: next })
      target = next
    }
    const isOutside = !zones.some((zone) => target === zone || target.endsWith(`.${zone}`))
    if (isOutside && (query.type === 'A' || query.type === 'AAAA')) return { t: 'alias', query, aliases, target }
    const isThere = isOutside || this.#names.has(target)
    return { t: 'answer', message: writeAnswer(query, aliases, transport, isThere ? 'NOERROR' : 'NXDOMAIN') }
  }

  /** Nothing of that type, or nothing at all: with the zone's SOA, by which clients know how long to keep that (RFC 2308). */
  #absent(query: Query, message: Uint8Array, name: string, zone: string, transport: Transport): Judgement {
    if (!this.#names.isKnown) return { t: 'answer', message: serverFailure(message) }
    const soa: Answer = {
      type: 'SOA', owner: zone, ttl: negativeTtl, primary: `ns.dns.${clusterDomain}`, contact: `hostmaster.${clusterDomain}`,
      serial: 1, minimumTtl: negativeTtl,
    }
    if (query.type === 'SOA' && name === zone) return { t: 'answer', message: writeAnswer(query, [soa], transport) }
    return { t: 'answer', message: writeAnswer(query, [], transport, this.#isThere(name) ? 'NOERROR' : 'NXDOMAIN', soa) }
  }

  #isThere(name: string): boolean {
    if (canonicalName(name) === undefined) return false
    if (!name.endsWith('.arpa')) return this.#names.has(name)
    // Above the addresses there is something in each of our ranges, or may be soon.
    const address = addressOfReverseName(name)
    const ip = address === undefined ? undefined : canonicalIp(address)
    return ip === undefined || this.#names.hostnameOf(ip) !== undefined
  }
}
