// The three stories that a platform engineer lives with Sidestep, from an empty cluster on, each as a user does it: install, label a namespace,
// see that it is encrypted; ask for a waypoint and split traffic; uninstall, and nothing is left. The times are printed for the README.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { mustRun } from '../../src/local/command.ts'
import { capturedCondition, systemNamespace } from '../../src/model/kubernetes-names.ts'
import { eventually } from './machine.ts'
import type { Stage } from './stage.ts'
import { installArguments, mustSidestep, newNamespace, sidestep, sidestepProgram, stage } from './stage.ts'
import type { Traces } from './traces.ts'
import { hooksLeft, newTraces, ourConditions, pinnedHooks, traces } from './traces.ts'
import { Wire } from './wire.ts'
import { deployment, fetchOnce, pod, service, whoServer } from './workloads.ts'

const marker = 'in-the-clear-4711'
const waitMs = 60_000
/** Nothing of these is ours, and they change while the stories are told. */
const notOurs = /^(Pod|ReplicaSet|ConfigMap|Secret|ServiceAccount|Deployment|Service|Namespace|PodTemplate|ControllerRevision|HTTPRoute|Gateway) (?!sidestep-system\/)(?!.*sidestep)|^(Namespace) \/(shop|plain)|(gateway\.networking|gateways|routes|referencegrants|backendtlspolicies|listenersets|xbackend|xmesh|safe-upgrades)/
const times: string[] = []
let there: Stage
let shop: string
let before: Traces
let hooks: string[] = []

async function timed(what: string, work: () => Promise<unknown>): Promise<void> {
  const startedMs = performance.now()
  await work()
  times.push(`${what}: ${((performance.now() - startedMs) / 1000).toFixed(1)} s`)
}

/** What the client in the shop reads from the URL. */
const ask = (url: string): Promise<string> => there.kube.exec(shop, 'client', fetchOnce(url))

beforeAll(async () => {
  there = await stage()
  const { kube, cluster, appImage: image } = there
  await sidestep(['uninstall', '--yes', '--crds'])
  shop = await newNamespace('shop')
  const readinessProbe = { httpGet: { path: '/', port: 8080 }, periodSeconds: 1 }
  const [a, b] = (await kube.list('nodes')).map((node) => node.metadata.name)
  await kube.apply(
    deployment('catalogue', { namespace: shop, image, command: whoServer(8080, marker), node: b ?? '', container: { readinessProbe } }),
    service(shop, 'catalogue', [{ name: 'http', port: 80, targetPort: 8080 }]),
    pod('client', { namespace: shop, image, node: a ?? '' }),
  )
  await kube.rolledOut(shop, 'deployment/catalogue')
  await kube.podsHave(shop, 'app=client', 'Ready')
  before = await traces(kube, cluster)
}, 600_000)
afterAll(async () => {
  console.log(times.join('\n'))
  await there?.kube.delete('namespace', shop, '--wait=false')
})

test('first: install, label a namespace, see that it is encrypted', async () => {
  const { kube, cluster } = there
  if (cluster) {
    // The proof that the look would see it.
    await using wire = await Wire.start(cluster.node('node-a'))
    expect(await ask('http://catalogue/')).toContain(marker)
    expect(await wire.holding(marker)).toMatchObject({ inPlain: expect.toSatisfy((count: number) => count > 0), handshakes: 0 })
  }
  await timed('sidestep install', async () => mustSidestep(['install', ...await installArguments()]))
  const uids = (await kube.pods(shop)).map(({ metadata }) => metadata.uid)
  await timed('label until every pod is captured', async () => {
    await kube.label(`namespace/${shop}`, 'sidestep.dev/mesh', 'enabled')
    await kube.podsHave(shop, 'app', capturedCondition)
  })
  const pods = await kube.pods(shop)
  expect(pods.map(({ metadata }) => metadata.uid)).toEqual(uids)
  expect(pods.flatMap(({ status }) => status.containerStatuses ?? []).map(({ restartCount }) => restartCount)).toEqual(pods.map(() => 0))
  if (!cluster) return
  hooks = await pinnedHooks(cluster)
  expect(hooks.length).toBeGreaterThan(0)
  // The control plane tells everybody who is captured; until the client's ztunnel knows, it may send in plain text.
  await eventually('nothing goes in plain text', waitMs, async () => {
    await using wire = await Wire.start(cluster.node('node-a'))
    for (let turn = 0; turn < 5; turn++) expect(await ask('http://catalogue/')).toContain(marker)
    const { packets, inPlain } = await wire.holding(marker)
    return packets > 0 && inPlain === 0 ? true : undefined
  })
  await using wire = await Wire.start(cluster.node('node-a'))
  for (let turn = 0; turn < 10; turn++) expect(await ask('http://catalogue/')).toContain(marker)
  expect(await wire.holding(marker)).toMatchObject({ inPlain: 0 })
}, 400_000)

