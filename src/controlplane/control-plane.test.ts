// The control plane as a whole: a real directory, facts of pods, and what is published and said of it.
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { controlPlaneStatusSchema } from '../model/control-plane-status.ts'
import type { RunningPod } from '../model/running-pod.ts'
import { noType, type NodeStatus, type TypeStatus } from '../xds/node-records.ts'
import { XdsStore } from '../xds/store.ts'
import { ControlPlane, type ControlPlaneOptions } from './control-plane.ts'
import { DirectorySource } from './directory-source.ts'
import { InProcessPods } from './pod-source.ts'

const pod = (name: string, more: Partial<RunningPod> = {}): RunningPod => ({
  uid: name, namespace: 'shop', name, node: 'node-a', ips: ['10.0.0.1'], ready: true, labels: { app: 'web' }, serviceAccount: 'web', isCaptured: true,
  isHostNetwork: false, ports: [], ...more,
})
const facts = (...pods: RunningPod[]) => ({ pods: new Map(pods.map((each) => [`shop/${each.name}`, each])), serviceIps: new Map([['shop/web', ['10.96.0.1']]]) })
const shop = (mesh: string): string => `apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { sidestep.dev/mesh: ${mesh} } }\n---\n`
const service = 'apiVersion: v1\nkind: Service\nmetadata: { name: web, namespace: shop }\nspec: { selector: { app: web }, ports: [{ port: 80 }] }\n---\n'
const policy = (spec: string): string => `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: shop }\nspec: ${spec}\n---\n`
const serviceName = 'shop/web.shop.svc.cluster.local'
const podName = 'Kubernetes//Pod/shop/one'

let directory = ''
let store = new XdsStore()
let pods = new InProcessPods()
let plane: ControlPlane | undefined
const put = (file: string, text: string): void => writeFileSync(join(directory, file), text)

async function start(more: Partial<ControlPlaneOptions> = {}): Promise<ControlPlane> {
  plane = new ControlPlane({ config: new DirectorySource(directory), pods, store, logger: silentLogger, ...more })
  await plane.start()
  return plane
}
async function until(check: () => boolean): Promise<void> {
  for (let i = 0; i < 400 && !check(); i++) await sleep(10)
  expect(check()).toBe(true)
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-cp-'))
  store = new XdsStore()
  pods = new InProcessPods()
})
afterEach(async () => {
  await plane?.close()
  rmSync(directory, { recursive: true, force: true })
})

describe('the control plane', () => {
  test('publishes all there is at once, and then what files and facts change', async () => {
    put('a.yaml', shop('enabled') + service)
    pods.update(facts(pod('one')))
    await start()
    const { address, authorization } = store.logs
    expect([...address.names()].sort()).toEqual([podName, serviceName])
    const version = address.get(podName)?.version
    pods.update(facts(pod('one', { ready: false }), pod('two', { ips: ['10.0.0.2'] })))
    await until(() => address.find('/10.0.0.2').length === 1)
    expect(address.get(podName)?.version).not.toBe(version)
    expect(address.find('/10.96.0.1').map(({ name }) => name)).toEqual([serviceName])
    put('b.yaml', policy('{ action: DENY, rules: [{}] }'))
    await until(() => authorization.get('shop/p') !== undefined)
    rmSync(join(directory, 'b.yaml'))
    await until(() => authorization.get('shop/p') === undefined)
    pods.update(facts())
    await until(() => address.get(podName) === undefined)
  })

  test('what is bad is reported on that object, the last good state stays, and all else goes on', async () => {
    put('a.yaml', service + policy('{ action: DENY, rules: [{}] }'))
    const { objectStatus, status } = await start().then((it) => ({ objectStatus: it.objectStatus.bind(it), status: it.status.bind(it) }))
    const version = store.logs.authorization.get('shop/p')?.version
    expect(version).toBeDefined()
    put('a.yaml', service.replace('80', '81') + policy('{ action: DENY, rules: [{ from: [{ source: { principal: [x] } }] }] }') + policy('{}').replace('p,', 'q,'))
    await until(() => store.logs.authorization.get('shop/q') !== undefined)
    expect(store.logs.authorization.get('shop/p')?.version).toBe(version)
    expect(objectStatus('AuthorizationPolicy shop/p')).toMatchObject({ accepted: false, problems: expect.arrayContaining([expect.stringContaining('principal')]), resources: ['shop/p'] })
    expect(objectStatus('Service shop/web')).toMatchObject({ accepted: true, problems: [] })
    put('a.yaml', 'kind: [')
    await until(() => status().problems.length === 1)
    expect(store.logs.authorization.get('shop/q')).toBeDefined()
  })

  test('an address that is none keeps nothing else from being published', async () => {
    pods.update(facts(pod('one', { ips: ['nonsense'] }), pod('two')))
    await start()
    expect([...store.logs.address.names()]).toEqual(['Kubernetes//Pod/shop/two'])
  })

  test('says for which pods a node may have certificates', async () => {
    put('a.yaml', shop('enabled'))
    pods.update(facts(pod('one'), pod('two', { node: 'node-b', serviceAccount: 'db', labels: { 'sidestep.dev/mesh': 'disabled' } })))
    const { mayHave } = await start().then((it) => ({ mayHave: it.mayHave.bind(it) }))
    const identity = (serviceAccount: string) => ({ trustDomain: 'cluster.local', namespace: 'shop', serviceAccount })
    expect(mayHave('node-a', identity('web'))).toBe(true)
    expect(mayHave('node-b', identity('web'))).toContain('runs on node node-b')
    expect(mayHave('node-b', identity('db'))).toContain('labelled')
    pods.update(facts())
    expect(mayHave('node-a', identity('web'))).toContain('no pod')
  })

  test('a directory that is not there is an error', async () => {
    const missing = new ControlPlane({ config: new DirectorySource(join(directory, 'no')), pods, store, logger: silentLogger })
    await expect(missing.start()).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    await missing.close()
  })
})

