// The indexed state at 10,000 services and 50,000 endpoints: `node test/bench/workload-store.ts`. Prints the time to
// build it, of one change and of one lookup, and the memory it takes.
import { WorkloadStore } from '../../src/model/workload-store.ts'
import type { Service, Workload } from '../../src/model/workload.ts'

const serviceCount = 10_000
const perService = 5
const ip = (i: number, first: number): string => `${first}.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`

function serviceOf(i: number, san = ''): Service {
  const namespace = `ns${i % 100}`
  return {
    name: `svc${i}`, namespace, hostname: `svc${i}.${namespace}.svc.cluster.local`, addresses: [{ network: '', ip: ip(i, 172) }],
    ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'tcp' }], subjectAltNames: san ? [san] : [],
    ipFamilies: 'automatic',
    isCanonical: true, isNamespaceLocal: false,
  }
}

function workloadOf(i: number, node = `node${i % 100}`): Workload {
  const service = Math.floor(i / perService)
  const namespace = `ns${service % 100}`
  return {
    uid: `cluster//Pod/${namespace}/pod${i}`, name: `pod${i}`, namespace, ips: [ip(i, 10)], network: '',
    trustDomain: 'cluster.local',
    serviceAccount: `sa${service}`, node, clusterId: 'cluster', tunnelProtocol: 'hbone', nativeTunnel: false,
    isHostNetwork: false,
    canonicalName: `app${service}`, canonicalRevision: 'latest', workloadType: 'deployment', workloadName: `app${service}`,
    isHealthy: true,
    capacity: 1, locality: { region: 'r', zone: `z${i % 3}`, subzone: '' }, policies: [],
    services: new Map([[`${namespace}/svc${service}.${namespace}.svc.cluster.local`, []]]),
  }
}

function time(label: string, count: number, work: (i: number) => void): void {
  const start = process.hrtime.bigint()
  for (let i = 0; i < count; i++) work(i)
  const ns = Number(process.hrtime.bigint() - start)
  console.log(`${label.padEnd(52)} ${(ns / count / 1000).toFixed(2).padStart(9)} us each ${(ns / 1e6).toFixed(0).padStart(7)} ms in all`)
}

const memory = (): number => {
  globalThis.gc?.()
  return process.memoryUsage().heapUsed / 1e6
}
const workloads = Array.from({ length: serviceCount * perService }, (_, i) => workloadOf(i))
const services = Array.from({ length: serviceCount }, (_, i) => serviceOf(i))
const before = memory()
const store = new WorkloadStore()
const changes = 5000
let seen = 0
store.onChange((list) => void (seen += list.length))
time('build: one delta with everything', 1, () => store.apply({ workloads, services }))
const taken = memory() - before
const again = { workloads: workloads.map((w) => ({ ...w })), services: services.map((s) => ({ ...s })) }
time('the same again: nothing changes', 1, () => store.apply(again))
time('change a workload', changes, (i) => store.apply({ workloads: [workloadOf(i * 7, 'elsewhere')] }))
time('remove and add a workload', changes, (i) => {
  store.apply({ removedAddresses: [workloadOf(i * 3).uid] })
  store.apply({ workloads: [workloadOf(i * 3)] })
})
time('change a service', changes, (i) => store.apply({ services: [serviceOf(i, 'spiffe://x')] }))
time('endpoints after a change of one', changes, (i) => {
  const w = workloadOf(i * perService, 'third')
  store.apply({ workloads: [w] })
  for (const key of w.services.keys()) if (store.endpoints(key).length !== perService) throw new Error('an endpoint is missing')
})
time('lookup: workload by address', 200_000, (i) => {
  if (!store.workloadByIp('', ip(i % 50_000, 10))) throw new Error('a workload is missing')
})
time('lookup: service by address', 200_000, (i) => {
  if (!store.serviceByAddress('', ip(i % 10_000, 172), 'ns1')) throw new Error('a service is missing')
})
console.log(`indexes take ${taken.toFixed(1)} MB beyond the ${serviceCount} services and ${workloads.length} workloads; ${seen} changes told`)
