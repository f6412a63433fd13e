// Who may reach our own pods. Nobody is kept from the metrics ports: who scrapes is not known here, and they tell no secrets. What our
// pods may reach is not limited: a ztunnel's sockets are in the namespaces of the pods that it carries for. Branches on no value.
import { controlPlaneName, ztunnelName } from '../model/kubernetes-names.ts'
import { labelsOf, partLabels, type InstallObject, type Json } from './common.ts'
import { controlPlaneMetricsPort, discoveryPort } from './control-plane.ts'
import type { InstallValues } from './values.ts'
import { agentPort, ztunnelMetricsPort, ztunnelReadyPort } from './ztunnel.ts'

const tcp = (...ports: readonly number[]): Json[] => ports.map((port) => ({ protocol: 'TCP', port }))

export function networkPolicies({ namespace }: InstallValues): InstallObject[] {
  const policy = (name: string, part: string, ports: Json[]): InstallObject => ({
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy', metadata: { name, namespace, labels: labelsOf(part) },
    spec: { podSelector: { matchLabels: partLabels(name) }, policyTypes: ['Ingress'], ingress: [{ ports }] },
  })
  return [
    // Gateways may be in any namespace, so discovery is open to all; who asks is judged by token.
    policy(controlPlaneName, 'controlplane', tcp(discoveryPort, controlPlaneMetricsPort)),
    policy(ztunnelName, 'ztunnel', tcp(ztunnelMetricsPort, ztunnelReadyPort, agentPort)),
  ]
}
