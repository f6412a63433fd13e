// Which NetworkPolicies would keep the mesh's tunnels from pods: they see port 15008 where the application's port was before. Pure.
import { hbonePort } from '../model/gateway-objects.ts'
import type { KubeObject } from '../kube/api.ts'
import { fieldOf, listOf } from './cluster.ts'

export interface BlockingPolicy {
  /** `namespace/name` */
  readonly id: string
  readonly direction: 'ingress' | 'egress'
}

/** Of those that let some port through but not the tunnels'. One that lets nothing through is meant so. */
export function blockingPolicies(policies: readonly KubeObject[]): BlockingPolicy[] {
  return policies.flatMap((policy) => (['ingress', 'egress'] as const).flatMap((direction) => {
    const rules = listOf(policy.spec, direction)
    return rules.length > 0 && !rules.some(letsTunnelsThrough) ? [{ id: `${policy.metadata.namespace}/${policy.metadata.name}`, direction }] : []
  }))
}

function letsTunnelsThrough(rule: unknown): boolean {
  const ports = listOf(rule, 'ports')
  return ports.length === 0 || ports.some((port) => {
    if ((fieldOf(port, 'protocol') ?? 'TCP') !== 'TCP') return false
    const first = fieldOf(port, 'port')
    if (first === undefined) return true
    const last = fieldOf(port, 'endPort') ?? first
    return typeof first === 'number' && typeof last === 'number' && first <= hbonePort && hbonePort <= last
  })
}
