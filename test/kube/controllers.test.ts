// What the leader among control planes does, against a real API server with a real garbage collector: Gateways become objects and go
// with them, nobody's objects are taken over, statuses are written once and only by who leads. Pods are not run here.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseAllDocuments } from 'yaml'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { testSettings } from '../../src/controlplane/controllers/testing.ts'
import { Controllers } from '../../src/controlplane/controllers/controllers.ts'
import { ObservedObjects } from '../../src/controlplane/controllers/observed-objects.ts'
import { ControlPlane } from '../../src/controlplane/control-plane.ts'
import { KubePods } from '../../src/controlplane/kube/pods.ts'
import { KubeSource } from '../../src/controlplane/kube/source.ts'
import { silentLogger } from '../../src/core/log.ts'
import { isNotFound } from '../../src/kube/answers.ts'
import type { KubeObject } from '../../src/kube/api.ts'
import type { KubeClient } from '../../src/kube/client.ts'
import { EventRecorder } from '../../src/kube/event-recorder.ts'
import { XdsStore } from '../../src/xds/store.ts'
import { moduleDirectory } from '../conformance/images.ts'
import { ApiServer } from './api-server.ts'
import { binaries } from './binaries.ts'
import { eventually } from './machine.ts'

const waitMs = 30_000
let server: ApiServer
let collector: ChildProcess
let admin: KubeClient

beforeAll(async () => {
  server = await ApiServer.start()
  admin = await server.client()
  const crds = [join(await moduleDirectory('sigs.k8s.io/gateway-api'), 'config/crd/standard'), fileURLToPath(new URL('../../deploy/crds', import.meta.url))]
  const definitions = crds.flatMap((directory) => readdirSync(directory).filter((file) => file.endsWith('.yaml'))
    .flatMap((file) => parseAllDocuments(readFileSync(join(directory, file), 'utf8')).map((document) => document.toJS() as KubeObject)))
    .filter((object) => object?.kind === 'CustomResourceDefinition')
  for (const definition of definitions) await admin.create('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', definition)
  await eventually('the definitions are established', waitMs, async () => {
    const { items } = await admin.list('/apis/apiextensions.k8s.io/v1/customresourcedefinitions')
    return items.every(({ status }) => (status as { conditions?: { type: string; status: string }[] }).conditions?.some(({ type, status: said }) => type === 'Established' && said === 'True')) || undefined
  })
  // It learns of kinds at its start, and then only now and then.
  const { kube } = await binaries(() => {})
  collector = spawn(join(kube, 'kube-controller-manager'), [
    `--kubeconfig=${server.kubeconfig}`, '--leader-elect=false', '--controllers=garbage-collector-controller', '--secure-port=0', '--concurrent-gc-syncs=2',
  ], { stdio: 'ignore' })
}, 900_000)

afterAll(async () => {
  admin?.close()
  if (collector?.exitCode === null) {
    collector.kill('SIGKILL')
    await once(collector, 'exit')
  }
  await server?.stop()
})

interface Replica {
  readonly controllers: Controllers
  /** Requests that change something, as `METHOD status`. */
  readonly writes: string[]
  close(): Promise<void>
}

const replicas: Replica[] = []
afterEach(async () => {
  await Promise.all(replicas.splice(0).map((replica) => replica.close()))
})

/** A control plane's part of one process; it does not lead until `controllers.start()`. */
async function replica(): Promise<Replica> {
  const writes: string[] = []
  const client = await server.client({ onAnswer: (method, status) => void (method !== 'GET' && method !== 'WATCH' && writes.push(`${method} ${status}`)) })
  const observed = new ObservedObjects()
  const pods = new KubePods({ api: client, logger: silentLogger })
  const plane: ControlPlane = new ControlPlane({
    config: new KubeSource({ api: client, logger: silentLogger, observed }), pods, store: new XdsStore(), settings: { readsParameters: true }, logger: silentLogger, onPublished: () => controllers.changed(),
  })
  const controllers: Controllers = new Controllers({
    api: client, observed, view: () => plane.view(), pods: () => pods.facts.pods.values(), gateways: testSettings, istioLabels: false, logger: silentLogger,
    events: new EventRecorder({ api: client, log: silentLogger, controller: 'sidestep.dev/controlplane', instance: 'test' }),
  })
  await plane.start()
  const made = {
    controllers, writes,
    close: async () => {
      await controllers.stop()
      await plane.close()
      client.close()
    },
  }
  replicas.push(made)
  return made
}

