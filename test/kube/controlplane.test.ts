// The control plane as programs of its own before a real API server, without a cluster: what it makes of pods and objects, whom it
// lets in, and what several replicas share. No node runs anything here; clients stand in for ztunnels, with real tokens.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import type { KubeObject } from '../../src/kube/api.ts'
import { isNotFound } from '../../src/kube/answers.ts'
import type { KubeClient } from '../../src/kube/client.ts'
import { controlPlaneReportSchema, type ControlPlaneReport } from '../../src/model/control-plane-status.ts'
import type { CaLine, ClientPlan, KnownLine, StateLine } from '../helpers/control-plane-client.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { eventually } from '../helpers/world.ts'
import { ApiServer } from './api-server.ts'

const program = fileURLToPath(new URL('../../src/bin/controlplane.ts', import.meta.url))
const clientProgram = fileURLToPath(new URL('../helpers/control-plane-client.ts', import.meta.url))
const crds = fileURLToPath(new URL('../../deploy/crds/', import.meta.url))
const system = 'sidestep-system'
const soon = { timeout: 30_000, interval: 100 }
type Json = Record<string, unknown>

let base = ''
let server: ApiServer
let admin: KubeClient
const planes: Plane[] = []

/** One replica. */
class Plane {
  readonly name: string
  readonly #process: LineProcess
  constructor(name: string) {
    this.name = name
    const env = {
      PATH: process.env['PATH'] ?? '', KUBECONFIG: server.kubeconfig, SIDESTEP_SOURCE: 'kubernetes', SIDESTEP_POD_NAME: name, SIDESTEP_LISTEN_ADDRESS: '127.0.0.1:0',
      SIDESTEP_METRICS_ADDRESS: 'none', SIDESTEP_ADMIN_SOCKET: join(base, `${name}.sock`), SIDESTEP_SERVER_NAMES: 'localhost,127.0.0.1',
    }
    this.#process = new LineProcess(['env', '-i', ...Object.entries(env).map(([key, value]) => `${key}=${value}`), process.execPath, program])
  }
  get log(): string {
    return this.#process.lines.map((line) => JSON.stringify(line)).join('\n')
  }
  has(message: string): boolean {
    return this.#process.lines.some((line) => (line as { msg?: string }).msg === message)
  }
  get port(): number {
    const started = this.#process.lines.find((line) => (line as { msg?: string }).msg === 'control plane started') as { port: number } | undefined
    return started?.port ?? 0
  }
  async ready(): Promise<this> {
    await eventually(async () => expect(this.port, this.#process.stderr).toBeGreaterThan(0), soon.timeout)
    return this
  }
  /** Leads, and has done what a leader does first. */
  get leads(): boolean {
    const last = this.#process.lines.findLast((line) => ['leading', 'no longer leading'].includes((line as { msg?: string }).msg ?? ''))
    return (last as { msg?: string } | undefined)?.msg === 'leading'
  }
  async end(signal: NodeJS.Signals): Promise<void> {
    process.kill(this.#process.pid, signal)
    await this.#process.ended
  }
  async status(): Promise<ControlPlaneReport> {
    return controlPlaneReportSchema.parse(await this.ask('GET', '/status'))
  }
  ask(method: string, path: string, body?: unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const sent = request({ socketPath: join(base, `${this.name}.sock`), method, path, agent: false }, (response) => {
        let text = ''
        response.setEncoding('utf8').on('data', (part: string) => (text += part)).on('end', () => {
          if (response.statusCode === 200) resolve(JSON.parse(text))
          else reject(new Error(text))
        })
      })
      sent.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body))
    })
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]()
  }
}

async function start(name: string): Promise<Plane> {
  const plane = new Plane(name)
  planes.push(plane)
  return plane.ready()
}

const create = (path: string, object: Json): Promise<KubeObject> => admin.create(path, object)
const namespaced = (namespace: string, plural: string): string => `/api/v1/namespaces/${namespace}/${plural}`

