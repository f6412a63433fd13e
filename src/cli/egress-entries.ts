// ServiceEntries for what was seen leaving the mesh: each opens one host or address, at the ports that were seen, to the namespace
// that was seen. Pure. What cannot be said by an entry is named in a comment, never left out silently.
import { isIP } from 'node:net'
import { stringify } from 'yaml'
import { serviceEntrySchema } from '../model/manifest-external.ts'
import type { LearnedProtocol, LearnedView } from '../model/ztunnel-views.ts'
import { visible } from './output.ts'

const protocols: Readonly<Record<LearnedProtocol, string>> = { http: 'HTTP', tls: 'TLS', tcp: 'TCP' }

/** YAML documents. */
export function entriesText(seen: readonly LearnedView[]): string {
  const groups = Map.groupBy(seen, ({ namespace, host, address }) => `${namespace} ${host ?? address ?? ''}`)
  const taken = new Set<string>()
  const documents = [...groups.values()].map((group) => {
    const entry = entryOf(group, taken)
    if (entry) return stringify(entry)
    const [first] = group
    return `# left out, ${first?.host !== undefined && isOfCluster(first.host) ? 'a name of the cluster' : 'no host'}: ${visible(`${first?.namespace} ${first?.host ?? first?.address}`)}\n`
  })
  return documents.length === 0 ? '# nothing was seen to leave the mesh' : documents.join('---\n').trimEnd()
}

/** Of one host or address in one namespace; undefined where no entry can name it. */
function entryOf(group: readonly LearnedView[], taken: Set<string>): object | undefined {
  const [first] = group
  const place = first?.host ?? first?.address
  if (!first || place === undefined) return undefined
  const { namespace, host } = first
  const isAddress = host === undefined
  if (isAddress ? isIP(place) === 0 : isOfCluster(host)) return undefined
  const name = freeName(namespace, place, taken)
  const addresses = isAddress ? [place] : [...new Set(group.flatMap(({ address }) => (address !== undefined && isIP(address) !== 0 ? [address] : [])))].sort()
  const entry = {
    apiVersion: 'networking.istio.io/v1', kind: 'ServiceEntry', metadata: { name, namespace },
    spec: {
      // Nobody asks for an address by that name; an entry must have one.
      hosts: [isAddress ? `${name}.invalid` : host],
      ...(addresses.length > 0 && { addresses }),
      location: 'MESH_EXTERNAL',
      resolution: isAddress ? 'STATIC' : 'DNS',
      exportTo: ['.'],
      ports: portsOf(group),
      ...(isAddress && { endpoints: [{ address: place }] }),
    },
  }
  return serviceEntrySchema.safeParse(entry).success ? entry : undefined
}

/** A pod may say any Host; an entry of such a name would stand before a Service. */
function isOfCluster(host: string): boolean {
  return !host.includes('.') || /\.svc(\.|$)/.test(host)
}

/** By number; each once. */
function portsOf(group: readonly LearnedView[]): object[] {
  const ports = new Map(group.map(({ port, protocol }) => [port, protocol]))
  return [...ports].toSorted(([a], [b]) => a - b).map(([number, protocol]) => ({ number, name: `${protocol}-${number}`, protocol: protocols[protocol] }))
}

/** A label of DNS, so that it can be the first one of a host too; no two are the same in a namespace. */
function freeName(namespace: string, place: string, taken: Set<string>): string {
  const base = `egress-${place.replace(/[^a-z0-9]+/g, '-')}`.slice(0, 55).replace(/-+$/, '')
  for (let i = 1; ; i++) {
    const name = i === 1 ? base : `${base}-${i}`
    if (taken.has(`${namespace}/${name}`)) continue
    taken.add(`${namespace}/${name}`)
    return name
  }
}
