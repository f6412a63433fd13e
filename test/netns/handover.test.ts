// A ztunnel is replaced while 200 clients ask and connections stand: the successor takes over what is captured, the predecessor
// finishes what it carries. Nobody outside notices.
import { existsSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { defaultTimeouts } from '../../src/hbone/settings.ts'
import { startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { eventually, World } from '../helpers/meshed-world.ts'
import { SteadyLoad, ztunnelComplaints } from '../helpers/steady-load.ts'

let world: World
let server: RunningServer

beforeAll(async () => {
  const service = `apiVersion: v1
kind: Service
metadata: {name: server, namespace: closed}
spec: {clusterIP: 10.96.0.50, selector: {app: server}, ports: [{name: echo, port: 7001}]}`
  world = await World.start([{ name: 'client', node: 'node-a' }, { name: 'server', node: 'node-b' }], service)
  server = await startServer(['--echo', '7001'], world.inside('server'))
})
afterAll(async () => {
  await server?.stop()
  await world?.[Symbol.asyncDispose]()
})

test.each([['of the clients', 'node-a'], ['of the server', 'node-b']] as const)('the ztunnel %s is replaced and no question fails', async (_whose, node) => {
  await using load = await SteadyLoad.start('10.96.0.50', 7001, { clients: 200, held: 20 }, { ...world.inside('client'), timeoutMs: 90_000 })
  const before = await world.ztunnel(node)
  await world.mesh.replaceZtunnel(node)
  expect((await world.ztunnel(node)).pid).not.toBe(before.pid)
  await load.more(2_000)
  // The connections that stood are still carried by the predecessor.
  const leaving = world.mesh.nodes.find(({ name }) => name === node)?.ztunnel?.leaving ?? []
  expect(leaving).toEqual([before.pid])
  const counts = await load.stop()
  expect(counts, ztunnelComplaints(world.mesh.paths.logs)).toEqual({ ...counts, failed: 0, heldFailed: 0, errors: {} })
  await eventually('the predecessor has left', () => Promise.resolve(world.mesh.nodes.find(({ name }) => name === node)?.ztunnel?.leaving.length === 0), 20_000)
}, 120_000)

test('both are replaced, and what stood is carried on for longer than anybody waits for an answer to a ping', async () => {
  await using load = await SteadyLoad.start('10.96.0.50', 7001, { clients: 2, held: 20 }, { ...world.inside('client'), timeoutMs: 120_000 })
  const nodes = ['node-a', 'node-b'] as const
  const before = await Promise.all(nodes.map((node) => world.ztunnel(node)))
  for (const node of nodes) await world.mesh.replaceZtunnel(node)
  await new Promise((resolve) => { setTimeout(resolve, defaultTimeouts.pingIntervalMs + defaultTimeouts.pingTimeoutMs + 5_000) })
  expect(world.mesh.nodes.flatMap(({ ztunnel }) => ztunnel?.leaving ?? [])).toEqual(before.map(({ pid }) => pid))
  await load.more(200)
  const counts = await load.stop()
  expect(counts, ztunnelComplaints(world.mesh.paths.logs)).toEqual({ ...counts, failed: 0, heldFailed: 0, errors: {} })
}, 180_000)

test('a successor that does not become ready is given up, and nothing changes', async () => {
  await using load = await SteadyLoad.start('10.96.0.50', 7001, { clients: 20, held: 2 }, { ...world.inside('client'), timeoutMs: 90_000 })
  const before = await world.ztunnel('node-a')
  await expect(world.mesh.nodes[0]?.ztunnel?.replace((pid) => {
    if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL')
    return Promise.resolve(false)
  })).rejects.toMatchObject({ code: 'COMMAND_FAILED' })
  expect((await world.ztunnel('node-a')).pid).toBe(before.pid)
  await load.more(200)
  expect(await load.stop()).toMatchObject({ failed: 0, heldFailed: 0 })
}, 60_000)