async function makeNamespace(name: string, labels: Json = {}, ...accounts: string[]): Promise<void> {
  await create('/api/v1/namespaces', { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } })
  for (const account of ['default', ...accounts]) await create(namespaced(name, 'serviceaccounts'), { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: account } })
}

async function makePod(namespace: string, name: string, node: string, ip: string | undefined, more: { account?: string; labels?: Json; conditions?: Json[] } = {}): Promise<void> {
  await create(namespaced(namespace, 'pods'), {
    apiVersion: 'v1', kind: 'Pod', metadata: { name, labels: more.labels ?? { app: name } },
    spec: { nodeName: node, serviceAccountName: more.account ?? 'default', automountServiceAccountToken: false, terminationGracePeriodSeconds: 0, containers: [{ name: 'c', image: 'i', ports: [{ name: 'http', containerPort: 8080 }] }] },
  })
  await setStatus(namespace, name, ip, more.conditions ?? [{ type: 'Ready', status: 'True' }])
}

async function setStatus(namespace: string, name: string, ip: string | undefined, conditions: Json[], phase = 'Running'): Promise<void> {
  await admin.patch(`${namespaced(namespace, 'pods')}/${name}/status`, { status: { phase, ...(ip === undefined ? {} : { podIP: ip, podIPs: [{ ip }] }), conditions } }, 'merge')
}

async function token(namespace: string, account: string, pod: string | undefined, audience = 'sidestep-controlplane'): Promise<string> {
  const uid = pod === undefined ? undefined : (await admin.get(`${namespaced(namespace, 'pods')}/${pod}`)).metadata.uid
  const made = await admin.create(`${namespaced(namespace, 'serviceaccounts')}/${account}/token`, {
    apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', metadata: {},
    spec: { audiences: [audience], expirationSeconds: 3600, ...(pod === undefined ? {} : { boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: pod, uid } }) },
  })
  return (made.status as { token: string }).token
}

const trust = async (namespace: string): Promise<Json> => {
  try {
    return (await admin.get(`${namespaced(namespace, 'configmaps')}/sidestep-trust`))['data'] as Json
  } catch (error) {
    if (isNotFound(error)) return {}
    throw error
  }
}
const rootCount = async (namespace = system): Promise<number> => String((await trust(namespace))['roots.pem'] ?? '').split('BEGIN CERTIFICATE').length - 1

function client(plane: Plane, plan: Partial<ClientPlan>): LineProcess {
  const whole: ClientPlan = { mode: 'xds', address: `127.0.0.1:${plane.port}`, serverName: 'localhost', rootsFile: join(base, 'roots.pem'), clusterId: 'Kubernetes', ...plan }
  return new LineProcess([process.execPath, clientProgram, JSON.stringify(whole)])
}
async function saveRoots(): Promise<void> {
  writeFileSync(join(base, 'roots.pem'), String((await trust(system))['roots.pem']))
}
const known = (lines: LineProcess): KnownLine['workloads'] => (lines.lines.findLast((line) => 'workloads' in (line as object)) as KnownLine | undefined)?.workloads ?? {}
const uid = (namespace: string, name: string): string => `Kubernetes//Pod/${namespace}/${name}`

async function certificate(plane: Plane, plan: Partial<ClientPlan>): Promise<CaLine> {
  await using asked = client(plane, { mode: 'ca', ...plan })
  await asked.ended
  return asked.lines[0] as CaLine
}
const identity = (namespace: string, serviceAccount: string): { trustDomain: string; namespace: string; serviceAccount: string } => ({ trustDomain: 'cluster.local', namespace, serviceAccount })

