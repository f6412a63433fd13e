// Gateways as pods of a local mesh, whatever runs in them: their objects, what such a pod sees of the mesh, live changes, rolling
// without a gap, and ports of this machine that lead to an ingress. What runs here only tells what it was given.
import { once } from 'node:events'
import { createServer } from 'node:net'
import { request } from 'node:http'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { statePaths } from '../../src/local/state.ts'
import type { LocalMesh } from '../../src/local/mesh.ts'
import type { GatewayStatus } from '../../src/model/local-status.ts'
import { eventually, meshed, namespaceYaml, serviceYaml, world } from '../helpers/world.ts'

const script = `
const { createServer } = require('node:http'), { readdirSync, readFileSync, writeFileSync } = require('node:fs')
const list = (path) => { try { return readdirSync(path) } catch (error) { return error.code } }
const answer = (request, response) => {
  if (request.url === '/slow') return setTimeout(() => response.end('slow'), 500)
  let isWritable = true
  try { writeFileSync(process.env.SIDESTEP_ROOTS_FILE + '.new', '') } catch { isWritable = false }
  response.end(JSON.stringify({ env: process.env, root: list('/run/sidestep'), token: list('/run/sidestep/token'), state: list('/run/sidestep/state'), roots: readFileSync(process.env.SIDESTEP_ROOTS_FILE, 'utf8').slice(0, 27), isWritable }))
}
for (const port of [80, 81, 15021]) createServer(answer).listen(port, '::')
process.on('SIGTERM', () => setTimeout(() => process.exit(0), 200))
`
const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  return typeof address === 'object' && address ? address.port : expect.fail()
}

interface Answer { env: Record<string, string>; root: string[]; token: string[]; state: string[]; roots: string; isWritable: boolean }

let mesh: LocalMesh
const directory = mkdtempSync(join(tmpdir(), 'sidestep-gateways-'))
let hostPort = 0
let optionPort = 0

function gatewayYaml(name: string, gatewayClassName: string, listeners: readonly object[], annotations: Readonly<Record<string, string>> = {}, labels = {}): string {
  return stringify({ apiVersion: 'gateway.networking.k8s.io/v1', kind: 'Gateway', metadata: { name, namespace: 'shop', annotations, labels }, spec: { gatewayClassName, listeners } })
}
const waypoint = (annotations: Readonly<Record<string, string>> = {}): string => gatewayYaml('waypoint', 'sidestep-waypoint', [{ name: 'mesh', port: 15_008, protocol: 'HBONE' }], annotations)
const http = (port: number): object => ({ name: `http-${port}`, port, protocol: 'HTTP' })
const ingress = (ports: readonly number[], publish: string): string => gatewayYaml('ingress', 'sidestep-ingress', ports.map(http), { 'sidestep.dev/publish': publish })

beforeAll(async () => {
  hostPort = await freePort()
  optionPort = await freePort()
  writeFileSync(join(directory, 'a.yaml'), [namespaceYaml('shop', { ...meshed, 'sidestep.dev/use-waypoint': 'waypoint' }), ingress([80], `${hostPort}=80`)].join('---\n'))
  writeFileSync(join(directory, 'waypoint.yaml'), waypoint({ 'sidestep.dev/settings': 'SIDESTEP_LOG_LEVEL=debug' }))
  mesh = await world().start({
    directory, gatewayCommand: [process.execPath, '-e', script], publish: [{ namespace: 'shop', name: 'ingress', hostPort: optionPort, port: 80 }], readyTimeoutMs: 30_000,
  })
})
afterAll(async () => {
  await mesh?.stop(500)
  rmSync(directory, { recursive: true })
})

const gateway = (name: string): GatewayStatus => mesh.status().gateways.find((each) => each.name === name) ?? expect.fail(`no gateway ${name}`)
const podsOf = (name: string): string[] => mesh.status().pods.filter((pod) => pod.name.startsWith(`${name}-`) && pod.phase !== 'Terminating').map((pod) => pod.name)

function ask(port: number, path = '/'): Promise<string> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path, agent: false, timeout: 5_000 }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => (text += part)).on('end', () => resolve(text)).on('error', reject)
    }).on('error', reject).end()
  })
}
const tell = async (port: number): Promise<Answer> => JSON.parse(await ask(port)) as Answer

