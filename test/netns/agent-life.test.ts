// What the node agent and its pods live through: the plugin that asks, agents and ztunnels that die and come again, an agent that
// replaces another, an API server that is away, and whoever undoes what was put in force.
import { execFileSync } from 'node:child_process'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { decodeLines, encodeLine } from '../../src/core/ndjson.ts'
import type { CniAnswer } from '../../src/agent/cni-server.ts'
import { listenerKind } from '../../src/kernel/generated/layout.ts'
import { cgroupHooks, fenceLink, hookLink, lookupLink } from '../../src/kernel/hooks.ts'
import { Maps } from '../../src/kernel/maps.ts'
import { native } from '../../src/kernel/native.ts'
import { allMaps, pinnedMaps } from '../../src/kernel/pinned-maps.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { Pins } from '../../src/kernel/pins.ts'
import { AgentWorld } from '../helpers/agent-world.ts'
import type { WorldPod } from '../helpers/agent-world.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })
const enabled = { 'sidestep.dev/mesh': 'enabled' } as const

let world: AgentWorld
const pods: WorldPod[] = []

beforeAll(async () => {
  world = await AgentWorld.make()
  world.namespace('shop', enabled)
  world.namespace('dev', { ...enabled, 'sidestep.dev/failure-mode': 'open' })
  world.namespace('other', {})
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

/** As the plugin asks. */
function ask(command: 'ADD' | 'DEL' | 'CHECK', pod: WorldPod, more: Readonly<Record<string, unknown>> = {}): Promise<CniAnswer> {
  const { namespace, name, uid, sandboxId: containerId, netns, ip } = pod
  return new Promise((resolve, reject) => {
    const socket = connect(world.path('cni.sock'), () => socket.write(encodeLine({ v: 1, command, namespace, name, uid, containerId, netns, ips: [ip], ...more })))
    socket.on('data', decodeLines(1 << 16, (value) => resolve(value as CniAnswer), reject))
    socket.on('error', reject)
  })
}

const pinned = (): { pins: Pins; maps: Maps } => {
  const pins = new Pins(world.instance)
  return { pins, maps: new Maps(allMaps(pinnedMaps(pins))) }
}
const cookieOf = async ({ uid }: WorldPod): Promise<bigint> => BigInt((await world.served()).find((each) => each.uid === uid)?.netnsCookie ?? 0)

/** `carried` by the ztunnel, which accepts also for where nobody listens, and may have reset it before we look; else why not. */
function outcome({ process: { pid } }: WorldPod): string {
  const script = "const s=require('node:net').connect(9,'10.63.0.1');s.on('connect',()=>{console.log('carried');process.exit()}).on('error',(e)=>{console.log(e.code==='ECONNRESET'?'carried':e.code);process.exit()})"
  return execFileSync('nsenter', [`--net=/proc/${pid}/ns/net`, process.execPath, '-e', script], { encoding: 'utf8' }).trim()
}

describe('the plugin', () => {
  test('holds a pod of the mesh until it is captured, before the kubelet has told its addresses', async () => {
    const web = await pod('asked', { isPending: true })
    await expect.poll(() => ask('ADD', web), { timeout: 60_000, interval: 100 }).toEqual({ ok: true, captured: true })
    await world.serves(web)
    expect(outcome(web)).toBe('carried')
    await world.captured(web)
    expect(await ask('CHECK', web)).toEqual({ ok: true, captured: true })
    // The same once more is the same.
    expect(await ask('ADD', web)).toEqual({ ok: true, captured: true })
    // Somebody else's sandbox is none of its business.
    expect(await ask('DEL', web, { containerId: 'f'.repeat(64) })).toEqual({ ok: true, captured: false })
    await sleep(300)
    await world.serves(web)
    expect(await ask('DEL', web, { netns: '', ips: [] })).toEqual({ ok: true, captured: false })
    world.end(web)
    await world.serves()
  })

  test('is told of a pod before the watch is: the API server is asked', async () => {
    const web = await world.sandbox({ namespace: 'shop', name: 'new', uid: 'aaaaaaaa-0000-4000-8000-000000000001' })
    pods.push(web)
    const answered = ask('ADD', web)
    await sleep(200)
    world.show(web, { isPending: true })
    expect(await answered).toEqual({ ok: true, captured: true })
  })

  test('lets pods outside pass at once, and does not hold one of another uid', async () => {
    expect(await ask('ADD', await pod('outside', { namespace: 'other', isPending: true }))).toEqual({ ok: true, captured: false })
    expect(await ask('ADD', await pod('said-no', { labels: { 'sidestep.dev/mesh': 'disabled' }, isPending: true }))).toEqual({ ok: true, captured: false })
    expect(await ask('ADD', await pod('nobody', { namespace: 'other' }), { namespace: 'unknown', name: 'nobody' })).toEqual({ ok: true, captured: false })
    const web = await pod('replaced', { isPending: true })
    expect(await ask('ADD', web, { uid: 'aaaaaaaa-0000-4000-8000-00000000000f' })).toMatchObject({ ok: false, failureMode: 'closed' })
    expect(await world.served()).toEqual([])
  })

  test('is not believed about a namespace that is another pod\'s, or that of the node, or lacks the address', async () => {
    const first = await pod('first', { isPending: true })
    expect(await ask('ADD', first)).toEqual({ ok: true, captured: true })
    const second = await pod('second', { isPending: true })
    expect(await ask('ADD', second, { netns: first.netns, ips: [first.ip] })).toMatchObject({ ok: false, because: expect.stringContaining('shop/first') })
    expect(await ask('ADD', second, { netns: `/proc/${world.node.pid}/ns/net`, ips: ['10.63.0.1'] })).toMatchObject({ ok: false, because: expect.stringContaining('node') })
    expect(await ask('ADD', second, { ips: ['10.63.0.251'] })).toMatchObject({ ok: false, because: expect.stringContaining('10.63.0.251') })
    expect(await ask('ADD', second, { netns: '/dev/null' })).toMatchObject({ ok: false })
    await world.serves(first)
  })

  test('goes by what was known while the API server is away', async () => {
    const [closed, open, outside] = [await pod('closed', { isPending: true }), await pod('open', { namespace: 'dev', isPending: true }), await pod('free', { namespace: 'other', isPending: true })]
    await sleep(300)
    const unknown: WorldPod = { ...closed, name: 'unknown', uid: 'aaaaaaaa-0000-4000-8000-000000000002' }
    world.api.fault = () => 'reset'
    try {
      // Pods that the watch has shown are captured as ever.
      expect(await ask('ADD', closed)).toEqual({ ok: true, captured: true })
      expect(await ask('ADD', open)).toEqual({ ok: true, captured: true })
      expect(await ask('ADD', outside)).toEqual({ ok: true, captured: false })
      expect(await ask('ADD', unknown)).toMatchObject({ ok: false, failureMode: 'closed' })
      expect(await ask('ADD', { ...unknown, namespace: 'dev' })).toMatchObject({ ok: false, failureMode: 'open' })
      expect(await ask('ADD', { ...unknown, namespace: 'other' })).toEqual({ ok: true, captured: false })
    } finally {
      world.api.fault = () => undefined
    }
  })
})

async function destroyListener({ netns: path }: WorldPod): Promise<void> {
  const netns = await Netns.open(path)
  expect(await netns.destroyConnection({ ip: '::', port: 15_001 }, { ip: '::', port: 0 })).toBe(true)
  netns.close()
}

describe('the audit puts back', () => {
  const undo: readonly (readonly [string, string, (pod: WorldPod, cookie: bigint) => void | Promise<void>])[] = [
    ['an entry that was deleted', 'podEntry', (_pod, cookie) => void pinned().maps.pods.delete(cookie)],
    ['another address', 'podEntry', (_pod, cookie) => {
      const { maps } = pinned()
      const entry = maps.pods.get(cookie)
      if (entry) maps.pods.set(cookie, { ...entry, ip4: entry.ip4.map((byte, i) => (i === 15 ? 99 : byte)) })
    }],
    ['an open mode', 'podEntry', (_pod, cookie) => {
      const { maps } = pinned()
      const entry = maps.pods.get(cookie)
      if (entry) maps.pods.set(cookie, { ...entry, flags: entry.flags | 1 })
    }],
    ['a port that lets plain text in', 'probePort', (_pod, cookie) => pinned().maps.probePorts.set({ netnsCookie: cookie, port: 8080 }, 1)],
    ['listeners taken out of the map', 'listener', (_pod, cookie) => {
      const { maps } = pinned()
      for (const kind of [listenerKind.outbound, listenerKind.inbound, listenerKind.dns]) maps.listeners.delete({ netnsCookie: cookie, kind })
    }],
    ['a listener that was destroyed', 'listener', destroyListener],
    ['inbound steering that was taken off', 'lookup', (_pod, cookie) => {
      const link = pinned().pins.get(lookupLink(cookie))
      if (link) native().linkDetach(link)
    }],
    ['inbound steering that was unpinned', 'lookup', (_pod, cookie) => pinned().pins.remove(lookupLink(cookie))],
    ['a fence that was unpinned', 'fence', (_pod, cookie) => {
      const { pins, maps } = pinned()
      for (const [ifindex, owner] of maps.fences.entries()) if (owner === cookie) pins.remove(fenceLink(cookie, ifindex))
    }],
    ['hooks that were taken off, and one that was unpinned', 'hook', () => {
      const { pins } = pinned()
      for (const { program } of cgroupHooks.slice(1)) {
        const link = pins.get(hookLink(program))
        if (link) native().linkDetach(link)
      }
      pins.remove(hookLink(cgroupHooks[0]?.program ?? ''))
    }],
  ]

  test.each(undo)('%s', async (_what, _kind, undoing) => {
    const web = await pod('audited', { isPending: true })
    expect(await ask('ADD', web)).toEqual({ ok: true, captured: true })
    await world.captured(web)
    const cookie = await cookieOf(web)
    const before = world.logged(world.agent, 'capture of a pod was undone: enrolling it again').length
    const condition = world.condition(web)
    await undoing(web, cookie)
    await expect.poll(() => world.logged(world.agent, 'capture of a pod was undone: enrolling it again').length, { timeout: 30_000 }).toBe(before + 1)
    await expect.poll(() => outcome(web), { timeout: 30_000 }).toBe('carried')
    // Nothing is left to repair, and nobody had to be told.
    await sleep(2_500)
    expect(world.logged(world.agent, 'capture of a pod was undone: enrolling it again').length).toBe(before + 1)
    expect(world.condition(web)).toEqual(condition)
    const entry = pinned().maps.pods.get(cookie)
    expect(entry?.flags).toBe(2)
    expect([...entry?.ip4 ?? []].at(-1)).toBe(Number(web.ip.split('.').at(-1)))
  })
})

describe('survives', () => {
  test('its own death: pods stay captured, are the same pods after, and what changed meanwhile is made up for', async () => {
    const [stays, goes, leaves] = [await pod('stays'), await pod('goes'), await pod('leaves')]
    for (const each of [stays, goes, leaves]) await world.captured(each)
    const cookie = await cookieOf(stays)
    const captures = ({ name }: WorldPod): number =>
      world.logged(world.ztunnel, 'pod captured').filter((line) => (line as Record<string, unknown>)['pod.name'] === name).length
    process.kill(world.agent?.pid ?? 0, 'SIGKILL')
    await world.agent?.ended
    expect(outcome(stays)).toBe('carried')
    world.end(goes)
    world.show(leaves, { labels: { 'sidestep.dev/mesh': 'disabled' } })
    const comes = await pod('comes')
    world.startAgent()
    await world.serves(stays, comes)
    expect(await cookieOf(stays)).toBe(cookie)
    // Only the new one was captured: the other was not let go for a moment.
    await expect.poll(() => [stays, goes, leaves, comes].map(captures)).toEqual([1, 1, 1, 1])
    expect(outcome(stays)).toBe('carried')
    await world.captured(comes)
    await expect.poll(() => world.condition(leaves)).toMatchObject({ status: 'False', reason: 'NotInMesh' })
  })

  test('its death where a namespace cannot be found after: the ztunnel keeps the pod', async () => {
    const [found, lost] = [await pod('found'), await pod('lost', { isPending: true })]
    expect(await ask('ADD', lost)).toEqual({ ok: true, captured: true })
    world.show(lost)
    await world.captured(found)
    await world.captured(lost)
    process.kill(world.agent?.pid ?? 0, 'SIGKILL')
    await world.agent?.ended
    // Out of its cgroup: neither runtime nor processes tell any more where it is.
    world.joinCgroup(lost.process.pid, 'elsewhere')
    world.startAgent()
    await world.captured(found)
    await sleep(3_000)
    await world.serves(found, lost)
    expect(outcome(lost)).toBe('carried')
    expect(world.condition(lost)).toMatchObject({ status: 'True' })
    world.joinCgroup(lost.process.pid, `kubepods/burstable/pod${lost.uid}/container`)
    await expect.poll(() => JSON.stringify(world.logged(world.agent, 'network namespace is proved')), { timeout: 30_000 }).toContain('"lost"')
  })

  test('the death of its ztunnel: another is told everything, and no condition changes', async () => {
    const web = await pod('carried')
    await world.captured(web)
    const condition = world.condition(web)
    process.kill(world.ztunnel?.pid ?? 0, 'SIGKILL')
    await world.ztunnel?.ended
    expect(outcome(web)).not.toBe('carried')
    world.startZtunnel()
    await world.serves(web)
    expect(outcome(web)).toBe('carried')
    expect(world.condition(web)).toEqual(condition)
  })

  test('a newer agent: it takes over, the older one does nothing any more, and comes back when the newer dies', async () => {
    const web = await pod('handed-over')
    await world.captured(web)
    const older = world.agent
    const ownZtunnel = { SIDESTEP_AGENT_SOCKET: world.path('agent-2.sock') }
    const newer = world.startAgent(ownZtunnel)
    await sleep(1_500)
    // Without a ztunnel of its own it leaves the node to the older.
    expect(world.logged(older, 'a newer node agent has taken over')).toEqual([])
    const second = world.startZtunnel({ ...ownZtunnel, SIDESTEP_ADMIN_SOCKET: world.path('ztunnel-2.sock') })
    await expect.poll(() => world.logged(older, 'a newer node agent has taken over').length, { timeout: 60_000 }).toBe(1)
    await expect.poll(() => world.logged(second, 'pod captured').length, { timeout: 30_000 }).toBe(1)
    const later = await pod('later', { isPending: true })
    expect(await ask('ADD', later)).toEqual({ ok: true, captured: true })
    await expect.poll(() => world.logged(second, 'pod captured').length).toBe(2)
    world.show(later)
    expect(world.logged(older, 'capture of a pod was undone: enrolling it again').length).toBeLessThan(100)
    // The upgrade failed: both of the new pod die.
    for (const each of [newer, second]) {
      process.kill(each.pid, 'SIGKILL')
      await each.ended
    }
    world.agent = older
    await expect.poll(() => outcome(web), { timeout: 60_000, interval: 500 }).toBe('carried')
    await expect.poll(() => outcome(later), { timeout: 60_000, interval: 500 }).toBe('carried')
  })
})

test('says in the condition what the audit cannot restore', async () => {
  const web = await pod('broken', { isPending: true })
  expect(await ask('ADD', web)).toEqual({ ok: true, captured: true })
  await world.captured(web)
  // Its listeners' ports are taken when they are gone.
  const squatter = `require('node:net').createServer().listen(15001, () => console.log('"taken"'))`
  await destroyListener(web)
  const child = await world.inside(web, [process.execPath, '-e', squatter])
  await expect.poll(() => world.condition(web), { timeout: 30_000 }).toMatchObject({ status: 'False', reason: 'CaptureLost' })
  await child.stop()
  await world.captured(web)
})
