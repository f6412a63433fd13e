// What tests of the controllers have in common.
import type { GatewaySettings } from './gateway-run.ts'

export const testSettings: GatewaySettings = {
  image: 'sidestep:test', replicas: { min: 2, max: 10 }, systemNamespace: 'sidestep-system', controlPlanePort: 15_012,
  clusterId: 'Kubernetes', clusterDomain: 'cluster.local', network: '', trustDomain: 'cluster.local', trustDomainAliases: '',
}
