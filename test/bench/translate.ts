// Time and memory of translating a large mesh: `node test/bench/translate.ts`. 10,000 services with 50,000 endpoints in 100
// namespaces and 1,000 policies; then one change of each kind, 200 times, p50 and p99.
import type { ManifestKind, ManifestObject } from '../../src/model/manifest.ts'
import { manifestKinds } from '../../src/model/manifest.ts'
import type { RunningPod } from '../../src/model/running-pod.ts'
import { defaultSettings } from '../../src/controlplane/translate/settings.ts'
import { Translator } from '../../src/controlplane/translate/translator.ts'

const serviceCount = 10_000
const podsPerService = 5
const policyCount = 1000
const namespaceCount = 100
const rounds = 200

function object(kind: ManifestKind, name: string, namespace: string | undefined, spec: object, labels: object = {}): ManifestObject {
  const parsed = manifestKinds[kind].schema.parse({ metadata: { name, labels, ...(namespace === undefined ? {} : { namespace }) }, spec })
  return { kind, origin: { file: 'bench', line: 1 }, ...parsed } as ManifestObject
}
const namespaceOf = (i: number): string => `ns-${i % namespaceCount}`
const service = (i: number, port = 80): ManifestObject =>
  object('Service', `svc-${i}`, namespaceOf(i), { selector: { app: `app-${i}` }, clusterIP: `10.96.${i >> 8}.${i & 255}`, ports: [{ port, targetPort: 8080 }] })
const pod = (i: number, ready = true): RunningPod => {
  const owner = Math.floor(i / podsPerService)
  return {
    uid: `uid-${i}`, namespace: namespaceOf(owner), name: `pod-${i}`, node: `node-${i % 100}`, ips: [`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`], ready,
    labels: { app: `app-${owner}`, tier: `tier-${i % 7}`, 'pod-template-hash': 'abc' }, serviceAccount: `sa-${owner % 50}`, isCaptured: true, isHostNetwork: false,
    ports: [], owner: { type: 'deployment', name: `app-${owner}` },
  }
}
const policy = (i: number, principal = 'x'): ManifestObject => object('AuthorizationPolicy', `policy-${i}`, namespaceOf(i), {
  ...(i % 2 === 0 ? { selector: { matchLabels: { app: `app-${i}` } } } : {}),
  action: i % 10 === 0 ? 'DENY' : 'ALLOW',
  rules: [{ from: [{ source: { principals: [`cluster.local/ns/a/sa/${principal}`] } }], to: [{ operation: { ports: ['80', '8080'] } }] }],
})
const waypoint = (i: number): ManifestObject =>
  object('Gateway', 'w', namespaceOf(i), { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15_008, protocol: 'HBONE' }] })
const route = (i: number, value = '/api'): ManifestObject => object('HTTPRoute', `route-${i}`, namespaceOf(i), {
  parentRefs: [{ group: '', kind: 'Service', name: `svc-${i}` }],
  rules: [{ matches: [{ path: { type: 'PathPrefix', value } }, { method: 'POST' }], backendRefs: [{ name: `svc-${i}`, port: 80 }], timeouts: { request: '5s' } }],
})
const strict = (name: string, namespace: string, mode: string): ManifestObject => object('PeerAuthentication', name, namespace, { mtls: { mode } })

function time(work: () => void): number {
  const start = process.hrtime.bigint()
  work()
  return Number(process.hrtime.bigint() - start) / 1e6
}
const print = (name: string, value: string): void => console.log(`${name.padEnd(44)} ${value}`)

function main(): void {
  const objects: ManifestObject[] = []
  const parsedMs = time(() => {
    for (let i = 0; i < serviceCount; i++) objects.push(service(i))
    for (let i = 0; i < policyCount; i++) objects.push(policy(i))
  })
  const pods = Array.from({ length: serviceCount * podsPerService }, (_, i) => pod(i))
  print('schemas of 11,000 objects', `${parsedMs.toFixed(0)} ms`)
  const before = process.memoryUsage().rss
  const translator = new Translator(defaultSettings)
  const fullMs = time(() => {
    for (const each of objects) translator.put(each)
    for (const each of pods) translator.putPod(each)
    translator.flush()
    translator.flushWaypoints()
  })
  print('full translation', `${fullMs.toFixed(0)} ms`)
  print('resources', `${translator.workloads.size} workloads, ${translator.services.size} services, ${translator.policies.size} policies`)
  print('memory', `${((process.memoryUsage().rss - before) / 2 ** 20).toFixed(0)} MiB`)

  const change = (name: string, count: number, work: (round: number) => void): void => {
    const times: number[] = []
    let changed = 0
    for (let round = 0; round < count; round++) {
      times.push(time(() => {
        work(round)
        const delta = translator.flush()
        const { waypoint, removedWaypoint } = translator.flushWaypoints()
        changed += waypoint.size + removedWaypoint.length + delta.workloads.length + delta.services.length + delta.policies.length + delta.removedAddresses.length + delta.removedPolicies.length
      }))
    }
    times.sort((a, b) => a - b)
    const at = (q: number): string => (times[Math.min(times.length - 1, Math.floor(times.length * q))] ?? 0).toFixed(3)
    print(name, `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, ${(changed / count).toFixed(0)} resources each`)
  }
  change('one pod becomes ready or not', rounds, (i) => translator.putPod(pod(i * 13, i % 2 === 1)))
  change('one pod goes and comes', rounds, (i) => (i % 2 === 0 ? translator.removePod(namespaceOf(0), 'pod-0') : translator.putPod(pod(0))))
  change('one service changes its port', rounds, (i) => translator.put(service(i * 7, 81)))
  change('one policy changes its rules', rounds, (i) => translator.put(policy(i * 3, `y${i}`)))
  change('one policy with a selector goes and comes', rounds, (i) => (i % 2 === 0 ? translator.remove('AuthorizationPolicy ns-0/policy-0') : translator.put(policy(0))))
  change('a namespace turns strict and back', 20, (i) => translator.put(strict('default', 'ns-3', i % 2 === 0 ? 'STRICT' : 'PERMISSIVE')))
  change('the mesh turns strict and back', 4, (i) => translator.put(strict('default', 'istio-system', i % 2 === 0 ? 'STRICT' : 'PERMISSIVE')))
  change('a waypoint before a namespace goes and comes', 20, (i) => (i % 2 === 0 ? translator.put(waypoint(3)) : translator.remove(`Gateway ${namespaceOf(3)}/w`)))
  gateways(translator, print, change)
}

/** A waypoint in each namespace, and a route for each service. */
function gateways(translator: Translator, print: (name: string, value: string) => void, change: (name: string, count: number, work: (round: number) => void) => void): void {
  const putMs = time(() => {
    for (let i = 0; i < namespaceCount; i++) {
      translator.put(waypoint(i))
      translator.put(object('Namespace', namespaceOf(i), undefined, {}, { 'sidestep.dev/use-waypoint': 'w' }))
    }
    translator.flush()
  })
  print('waypoints before all services', `${putMs.toFixed(0)} ms`)
  print('what they are told, without routes', `${time(() => void translator.flushWaypoints()).toFixed(0)} ms`)
  for (let i = 0; i < serviceCount; i++) translator.put(route(i))
  print('what they are told, with 10,000 routes', `${time(() => void translator.flushWaypoints()).toFixed(0)} ms, ${translator.waypoints.size} resources`)
  change('one route changes among them', 10, (i) => translator.put(route(i, '/x')))
  change('one pod becomes ready or not among them', rounds, (i) => translator.putPod(pod(i * 13, i % 2 === 1)))
}

main()