test('a Gateway is a pod of its own account, never captured, and known to the control plane as a service', async () => {
  expect(gateway('waypoint')).toMatchObject({ role: 'waypoint', serves: 'all', replicas: 1, ready: 1, reason: '', file: 'waypoint.yaml', usedBy: ['Namespace shop'] })
  expect(gateway('ingress')).toMatchObject({ role: 'ingress', ready: 1, usedBy: [] })
  const status = await mesh.fullStatus()
  expect(status.pods.map(({ captured, phase, ready }) => `${captured} ${phase} ${ready}`)).toEqual(['no Running true', 'no Running true'])
  expect(status.services.map(({ name, ports }) => `${name} ${ports.map(({ port, endpoints }) => `${port}:${endpoints.length}`).join()}`).sort()).toEqual(['ingress 80:2', 'waypoint 15008:2'])
  await eventually(async () => expect((await mesh.fullStatus()).controlPlane.report).toMatchObject({ services: 2, workloads: 2 }))
})

test('its process knows who it is, and sees the roots, its own token and its own state of the mesh, and nothing else', async () => {
  const { env, root, token, state, roots, isWritable } = await tell(hostPort)
  const [name = ''] = podsOf('ingress')
  expect(env).toMatchObject({ SIDESTEP_GATEWAY: 'shop/ingress', SIDESTEP_POD_NAME: name, SIDESTEP_POD_NAMESPACE: 'shop', SIDESTEP_INSTANCE_IP: mesh.pod('shop', name).facts.ips[0] })
  expect([root.sort(), state, roots, isWritable]).toEqual([['shared', 'state', 'token', 'trust'], [], '-----BEGIN CERTIFICATE-----', false])
  expect(Array.isArray(token)).toBe(true)
  const other = await mesh.exec('shop', podsOf('waypoint')[0] ?? '', undefined, ['sh', '-c', 'echo $SIDESTEP_LOG_LEVEL; touch /run/sidestep/state/mine; ls /run/sidestep/state'])
  expect(other.stdout).toBe('debug\nmine\n')
  const keys = ['ingress', 'waypoint'].map((gateway) => readFileSync(join(statePaths(mesh.name).gatewayState(`shop/${gateway}`), 'session.keys'), 'utf8'))
  expect(new Set(keys.map((text) => text.trim()).filter((text) => text.length > 30)).size).toBe(2)
  expect(existsSync(join(statePaths(mesh.name).podState(mesh.pod('shop', podsOf('waypoint')[0] ?? '').options.uid), 'mine'))).toBe(true)
})

test('ports of this machine lead to the ingress, on its loopback address alone, by annotation and by option', async () => {
  expect(mesh.status().published).toMatchObject([hostPort, optionPort].map((port) => `127.0.0.1:${port}`).sort().map((address) => ({ address, gateway: 'shop/ingress', port: 80, listening: true })))
  expect((await tell(optionPort)).env['SIDESTEP_GATEWAY']).toBe('shop/ingress')
  const listening = readFileSync('/proc/net/tcp', 'utf8').split('\n').filter((line) => line.includes(`:${hostPort.toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 0A`))
  expect(listening).toEqual([expect.stringContaining('0100007F:')])
  expect(readFileSync('/proc/net/tcp6', 'utf8')).not.toContain(`:${hostPort.toString(16).toUpperCase().padStart(4, '0')} 00000000000000000000000000000000:0000 0A`)
})

