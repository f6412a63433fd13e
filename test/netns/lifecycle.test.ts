// What happens to traffic when labels change, when the ztunnel dies and when it comes back. The hooks are pinned, so its
// death changes nothing but the answer: refused, or passed where the namespace's owner chose so.
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { silentLogger } from '../../src/core/log.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { Redirection } from '../../src/kernel/redirection.ts'
import { runProbe, startProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { loadedPrograms } from '../helpers/instances.ts'
import { World, eventually } from '../helpers/meshed-world.ts'

const scratch = mkdtempSync(join(tmpdir(), 'sidestep-lifecycle-'))
/** While this file exists, a ztunnel that should start waits. */
const hold = join(scratch, 'hold')
const ztunnel = fileURLToPath(new URL('../../src/bin/ztunnel.ts', import.meta.url))
const heldZtunnel = ['sh', '-c', `while [ -e ${hold} ]; do sleep 0.02; done; exec ${process.execPath} ${ztunnel} "$@"`, 'ztunnel']

let world: World
let server: RunningServer
let outside: RunningServer

beforeAll(async () => {
  const pods = [
    { name: 'client', node: 'node-a' },
    { name: 'easy', node: 'node-a', failureMode: 'open' },
    { name: 'server', node: 'node-b' },
    { name: 'stranger', node: 'node-a', isPlain: true },
  ] as const
  world = await World.start(pods, '', heldZtunnel)
  server = await startServer(['--echo', '7001', '--dns', '53', '--record', 'a.test=192.0.2.1'], world.inside('server'))
  outside = await startServer(['--echo', '7001', '--dns', '53', '--record', 'a.test=192.0.2.1'], world.inside('outside'))
})
afterAll(async () => {
  rmSync(scratch, { recursive: true, force: true })
  await server?.stop()
  await outside?.stop()
  await world?.[Symbol.asyncDispose]()
})

const echo = (from: string, to: string): ReturnType<typeof runProbe<'connect'>> =>
  runProbe('connect', [world.ip(to), 7001, '--send', 'hello', '--timeout', '2000'], world.inside(from))

const label = (namespace: string, value: string): void => {
  world.mesh.apply(`apiVersion: v1\nkind: Namespace\nmetadata: {name: ${namespace}, labels: {sidestep.dev/mesh: ${value}}}`)
}

const isKnown = async (name: string): Promise<boolean> => (await world.ztunnel('node-a')).pods.some((pod) => pod.name === name)

test('a labelled namespace is captured live; what stands is left alone and counted; unlabelled it is released', async () => {
  // A connection from before, kept talking through it all.
  const standing = await startProbe('many', [world.ip('outside'), 7001, 3, '--hold', 30, '--echo'], { ...world.inside('stranger'), timeoutMs: 40_000 })
  await eventually('three connections stand', async () => {
    const netns = await Netns.open(world.netns('stranger'))
    try {
      return (await netns.liveConnections()).filter(({ destination }) => destination.port === 7001).length === 3
    } finally {
      netns.close()
    }
  })

  label('plain', 'enabled')
  await eventually('the pod is captured', () => isKnown('stranger'))
  expect((await world.counts('stranger')).existing).toBe(3)
  expect(await echo('stranger', 'outside')).toMatchObject({ ok: true, reply: 'hello' })
  expect((await world.counts('stranger')).outbound).toBe(1)

  label('plain', 'disabled')
  await eventually('the pod is released', async () => !(await isKnown('stranger')))
  const before = (await world.counters('node-a'))['redirected']
  expect(await echo('stranger', 'outside')).toMatchObject({ ok: true, reply: 'hello' })
  expect((await world.counters('node-a'))['redirected']).toBe(before)

  // The three were never touched: they are alive on both sides.
  const netns = await Netns.open(world.netns('stranger'))
  expect((await netns.liveConnections()).filter(({ destination }) => destination.port === 7001)).toHaveLength(3)
  netns.close()
  await standing.stop()
})

test('connections being carried go on when their pod is released', async () => {
  label('plain', 'enabled')
  await eventually('the pod is captured', () => isKnown('stranger'))
  const carried = await startProbe('many', [world.ip('outside'), 7001, 5, '--hold', 30, '--echo'], { ...world.inside('stranger'), timeoutMs: 40_000 })
  await eventually('five are carried', async () => (await world.counts('stranger')).open === 5)
  label('plain', 'disabled')
  await eventually('the pod is released, and drains', async () => (await world.ztunnel('node-a')).draining === 1)
  expect((await world.ztunnel('node-a')).connections.open).toBeGreaterThanOrEqual(5)
  await carried.stop()
  await eventually('the last has ended', async () => (await world.ztunnel('node-a')).draining === 0, 30_000)
})

test('a pod captured again while its old connections drain keeps its way home', async () => {
  await using app = await startServer(['--echo', '7006'], world.inside('stranger'))
  label('plain', 'enabled')
  await eventually('the pod is captured', () => isKnown('stranger'))
  const held = await startProbe('many', [world.ip('stranger'), 7006, 2, '--hold', 30, '--echo'], { ...world.inside('outside'), timeoutMs: 40_000 })
  await eventually('two are carried', async () => (await world.counts('stranger')).open === 2)
  label('plain', 'disabled')
  await eventually('the pod drains', async () => (await world.ztunnel('node-a')).draining === 1)
  label('plain', 'enabled')
  await eventually('the pod is captured again', () => isKnown('stranger'))
  await held.stop()
  await eventually('the last of old has ended', async () => (await world.ztunnel('node-a')).draining === 0, 30_000)
  expect(await runProbe('connect', [world.ip('stranger'), 7006, '--send', 'x', '--timeout', '2000'], world.inside('outside'))).toMatchObject({ ok: true, reply: 'x' })
  expect((await world.counts('stranger')).inbound).toBe(1)
  label('plain', 'disabled')
  await eventually('the pod is released', async () => !(await isKnown('stranger')))
  await app.stop()
})

test('kill -9: closed refuses, open passes, both by the hooks alone; a restart takes over without duplicates', async () => {
  expect(await echo('client', 'server')).toMatchObject({ ok: true })
  const directory = `/sys/fs/bpf/sidestep/${world.mesh.name}-node-a`
  const pinned = readdirSync(directory, { recursive: true }).map(String).toSorted()
  const { pid, counters } = await world.ztunnel('node-a')

  writeFileSync(hold, '')
  process.kill(pid, 'SIGKILL')
  await eventually('it is dead', async () => !existsSync(`/proc/${pid}`))

  expect(await echo('client', 'outside')).toMatchObject({ ok: false, stage: 'connect', errno: 'ECONNREFUSED' })
  expect((await runProbe('dns', ['a.test', world.ip('outside'), '--connected', '--timeout', '500'], world.inside('client'))).ok).toBe(false)
  expect(await echo('easy', 'outside')).toMatchObject({ ok: true, reply: 'hello' })
  expect((await runProbe('dns', ['a.test', world.ip('outside')], world.inside('easy'))).ok).toBe(true)
  // Inbound: to the closed pod nothing gets in, to the open one everything.
  await using closedApp = await startServer(['--echo', '7005'], world.inside('client'))
  await using openApp = await startServer(['--echo', '7005'], world.inside('easy'))
  expect((await runProbe('connect', [world.ip('client'), 7005, '--send', 'x', '--timeout', '1000'], world.inside('outside'))).reply ?? '').toBe('')
  expect(await runProbe('connect', [world.ip('easy'), 7005, '--send', 'x'], world.inside('outside'))).toMatchObject({ ok: true, reply: 'x' })
  await closedApp.stop()
  await openApp.stop()
  expect(readdirSync(directory, { recursive: true }).map(String).toSorted()).toEqual(pinned)

  rmSync(hold)
  const state = await eventually('a new one serves', async () => {
    const found = await world.ztunnel('node-a').catch(() => undefined)
    return found?.synced === true && found.pid !== pid ? found : undefined
  })
  expect(await echo('client', 'server')).toMatchObject({ ok: true, reply: 'hello' })
  expect(await echo('easy', 'outside')).toMatchObject({ ok: true, reply: 'hello' })
  // Same maps: the counters went on, and tell what happened meanwhile.
  expect(state.counters['ztunnelAway']).toBeGreaterThan(counters['ztunnelAway'] ?? 0)
  expect(state.counters['passedOpen']).toBeGreaterThan(counters['passedOpen'] ?? 0)
  expect(readdirSync(directory, { recursive: true }).map(String).toSorted()).toEqual(pinned)
})

test('pods that vanished while the ztunnel was away are forgotten when it is back', async () => {
  world.mesh.apply('apiVersion: v1\nkind: Pod\nmetadata: {name: brief, namespace: closed}\nspec: {nodeName: node-a, terminationGracePeriodSeconds: 0, containers: [{name: c, command: [sleep, infinity]}]}')
  await eventually('it is captured', () => isKnown('brief'))
  const { pid } = await world.ztunnel('node-a')
  const directory = `/sys/fs/bpf/sidestep/${world.mesh.name}-node-a/pods`
  const pins = readdirSync(directory).length
  writeFileSync(hold, '')
  process.kill(pid, 'SIGKILL')
  expect(world.mesh.unapply('Pod closed/brief')).toBe(true)
  await eventually('the pod is gone', async () => !world.mesh.status().pods.some((pod) => pod.name === 'brief'))
  rmSync(hold)
  await eventually('a new one serves', async () => (await world.ztunnel('node-a').catch(() => undefined))?.synced)
  await eventually('its pins are gone', async () => readdirSync(directory).length < pins)
  expect(await echo('client', 'server')).toMatchObject({ ok: true })
})

test('maps of another layout are refused with a clear sentence, and left in force', async () => {
  const { redirection, instance, remove } = await loadedPrograms()
  try {
    redirection.maps.meta.set(0, { layoutHash: new Uint8Array(32).fill(7) })
    const nodeNetns = await Netns.open('/proc/self/ns/net')
    const open = (): Redirection => Redirection.open({ instance, nodeNetns, verifierLog: join(scratch, 'verifier.log'), logger: silentLogger })
    expect(open).toThrow(expect.objectContaining({ code: 'LAYOUT_MISMATCH', message: expect.stringContaining('070707070707') }))
    expect(readdirSync(redirection.pins.directory)).toEqual(expect.arrayContaining(['links', 'maps']))
    nodeNetns.close()
  } finally {
    remove()
  }
  expect(existsSync(redirection.pins.directory)).toBe(false)
})