async function leader(): Promise<Replica> {
  const made = await replica()
  made.controllers.start()
  return made
}

let count = 0
async function namespace(labels: Readonly<Record<string, string>> = {}): Promise<string> {
  const name = `shop-${++count}`
  await admin.create('/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } })
  return name
}

const gateways = (in_: string): string => `/apis/gateway.networking.k8s.io/v1/namespaces/${in_}/gateways`
const hbone = [{ name: 'mesh', port: 15_008, protocol: 'HBONE' }]

async function makeGateway(in_: string, more: { name?: string; annotations?: object; spec?: object } = {}): Promise<void> {
  const { name = 'waypoint', annotations = {}, spec = {} } = more
  await admin.create(gateways(in_), {
    apiVersion: 'gateway.networking.k8s.io/v1', kind: 'Gateway', metadata: { name, annotations }, spec: { gatewayClassName: 'sidestep-waypoint', listeners: hbone, ...spec },
  })
}

const paths = (in_: string, name = 'waypoint'): Readonly<Record<string, string>> => ({
  serviceAccount: `/api/v1/namespaces/${in_}/serviceaccounts/${name}`, service: `/api/v1/namespaces/${in_}/services/${name}`,
  deployment: `/apis/apps/v1/namespaces/${in_}/deployments/${name}`, autoscaler: `/apis/autoscaling/v2/namespaces/${in_}/horizontalpodautoscalers/${name}`,
  budget: `/apis/policy/v1/namespaces/${in_}/poddisruptionbudgets/${name}`, secret: `/api/v1/namespaces/${in_}/secrets/${name}-session-keys`,
})

async function find(path: string): Promise<KubeObject | undefined> {
  try {
    return await admin.get(path)
  } catch (error) {
    if (isNotFound(error)) return undefined
    throw error
  }
}

interface Condition { readonly type: string; readonly status: string; readonly reason: string; readonly message: string; readonly observedGeneration?: number }

function conditionsOf(holder: unknown): Record<string, string> {
  const list = (holder as { conditions?: Condition[] } | undefined)?.conditions ?? []
  return Object.fromEntries(list.map(({ type, status, reason }) => [type, `${status} ${reason}`]))
}

async function statusOf(path: string): Promise<Readonly<Record<string, unknown>> & { readonly conditions?: Condition[] }> {
  return ((await admin.get(path)).status ?? {}) as never
}

/** Nothing is written for as long as a change would take to be written. */
async function isQuiet({ writes }: Replica): Promise<void> {
  let before = -1
  await eventually('nothing is under way any more', waitMs, async () => {
    if (writes.length === before) return true
    before = writes.length
    await new Promise((resolve) => { setTimeout(resolve, 1_500) })
    return undefined
  })
}

const serving = { replicas: 2, readyReplicas: 2, availableReplicas: 2, updatedReplicas: 2, observedGeneration: 99 }
/** As the Deployment's controller would, were there pods. */
async function makeReady(in_: string, name = 'waypoint'): Promise<void> {
  await eventually(`the Deployment of ${name} is there`, waitMs, () => find(paths(in_, name)['deployment'] ?? ''))
  await admin.patch(`${paths(in_, name)['deployment']}/status`, { status: serving }, 'merge')
}

describe('a Gateway', () => {
  test('becomes an account, keys, a Service, pods and what scales them, and goes with them', async () => {
    const in_ = await namespace()
    await leader()
    await makeGateway(in_)
    const made = await eventually('all objects are there', waitMs, async () => {
      const found = await Promise.all(Object.values(paths(in_)).map(find))
      return found.every(Boolean) ? Object.fromEntries(Object.keys(paths(in_)).map((name, i) => [name, found[i]])) as Record<string, KubeObject> : undefined
    })
    const gateway = await admin.get(`${gateways(in_)}/waypoint`)
    for (const { metadata } of Object.values(made)) expect(metadata.ownerReferences).toEqual([expect.objectContaining({ kind: 'Gateway', uid: gateway.metadata.uid, controller: true })])
    await eventually('there are as many pods wanted as at least', waitMs, async () => ((await admin.get(paths(in_)['deployment'] ?? '')).spec as { replicas: number }).replicas === 2 || undefined)
    expect(made['deployment']).toMatchObject({ spec: { template: { spec: { automountServiceAccountToken: false, enableServiceLinks: false, containers: [{ image: 'sidestep:test' }] } } } })

    await admin.delete(`${gateways(in_)}/waypoint`)
    await eventually('all of it is gone', waitMs, async () => (await Promise.all(Object.values(paths(in_)).map(find))).every((each) => each === undefined) || undefined)
  })

  test('is told when it serves: pods, address and listeners', async () => {
    const in_ = await namespace()
    const { controllers, writes } = await leader()
    await makeGateway(in_)
    const path = `${gateways(in_)}/waypoint`
    await eventually('it waits for its pods', waitMs, async () => conditionsOf(await statusOf(path))['Programmed'] === 'False Pending' || undefined)
    await makeReady(in_)
    const status = await eventually('it serves', waitMs, async () => {
      const now = await statusOf(path)
      return conditionsOf(now)['Programmed'] === 'True Programmed' ? now : undefined
    })
    expect(conditionsOf(status)).toEqual({ Accepted: 'True Accepted', Programmed: 'True Programmed' })
    expect(status['addresses']).toEqual([expect.objectContaining({ type: 'IPAddress', value: (await admin.get(paths(in_)['service'] ?? '') as { spec?: { clusterIP?: string } }).spec?.clusterIP })])
    const [listener] = status['listeners'] as { name: string; attachedRoutes: number; supportedKinds: unknown[] }[]
    expect([listener?.name, listener?.attachedRoutes, conditionsOf(listener)]).toEqual(['mesh', 0, { Accepted: 'True Accepted', Conflicted: 'False NoConflicts', ResolvedRefs: 'True ResolvedRefs', Programmed: 'True Programmed' }])
    await isQuiet({ controllers, writes } as Replica)
    const before = writes.length
    // The whole of it is looked at again, and there is nothing to write.
    controllers.changed()
    await admin.patch(`/api/v1/namespaces/${in_}`, { metadata: { annotations: { note: 'x' } } }, 'merge')
    await isQuiet({ controllers, writes } as Replica)
    expect(writes.slice(before)).toEqual([])
  })

  test('takes over nothing of somebody else, and says so', async () => {
    const in_ = await namespace()
    const foreign = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'waypoint' }, spec: { ports: [{ port: 80 }] } }
    const { metadata: { resourceVersion } } = await admin.create(`/api/v1/namespaces/${in_}/services`, foreign)
    await leader()
    await makeGateway(in_)
    const status = await eventually('it says what is in the way', waitMs, async () => {
      const now = await statusOf(`${gateways(in_)}/waypoint`)
      return conditionsOf(now)['Programmed'] === 'False ObjectConflict' ? now : undefined
    })
    expect(status.conditions?.find(({ type }) => type === 'Programmed')?.message).toContain('Service waypoint')
    expect((await admin.get(paths(in_)['service'] ?? '')).metadata.resourceVersion).toBe(resourceVersion)
    expect([await find(paths(in_)['deployment'] ?? ''), await find(paths(in_)['serviceAccount'] ?? '')]).toEqual([undefined, undefined])
    await eventually('an event says so, too', waitMs, async () => {
      const { items } = await admin.list(`/apis/events.k8s.io/v1/namespaces/${in_}/events`)
      return items.some((event) => event['reason'] === 'ObjectConflict') || undefined
    })
    await admin.delete(paths(in_)['service'] ?? '')
    await eventually('it is made when that is gone', waitMs, () => find(paths(in_)['deployment'] ?? ''))
  })

  test('is changed by its ConfigMap, as far as that may; what is refused leaves what was there', async () => {
    const in_ = await namespace()
    await leader()
    const maps = `/api/v1/namespaces/${in_}/configmaps`
    await admin.create(maps, { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'more' }, data: { service: '{metadata: {annotations: {a: b}}}', horizontalPodAutoscaler: '{spec: {maxReplicas: 4}}' } })
    await makeGateway(in_, { spec: { infrastructure: { labels: { team: 'blue' }, parametersRef: { group: '', kind: 'ConfigMap', name: 'more' } } } })
    await eventually('the autoscaler has the bound', waitMs, async () => ((await find(paths(in_)['autoscaler'] ?? ''))?.spec as { maxReplicas?: number } | undefined)?.maxReplicas === 4 || undefined)
    const service = await admin.get(paths(in_)['service'] ?? '')
    expect([service.metadata.annotations, service.metadata.labels]).toEqual([{ a: 'b' }, expect.objectContaining({ team: 'blue' })])
    await admin.patch(`${maps}/more`, { data: { deployment: '{spec: {template: {spec: {hostNetwork: true}}}}' } }, 'merge')
    const path = `${gateways(in_)}/waypoint`
    await eventually('it is refused', waitMs, async () => conditionsOf(await statusOf(path))['Accepted'] === 'False InvalidParameters' || undefined)
    expect((await admin.get(paths(in_)['deployment'] ?? '')).spec).not.toHaveProperty('template.spec.hostNetwork')
    await admin.patch(`${maps}/more`, { data: { deployment: '{spec: {replicas: 3}}' } }, 'merge')
    await eventually('a fixed number needs no autoscaler', waitMs, async () => (await find(paths(in_)['autoscaler'] ?? '')) === undefined || undefined)
    await eventually('and is the number', waitMs, async () => ((await admin.get(paths(in_)['deployment'] ?? '')).spec as { replicas: number }).replicas === 3 || undefined)
    expect(conditionsOf(await eventually('it is accepted again', waitMs, async () => {
      const now = await statusOf(path)
      return conditionsOf(now)['Accepted'] === 'True Accepted' ? now : undefined
    }))).toMatchObject({ Accepted: 'True Accepted' })
  })

  test('is put back when somebody changes or deletes a part of it; what an autoscaler says of numbers stays', async () => {
    const in_ = await namespace()
    await leader()
    await makeGateway(in_)
    await makeReady(in_)
    const { deployment = '', budget = '' } = paths(in_)
    await eventually('all is there', waitMs, () => find(budget))
    await admin.delete(budget)
    await admin.patch(deployment, { spec: { replicas: 7, template: { spec: { containers: [{ name: 'proxy', image: 'other' }] } } } }, 'strategic')
    await eventually('the budget is back', waitMs, () => find(budget))
    const spec = await eventually('the image is, too', waitMs, async () => {
      const now = (await admin.get(deployment)).spec as { replicas: number; template: { spec: { containers: { image: string }[] } } }
      return now.template.spec.containers[0]?.image === 'sidestep:test' ? now : undefined
    })
    expect(spec.replicas).toBe(7)
    await admin.patch(deployment, { spec: { replicas: 50 } }, 'merge')
    await eventually('more than there may be are not', waitMs, async () => ((await admin.get(deployment)).spec as { replicas: number }).replicas === 10 || undefined)
  })

  test('of another class loses what was made; a second Gateway of its name gets its own', async () => {
    const in_ = await namespace()
    await leader()
    await makeGateway(in_)
    const { deployment = '' } = paths(in_)
    const before = await eventually('it is made', waitMs, () => find(deployment))
    await admin.delete(`${gateways(in_)}/waypoint`)
    await makeGateway(in_)
    const after = await eventually('it is made anew', waitMs, async () => {
      const now = await find(deployment)
      return now && now.metadata.uid !== before.metadata.uid && now.metadata.deletionTimestamp === undefined ? now : undefined
    })
    expect(after.metadata.ownerReferences).toHaveLength(1)
    await admin.patch(`${gateways(in_)}/waypoint`, { spec: { gatewayClassName: 'somebody-elses' } }, 'merge')
    await eventually('nothing of it is left', waitMs, async () => {
      const { secret: _keys, ...own } = paths(in_)
      return (await Promise.all(Object.values(own).map(find))).every((each) => each === undefined) || undefined
    })
  })
})