beforeAll(async () => {
  base = mkdtempSync(join(tmpdir(), 'sidestep-kube-cp-'))
  server = await ApiServer.start()
  admin = await server.client()
  for (const kind of ['authorizationpolicies', 'peerauthentications']) {
    for (const document of parseAllDocuments(readFileSync(join(crds, `${kind}.yaml`), 'utf8'))) {
      await create('/apis/apiextensions.k8s.io/v1/customresourcedefinitions', (document as { toJS(): Json }).toJS())
    }
  }
  for (const name of ['node-a', 'node-b']) await create('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name } })
  await makeNamespace(system, {}, 'sidestep-ztunnel')
  await makeNamespace('shop', { 'sidestep.dev/mesh': 'enabled' }, 'web', 'db')
  await makePod(system, 'zt-a', 'node-a', '10.244.0.2', { account: 'sidestep-ztunnel' })
  await makePod(system, 'zt-b', 'node-b', '10.244.1.2', { account: 'sidestep-ztunnel' })
  await makePod('shop', 'web-1', 'node-a', '10.244.0.3', { account: 'web', labels: { app: 'web' }, conditions: [{ type: 'Ready', status: 'True' }, { type: 'sidestep.dev/Captured', status: 'True' }] })
  await makePod('shop', 'db-1', 'node-b', '10.244.1.3', { account: 'db', labels: { app: 'db' } })
  await create(namespaced('shop', 'services'), {
    apiVersion: 'v1', kind: 'Service', metadata: { name: 'web' }, spec: { selector: { app: 'web' }, ports: [{ port: 80, targetPort: 'http' }] },
  })
  // As the endpoint slice controller of a cluster would make it; it is not to count twice.
  await create('/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices', {
    apiVersion: 'discovery.k8s.io/v1', kind: 'EndpointSlice',
    metadata: { name: 'web-xyz', labels: { 'kubernetes.io/service-name': 'web', 'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io' } },
    addressType: 'IPv4', endpoints: [{ addresses: ['10.244.0.3'], conditions: { ready: true }, targetRef: { kind: 'Pod', name: 'web-1', namespace: 'shop' } }], ports: [{ port: 8080, protocol: 'TCP' }],
  })
  await Promise.all([start('one'), start('two')])
  await eventually(async () => expect(await rootCount()).toBe(1), soon.timeout)
  await saveRoots()
}, 900_000)

afterAll(async () => {
  for (const plane of planes) await plane[Symbol.asyncDispose]()
  admin?.close()
  await server?.stop()
  rmSync(base, { recursive: true, force: true })
})

function found<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('there is none')
  return value
}
const [one, two] = [() => found(planes[0]), () => found(planes[1])]

describe('two replicas', () => {
  test('share one certificate authority, and one leads', async () => {
    await expect.poll(() => planes.filter(({ leads }) => leads).length, soon).toBe(1)
    const [first, second] = [await one().status(), await two().status()]
    expect(first.ca.expires).toBe(second.ca.expires)
    expect(planes.filter((plane) => plane.has('certificate authority made'))).toHaveLength(1)
  })

  test('tell a ztunnel with a token of Kubernetes what runs, once, and what changes', async () => {
    for (const plane of planes) {
      await using zt = client(plane, { token: await token(system, 'sidestep-ztunnel', 'zt-a'), node: 'node-a' })
      await expect.poll(() => known(zt), soon).toMatchObject({
        [uid('shop', 'web-1')]: { node: 'node-a', tunnelProtocol: 'hbone', isHealthy: true }, [uid('shop', 'db-1')]: { node: 'node-b', tunnelProtocol: 'none' },
      })
      expect(Object.keys(known(zt)).filter((each) => each.includes('EndpointSlice'))).toEqual([])
      await setStatus('shop', 'db-1', '10.244.1.3', [{ type: 'Ready', status: 'False' }, { type: 'sidestep.dev/Captured', status: 'True' }])
      await expect.poll(() => known(zt)[uid('shop', 'db-1')], soon).toMatchObject({ tunnelProtocol: 'hbone', isHealthy: false })
      await setStatus('shop', 'db-1', '10.244.1.3', [{ type: 'Ready', status: 'True' }, { type: 'sidestep.dev/Captured', status: 'False' }])
      await expect.poll(() => known(zt)[uid('shop', 'db-1')], soon).toMatchObject({ tunnelProtocol: 'none', isHealthy: true })
    }
  })

  test('sign for a node what runs there, also before it has an address, and nothing else', async () => {
    const bearer = await token(system, 'sidestep-ztunnel', 'zt-a')
    expect(await certificate(one(), { token: bearer, identity: identity('shop', 'web') })).toMatchObject({ chain: expect.any(Array) })
    expect(await certificate(two(), { token: bearer, identity: identity('shop', 'db') })).toMatchObject({ refused: 'CERTIFICATE_REFUSED', because: expect.stringContaining('runs on node node-a') })
    expect(await certificate(one(), { token: bearer, identity: identity(system, 'sidestep-ztunnel') })).toMatchObject({ because: expect.stringContaining('labelled') })
    await makePod('shop', 'starting', 'node-a', undefined, { account: 'db', conditions: [] })
    await expect.poll(() => certificate(two(), { token: bearer, identity: identity('shop', 'db') }), soon).toMatchObject({ chain: expect.any(Array) })
    await admin.delete(`${namespaced('shop', 'pods')}/starting`)
  })
})

