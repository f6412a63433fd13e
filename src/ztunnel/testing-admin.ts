// An AdminSource over a real store, for tests of the admin API and of who asks it.
import type { Identity } from '../core/identity.ts'
import type { Authorization, Match } from '../model/authorization.ts'
import { WorkloadStore } from '../model/workload-store.ts'
import type { Service, Workload } from '../model/workload.ts'
import type { ConnectionView } from '../model/ztunnel-views.ts'
import type { CertificateState } from '../pki/certificates.ts'
import { Rbac } from '../policy/rbac.ts'
import { waypointState } from '../policy/waypoint-binding.ts'
import { explainConnection } from './admin-explain.ts'
import type { AdminSource } from './admin-source.ts'
import { certificateSummary } from '../member/certificate-views.ts'

export function workload(name: string, parts: Partial<Workload> = {}): Workload {
  return {
    uid: `Kubernetes//Pod/shop/${name}`, name, namespace: 'shop', ips: ['10.0.0.1'], network: '', trustDomain: 'cluster.local', serviceAccount: name, node: 'node-a',
    clusterId: 'Kubernetes', tunnelProtocol: 'hbone', nativeTunnel: false, isHostNetwork: false, canonicalName: name, canonicalRevision: 'v1',
    workloadType: 'deployment', workloadName: name, isHealthy: true, capacity: 1, locality: { region: '', zone: '', subzone: '' }, policies: [], services: new Map(), ...parts,
  }
}

export function service(name: string, ip: string, parts: Partial<Service> = {}): Service {
  return {
    name, namespace: 'shop', hostname: `${name}.shop.svc.cluster.local`, addresses: [{ network: '', ip }],
    ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }], subjectAltNames: [], ipFamilies: 'automatic', isCanonical: true, isNamespaceLocal: false, ...parts,
  }
}

const emptyMatch: Match = {
  namespaces: [], notNamespaces: [], principals: [], notPrincipals: [], serviceAccounts: [], notServiceAccounts: [], sourceIps: [], notSourceIps: [],
  destinationIps: [], notDestinationIps: [], destinationPorts: [], notDestinationPorts: [],
}

export function policy(name: string, match: Partial<Match>, parts: Partial<Authorization> = {}): Authorization {
  return { name, namespace: 'shop', scope: 'namespace', action: 'allow', rules: [[[{ ...emptyMatch, ...match }]]], isDryRun: false, ...parts }
}

/** A shop: web asks catalogue, which takes web only; payments is strict; legacy is outside of the mesh. */
export function shop(): WorkloadStore {
  const store = new WorkloadStore()
  const serves = (name: string): Workload['services'] => new Map([[`shop/${name}.shop.svc.cluster.local`, [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }]]])
  store.apply({
    workloads: [
      workload('web', { egress: 'deny' }),
      workload('catalogue', { ips: ['10.0.1.1', 'fd00::1'], node: 'node-b', services: serves('catalogue'), policies: ['shop/web-only'] }),
      workload('payments', { ips: ['10.0.1.2'], node: 'node-b', services: serves('payments'), policies: ['istio-system/istio_converted_static_strict'] }),
      workload('legacy', { uid: 'Kubernetes//Pod/old/legacy', namespace: 'old', ips: ['10.0.0.9'], tunnelProtocol: 'none' }),
    ],
    services: [service('catalogue', '10.96.0.1'), service('payments', '10.96.0.2'), service('empty', '10.96.0.3')],
    policies: [
      policy('web-only', { principals: [{ kind: 'exact', value: 'cluster.local/ns/shop/sa/web' }], destinationPorts: [8080] }, { scope: 'workloadSelector' }),
      policy('istio_converted_static_strict', { notPrincipals: [{ kind: 'presence' }] }, { namespace: 'istio-system', scope: 'workloadSelector', action: 'deny' }),
    ],
  })
  return store
}

const web: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }

export interface TestSource extends AdminSource {
  readonly quits: number
  waitingFor: string[]
  levels: Record<string, string>
}

/** `certificates`: as CertificateManager has them. */
export function testSource(store: WorkloadStore, node = 'node-a', certificates: readonly { identity: Identity; state: CertificateState }[] = waitingCertificates()): TestSource {
  const rbac = new Rbac(store.policies)
  let quits = 0
  const connection: ConnectionView = {
    id: '7', direction: 'outbound', pod: 'shop/web', source: { addr: '10.0.0.1:40000', workload: 'web', namespace: 'shop', identity: 'spiffe://cluster.local/ns/shop/sa/web' },
    destination: { addr: '10.0.1.1:8080', hboneAddr: '10.0.1.1:15008', workload: 'catalogue', namespace: 'shop', service: 'catalogue.shop.svc.cluster.local' },
    bytesSent: 100, bytesReceived: 2_000, ageMs: 61_000, protocol: 'hbone', reused: true,
  }
  const source: TestSource = {
    get quits() {
      return quits
    },
    waitingFor: [], levels: { default: 'info', xds: 'info' },
    state: () => ({
      node, pid: process.pid, synced: true, draining: 0, connections: { open: 1, limit: 100 }, xds: { state: 'ready', synced: true, because: '' },
      certificates: certificateSummary(certificates), mesh: { workloads: store.workloadCount, services: store.services.size, policies: store.policies.size },
      pods: [{ namespace: 'shop', name: 'web', open: 1, outbound: 3, inbound: 0, refused: 0, failed: 0, bytesSent: 100, bytesReceived: 2_000, existing: 0, dnsQueries: 2 }],
      counters: { redirected: 3 }, memory: { rss: process.memoryUsage.rss() },
    }),
    isReady: () => ({ ready: source.waitingFor.length === 0, waitingFor: source.waitingFor }),
    workloads: () => store.workloads(), services: () => store.services.values(), endpoints: (key) => store.endpoints(key), policies: () => store.policies.values(),
    waypointState: (waypoint, namespace) => waypointState(waypoint, namespace, store),
    connections: () => [connection],
    learned: () => [{
      namespace: 'shop', serviceAccount: 'web', address: '203.0.113.1', port: 443, protocol: 'tcp', count: 3, firstSeenMs: Date.UTC(2026, 0, 1), lastSeenMs: Date.UTC(2026, 0, 2), verdict: 'denied',
    }],
    certificates: () => certificates,
    configDump: () => ({ version: '0.1.0', config: { node: { value: node, from: 'environment' } }, stagedServices: store.stagedServices() }),
    explain: (request) => explainConnection({ store, rbac }, request),
    logLevels: () => source.levels,
    setLogLevel(component, level) {
      if (component !== undefined && !(component in source.levels)) return false
      for (const each of component === undefined ? Object.keys(source.levels) : [component]) source.levels[each] = level
      return true
    },
    quit: () => void quits++,
  }
  return source
}

function waitingCertificates(): { identity: Identity; state: CertificateState }[] {
  return [{ identity: web, state: { t: 'failed', because: 'the CA said no', attempts: 2, retryAtMs: Date.UTC(2030, 0, 1) } }]
}
