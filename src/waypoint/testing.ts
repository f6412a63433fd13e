// Workloads and services for the tests of this room.
import type { Service, Workload } from '../model/workload.ts'

/** In the namespace shop unless said, healthy, in tunnels. */
export function workload(name: string, ip: string, parts: Partial<Workload> = {}): Workload {
  return {
    uid: `Kubernetes//Pod/shop/${name}`, name, namespace: 'shop', ips: [ip], network: '', trustDomain: 'cluster.local', serviceAccount: 'default', node: 'n1',
    clusterId: 'Kubernetes', tunnelProtocol: 'hbone', nativeTunnel: false, isHostNetwork: false, canonicalName: name, canonicalRevision: 'latest',
    workloadType: 'deployment', workloadName: name, isHealthy: true, capacity: 1, locality: { region: '', zone: '', subzone: '' }, policies: [], services: new Map(),
    ...parts,
  }
}

/** With the port 80 of nobody knows which protocol, unless said. */
export function service(name: string, ip: string, parts: Partial<Service> = {}): Service {
  const namespace = parts.namespace ?? 'shop'
  return {
    name, namespace, hostname: `${name}.${namespace}.svc.cluster.local`, addresses: [{ network: '', ip }],
    ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'unknown' }], subjectAltNames: [], ipFamilies: 'automatic', isCanonical: true, isNamespaceLocal: false, ...parts,
  }
}
