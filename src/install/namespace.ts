// The namespace that everything is in. Its pods see the nodes (hostPID, hostPath), which the Pod Security Standards allow to
// `privileged` namespaces only; and none of them is ever in the mesh.
import { meshLabel } from '../model/enrolment.ts'
import { ownLabels, type InstallObject } from './common.ts'
import type { InstallValues } from './values.ts'

export const namespaceLabels = {
  ...ownLabels,
  [meshLabel]: 'disabled',
  'pod-security.kubernetes.io/enforce': 'privileged',
  'pod-security.kubernetes.io/audit': 'privileged',
  'pod-security.kubernetes.io/warn': 'privileged',
} as const

export function namespaceObject({ namespace }: InstallValues): InstallObject[] {
  return [{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace, labels: namespaceLabels } }]
}
