// 200 clients ask without pause while the mesh changes around them: labels come and go, certificates are renewed every few seconds,
// a deployment is rolled, the control plane and ztunnels go away and come back. What must not fail does not.
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ztunnelState } from '../../src/cli/ztunnel-client.ts'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { deploymentYaml, eventually, meshed, namespaceYaml, testPath, world } from '../helpers/world.ts'
import { SteadyLoad, ztunnelComplaints } from '../helpers/steady-load.ts'

const serverProgram = fileURLToPath(new URL('../apps/draining-server.ts', import.meta.url))
const serviceIp = '10.96.0.70'
const server = (release: string): string => deploymentYaml('server', 3, {
  namespace: 'shop', labels: { app: 'server', release }, command: [process.execPath, serverProgram, '7001'],
  container: { readinessProbe: { tcpSocket: { port: 7001 }, periodSeconds: 1 } }, spec: { terminationGracePeriodSeconds: 30 },
})
let mesh: LocalMesh

beforeAll(async () => {
  mesh = await world().namespace('shop', meshed).namespace('clients', meshed)
    .pod('client', { namespace: 'clients', node: 'node-a' })
    .yaml(server('one'))
    .yaml(`apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec: {clusterIP: ${serviceIp}, selector: {app: server}, ports: [{name: tcp, port: 7001}]}`)
    // Renewed at half of their life: every three seconds, and each of them many times while this file runs.
    .start({ ztunnelEnvironment: { SIDESTEP_CERTIFICATE_TTL_SECONDS: '6', PATH: testPath } })
  await eventually(async () => expect((await state('node-a')).certificates.ready).toBeGreaterThan(0))
})
afterAll(() => mesh?.stop(100))

const state = (node: string): ReturnType<typeof ztunnelState> => ztunnelState(mesh.paths.adminSocket(node))

function load(clients = 200, held = 20): Promise<SteadyLoad> {
  const wrap = ['nsenter', `--net=${mesh.podNetns('clients', 'client')}`, '--']
  return SteadyLoad.start(serviceIp, 7001, { clients, held }, { wrap, timeoutMs: 120_000 })
}

const nothingFailed = { failed: 0, heldFailed: 0, errors: {} }

test('certificates are renewed every few seconds under load', async () => {
  await using running = await load()
  const serials = async (): Promise<string> => (await state('node-a')).certificates.soonestExpiry
  const before = await serials()
  await new Promise((resolve) => setTimeout(resolve, 8_000))
  expect(await serials()).not.toBe(before)
  const counts = await running.stop()
  expect(counts, ztunnelComplaints(mesh.paths.logs)).toEqual({ ...counts, ...nothingFailed })
}, 60_000)

test('a namespace is labelled out of the mesh and in again', async () => {
  await using running = await load()
  for (const labels of [{}, meshed, {}, meshed]) {
    mesh.apply(namespaceYaml('shop', labels))
    await eventually(async () => {
      const pods = [...(await state('node-a')).pods, ...(await state('node-b')).pods].filter(({ namespace }) => namespace === 'shop')
      expect(pods.length).toBe(labels === meshed ? 3 : 0)
    })
    await running.more(1_000)
  }
  const counts = await running.stop()
  expect(counts, ztunnelComplaints(mesh.paths.logs)).toEqual({ ...counts, ...nothingFailed })
}, 90_000)

test('a deployment is rolled; those who hold a connection to a pod that ends lose it, as they would without a mesh', async () => {
  await using running = await load(200, 0)
  mesh.apply(server('two'))
  await eventually(() => {
    const pods = mesh.status().pods.filter(({ namespace }) => namespace === 'shop')
    expect(pods.length).toBe(3)
    expect(pods.every(({ ready }) => ready)).toBe(true)
    expect(mesh.isReady).toBe(true)
  }, 60_000)
  await running.more(1_000)
  const counts = await running.stop()
  expect(counts, ztunnelComplaints(mesh.paths.logs)).toEqual({ ...counts, ...nothingFailed })
}, 120_000)
