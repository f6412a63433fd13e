// The node agent with a real ztunnel: which pods it captures, how it finds their namespaces, and whom it does not believe.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { podType } from '../../src/kube/testing.ts'
import { AgentWorld } from '../helpers/agent-world.ts'
import type { WorldPod } from '../helpers/agent-world.ts'
import { hold } from '../native/test-netns.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })
const enabled = { 'sidestep.dev/mesh': 'enabled' } as const

let world: AgentWorld
const pods: WorldPod[] = []

beforeAll(async () => {
  world = await AgentWorld.make()
  await world.startRuntime()
  world.namespace('shop', enabled)
  world.namespace('dev', { ...enabled, 'sidestep.dev/failure-mode': 'open' })
  world.namespace('other', {})
  world.namespace('sidestep-system', enabled)
  await world.start()
})
afterAll(() => world[Symbol.asyncDispose]())
afterEach(() => {
  for (const pod of pods.splice(0)) world.end(pod)
})

async function pod(...args: Parameters<AgentWorld['pod']>): Promise<WorldPod> {
  const made = await world.pod(...args)
  pods.push(made)
  return made
}

/** Time for the agent to do what it must not do. */
const meanwhile = (): Promise<void> => sleep(2_500)

describe('finds a pod\'s namespace', () => {
  test('by the container runtime, and says so in a condition', async () => {
    const web = await pod('web-1', { spec: { containers: [{ readinessProbe: { httpGet: { port: 8080 } } }] } })
    world.runtimeSays(web)
    await world.captured(web)
    const [served] = (await world.served()).filter(({ uid }) => uid === web.uid)
    expect(served?.ips).toEqual([web.ip])
  })

  test('by its processes where the runtime does not know it', async () => {
    const web = await pod('web-2')
    await world.captured(web)
    await world.serves(web)
  })

  test('by its processes also where one of them sits in another namespace, and is older', async () => {
    const stranger = await hold('link set lo up')
    const web = await pod('web-3', { isPending: true })
    world.joinCgroup(stranger.pid, `kubepods/burstable/pod${web.uid}/container-0`)
    world.show(web)
    await world.captured(web)
    await stranger.stop()
  })
})

describe('does not believe', () => {
  test('a runtime that names the namespace of another pod', async () => {
    const victim = await pod('victim')
    world.runtimeSays(victim)
    await world.captured(victim)
    const web = await world.sandbox({ namespace: 'shop', name: 'liar', uid: 'aaaaaaaa-0000-4000-8000-000000000000' })
    pods.push(web)
    world.show(web)
    world.runtimeSays(web, { path: victim.netns, pid: victim.process.pid, ips: [victim.ip] })
    // Its processes tell its own namespace, which has its address.
    await world.captured(web)
    expect((await world.served()).find(({ uid }) => uid === victim.uid)?.ips).toEqual([victim.ip])
    expect((await world.served()).find(({ uid }) => uid === web.uid)?.ips).toEqual([web.ip])
  })

  test('anybody about a namespace without the pod\'s address', async () => {
    const web = await pod('wrong-address', { ips: ['10.63.0.250'] })
    world.runtimeSays(web)
    await meanwhile()
    expect((await world.served()).map(({ uid }) => uid)).not.toContain(web.uid)
    await expect.poll(() => world.condition(web), { timeout: 30_000 }).toMatchObject({ status: 'False', reason: 'NetworkNamespaceNotProven', message: expect.stringContaining('10.63.0.250') })
    // With its own address it is captured, and the condition says so.
    world.show(web)
    await world.captured(web)
  })

  test('anybody about the node\'s own namespace', async () => {
    const web = await pod('node-namespace', { ips: ['10.63.0.1'] })
    world.runtimeSays(web, { path: `/proc/${world.node.pid}/ns/net`, pid: world.node.pid, ips: ['10.63.0.1'] })
    await meanwhile()
    expect((await world.served()).map(({ uid }) => uid)).not.toContain(web.uid)
    world.runtimeForgets(web)
  })

  test('a cgroup that a pod made below its own, with another pod\'s name', async () => {
    const attacker = await pod('attacker', { namespace: 'other' })
    const victim = await pod('victim-2', { isPending: true })
    await victim.process.stop()
    // In the attacker's namespace is even the victim's address.
    execFileSync('nsenter', [`--net=${attacker.netns}`, 'ip', 'addr', 'add', `${victim.ip}/24`, 'dev', 'eth0'])
    world.joinCgroup(attacker.process.pid, `kubepods/burstable/pod${attacker.uid}/container/kubepods/burstable/pod${victim.uid}/container`)
    world.show(victim)
    await meanwhile()
    expect((await world.served()).map(({ uid }) => uid)).not.toContain(victim.uid)
  })

  test('a foreign process in a pod\'s namespace changes nothing', async () => {
    const web = await pod('visited')
    world.runtimeSays(web)
    await world.captured(web)
    const before = await world.served()
    const guest = await pod('guest', { isPending: true })
    await guest.process.stop()
    const stranger = await hold('link set lo up')
    // A process of the guest's cgroup goes into the namespace of the other.
    const visitor = execFileSync('sh', ['-c', `nsenter --net=${web.netns} sleep 60 > /dev/null 2>&1 & echo $!`], { encoding: 'utf8' }).trim()
    world.joinCgroup(Number(visitor), `kubepods/burstable/pod${guest.uid}/container`)
    world.show(guest)
    await meanwhile()
    expect(await world.served()).toEqual(before)
    process.kill(Number(visitor), 'SIGKILL')
    await stranger.stop()
  })
})