test('listeners change live and replace no pod; a published port that has no listener says so', async () => {
  const before = podsOf('ingress')
  const another = await freePort()
  mesh.apply(ingress([80, 81], `${hostPort}=80, ${another}=81`))
  await eventually(async () => expect((await tell(another)).env['SIDESTEP_GATEWAY']).toBe('shop/ingress'))
  expect(podsOf('ingress')).toEqual(before)
  mesh.apply(ingress([80], `${hostPort}=80, ${another}=81`))
  await eventually(() => expect(mesh.status().published.find(({ address }) => address.endsWith(`:${another}`))).toMatchObject({ listening: false, because: 'shop/ingress has no port 81; it has 80' }))
  await expect(ask(another)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  mesh.apply(ingress([80], 'nonsense'))
  await eventually(() => expect(mesh.status().problems.map(({ reason }) => reason)).toContainEqual(expect.stringContaining('is not HOSTPORT=PORT')))
  mesh.unapply('Gateway shop/ingress')
  await eventually(() => expect(mesh.status().problems).toEqual([]))
})

test('a port that somebody has is reported, and taken when it becomes free', async () => {
  const rival = createServer().listen(0, '127.0.0.1')
  await once(rival, 'listening')
  const { port } = rival.address() as { port: number }
  mesh.apply(ingress([80], `${hostPort}=80,${port}=80`))
  const shown = (): object | undefined => mesh.status().published.find(({ address }) => address.endsWith(`:${port}`))
  await eventually(() => expect(shown()).toMatchObject({ listening: false, because: expect.stringContaining('EADDRINUSE') as string }))
  rival.close()
  await eventually(() => expect(shown()).toMatchObject({ listening: true, because: '' }))
  mesh.unapply('Gateway shop/ingress')
})

test('more replicas, fewer, and a rolling restart in which each request is answered', async () => {
  const first = podsOf('ingress')
  mesh.apply(gatewayYaml('ingress', 'sidestep-ingress', [http(80)], { 'sidestep.dev/publish': `${hostPort}=80`, 'sidestep.dev/replicas': '2' }))
  await mesh.waitUntil(() => gateway('ingress').ready === 2, 15_000)
  expect(podsOf('ingress')).toEqual(expect.arrayContaining(first))
  await mesh.waitReady()
  const over = new AbortController()
  const asked = (async () => {
    let count = 0
    for (; !over.signal.aborted; count++) expect(await ask(hostPort)).toContain('shop/ingress')
    return count
  })()
  const slow = ask(hostPort, '/slow')
  const before = podsOf('ingress')
  mesh.restartGateway('shop', 'ingress')
  await eventually(() => {
    expect(podsOf('ingress').filter((name) => before.includes(name))).toEqual([])
    expect(gateway('ingress')).toMatchObject({ ready: 2, updated: 2 })
  }, 20_000)
  over.abort()
  expect(await asked).toBeGreaterThan(0)
  expect(await slow).toBe('slow')
  expect(() => mesh.restartGateway('shop', 'other')).toThrow('there is no Gateway shop/other')
  mesh.unapply('Gateway shop/ingress')
  await mesh.waitUntil(() => podsOf('ingress').length === 1, 15_000)
})

test('a Gateway that becomes bad keeps what it had; one that never was good is not run', async () => {
  const before = podsOf('waypoint')
  writeFileSync(join(directory, 'waypoint.yaml'), waypoint({ 'sidestep.dev/settings': 'LD_PRELOAD=/x' }))
  await eventually(() => expect(mesh.status().problems).toMatchObject([{ file: 'waypoint.yaml', reason: expect.stringContaining('no other variable can be set') as string }]))
  mesh.apply(gatewayYaml('never', 'sidestep-waypoint', [{ name: 'mesh', port: 15_008, protocol: 'HBONE' }], { 'sidestep.dev/replicas': 'many' }))
  await eventually(() => expect(gateway('never')).toMatchObject({ replicas: 0, ready: 0, reason: expect.stringMatching(/neither a number from 0 to 100 nor a range as 2-10$/) as string }))
  await sleep(300)
  expect([podsOf('waypoint'), podsOf('never')]).toEqual([before, []])
  mesh.unapply('Gateway shop/never')
  writeFileSync(join(directory, 'waypoint.yaml'), waypoint({ 'sidestep.dev/settings': 'SIDESTEP_LOG_LEVEL=debug' }))
  await eventually(() => expect(mesh.status().problems).toEqual([]))
})

test('what somebody wrote under the same name counts, and is told', async () => {
  const paths = statePaths(mesh.name)
  const generated = (): string => readdirSync(paths.applied).filter((name) => name.startsWith('generated-')).map((name) => readFileSync(join(paths.applied, name), 'utf8')).join('')
  expect(generated()).toContain('15008')
  mesh.apply(serviceYaml('waypoint', [{ port: 7000 }], {}, 'shop'))
  await eventually(() => expect(mesh.status().notes).toMatchObject([{ reason: expect.stringContaining('the Service shop/waypoint of applied') as string }]))
  expect(generated()).not.toContain('15008')
  expect(mesh.status().services.find(({ name }) => name === 'waypoint')).toMatchObject({ ports: [{ port: 7000 }] })
  mesh.unapply('Service shop/waypoint')
  await eventually(() => expect(generated()).toContain('15008'))
})

test('a Gateway that is gone takes its pods, its port and its objects along', async () => {
  writeFileSync(join(directory, 'a.yaml'), namespaceYaml('shop', meshed))
  rmSync(join(directory, 'waypoint.yaml'))
  await mesh.waitUntil(() => mesh.status().pods.length === 0, 15_000)
  const status = mesh.status()
  expect([status.gateways, status.services]).toEqual([[], []])
  expect(status.published).toMatchObject([{ listening: false, because: 'there is no Gateway shop/ingress of the class sidestep-ingress' }])
  expect(readdirSync(statePaths(mesh.name).applied)).toEqual([])
})
