// In which domains a pod's resolver searches for short names, from its spec: dnsPolicy and dnsConfig as the kubelet understands them.
// Only told where it differs from what Kubernetes gives to pods of their namespace. Pure.
import { z } from 'zod'
import type { NameSearch } from '../model/resolv-conf.ts'

export interface DnsSettings {
  readonly policy: 'ClusterFirst' | 'Default' | 'None'
  readonly searches: readonly string[]
  readonly ndots: number | undefined
}

const mostDomains = 32
const clusterNdots = 5
const maxNdots = 15

const configSchema = z.object({
  searches: z.array(z.string()).max(100).catch([]).default([]),
  options: z.array(z.object({ name: z.string(), value: z.string().optional() }).catch({ name: '' })).max(100).catch([]).default([]),
}).catch({ searches: [], options: [] })

/** What of a pod's spec decides; anything unknown is taken for the usual. */
export function dnsSettings(policy: unknown, config: unknown): DnsSettings {
  const { searches, options } = configSchema.parse(config ?? {})
  const value = options.findLast(({ name }) => name === 'ndots')?.value ?? ''
  return {
    policy: policy === 'Default' || policy === 'None' ? policy : 'ClusterFirst',
    searches: searches.map(domainOf).filter((domain) => domain !== '' && domain.length <= 253),
    ndots: /^\d{1,4}$/.test(value) ? Math.min(Number(value), maxNdots) : undefined,
  }
}

/** Undefined for the usual. `node` is what the node's own resolv.conf says. */
export function nameSearch({ policy, searches, ndots }: DnsSettings, namespace: string, clusterDomain: string, node: NameSearch): NameSearch | undefined {
  if (policy === 'ClusterFirst' && searches.length === 0 && ndots === undefined) return undefined
  switch (policy) {
    case 'ClusterFirst': {
      const cluster = [`${namespace}.svc.${clusterDomain}`, `svc.${clusterDomain}`, clusterDomain]
      return { searchDomains: unique([...cluster, ...node.searchDomains, ...searches]), ndots: ndots ?? clusterNdots }
    }
    case 'Default': return { searchDomains: unique([...node.searchDomains, ...searches]), ndots: ndots ?? node.ndots }
    // resolvers' own default
    case 'None': return { searchDomains: unique(searches), ndots: ndots ?? 1 }
    default: return policy satisfies never
  }
}

function domainOf(text: string): string {
  return text.trim().toLowerCase().replace(/\.$/, '')
}

function unique(domains: readonly string[]): string[] {
  return [...new Set(domains)].slice(0, mostDomains)
}
