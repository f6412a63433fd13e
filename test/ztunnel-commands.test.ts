// The commands that ask ztunnels, against real admin servers over real stores, in the places where a local mesh has them: most
// in this process, because starting one takes longer than all else, and some as a person runs them.
import { spawn } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { Server } from 'node:http'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Command } from 'commander'
import { parse } from 'yaml'
import { authzCommand } from '../src/cli/authz.ts'
import { certsCommand, connectionsCommand, logLevelCommand } from '../src/cli/live-commands.ts'
import { policiesCommand, servicesCommand, workloadsCommand } from '../src/cli/mesh-commands.ts'
import type { Output } from '../src/cli/output.ts'
import { statusCommand } from '../src/cli/status.ts'
import { describeError } from '../src/core/errors.ts'
import { silentLogger } from '../src/core/log.ts'
import { localApiSocket, localStateRoot } from '../src/model/local-status.ts'
import type { LocalStatus } from '../src/model/local-status.ts'
import { startAdmin } from '../src/ztunnel/admin.ts'
import type { AdminServers } from '../src/member/admin.ts'
import { shop, testSource, workload } from '../src/ztunnel/testing-admin.ts'
import type { TestSource } from '../src/ztunnel/testing-admin.ts'
import { ZtunnelMetrics } from '../src/ztunnel/telemetry/metrics.ts'

const program = fileURLToPath(new URL('../src/bin/sidestep.ts', import.meta.url))
const mesh = `cmd-${process.pid}`
const root = `${localStateRoot}/${mesh}`
const nodes = ['node-a', 'node-b', 'node-c'] as const
const servers: AdminServers[] = []
const sources = new Map<string, TestSource>()
let daemon: Server

interface Ran {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** In this process. */
async function run(...args: string[]): Promise<Ran> {
  const text = { out: '', err: '' }
  const output: Output = { print: (line) => void (text.out += `${line}\n`), warn: (line) => void (text.err += `${line}\n`) }
  const commands = new Command('sidestep')
  for (const make of [workloadsCommand, servicesCommand, policiesCommand, connectionsCommand, certsCommand, authzCommand, logLevelCommand]) commands.addCommand(make(output))
  commands.addCommand(statusCommand(output.print))
  process.exitCode = 0
  try {
    await commands.parseAsync(args, { from: 'user' })
  } catch (error) {
    output.warn(describeError(error))
    process.exitCode = 1
  }
  const code = Number(process.exitCode)
  process.exitCode = 0
  return { code, ...text }
}

/** As a person does. */
function sidestep(...args: string[]): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    let err = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, out, err }))
  })
}
/** In the mesh of this file. */
const inMesh = (...args: string[]): Promise<Ran> => run(...args, '--name', mesh)
const cells = (line: string | undefined): string[] => (line ?? '').split(/ {2,}/)

const status: LocalStatus = {
  name: mesh, ready: true, mesh: true, controlPlane: { state: 'off' },
  nodes: nodes.map((name) => ({ name, ips: ['172.30.0.1'], pods: 1, ztunnel: name === 'node-c' ? 'starting' : 'connected' })),
  pods: [{ namespace: 'shop', name: 'catalogue', node: 'node-b', ips: ['10.0.1.1'], phase: 'Running', reason: '', ready: true, restarts: 0, captured: 'yes', containers: [] }],
  deployments: [], services: [], namespaces: [], gateways: [], published: [], problems: [], notes: [],
}

beforeAll(async () => {
  mkdirSync(root, { recursive: true, mode: 0o700 })
  daemon = createServer((_request, response) => response.end(JSON.stringify(status)))
  await new Promise<void>((resolve) => daemon.listen(localApiSocket(mesh), resolve))
  // The third node's ztunnel does not answer.
  for (const node of nodes.slice(0, 2)) {
    const store = shop()
    if (node === 'node-b') store.apply({ workloads: [workload('late\u001b[31m', { uid: 'late', namespace: 'new', ips: ['10.0.1.9'] })] })
    const source = testSource(store, node)
    sources.set(node, source)
    servers.push(await startAdmin({
      socketPath: `${root}/${node}-ztunnel.sock`, adminAddress: node === 'node-a' ? '127.0.0.1:0' : 'none', metricsAddress: 'none', readinessAddress: 'none',
      source, metrics: new ZtunnelMetrics(), logger: silentLogger,
    }))
  }
})
afterAll(async () => {
  for (const each of servers) await each.close()
  daemon.closeAllConnections()
  await new Promise((resolve) => daemon.close(resolve))
  rmSync(root, { recursive: true, force: true })
})

