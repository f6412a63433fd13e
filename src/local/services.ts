// Which address each Service has and which endpoints are behind it. Addresses stay with a Service for as long as it
// exists; it decides nothing about how packets get there.
import { canonicalIp, isIpv6Address } from '../core/address.ts'
import type { LocalStatus } from '../model/local-status.ts'
import type { Problem, ServiceManifest } from '../model/manifest.ts'
import { resolvePort, type PodSpec } from '../model/manifest-pod.ts'
import { clusterDns, isServiceIp, serviceIps } from './addresses.ts'
import { selects } from './catalogue.ts'
import type { ServiceRoute } from './service-rules.ts'

/** A pod as a Service sees it. */
export interface EndpointPod {
  readonly namespace: string
  readonly labels: Readonly<Record<string, string>>
  readonly ips: readonly string[]
  readonly isReady: boolean
  readonly isTerminating: boolean
  readonly spec: PodSpec
}

type Family = 'v4' | 'v6'

/** Families that a Service has addresses in; both unless it says otherwise. */
function families(spec: ServiceManifest['spec']): Family[] {
  const named = spec.ipFamilies?.map((family): Family => (family === 'IPv6' ? 'v6' : 'v4'))
  if (spec.ipFamilyPolicy === 'SingleStack') return [named?.[0] ?? 'v4']
  return named?.length === 1 && spec.ipFamilyPolicy === undefined ? named : ['v4', 'v6']
}

function asked(spec: ServiceManifest['spec']): string[] {
  return [...new Set([spec.clusterIP ?? '', ...(spec.clusterIPs ?? [])])].filter((ip) => ip !== '' && ip !== 'None')
}

/** Has addresses of its own, and so rules. */
export function isVirtual(spec: ServiceManifest['spec']): boolean {
  return spec.type !== 'ExternalName' && spec.clusterIP !== 'None' && spec.clusterIPs?.[0] !== 'None'
}

export class ServiceAddresses {
  readonly #byService = new Map<string, readonly string[]>()
  readonly #owners = new Map<string, string>()
  /** Apart from each other, yet in step: a Service's two addresses usually end in the same number. */
  readonly #next = { v4: 256, v6: 256 }

  /** Brings addresses in line with the services; returns what is wrong with the addresses that they ask for. */
  update(services: ReadonlyMap<string, ServiceManifest>): Problem[] {
    const problems: Problem[] = []
    for (const [id, service] of services) this.#keepOrRelease(id, service)
    for (const id of this.#byService.keys()) if (!services.has(id)) this.#release(id)
    // Those that ask for an address come first, so that no other is given it by chance.
    const order = [...services].sort(([, a], [, b]) => asked(b.spec).length - asked(a.spec).length)
    for (const [id, service] of order) {
      if (this.#byService.has(id) || !isVirtual(service.spec)) continue
      const reason = this.#assign(id, service)
      if (reason !== undefined) problems.push({ ...service.origin, reason })
    }
    return problems
  }

  of(id: string): readonly string[] {
    return this.#byService.get(id) ?? []
  }

  #keepOrRelease(id: string, { spec }: ServiceManifest): void {
    const ips = this.#byService.get(id)
    if (!ips) return
    const wanted = asked(spec).map((ip) => canonicalIp(ip))
    const fits = isVirtual(spec) && wanted.every((ip) => ip !== undefined && ips.includes(ip)) && ips.length === families(spec).length
    if (!fits) this.#release(id)
  }

  #release(id: string): void {
    for (const ip of this.#byService.get(id) ?? []) this.#owners.delete(ip)
    this.#byService.delete(id)
  }

  #assign(id: string, { spec }: ServiceManifest): string | undefined {
    const ips: string[] = []
    for (const text of asked(spec)) {
      const ip = canonicalIp(text)
      if (ip === undefined || !isServiceIp(ip)) return `clusterIP ${text} is outside of the service ranges`
      const owner = this.#owners.get(ip)
      if (owner !== undefined) return `clusterIP ${text} belongs to Service ${owner}`
      ips.push(ip)
    }
    for (const family of families(spec)) {
      if (ips.some((ip) => isIpv6Address(ip) === (family === 'v6'))) continue
      const ip = this.#free(family)
      if (ip === undefined) return 'there is no free service address'
      ips.push(ip)
    }
    this.#byService.set(id, ips)
    for (const ip of ips) this.#owners.set(ip, id)
    return undefined
  }

  #free(family: Family): string | undefined {
    for (let tried = 0; tried < 0xffff; tried++) {
      const low = this.#next[family]
      this.#next[family] = low >= 0xfffe ? 1 : low + 1
      const ip = serviceIps(low)[family]
      if (!this.#owners.has(ip) && ip !== clusterDns[family]) return ip
    }
    return undefined
  }
}

/** Endpoints of each port of a Service: its ready pods, with named ports looked up in each. */
export function routeOf(service: ServiceManifest, ips: readonly string[], pods: readonly EndpointPod[]): ServiceRoute {
  const { spec, metadata } = service
  const behind = pods.filter((pod) =>
    pod.namespace === metadata.namespace && selects(spec.selector, pod.labels) &&
    (spec.publishNotReadyAddresses || (pod.isReady && !pod.isTerminating)))
  return {
    ips,
    ports: spec.ports.map(({ protocol, port, targetPort }) => ({
      protocol,
      port,
      endpoints: behind.flatMap((pod) => {
        const target = resolvePort(targetPort ?? port, pod.spec.containers.flatMap((container) => container.ports), protocol)
        return target === undefined ? [] : pod.ips.map((ip) => ({ ip, port: target }))
      }),
    })),
  }
}

/** A Service as `status` shows it. */
export function serviceStatus(service: ServiceManifest, route: ServiceRoute): LocalStatus['services'][number] {
  return {
    namespace: service.metadata.namespace,
    name: service.metadata.name,
    ips: [...route.ips],
    ports: route.ports.map(({ protocol, port, endpoints }) => ({
      protocol, port, endpoints: endpoints.map(({ ip, port: at }) => (isIpv6Address(ip) ? `[${ip}]:${at}` : `${ip}:${at}`)),
    })),
  }
}
