// What happens to a cluster in its life, while pods ask each other without pause: the API server restarts, watches expire, leaders die,
// deployments are rolled and scaled, agents die. No request may fail that the application did
// not cause, and nothing that a captured pod says to a strict one may be seen on the wire.
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { capturedCondition, controlPlaneName, systemNamespace } from '../../src/model/kubernetes-names.ts'
import type { SteadyCounts } from '../helpers/steady-load.ts'
import { Load } from './load.ts'
import { eventually } from './machine.ts'
import type { Stage } from './stage.ts'
import { inMesh, installed, newNamespace } from './stage.ts'
import { deployment, drainingServer, service } from './workloads.ts'
import { Wire } from './wire.ts'

const port = 7001
const waitMs = 120_000
/** Beginnings of what the load says. */
const said = ['client ', 'held ']
let there: Stage
let servers: string
let clients: string
/** New connections from each node, and connections that are held, to servers that nobody touches. */
let loads: readonly Load[] = []
let wires: readonly Wire[] = []
let before: readonly SteadyCounts[] = []

const server = (name: string, namespace: string, replicas: number, release = 'one', listening = port) => deployment(name, {
  namespace, image: there.appImage, replicas, labels: { release }, command: drainingServer(listening),
  container: { readinessProbe: { tcpSocket: { port: listening }, periodSeconds: 1 } },
  spec: {
    terminationGracePeriodSeconds: 30,
    topologySpreadConstraints: [{ maxSkew: 1, topologyKey: 'kubernetes.io/hostname', whenUnsatisfiable: 'ScheduleAnyway', labelSelector: { matchLabels: { app: name } } }],
  },
})
const echo = (namespace: string, name: string, listening = port): Readonly<Record<string, unknown>> => service(namespace, name, [{ name: 'tcp', port: listening }])

beforeAll(async () => {
  there = await installed()
  const { kube, cluster, appImage: image } = there
  ;[servers, clients] = [await newNamespace('servers', inMesh), await newNamespace('clients', inMesh)]
  await kube.apply(
    { apiVersion: 'sidestep.dev/v1alpha1', kind: 'PeerAuthentication', metadata: { name: 'strict', namespace: servers }, spec: { mtls: { mode: 'STRICT' } } },
    server('rolled', servers, 3), echo(servers, 'rolled'),
    server('steady', servers, 2), echo(servers, 'steady'),
  )
  await kube.rolledOut(servers, 'deployment/rolled')
  await kube.rolledOut(servers, 'deployment/steady')
  await kube.podsHave(servers, 'app', capturedCondition)
  const [a, b] = (await kube.list('nodes')).map((node) => node.metadata.name)
  const host = (name: string): string => `${name}.${servers}.svc.cluster.local`
  loads = await Promise.all([
    Load.start(kube, 'asks-a', { namespace: clients, image, host: host('rolled'), port, clients: 5, ...a === undefined ? {} : { node: a } }),
    Load.start(kube, 'asks-b', { namespace: clients, image, host: host('rolled'), port, clients: 5, ...b === undefined ? {} : { node: b } }),
    Load.start(kube, 'holds', { namespace: clients, image, host: host('steady'), port, held: 5, clients: 2, ...a === undefined ? {} : { node: a } }),
  ])
  // A service's address is an address of pods only once it was translated: what is in plain text is looked for on all ports.
  wires = await Promise.all((cluster?.nodes ?? []).map((node) => Wire.start(node, ['tcp', 'port', String(port)])))
}, 600_000)
beforeEach(async () => {
  before = await Promise.all(loads.map((load) => load.counts()))
})
afterAll(async () => {
  await Promise.all(wires.map((wire) => wire[Symbol.asyncDispose]()))
  await there?.kube.delete('namespace', servers, clients, '--wait=false')
})

/** Nothing failed since the test began, also not in the time after; and nothing was seen in plain text. */
async function nothingFailed(): Promise<void> {
  const now = await Promise.all(loads.map((load) => load.more(50)))
  const failures = ({ failed, heldFailed, errors }: SteadyCounts): Record<string, unknown> => ({ failed, heldFailed, errors })
  expect(now.map(failures)).toEqual(before.map(failures))
  await nothingInPlain()
}

async function nothingInPlain(): Promise<void> {
  for (const wire of wires) for (const text of said) expect((await wire.holding(text)).inPlain, text).toBe(0)
}

test('the API server restarts, and forgets what watches would go on from', async ({ skip }) => {
  const { cluster, kube } = there
  if (!cluster) return skip('the API server of this cluster is not ours')
  await cluster.control.restartApiServer()
  await cluster.control.expireWatches()
  // What changes afterwards is followed, too.
  await kube.apply(server('late', servers, 1))
  await kube.rolledOut(servers, 'deployment/late')
  await kube.podsHave(servers, 'app=late', capturedCondition)
  await kube.delete('-n', servers, 'deployment/late', '--wait=false')
  await nothingFailed()
}, 300_000)

test('the leader of the control plane is killed', async () => {
  const { kube } = there
  const leader = async (): Promise<string> => (await kube.get<{ spec: { holderIdentity?: string } }>('lease', '-n', systemNamespace, controlPlaneName)).spec.holderIdentity ?? ''
  const old = await leader()
  const pods = await kube.pods(systemNamespace)
  const leading = pods.find(({ metadata }) => old.startsWith(metadata.name))
  expect(leading).toBeDefined()
  await kube.delete('-n', systemNamespace, `pod/${leading?.metadata.name ?? ''}`, '--force', '--grace-period=0')
  await eventually('another leads', waitMs, async () => {
    const now = await leader()
    return now !== '' && now !== old ? true : undefined
  }, 500)
  await kube.rolledOut(systemNamespace, `deployment/${controlPlaneName}`)
  await nothingFailed()
}, 300_000)

test('a deployment is rolled', async () => {
  const { kube } = there
  await kube.apply(server('rolled', servers, 3, 'two'))
  await kube.rolledOut(servers, 'deployment/rolled')
  await kube.podsHave(servers, 'app=rolled', capturedCondition)
  await nothingFailed()
}, 300_000)

test('a deployment goes from 0 to 20 pods, each captured before it starts, and back', async () => {
  const { kube } = there
  await kube.apply(server('crowd', servers, 20))
  await kube.rolledOut(servers, 'deployment/crowd', 200_000)
  await kube.podsHave(servers, 'app=crowd', capturedCondition)
  await kube.kubectl(['scale', '-n', servers, 'deployment/crowd', '--replicas=0'])
  await kube.kubectl(['wait', '-n', servers, '--for=delete', 'pod', '-l', 'app=crowd', '--timeout=120s'])
  await nothingFailed()
}, 400_000)

test('an agent is killed with -9', async ({ skip }) => {
  const { cluster } = there
  if (!cluster) return skip('the nodes of this cluster are not ours')
  const { machine } = cluster.node('node-b')
  const pids = async (): Promise<string[]> => (await machine.run(['pgrep', '-f', 'bin/sidestep-agent'])).stdout.split('\n').filter((pid) => pid !== '')
  const old = await pids()
  expect(old.length).toBeGreaterThan(0)
  await machine.mustRun(['kill', '-9', ...old])
  await eventually('another runs', waitMs, async () => ((await pids()).some((pid) => !old.includes(pid)) ? true : undefined), 500)
  await nothingFailed()
}, 300_000)