describe('statuses', () => {
  test('of routes: ours at our parents, those of others untouched', async () => {
    const in_ = await namespace()
    const path = `/apis/gateway.networking.k8s.io/v1/namespaces/${in_}/httproutes`
    await admin.create(`/api/v1/namespaces/${in_}/services`, { apiVersion: 'v1', kind: 'Service', metadata: { name: 'web' }, spec: { ports: [{ name: 'http', port: 80 }] } })
    const parents = [
      { group: '', kind: 'Service', name: 'web', port: 80 }, { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'edge' }, { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'foreign' },
    ]
    await admin.create(path, {
      apiVersion: 'gateway.networking.k8s.io/v1', kind: 'HTTPRoute', metadata: { name: 'web' },
      spec: { parentRefs: parents, rules: [{ backendRefs: [{ name: 'web', port: 80 }, { name: 'gone', port: 80 }] }] },
    })
    const other = { parentRef: parents[2], controllerName: 'other.dev/gateway', conditions: [{ type: 'Accepted', status: 'True', reason: 'Accepted', message: '', lastTransitionTime: '2026-01-01T00:00:00Z' }] }
    await admin.patch(`${path}/web/status`, { status: { parents: [other] } }, 'merge')
    await makeGateway(in_, { name: 'foreign', spec: { gatewayClassName: 'other', listeners: [{ name: 'http', port: 80, protocol: 'HTTP' }] } })
    await makeGateway(in_, { name: 'edge', spec: { gatewayClassName: 'sidestep-ingress', listeners: [{ name: 'http', port: 80, protocol: 'HTTP' }, { name: 'tls', port: 443, protocol: 'HTTPS', tls: { certificateRefs: [{ name: 'none' }] } }] } })
    await leader()
    const status = await eventually('all is said', waitMs, async () => {
      const now = (await statusOf(`${path}/web`))['parents'] as { controllerName: string; parentRef: object }[] | undefined
      return now?.length === 3 ? now : undefined
    })
    expect(status.map(({ controllerName }) => controllerName)).toEqual(['other.dev/gateway', 'sidestep.dev/mesh', 'sidestep.dev/ingress'])
    expect(status[0]).toEqual(other)
    expect(status.slice(1).map(({ parentRef }) => parentRef)).toEqual(parents.slice(0, 2))
    const resolvedNot = { Accepted: 'True Accepted', ResolvedRefs: 'False BackendNotFound' }
    expect(status.slice(1).map(conditionsOf)).toEqual([resolvedNot, resolvedNot])
    const listeners = await eventually('the listeners count it', waitMs, async () => {
      const now = (await statusOf(`${gateways(in_)}/edge`))['listeners'] as { name: string; attachedRoutes: number }[] | undefined
      return now?.every(({ attachedRoutes }) => attachedRoutes === 1) ? now : undefined
    })
    expect(listeners.map((each) => conditionsOf(each)['ResolvedRefs'])).toEqual(['True ResolvedRefs', 'False InvalidCertificateRef'])
  })

  test('of policies, services and namespaces', async () => {
    const in_ = await namespace({ 'sidestep.dev/mesh': 'enabled', 'sidestep.dev/use-waypoint': 'waypoint' })
    await admin.create(`/api/v1/namespaces/${in_}/services`, { apiVersion: 'v1', kind: 'Service', metadata: { name: 'web' }, spec: { ports: [{ name: 'http', port: 80 }] } })
    await admin.create(`/apis/sidestep.dev/v1alpha1/namespaces/${in_}/ratelimitpolicies`, {
      apiVersion: 'sidestep.dev/v1alpha1', kind: 'RateLimitPolicy', metadata: { name: 'limit' },
      spec: { targetRefs: [{ group: '', kind: 'Service', name: 'none' }], limits: [{ requests: 5, per: '1s' }] },
    })
    const { controllers } = await leader()
    const service = `/api/v1/namespaces/${in_}/services/web`
    const limit = `/apis/sidestep.dev/v1alpha1/namespaces/${in_}/ratelimitpolicies/limit`
    await eventually('the service says why it has no waypoint', waitMs, async () => conditionsOf(await statusOf(service))['sidestep.dev/WaypointBound'] === 'False WaypointNotFound' || undefined)
    await makeGateway(in_)
    await eventually('and that it has', waitMs, async () => conditionsOf(await statusOf(service))['sidestep.dev/WaypointBound'] === 'True WaypointAccepted' || undefined)
    const status = await eventually('the policy says what is missing', waitMs, async () => {
      const now = await statusOf(limit)
      return conditionsOf(now)['Accepted'] === 'False Invalid' ? now : undefined
    })
    expect((status['ancestors'] as unknown[]).map(conditionsOf)).toEqual([{ Accepted: 'False TargetNotFound' }])
    await eventually('the namespace has nobody yet', waitMs, async () => conditionsOf(await statusOf(`/api/v1/namespaces/${in_}`))['sidestep.dev/InMesh'] === 'True NoPods' || undefined)
    // A pod that says why it is not captured.
    await admin.create(`/api/v1/namespaces/${in_}/serviceaccounts`, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'default' } })
    await admin.create(`/api/v1/namespaces/${in_}/pods`, { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'web' }, spec: { nodeName: 'a', containers: [{ name: 'web', image: 'web' }] } })
    await admin.patch(`/api/v1/namespaces/${in_}/pods/web/status`, { status: { conditions: [{ type: 'sidestep.dev/Captured', status: 'False', reason: 'NoNetns', message: 'its namespace was not found' }] } }, 'strategic')
    const said = await eventually('the namespace says it', waitMs, async () => (await statusOf(`/api/v1/namespaces/${in_}`)).conditions?.find(({ type, status: now }) => type === 'sidestep.dev/InMesh' && now === 'False'))
    expect(said.message).toBe('0 of 1 pods captured; web: NoNetns: its namespace was not found')
    await admin.patch(`/api/v1/namespaces/${in_}`, { metadata: { labels: { 'sidestep.dev/mesh': null, 'sidestep.dev/use-waypoint': null } } }, 'merge')
    await eventually('who asks for nothing is told nothing', waitMs, async () => (
      conditionsOf(await statusOf(service))['sidestep.dev/WaypointBound'] === undefined && conditionsOf(await statusOf(`/api/v1/namespaces/${in_}`))['sidestep.dev/InMesh'] === undefined) || undefined)
    expect(controllers.writes).toBeGreaterThan(0)
  })

  test('of two candidates only who leads writes; the next finds everything right', async () => {
    const in_ = await namespace()
    const [first, second] = [await leader(), await replica()]
    await makeGateway(in_)
    await makeReady(in_)
    await eventually('it serves', waitMs, async () => conditionsOf(await statusOf(`${gateways(in_)}/waypoint`))['Programmed'] === 'True Programmed' || undefined)
    await isQuiet(first)
    expect(second.writes).toEqual([])
    await first.controllers.stop()
    const before = first.writes.length
    second.controllers.start()
    await isQuiet(second)
    // Its own objects it applies once, not knowing what was applied; of no status anything is written.
    expect([first.writes.length, second.controllers.writes]).toEqual([before, 0])
    await admin.delete(paths(in_)['service'] ?? '')
    await eventually('it does the work now', waitMs, () => find(paths(in_)['service'] ?? ''))
    expect(first.writes).toHaveLength(before)
  })
})