describe('callers with other tokens', () => {
  const states = (lines: LineProcess): string => lines.lines.map((line) => (line as StateLine).because ?? '').join(' ')
  test.each<[string, () => Promise<string | undefined>, string, RegExp]>([
    ['none', async () => undefined, 'node-a', /no bearer token/],
    ['a token that no pod bears', () => token(system, 'sidestep-ztunnel', undefined), 'node-a', /not bound to a pod/],
    ['a token for somebody else', () => token(system, 'sidestep-ztunnel', 'zt-a', 'vault'), 'node-a', /another audience/],
    ['the token of a pod that is no gateway', () => token('shop', 'web', 'web-1'), 'node-a', /belongs to no gateway/],
    ['the token of another node', () => token(system, 'sidestep-ztunnel', 'zt-b'), 'node-a', /the token is for node node-b/],
    ['a token that nobody signed', async () => `${(await token(system, 'sidestep-ztunnel', 'zt-a')).slice(0, -20)}AAAAAAAAAAAAAAAAAAAA`, 'node-a', /does not know the token/],
  ])('%s are refused with the reason', async (_what, bearer, node, because) => {
    const text = await bearer()
    await using zt = client(one(), { ...(text === undefined ? {} : { token: text }), node })
    await expect.poll(() => states(zt), soon).toMatch(because)
    expect(known(zt)).toEqual({})
  })

  test('a gateway\'s pod is let in as its gateway\'s, for itself alone, until it is gone', async () => {
    const labels = { 'gateway.networking.k8s.io/gateway-name': 'way', 'networking.istio.io/tunnel': 'http' }
    await create(namespaced('shop', 'serviceaccounts'), { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'way' } })
    await makePod('shop', 'way-1', 'node-b', '10.244.1.9', { account: 'way', labels })
    const bearer = await token('shop', 'way', 'way-1')
    await expect.poll(() => certificate(one(), { token: bearer, identity: identity('shop', 'way') }), soon).toMatchObject({ chain: expect.any(Array) })
    expect(await certificate(one(), { token: bearer, identity: identity('shop', 'web') })).toMatchObject({ refused: 'CERTIFICATE_REFUSED' })
    await admin.delete(`${namespaced('shop', 'pods')}/way-1`)
    await expect.poll(() => certificate(one(), { token: bearer, identity: identity('shop', 'way') }), soon).toMatchObject({ refused: expect.any(String) })
  })
})

