// Workloads and services for tests of this room: the fewest facts that are true of any, and whatever a test says beside them.
import type { Endpoint } from '../model/workload-store.ts'
import type { Service, Workload } from '../model/workload.ts'

export function testWorkload(uid: string, parts: Partial<Workload> = {}): Workload {
  return {
    uid, name: uid, namespace: 'shop', ips: ['10.0.0.1'], network: '', trustDomain: 'cluster.local',
    serviceAccount: 'web', node: 'a',
    clusterId: 'c', tunnelProtocol: 'hbone', nativeTunnel: false, isHostNetwork: false, canonicalName: '', canonicalRevision: '',
    workloadType: 'pod', workloadName: '', isHealthy: true, capacity: 1, locality: { region: 'r', zone: 'z', subzone: '' },
    policies: [], services: new Map(), ...parts,
  }
}

export function testService(hostname: string, parts: Partial<Service> = {}): Service {
  return {
    name: hostname, namespace: 'shop', hostname, addresses: [],
    ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }],
    subjectAltNames: [], ipFamilies: 'automatic', isCanonical: false, isNamespaceLocal: false, ...parts,
  }
}

export function testEndpoints(workloads: readonly Workload[]): Endpoint[] {
  return workloads.map((workload) => ({ workload, ports: [] }))
}

/** Numbers that look random and are the same in each run (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000
  }
}
