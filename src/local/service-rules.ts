// Services as nftables text, as kube-proxy does it: destination NAT to a random ready endpoint, in each node's
// namespace, for pods' traffic and for the node's own. Pure: one full ruleset in, one transaction out.
import { isIpv6Address } from '../core/address.ts'
import type { IpPair } from './addresses.ts'
import { clusterDns, clusterDnsPort, serviceRanges } from './addresses.ts'

export interface ServicePort {
  readonly protocol: 'TCP' | 'UDP'
  readonly port: number
  /** Ready endpoints of both families. */
  readonly endpoints: readonly { readonly ip: string; readonly port: number }[]
}

export interface ServiceRoute {
  /** One per family at most; canonical text. */
  readonly ips: readonly string[]
  readonly ports: readonly ServicePort[]
}

const table = 'sidestep'
/** Of one pod, a second, with the mesh's name server; what is above is lost, as it may be. */
const dnsRates = { queries: 1000, connections: 200 } as const

/**
 * The whole ruleset of one node; applying it replaces the previous one atomically. Established flows keep their
 * endpoint (conntrack). A service address with nothing behind it is refused at once rather than left to time out.
 */
export function serviceRules(services: readonly ServiceRoute[], node: IpPair): string {
  const rules: string[] = []
  const hairpins = { v4: new Set<string>(), v6: new Set<string>() }
  for (const service of services) {
    for (const ip of service.ips) {
      const family = isIpv6Address(ip) ? 'v6' : 'v4'
      for (const { protocol, port, endpoints } of service.ports) {
        const usable = endpoints.filter((endpoint) => isIpv6Address(endpoint.ip) === (family === 'v6'))
        if (usable.length === 0) continue
        for (const endpoint of usable) hairpins[family].add(`${endpoint.ip} . ${endpoint.ip}`)
        rules.push(natRule(family, ip, protocol, port, usable))
      }
    }
  }
  return [
    // Declared first, so that deleting it works on the first call too.
    `table inet ${table} {}`,
    `delete table inet ${table}`,
    `table inet ${table} {`,
    pairSet('hairpins4', 'ipv4_addr', hairpins.v4),
    pairSet('hairpins6', 'ipv6_addr', hairpins.v6),
    '  chain services {',
    ...rules.map((rule) => `    ${rule}`),
    // Last: a Service with that address goes first.
    `    ip daddr ${clusterDns.v4} meta l4proto { tcp, udp } th dport 53 dnat ip to ${clusterDns.v4}:${clusterDnsPort}`,
    `    ip6 daddr ${clusterDns.v6} meta l4proto { tcp, udp } th dport 53 dnat ip6 to [${clusterDns.v6}]:${clusterDnsPort}`,
    '  }',
    '  chain pods { type nat hook prerouting priority dstnat; policy accept; jump services; }',
    '  chain node { type nat hook output priority -100; policy accept; jump services; }',
    // A pod that reaches itself through its service would get the answer from an address it did not ask.
    '  chain hairpin { type nat hook postrouting priority srcnat; policy accept;',
    `    ct status dnat ip saddr . ip daddr @hairpins4 snat ip to ${node.v4}`,
    `    ct status dnat ip6 saddr . ip6 daddr @hairpins6 snat ip6 to ${node.v6}`,
    '  }',
    '  chain unserved {',
    // Served by the mesh itself.
    `    ip daddr ${clusterDns.v4} meta l4proto { tcp, udp } th dport ${clusterDnsPort} accept`,
    `    ip6 daddr ${clusterDns.v6} meta l4proto { tcp, udp } th dport ${clusterDnsPort} accept`,
    `    ip daddr ${serviceRanges.v4} meta l4proto tcp reject with tcp reset`,
    `    ip6 daddr ${serviceRanges.v6} meta l4proto tcp reject with tcp reset`,
    `    ip daddr ${serviceRanges.v4} reject`,
    `    ip6 daddr ${serviceRanges.v6} reject`,
    '  }',
    // The name server has one queue for all pods: by its link, whose name no pod can choose, each has its share of it.
    '  set askers { type ifname; size 512; flags dynamic; }',
    '  set callers { type ifname; size 512; flags dynamic; }',
    '  chain asked {',
    `    meta l4proto udp update @askers { iifname ${over(dnsRates.queries)} } drop`,
    `    tcp flags & (syn | ack) == syn update @callers { iifname ${over(dnsRates.connections)} } drop`,
    '  }',
    '  chain forwarded { type filter hook forward priority filter; policy accept;',
    `    ip daddr ${clusterDns.v4} th dport ${clusterDnsPort} jump asked`,
    `    ip6 daddr ${clusterDns.v6} th dport ${clusterDnsPort} jump asked`,
    '    jump unserved',
    '  }',
    '  chain sent { type filter hook output priority filter; policy accept; jump unserved; }',
    '}',
    '',
  ].join('\n')
}

function over(rate: number): string {
  return `limit rate over ${rate}/second burst ${rate} packets`
}

function natRule(family: 'v4' | 'v6', ip: string, protocol: string, port: number, endpoints: ServicePort['endpoints']): string {
  const layer3 = family === 'v4' ? 'ip' : 'ip6'
  const layer4 = protocol.toLowerCase()
  const match = `${layer3} daddr ${ip} ${layer4} dport ${port}`
  const [first] = endpoints
  if (endpoints.length === 1 && first) return `${match} dnat ${layer3} to ${target(family, first)}`
  const choices = endpoints.map((endpoint, i) => `${i} : ${endpoint.ip} . ${endpoint.port}`).join(', ')
  return `${match} dnat ${layer3} addr . port to numgen random mod ${endpoints.length} map { ${choices} }`
}

function target(family: 'v4' | 'v6', endpoint: { ip: string; port: number }): string {
  return family === 'v4' ? `${endpoint.ip}:${endpoint.port}` : `[${endpoint.ip}]:${endpoint.port}`
}

function pairSet(name: string, type: string, elements: ReadonlySet<string>): string {
  const list = elements.size > 0 ? ` elements = { ${[...elements].join(', ')} }` : ''
  return `  set ${name} { type ${type} . ${type};${list} }`
}