describe('the certificate authority', () => {
  test('takes revocations and rotations at any replica; all follow without a restart, and pods hear of it', async () => {
    const follower = found(planes.find(({ leads }) => !leads))
    const crl = (await trust(system))['crl.pem']
    await follower.ask('POST', '/revoke', { serial: '0badc0de' })
    await expect.poll(async () => (await trust(system))['crl.pem'], soon).not.toBe(crl)
    for (const plane of planes) await expect.poll(async () => (await plane.status()).ca.revoked, soon).toBe(1)
    await follower.ask('POST', '/rotate', { step: 'begin', overlapSeconds: 1 })
    for (const plane of planes) await expect.poll(async () => (await plane.status()).ca.roots, soon).toBe(2)
    await expect.poll(() => rootCount(), soon).toBe(2)
    // The leader takes the next step at its time; all sign with the new one then.
    for (const plane of planes) await expect.poll(async () => (await plane.status()).ca.rotation, soon).toBe('retiring')
    await saveRoots()
    await using zt = client(follower, { token: await token(system, 'sidestep-ztunnel', 'zt-a'), node: 'node-a' })
    await expect.poll(() => Object.keys(known(zt)), soon).toContain(uid('shop', 'web-1'))
  })

  test('is written back where somebody changes what pods trust', async () => {
    const { data } = { data: await trust(system) }
    await admin.patch(`${namespaced(system, 'configmaps')}/sidestep-trust`, { data: { 'roots.pem': 'mine' } }, 'merge')
    await expect.poll(() => trust(system), soon).toEqual(data)
    await admin.delete(`${namespaced(system, 'configmaps')}/sidestep-trust`)
    await expect.poll(() => trust(system), soon).toEqual(data)
  })
})

describe('when things fail', () => {
  test('a bad object is that object\'s alone; a policy whose kind goes away goes with it', async () => {
    const { policies, services } = await one().status()
    const path = '/apis/sidestep.dev/v1alpha1/namespaces/shop/authorizationpolicies'
    await create(path, { apiVersion: 'sidestep.dev/v1alpha1', kind: 'AuthorizationPolicy', metadata: { name: 'deny' }, spec: { action: 'DENY', rules: [{}] } })
    await expect.poll(async () => (await one().status()).policies, soon).toBe(policies + 1)
    await create(namespaced('shop', 'services'), { apiVersion: 'v1', kind: 'Service', metadata: { name: 'sctp' }, spec: { ports: [{ port: 9, protocol: 'SCTP' }] } })
    await expect.poll(async () => (await one().status()).services, soon).toBe(services + 1)
    await admin.delete('/apis/apiextensions.k8s.io/v1/customresourcedefinitions/authorizationpolicies.sidestep.dev')
    for (const plane of planes) await expect.poll(async () => (await plane.status()).policies, soon).toBe(policies)
  })

  test('the API server comes back, and what changed meanwhile and later is told; streams live on', async () => {
    await using zt = client(two(), { token: await token(system, 'sidestep-ztunnel', 'zt-b'), node: 'node-b' })
    await expect.poll(() => Object.keys(known(zt)), soon).toContain(uid('shop', 'web-1'))
    await server.stopServer('SIGKILL')
    expect((await two().status()).workloads).toBeGreaterThan(0)
    await server.startServer()
    await makePod('shop', 'late', 'node-a', '10.244.0.77', { account: 'web' })
    await expect.poll(() => Object.keys(known(zt)), { timeout: 60_000, interval: 100 }).toContain(uid('shop', 'late'))
    expect(zt.lines.filter((line) => (line as StateLine).state === 'waiting')).toEqual([])
  })

  test('the leader is killed: another leads, and does what a leader does', async () => {
    await expect.poll(() => planes.filter(({ leads }) => leads).length, { timeout: 60_000, interval: 100 }).toBe(1)
    const leader = found(planes.find(({ leads }) => leads))
    const other = found(planes.find((plane) => plane !== leader))
    await leader.end('SIGKILL')
    await admin.delete(`${namespaced(system, 'configmaps')}/sidestep-trust`)
    await expect.poll(() => other.leads, { timeout: 60_000, interval: 100 }).toBe(true)
    await expect.poll(() => rootCount(), soon).toBeGreaterThan(0)
    // One that ends well gives it up at once.
    const third = await start('three')
    await other.end('SIGTERM')
    await expect.poll(() => third.leads, soon).toBe(true)
    expect((await third.status()).ca.rotation).toBe('retiring')
  })
})