describe('the status file', () => {
  const type = (more: Partial<TypeStatus> = {}): TypeStatus => ({ subscribed: 'all', behind: 0, waitingSinceMs: undefined, pushes: 1, acked: 1, nacked: 0, ...more })
  const node = (name: string, more: Partial<NodeStatus> = {}): NodeStatus => ({
    node: name, identity: name, peer: '', connectedAtMs: 1, disconnectedAtMs: undefined, types: { address: type(), authorization: type(), waypoint: noType }, nacks: [], ...more,
  })

  test('is whole, private, and says what nodes said', async () => {
    const file = join(directory, 'status')
    let nodes: NodeStatus[] = []
    put('a.yaml', service + policy('{ action: AUDIT }') + policy('{}').replace('p,', 'q,'))
    await start({ statusFile: file, nodes: () => nodes })
    const read = () => {
      try {
        return controlPlaneStatusSchema.parse(JSON.parse(readFileSync(file, 'utf8')))
      } catch (error) {
        // Not there yet; anything else is a mistake.
        if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
        throw error
      }
    }
    const of = (object: string) => read()?.objects.find((each) => each.object === object)
    await until(() => read()?.ready === true)
    expect(statSync(file).mode & 0o777).toBe(0o600)
    expect(of('AuthorizationPolicy shop/p')).toMatchObject({ accepted: false, problems: [expect.stringContaining('AUDIT')], resources: [], file: 'a.yaml' })
    expect(of('AuthorizationPolicy shop/q')).toMatchObject({ accepted: true, acked: [], pending: [], nacked: [] })
    nodes = [
      node('node-a'),
      node('node-b', { nacks: [{ type: 'authorization', resource: 'shop/q', because: 'too new', atMs: 1 }] }),
      node('node-c', { types: { address: type(), authorization: type({ behind: 2 }), waypoint: noType } }),
      node('node-d', { disconnectedAtMs: 2 }),
    ]
    await until(() => (of('AuthorizationPolicy shop/q')?.acked.length ?? 0) > 0)
    expect(of('AuthorizationPolicy shop/q')).toMatchObject({ acked: ['node-a'], pending: ['node-c'], nacked: [{ node: 'node-b', because: 'too new' }] })
    expect(of('Service shop/web')).toMatchObject({ acked: ['node-a', 'node-b', 'node-c'], resources: [serviceName] })
    put('b.yaml', policy('{}').replace('p,', 'late,'))
    await until(() => store.logs.authorization.get('shop/late') !== undefined)
    await plane?.close()
    expect(of('AuthorizationPolicy shop/late')).toBeDefined()
    expect(readdirSync(directory).sort()).toEqual(['a.yaml', 'b.yaml', 'status'])
  })
})
