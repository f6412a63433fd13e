// Parts of the mesh go away and come back while clients ask: the control plane (nothing may fail, not even what restarts meanwhile),
// and a ztunnel that is killed (closed refuses, open passes, both by the hooks alone, and both are back soon after the restart).
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ztunnelState } from '../../src/cli/ztunnel-client.ts'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { runProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { SteadyLoad, ztunnelComplaints } from '../helpers/steady-load.ts'
import { eventually, meshed, testPath, world } from '../helpers/world.ts'

let mesh: LocalMesh
let server: RunningServer
const serviceIp = '10.96.0.71'

beforeAll(async () => {
  mesh = await world().namespace('shop', meshed).namespace('easy', { ...meshed, 'sidestep.dev/failure-mode': 'open' })
    .pod('client', { namespace: 'shop', node: 'node-a' }).pod('server', { namespace: 'shop', node: 'node-b', labels: { app: 'server' } })
    .pod('client', { namespace: 'easy', node: 'node-a' })
    .yaml(`apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec: {clusterIP: ${serviceIp}, selector: {app: server}, ports: [{name: echo, port: 7001}]}`)
    .start({ ztunnelEnvironment: { PATH: testPath } })
  server = await startServer(['--echo', '7001'], inside('shop', 'server'))
  await eventually(async () => {
    expect((await state('node-a')).certificates.ready).toBe(2)
    expect((await state('node-b')).certificates.ready).toBe(1)
    expect(await ask('shop')).toMatchObject({ ok: true, reply: 'x' })
    expect(await ask('easy')).toMatchObject({ ok: true, reply: 'x' })
  }, 20_000)
  // What is known is kept a moment after it changed: a kill within that moment is not what is tried here.
  for (const node of ['node-a', 'node-b']) {
    await eventually(() => expect(Date.now() - statSync(join(mesh.paths.nodeState(node), 'mesh.state')).mtimeMs).toBeGreaterThan(2_500), 20_000)
  }
})
afterAll(async () => {
  await server?.stop()
  await mesh?.stop(100)
})

const inside = (namespace: string, name: string): { wrap: string[] } => ({ wrap: ['nsenter', `--net=${mesh.podNetns(namespace, name)}`, '--'] })
const state = (node: string): ReturnType<typeof ztunnelState> => ztunnelState(mesh.paths.adminSocket(node))
const load = (): Promise<SteadyLoad> => SteadyLoad.start(serviceIp, 7001, { clients: 50, held: 10 }, { ...inside('shop', 'client'), timeoutMs: 120_000 })
const ask = (namespace: string) => runProbe('connect', [serviceIp, 7001, '--send', 'x'], inside(namespace, 'client'))

/** Stops it in its tracks: it keeps its port and says nothing, which is worse for whoever asks than if it were gone. */
async function withoutControlPlane(during: () => Promise<void>): Promise<void> {
  const { pid } = (await mesh.fullStatus()).controlPlane ?? {}
  if (pid === undefined) throw new Error('the mesh has no control plane')
  process.kill(pid, 'SIGSTOP')
  try {
    await during()
  } finally {
    process.kill(pid, 'SIGCONT')
  }
}

test('without the control plane, traffic goes on, new connections are made, and a ztunnel that restarts serves', async () => {
  await withoutControlPlane(async () => {
    await using running = await load()
    await running.more(500)
    const counts = await running.stop()
    expect(counts, ztunnelComplaints(mesh.paths.logs)).toEqual({ ...counts, failed: 0, heldFailed: 0, errors: {} })
    for (const node of ['node-a', 'node-b']) {
      const before = await state(node)
      process.kill(before.pid, 'SIGKILL')
      await eventually(async () => {
        const now = await state(node)
        expect(now.pid).not.toBe(before.pid)
        expect(now).toMatchObject({ synced: true, xds: { synced: true }, certificates: { ready: node === 'node-a' ? 2 : 1 } })
      }, 20_000)
      expect(await ask('shop')).toMatchObject({ ok: true, reply: 'x' })
    }
    // Through the tunnel, by identities that were kept.
    const [carried] = (await state('node-b')).pods.filter(({ name }) => name === 'server')
    expect(carried?.inbound).toBeGreaterThan(0)
    expect((await state('node-b')).xds.state).not.toBe('ready')
  })
  await eventually(async () => expect((await state('node-a')).xds.state).toBe('ready'), 40_000)
}, 180_000)

test('a control plane that is killed is back with the same CA, and nothing fails meanwhile', async () => {
  await using running = await load()
  const { pid } = (await mesh.fullStatus()).controlPlane ?? {}
  process.kill(pid ?? 0, 'SIGKILL')
  await eventually(async () => {
    const { controlPlane } = await mesh.fullStatus()
    expect(controlPlane?.pid).not.toBe(pid)
    expect(controlPlane?.state).toBe('ready')
    expect((await state('node-a')).xds.state).toBe('ready')
  }, 40_000)
  await running.more(200)
  const counts = await running.stop()
  expect(counts, ztunnelComplaints(mesh.paths.logs)).toEqual({ ...counts, failed: 0, heldFailed: 0, errors: {} })
}, 90_000)

test('a ztunnel that is killed: closed refuses, open passes, and both are back', async () => {
  const before = await state('node-a')
  process.kill(before.pid, 'SIGSTOP')
  process.kill(before.pid, 'SIGKILL')
  // Its listeners are gone with it, and its successor takes longer than this to start.
  await eventually(async () => {
    expect(await ask('shop')).toMatchObject({ ok: false })
  }, 3_000)
  await eventually(async () => expect((await state('node-a')).pid).not.toBe(before.pid), 20_000)
  await eventually(async () => {
    expect(await ask('shop')).toMatchObject({ ok: true, reply: 'x' })
    expect(await ask('easy')).toMatchObject({ ok: true, reply: 'x' })
  }, 10_000)
}, 60_000)
