// The control plane as a program of its own, without a mesh: how it starts, waits, ends, and what of it a restart finds.
import { createServer as createTcp } from 'node:net'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { silentLogger } from '../../src/core/log.ts'
import { variables } from '../../src/controlplane/config.ts'
import { runCommand } from '../../src/local/command.ts'
import { FactsServer } from '../../src/local/facts-server.ts'
import { controlPlaneReportSchema } from '../../src/model/control-plane-status.ts'
import { noRuntimeFacts } from '../../src/model/running-pod.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { eventually } from '../helpers/world.ts'

const program = fileURLToPath(new URL('../../src/bin/controlplane.ts', import.meta.url))
let base = ''
let env: Record<string, string> = {}

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'sidestep-cpp-'))
  mkdirSync(join(base, 'manifests'))
  writeFileSync(join(base, 'manifests', 'a.yaml'), 'apiVersion: v1\nkind: Service\nmetadata: { name: web }\nspec: { ports: [{ port: 80 }] }\n')
  env = {
    PATH: process.env['PATH'] ?? '', SIDESTEP_LISTEN_ADDRESS: '127.0.0.1:0', SIDESTEP_METRICS_ADDRESS: 'none', SIDESTEP_ADMIN_SOCKET: join(base, 'admin.sock'),
    SIDESTEP_PODS_SOCKET: join(base, 'facts.sock'), SIDESTEP_CONFIG_DIRECTORY: join(base, 'manifests'), SIDESTEP_CA_DIRECTORY: join(base, 'state', 'ca'),
    SIDESTEP_TOKEN_KEY_FILE: join(base, 'state', 'token.key'), SIDESTEP_TOKEN_DIRECTORY: join(base, 'tokens'), SIDESTEP_NODES: 'node-a,node-b',
    SIDESTEP_ROOTS_FILE: join(base, 'roots.pem'), SIDESTEP_CRL_FILE: join(base, 'crl.pem'),
  }
})
afterEach(() => rmSync(base, { recursive: true }))

// Of the environment nothing else: an unknown SIDESTEP_ variable is an error.
const start = (): LineProcess => new LineProcess(['env', '-i', ...Object.entries(env).map(([name, value]) => `${name}=${value}`), process.execPath, program])
async function serveFacts(): Promise<FactsServer> {
  const server = new FactsServer({ path: join(base, 'facts.sock'), logger: silentLogger })
  server.update(noRuntimeFacts)
  await server.listen()
  return server
}
function get(path: string): Promise<{ status: number; body: unknown }> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: join(base, 'admin.sock'), path, agent: false }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => (text += part)).on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }))
    })
    sent.on('error', reject).end()
  })
}
const ready = (status: number): Promise<void> => eventually(async () => expect((await get('/ready')).status).toBe(status), 30_000)

test('beside it, commands ask it, and say why not', async () => {
  const facts = await serveFacts()
  await using plane = start()
  await ready(200)
  const say = async (...args: string[]): Promise<string> => {
    await using asked = new LineProcess(['env', '-i', ...Object.entries(env).map(([name, value]) => `${name}=${value}`), process.execPath, program, ...args])
    const { status, stderr } = await asked.ended
    return status === 0 ? asked.noise.join('\n') : stderr
  }
  expect(await say('revoke', '0badc0de')).toBe('')
  expect(await say('rotate', '--overlap', '3600')).toBe('')
  expect(await say('rotate')).toContain('a rotation is running (announcing)')
  expect(controlPlaneReportSchema.parse((await get('/status')).body).ca).toMatchObject({ rotation: 'announcing', roots: 2, revoked: 1 })
  expect(plane.stderr).toBe('')
  await facts.close()
}, 300_000)

test('without facts it lets nobody in, but gives out what nodes need to start; with them it serves; SIGTERM ends it well', async () => {
  let roots = ''
  {
    await using plane = start()
    await ready(503)
    expect(controlPlaneReportSchema.parse((await get('/status')).body)).toMatchObject({ ready: false, podsConnected: false, ca: { rotation: 'steady', roots: 1 } })
    expect(readdirSync(join(base, 'tokens')).sort()).toEqual(['node-a.token', 'node-b.token'])
    roots = readFileSync(join(base, 'roots.pem'), 'utf8')
    const facts = await serveFacts()
    await ready(200)
    expect(controlPlaneReportSchema.parse((await get('/status')).body)).toMatchObject({ ready: true, podsConnected: true, services: 1 })
    // Facts go, what was told stays.
    await facts.close()
    await eventually(async () => expect((await get('/status')).body).toMatchObject({ ready: true, podsConnected: false, services: 1 }))
    process.kill(plane.pid, 'SIGTERM')
    expect(await plane.ended).toMatchObject({ status: 0, signal: null })
  }
  const facts = await serveFacts()
  {
    await using again = start()
    await ready(200)
    expect(readFileSync(join(base, 'roots.pem'), 'utf8')).toBe(roots)
    expect(again.stderr).toBe('')
  }
  await facts.close()
})

test('what is secret is for its owner only', async () => {
  const facts = await serveFacts()
  {
    await using _plane = start()
    await ready(200)
    const modes = ['state', 'state/ca', 'tokens'].map((path) => statSync(join(base, path)).mode & 0o777)
    expect(modes).toEqual([0o700, 0o700, 0o700])
    const files = [...readdirSync(join(base, 'state', 'ca')).map((file) => `state/ca/${file}`), 'state/token.key', 'tokens/node-a.token', 'admin.sock']
    expect(files.length).toBeGreaterThan(7)
    for (const file of files) expect([file, statSync(join(base, file)).mode & 0o077]).toEqual([file, 0])
  }
  await facts.close()
})

test('wrong settings, and a port that is taken, end it with a sentence', async () => {
  const run = (more: Record<string, string>) => runCommand([process.execPath, program], { env: { ...env, ...more }, timeoutMs: 20_000 })
  expect(await run({ SIDESTEP_TRUST_DOMAN: 'x' })).toMatchObject({ code: 1, stderr: expect.stringContaining('SIDESTEP_TRUST_DOMAN is not a setting') })
  const facts = await serveFacts()
  expect(await run({ SIDESTEP_CONFIG_DIRECTORY: join(base, 'nowhere') })).toMatchObject({ code: 1, stderr: expect.stringContaining('nowhere') })
  const taken = createTcp()
  const port = await new Promise<number>((resolve) => taken.listen(0, '127.0.0.1', () => resolve((taken.address() as { port: number }).port)))
  expect(await run({ SIDESTEP_LISTEN_ADDRESS: `127.0.0.1:${port}` })).toMatchObject({ code: 1, stderr: expect.stringContaining('EADDRINUSE') })
  taken.close()
  await facts.close()
})

test('--help names every setting', async () => {
  const { stdout, code } = await runCommand([process.execPath, program, '--help'], { env: { PATH: process.env['PATH'] ?? '' } })
  expect(code).toBe(0)
  for (const variable of Object.values(variables)) expect(stdout).toContain(` ${variable} `)
})