test('a ztunnel that does not answer spoils nothing, and is told', async () => {
  const { code, out, err } = await inMesh('workloads')
  expect(code).toBe(1)
  expect(err).toContain('node-c-ztunnel.sock')
  expect(cells(out.split('\n')[0])).toContain('KNOWN BY')
  expect(out).toMatch(/^shop +catalogue +10\.0\.1\.1 +node-b +hbone +catalogue +yes +1 +none +all$/m)
  // Known to one only, and its name reaches the terminal as text.
  expect(out).toMatch(/^new +late\\u001b\[31m .* node-b$/m)
  expect(out).not.toContain('\u001b')
})

test('lists by namespace, node, address and form', async () => {
  const one = await inMesh('workloads', '-n', 'old', '--node', 'node-a')
  expect([one.code, one.err, one.out.trim().split('\n').length]).toEqual([0, '', 2])
  expect(cells(one.out.trim().split('\n')[1])).toEqual(['old', 'legacy', '10.0.0.9', 'node-a', 'tcp', 'legacy', 'yes', '0', 'none'])
  const services = await run('services', '--admin', `${root}/node-a-ztunnel.sock`, '-o', 'json')
  expect(JSON.parse(services.out)).toMatchObject([{ name: 'catalogue', endpoints: [{ name: 'catalogue' }] }, { name: 'empty', endpoints: [] }, { name: 'payments' }])
  const policies = await run('policies', '--admin', `http://127.0.0.1:${servers[0]?.ports.admin}`, '-o', 'yaml')
  expect([policies.code, parse(policies.out)]).toMatchObject([0, [{ name: 'istio_converted_static_strict' }, { name: 'web-only', action: 'allow' }]])
  const table = await inMesh('services', '--node', 'node-a')
  expect(table.out).toMatch(/^shop +catalogue +10\.96\.0\.1 +80>8080 +1\/1 +any +none$/m)
  expect((await inMesh('policies', '-n', 'nowhere', '--node', 'node-a')).out).toBe('no policies\n')
})

test('connections and certificates name their node', async () => {
  const connections = await inMesh('connections', '--node', 'node-a')
  expect(cells(connections.out.trim().split('\n')[1])).toEqual([
    'node-a', 'outbound', 'shop/web:40000', 'shop/catalogue:8080', 'catalogue.shop.svc.cluster.local', 'hbone, reused', '100 B', '2.0 kB', '61s',
  ])
  expect((await inMesh('connections', '--node', 'node-a', '--direction', 'inbound')).out).toBe('no connections\n')
  expect((await inMesh('connections', '--node', 'node-a', '-n', 'old')).out).toBe('no connections\n')
  const certs = await inMesh('certs', '-o', 'json')
  expect(certs.code).toBe(1)
  expect(JSON.parse(certs.out)).toMatchObject([{ node: 'node-a', state: 'failed', error: 'the CA said no' }, { node: 'node-b' }])
  expect((await inMesh('certs', '--node', 'node-b')).out).toMatch(/^node-b +spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web +failed +- +- +\d+d +0 +the CA said no$/m)
})

test('log levels are shown and changed on one node or on all', async () => {
  expect((await inMesh('log-level', '--node', 'node-a')).out).toMatch(/^node-a +xds +info$/m)
  expect((await inMesh('log-level', 'debug', '--component', 'xds', '--node', 'node-a')).code).toBe(0)
  expect([sources.get('node-a')?.levels, sources.get('node-b')?.levels]).toEqual([{ default: 'info', xds: 'debug' }, { default: 'info', xds: 'info' }])
  await inMesh('log-level', 'warn')
  expect([sources.get('node-a')?.levels, sources.get('node-b')?.levels]).toEqual([{ default: 'warn', xds: 'warn' }, { default: 'warn', xds: 'warn' }])
  await inMesh('log-level', '--reset')
  expect(sources.get('node-b')?.levels).toEqual({ default: 'info', xds: 'info' })
  const wrong = await inMesh('log-level', 'info', '--component', 'nobody', '--node', 'node-a')
  expect([wrong.code, wrong.err]).toEqual([1, expect.stringContaining('there are default, xds')])
})

test.each([
  [0, 'ALLOWED', ['shop/web', 'catalogue.shop', '--port', '80']],
  [0, 'ALLOWED', ['spiffe://cluster.local/ns/shop/sa/web', 'shop/catalogue', '--port', '8080']],
  [1, 'REFUSED', ['shop/payments', 'shop/catalogue', '--port', '8080']],
  [1, 'REFUSED', ['old/legacy', 'shop/payments']],
  [0, 'ALLOWED', ['old/legacy', 'shop/payments', '--mesh']],
  [1, 'REFUSED', ['shop/web', '1.1.1.1']],
  [2, 'cannot tell', ['shop/web', 'shop/catalogue']],
  [2, 'cannot tell', ['shop/web', 'shop/nobody']],
])('authz explain leaves with %i: %s', async (code, word, args) => {
  const { code: left, out, err } = await inMesh('authz', 'explain', ...args)
  expect({ left, err, word: out.slice(0, word.length) }, out).toEqual({ left: code, err: '', word })
})

test('authz explain says why, and what could not be asked is no answer', async () => {
  const { out } = await inMesh('authz', 'explain', 'shop/payments', 'shop/catalogue', '--port', '8080')
  expect(out).toContain('principal cluster.local/ns/shop/sa/payments is not cluster.local/ns/shop/sa/web')
  expect(JSON.parse((await inMesh('authz', 'explain', 'shop/web', 'shop/catalogue', '--port', '8080', '-o', 'json')).out)).toMatchObject({ answer: 'allowed', policy: 'shop/web-only', rule: 0 })
  for (const args of [['--node', 'node-c'], ['--node', 'nowhere']]) expect((await inMesh('authz', 'explain', 'shop/web', 'catalogue.shop', ...args)).code).toBe(2)
  expect((await run('authz', 'explain', 'a', 'b', '--name', 'no-such-mesh')).code).toBe(2)
})

test('the program itself leaves with those codes', async () => {
  const ask = async (...args: string[]): Promise<number | null> => (await sidestep('authz', 'explain', ...args, '--name', mesh)).code
  expect(await ask('shop/web', 'catalogue.shop')).toBe(0)
  expect(await ask('shop/payments', 'catalogue.shop')).toBe(1)
  // Not understood, and nobody to ask: no refusals.
  expect(await ask('shop/web', 'catalogue.shop', '--port', '0')).toBe(2)
  expect(await ask('shop/web', 'catalogue.shop', '--node', 'node-c')).toBe(2)
  const help = await sidestep('authz', 'explain', '--help')
  expect([help.code, help.out]).toEqual([0, expect.stringContaining('Exit codes: 0 allowed, 1 denied, 2 it cannot be told.')])
})

test('status says how each ztunnel stands with the control plane and its certificates', async () => {
  const table = await inMesh('status')
  expect(table.out).toMatch(/^node-a +172\.30\.0\.1 +1 +connected +ready +0\/1, 1 failed +1$/m)
  expect(table.out).toMatch(/^node-c +172\.30\.0\.1 +1 +starting +- +- +-$/m)
  expect(JSON.parse((await inMesh('status', '-o', 'json')).out)).toMatchObject({ name: mesh, ztunnels: { 'node-b': { xds: { state: 'ready' } } } })
})

test('what is no ztunnel is not believed', async () => {
  const stranger = createServer((_request, response) => response.end('[{"namespace": 1}]'))
  await new Promise<void>((resolve) => stranger.listen(`${root}/stranger.sock`, resolve))
  const { code, err } = await run('workloads', '--admin', `${root}/stranger.sock`)
  expect([code, err]).toEqual([1, expect.stringContaining('not as a ztunnel does')])
  expect((await run('certs', '--admin', 'http://[')).err).toContain('is not http://HOST:PORT')
  stranger.close()
})
