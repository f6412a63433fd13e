// Services found by key, hostname and virtual address, as a given caller sees them: services local to another namespace are
// not there for it. Among several that fit, the ranking is Istio's (the caller's own namespace first), then the key.
import { addressBits, CidrMap, isPrefixLength, packIp, type PackedIp } from './cidr-map.ts'
import { RankedMultimap } from './ranked-multimap.ts'
import { serviceKey, type NetworkAddress, type Service } from './workload.ts'

const compareServices = (a: Service, b: Service): number => {
  if (a.isCanonical !== b.isCanonical) return a.isCanonical ? -1 : 1
  return serviceKey(a) < serviceKey(b) ? -1 : 1
}

interface Range {
  readonly services: readonly Service[]
}

export class ServiceIndex {
  readonly #byKey = new Map<string, Service>()
  readonly #byHostname = new RankedMultimap<string, Service>(compareServices)
  readonly #byAddress = new RankedMultimap<string, Service>(compareServices)
  readonly #ranges = new Map<string, CidrMap<Range>>()

  get size(): number {
    return this.#byKey.size
  }

  get(key: string): Service | undefined {
    return this.#byKey.get(key)
  }

  values(): IterableIterator<Service> {
    return this.#byKey.values()
  }

  /** Replaces the service of the same key. */
  set(service: Service): void {
    const key = serviceKey(service)
    this.delete(key)
    this.#byKey.set(key, service)
    this.#byHostname.add(service.hostname, service)
    for (const address of distinct(service.addresses)) this.#link(address, service)
  }

  delete(key: string): void {
    const service = this.#byKey.get(key)
    if (!service) return
    this.#byKey.delete(key)
    this.#byHostname.remove(service.hostname, service)
    for (const address of distinct(service.addresses)) this.#unlink(address, service)
  }

  /**
   * The service whose virtual address this is: an exact address before ranges. Ranking of exact ones: caller's namespace,
   * canonical, key; of ranges: caller's namespace, longest prefix, canonical, key.
   */
  byAddress(network: string, ip: string, callerNamespace: string): Service | undefined {
    return this.byExactAddress(network, ip, callerNamespace) ?? this.byRange(network, ip, callerNamespace)
  }

  /** Only services that have this very address. */
  byExactAddress(network: string, ip: string, callerNamespace: string): Service | undefined {
    return best(this.#byAddress.all(`${network}/${ip}`), callerNamespace)
  }

  /** Only services whose range contains the address. */
  byRange(network: string, ip: string, callerNamespace: string): Service | undefined {
    const map = this.#ranges.get(network)
    const packed = map && packIp(ip)
    if (!packed) return undefined
    return best(map.covering(packed).flatMap(({ value }) => value.services), callerNamespace)
  }

  /** Exactly this hostname; a wildcard is a name of its own. Ranking: caller's namespace, `preferredNamespace`, canonical. */
  byHostname(hostname: string, callerNamespace: string, preferredNamespace?: string): Service | undefined {
    return best(this.#byHostname.all(hostname), callerNamespace, preferredNamespace)
  }

  /** All services of this hostname, whoever may see them. */
  allByHostname(hostname: string): readonly Service[] {
    return this.#byHostname.all(hostname)
  }

  #link(address: NetworkAddress, service: Service): void {
    const range = rangeOf(address)
    if (!range) {
      this.#byAddress.add(`${address.network}/${address.ip}`, service)
      return
    }
    let map = this.#ranges.get(address.network)
    if (!map) this.#ranges.set(address.network, (map = new CidrMap()))
    const services = [...(map.get(range.ip, range.prefixLength)?.services ?? []), service].sort(compareServices)
    map.set(range.ip, range.prefixLength, { services })
  }

  #unlink(address: NetworkAddress, service: Service): void {
    const range = rangeOf(address)
    if (!range) {
      this.#byAddress.remove(`${address.network}/${address.ip}`, service)
      return
    }
    const map = this.#ranges.get(address.network)
    const services = map?.get(range.ip, range.prefixLength)?.services.filter((other) => other !== service) ?? []
    if (services.length > 0) map?.set(range.ip, range.prefixLength, { services })
    else map?.delete(range.ip, range.prefixLength)
    if (map?.size === 0) this.#ranges.delete(address.network)
  }
}

/** Whether callers of this namespace may know the service. */
export function isVisible(service: Service, callerNamespace: string): boolean {
  return !service.isNamespaceLocal || service.namespace === callerNamespace
}

function best(candidates: readonly Service[], callerNamespace: string, preferredNamespace?: string): Service | undefined {
  let first: Service | undefined
  let preferred: Service | undefined
  for (const service of candidates) {
    if (service.namespace === callerNamespace) return service
    if (!isVisible(service, callerNamespace)) continue
    first ??= service
    if (service.namespace === preferredNamespace) preferred ??= service
  }
  return preferred ?? first
}

function rangeOf({ ip, prefixLength }: NetworkAddress) {
  const packed = prefixLength === undefined ? undefined : packIp(ip)
  if (!packed || prefixLength === undefined || !isPrefixLength(packed, prefixLength)) return undefined
  return prefixLength === addressBits(packed) ? undefined : { ip: packed, prefixLength }
}

// One address given twice counts once; 10.0.0.0/8 and 10.1.0.0/8 are one range.
function distinct(addresses: readonly NetworkAddress[]): NetworkAddress[] {
  const seen = new Map<string, NetworkAddress>()
  for (const address of addresses) {
    const range = rangeOf(address)
    seen.set(`${address.network}/${range ? rangeText(range.ip, range.prefixLength) : address.ip}`, address)
  }
  return [...seen.values()]
}

/** The same for every spelling of one range. */
function rangeText(ip: PackedIp, prefixLength: number): string {
  const bits = ip.v4 >= 0 ? ip.v4.toString(2).padStart(32, '0') : hexBits(ip.v6)
  return `${bits.length}:${bits.slice(0, prefixLength)}`
}

const hexBits = (hex: string): string => [...hex].map((digit) => Number.parseInt(digit, 16).toString(2).padStart(4, '0')).join('')