test('second: ask for a waypoint, and split the traffic', async () => {
  const { kube, appImage: image } = there
  const readinessProbe = { httpGet: { path: '/', port: 8080 }, periodSeconds: 1 }
  await kube.apply(...['v1', 'v2'].flatMap((version) => [
    deployment(`catalogue-${version}`, { namespace: shop, image, command: whoServer(8080, version), container: { readinessProbe } }),
    service(shop, `catalogue-${version}`, [{ name: 'http', port: 80, targetPort: 8080 }]),
  ]))
  for (const version of ['v1', 'v2']) await kube.rolledOut(shop, `deployment/catalogue-${version}`)
  await timed('waypoint until it is ready', async () => {
    await kube.apply(await mustRun([...sidestepProgram, 'waypoint', 'generate', '-n', shop, '--enroll-namespace']))
    await kube.kubectl(['wait', '-n', shop, 'gateway/waypoint', '--for=condition=Programmed', '--timeout=120s'])
  })
  const answers = async (count: number): Promise<Map<string, number>> => {
    const seen = new Map<string, number>()
    const script = `(async () => { for (let i = 0; i < ${count}; i++) await fetch('http://catalogue/').then(async (a) => console.log(a.status, (await a.text()).split(' ').at(-1)), (e) => console.log('failed', e.cause?.code)) })()`
    for (const line of (await kube.exec(shop, 'client', ['node', '-e', script], { timeoutMs: 60_000 })).trim().split('\n')) seen.set(line, (seen.get(line) ?? 0) + 1)
    return seen
  }
  await timed('route until the split is in force', async () => {
    await kube.apply({
      apiVersion: 'gateway.networking.k8s.io/v1', kind: 'HTTPRoute', metadata: { name: 'split', namespace: shop },
      spec: {
        parentRefs: [{ group: '', kind: 'Service', name: 'catalogue', port: 80 }],
        rules: [{ backendRefs: [{ name: 'catalogue-v1', port: 80, weight: 80 }, { name: 'catalogue-v2', port: 80, weight: 20 }] }],
      },
    })
    await eventually('the new version is asked', waitMs, async () => ((await answers(20)).has('200 v2') ? true : undefined))
  })
  const seen = await answers(300)
  expect([...seen.keys()].toSorted()).toEqual(['200 v1', '200 v2'])
  // Of 300, 60 are expected; six times the standard deviation on either side.
  expect(seen.get('200 v2')).toBeGreaterThan(18)
  expect(seen.get('200 v2')).toBeLessThan(102)
}, 400_000)

test('third: uninstall, and nothing is left', async () => {
  const { kube, cluster } = there
  expect((await kube.tryKubectl(['get', 'namespace', systemNamespace])).code).toBe(0)
  await kube.delete('-n', shop, 'httproute/split', 'gateway/waypoint')
  await timed('sidestep uninstall', () => mustSidestep(['uninstall', '--yes', '--crds']))
  expect(await ask('http://catalogue/')).toContain(marker)
  expect(await ourConditions(kube)).toEqual([])
  await eventually('nothing is left', waitMs, async () => (newTraces(before, await traces(kube, cluster), notOurs).length === 0 ? true : undefined), 1000)
    .catch(async () => expect(newTraces(before, await traces(kube, cluster), notOurs)).toEqual([]))
  if (!cluster) return
  expect(await hooksLeft(cluster, hooks)).toEqual([])
  // Listeners of a ztunnel: 15001, 15006, 15008.
  const [client] = await kube.pods(shop, 'app=client')
  expect(await kube.exec(shop, client?.metadata.name ?? '', ['cat', '/proc/net/tcp', '/proc/net/tcp6'])).not.toMatch(/:(3A99|3A9E|3AA0) [0:]+ 0A/)
  await using wire = await Wire.start(cluster.node('node-a'))
  expect(await ask('http://catalogue/')).toContain(marker)
  expect((await wire.holding(marker)).inPlain).toBeGreaterThan(0)
}, 400_000)