describe('who is wanted', () => {
  test('nobody outside, of the node, of the mesh itself, or with a sidecar', async () => {
    const made = await Promise.all([
      pod('outside', { namespace: 'other' }), pod('said-no', { labels: { 'sidestep.dev/mesh': 'disabled' } }), pod('host', { spec: { hostNetwork: true, containers: [] } }),
      pod('sidecar', { annotations: { 'sidecar.istio.io/status': '{}' } }), pod('of-the-mesh', { namespace: 'sidestep-system' }), pod('gateway', { labels: { 'networking.istio.io/tunnel': 'http' } }),
    ])
    for (const each of made) world.runtimeSays(each)
    await meanwhile()
    expect(await world.served()).toEqual([])
    const [outside, , host, sidecar, system, gateway] = made
    expect(outside && world.condition(outside)).toBeUndefined()
    expect(gateway && world.condition(gateway)).toBeUndefined()
    expect(host && world.condition(host)).toMatchObject({ status: 'False', reason: 'HostNetwork' })
    expect(sidecar && world.condition(sidecar)).toMatchObject({ status: 'False', reason: 'HasSidecar' })
    expect(system && world.condition(system)).toMatchObject({ status: 'False', reason: 'SystemNamespace' })
  })

  test('a pod that is labelled later, while it runs; and out again: told first, then let go', async () => {
    const web = await pod('late', { namespace: 'other' })
    world.runtimeSays(web)
    await meanwhile()
    expect(world.condition(web)).toBeUndefined()
    world.namespace('other', enabled)
    await world.captured(web)
    world.namespace('other', {})
    await expect.poll(() => world.condition(web), { timeout: 30_000, interval: 20 }).toMatchObject({ status: 'False', reason: 'NotInMesh' })
    expect((await world.served()).map(({ uid }) => uid)).toContain(web.uid)
    await world.serves()
    // Back in before it has left: stays captured throughout.
    world.namespace('other', enabled)
    await world.captured(web)
    world.namespace('other', {})
    await expect.poll(() => world.condition(web)?.status, { timeout: 30_000, interval: 20 }).toBe('False')
    world.namespace('other', enabled)
    await world.captured(web)
    await meanwhile()
    await world.serves(web)
    world.namespace('other', {})
    await world.serves()
  })

  test('a job that has ended is let go at once, and a pod that is gone too', async () => {
    const job = await pod('job')
    const gone = await pod('gone')
    for (const each of [job, gone]) world.runtimeSays(each)
    await world.captured(job)
    await world.captured(gone)
    const known = world.api.get(podType, 'job', 'shop')
    world.api.put(podType, { ...known, metadata: { ...known?.metadata, name: 'job' }, status: { ...(known?.status as object), phase: 'Succeeded' } } as never)
    world.end(gone)
    await world.serves()
    await expect.poll(() => world.condition(job)).toMatchObject({ status: 'False', reason: 'PodEnded' })
  })
})

test('a pod with a new sandbox is captured in the new namespace, without the plugin', async () => {
  const web = await pod('sandboxed')
  world.runtimeSays(web)
  await world.captured(web)
  const cookie = (await world.served())[0]?.netnsCookie
  const anew = await world.sandbox(web)
  world.runtimeForgets(web)
  await web.process.stop()
  world.runtimeSays(anew)
  world.show(anew)
  await expect.poll(async () => (await world.served())[0], { timeout: 60_000 }).toMatchObject({ uid: web.uid, ips: [anew.ip] })
  expect((await world.served())[0]?.netnsCookie).not.toBe(cookie)
  await world.captured(anew)
})

test('namespaces of the mesh are written down for the plugin', async () => {
  await expect.poll(() => JSON.parse(readFileSync(world.path('namespaces.json'), 'utf8')) as unknown).toEqual({ v: 1, namespaces: { dev: 'open', shop: 'closed' } })
})
