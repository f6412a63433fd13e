// Whom people mean who ask about the mesh: pods, services, addresses and identities by the names that they write.
import { canonicalIp } from '../core/address.ts'
import { parseIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import type { WorkloadStore } from '../model/workload-store.ts'
import { serviceKey } from '../model/workload.ts'
import type { Service, Workload } from '../model/workload.ts'
import type { ExplainRequest } from '../model/ztunnel-views.ts'

export interface Client {
  readonly text: string
  readonly workload?: Workload
  /** What it proves; undefined for plain text. */
  readonly identity?: Identity | undefined
}

/** Pods that have the name; one that takes traffic first. */
export function podsNamed(store: WorkloadStore, text: string): Workload[] {
  const found = [...store.workloads()].filter(({ namespace, name }) => `${namespace}/${name}` === text)
  return found.sort((a, b) => Number(b.isHealthy) - Number(a.isHealthy))
}

/** `namespace/name`, `name.namespace`, or a hostname in full. */
export function serviceNamed(store: WorkloadStore, text: string): Service | undefined {
  const [namespace, name] = text.includes('/') ? text.split('/', 2) : text.split('.', 2).reverse()
  for (const service of store.services.values()) {
    if (service.hostname === text || (service.namespace === namespace && service.name === name)) return service
  }
  // In part: name.namespace.svc.
  return [...store.services.values()].find(({ hostname }) => text.includes('.') && hostname.startsWith(`${text}.`))
}

/** Undefined where nobody is known by that name. */
export function clientOf(store: WorkloadStore, { from, mesh }: Pick<ExplainRequest, 'from' | 'mesh'>): Client | undefined {
  const identity = parseIdentity(from)
  if (identity) {
    const { trustDomain, namespace, serviceAccount } = identity
    const workload = [...store.workloads()].find((each) =>
      each.trustDomain === trustDomain && each.namespace === namespace && each.serviceAccount === serviceAccount)
    return { text: from, identity, ...(workload && { workload }) }
  }
  const ip = canonicalIp(from)
  const service = ip === undefined ? serviceNamed(store, from) : undefined
  const workload = ip !== undefined
    ? store.workloadByIp('', ip)
    : podsNamed(store, from)[0] ?? (service && store.endpoints(serviceKey(service))[0]?.workload)
  if (!workload) return undefined
  const isCaptured = workload.tunnelProtocol === 'hbone'
  return { text: `${workload.namespace}/${workload.name}`, workload, identity: isCaptured || mesh ? identityOf(workload) : undefined }
}

export function identityOf({ trustDomain, namespace, serviceAccount }: Workload): Identity {
  return { trustDomain, namespace, serviceAccount }
}
