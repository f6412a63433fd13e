// Takes of an object of the API what is used here, before it is read: who wrote which field, what kubectl applied last, status, and
// what other programs wrote into annotations are most of an object. Never throws, whatever it is given.
import type { KubeObject } from '../../kube/api.ts'
import type { ManifestKind, Origin } from '../../model/manifest.ts'

/** Where objects of the API are: no file, no line. Shown as nothing. */
export const apiOrigin: Origin = Object.freeze({ file: 'kubernetes', line: 0 })

/** Annotations that mean something here are of these domains, or below them. */
const annotationDomains = ['sidestep.dev', 'istio.io', 'gateway.networking.k8s.io']
/** A node says where it is, and nothing else that is used. */
const nodeLabels = /^(topology\.|failure-domain\.)/

/** A plain object of the same kind and name with less in it. */
export function slim(kind: ManifestKind, raw: KubeObject): Record<string, unknown> {
  const { apiVersion, metadata: { name, namespace, labels, annotations, creationTimestamp } } = raw
  const metadata = {
    name,
    ...(namespace === undefined || namespace === '' ? {} : { namespace }),
    labels: kind === 'Node' ? pick(labels, (key) => nodeLabels.test(key)) : labels,
    annotations: pick(annotations, isUsed),
    creationTimestamp,
  }
  const base = { apiVersion, kind, metadata }
  switch (kind) {
    case 'Namespace':
    case 'Node':
      return base
    case 'Service': return { ...base, spec: withoutSctp(raw.spec) }
    case 'EndpointSlice': return { ...base, addressType: raw['addressType'], endpoints: raw['endpoints'], ports: listWithoutSctp(raw['ports']) }
    case 'Secret': return { ...base, type: raw['type'], data: certificateParts(raw['data']) }
    case 'ConfigMap': return { ...base, data: certificateParts(raw['data']) }
    default: return { ...base, spec: raw.spec }
  }
}

/** Of Secrets and ConfigMaps nothing else is ever looked at. */
const parts = ['tls.crt', 'tls.key', 'ca.crt']

function certificateParts(data: unknown): unknown {
  return isRecord(data) ? Object.fromEntries(parts.flatMap((name) => (Object.hasOwn(data, name) ? [[name, data[name]]] : []))) : data
}

/** What annotations a person, or a controller of ours, may have meant for us. */
function isUsed(key: string): boolean {
  const slash = key.indexOf('/')
  const domain = slash < 0 ? '' : key.slice(0, slash)
  return annotationDomains.some((each) => domain === each || domain.endsWith(`.${each}`))
}

function pick(map: unknown, isWanted: (key: string) => boolean): unknown {
  if (!isRecord(map)) return map
  return Object.fromEntries(Object.entries(map).filter(([key]) => isWanted(key)))
}

/** The mesh carries TCP; a port that cannot be carried must not keep a Service from being one. */
function withoutSctp(spec: unknown): unknown {
  return isRecord(spec) ? { ...spec, ports: listWithoutSctp(spec['ports']) } : spec
}

function listWithoutSctp(ports: unknown): unknown {
  return Array.isArray(ports) ? ports.filter((port) => !(isRecord(port) && port['protocol'] === 'SCTP')) : ports
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
