// The waypoint's process by itself: what it says of its settings, of being ready, and how it ends. What it does for requests is tried
// with a real mesh in test/netns.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'

const program = fileURLToPath(new URL('../src/bin/waypoint.ts', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'sidestep-waypoint-'))
const socketPath = join(directory, 'admin.sock')
const children: ChildProcess[] = []
const alone = {
  SIDESTEP_GATEWAY: 'shop/gate', SIDESTEP_XDS_ADDRESS: 'none', SIDESTEP_HBONE_ADDRESS: '127.0.0.1:0', SIDESTEP_STATE_DIRECTORY: directory, SIDESTEP_ADMIN_SOCKET: socketPath,
  SIDESTEP_ADMIN_ADDRESS: 'none', SIDESTEP_METRICS_ADDRESS: 'none', SIDESTEP_READINESS_ADDRESS: 'none', SIDESTEP_DRAIN_DELAY_MS: '0', SIDESTEP_CA_ADDRESS: '127.0.0.1:1', SIDESTEP_TOKEN_FILE: '', SIDESTEP_ROOTS_FILE: '',
}

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
  rmSync(directory, { recursive: true, force: true })
})

interface Ran {
  readonly child: ChildProcess
  readonly ended: Promise<{ readonly code: number | null; readonly out: string; readonly err: string }>
}

function start(environment: Readonly<Record<string, string>>, ...args: readonly string[]): Ran {
  const child = spawn(process.execPath, [program, ...args], { env: { PATH: process.env['PATH'], ...environment }, stdio: ['ignore', 'pipe', 'pipe'] })
  children.push(child)
  const text = { out: '', err: '' }
  child.stdout.on('data', (chunk: Buffer) => (text.out += String(chunk)))
  child.stderr.on('data', (chunk: Buffer) => (text.err += String(chunk)))
  return { child, ended: once(child, 'close').then(([code]) => ({ code: code as number | null, ...text })) }
}

function ask(path: string, method = 'GET'): Promise<{ readonly status: number; readonly body: string }> {
  return new Promise((resolve, reject) => {
    request({ socketPath, path, method }, (response) => {
      let body = ''
      response.on('data', (chunk: Buffer) => (body += String(chunk)))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }))
    }).on('error', reject).end()
  })
}

const serves = (): Promise<void> => expect.poll(() => existsSync(socketPath), { timeout: 20_000 }).toBe(true)

test('--help lists every setting; what is wrong with one is said, and the process ends with 1', async () => {
  const wrong = (environment: Readonly<Record<string, string>>): Ran['ended'] => start({ ...alone, ...environment }).ended
  const [help, nothing, misspelt, format, keys, address] = await Promise.all([
    start({}, '--help').ended, start({}).ended, wrong({ SIDESTEP_DETECT_MS: 'soon', SIDESTEP_MISSPELT: '1' }), wrong({ SIDESTEP_ACCESS_LOG: '%NOTHING%' }),
    wrong({ SIDESTEP_SESSION_KEY_FILE: join(directory, 'none') }), wrong({ SIDESTEP_HBONE_ADDRESS: '192.0.2.1:15008' }),
  ])
  expect(help).toMatchObject({ code: 0, out: expect.stringContaining('SIDESTEP_HBONE_ADDRESS') })
  expect(nothing).toMatchObject({ code: 1, err: expect.stringContaining('SIDESTEP_GATEWAY must name') })
  expect(misspelt).toMatchObject({ code: 1, err: expect.stringMatching(/SIDESTEP_MISSPELT is not a setting.*SIDESTEP_DETECT_MS/) })
  expect(format).toMatchObject({ code: 1, err: expect.stringContaining('SIDESTEP_ACCESS_LOG') })
  expect(keys).toMatchObject({ code: 1, err: expect.stringContaining('keys of sessions') })
  expect(address).toMatchObject({ code: 1, err: expect.stringContaining('cannot listen on 192.0.2.1 port 15008') })
}, 120_000)

test('it says what it waits for, shows no secret, and ends with 0 when it is told', async () => {
  const { child, ended } = start({ ...alone, SIDESTEP_LIMIT_STORE: 'unix:/nowhere/secret-password' })
  await serves()
  const ready = await ask('/ready')
  expect(ready.status).toBe(503)
  expect(JSON.parse(ready.body)).toEqual({ ready: false, waitingFor: ['its certificate', 'the mesh to name its own pod'] })
  expect(JSON.parse((await ask('/state')).body)).toMatchObject({ gateway: 'shop/gate', identity: 'spiffe://cluster.local/ns/shop/sa/gate', draining: false })
  const dump = await ask('/config_dump')
  expect(dump.body).toContain('(not shown)')
  expect(dump.body).not.toContain('secret-password')
  expect((await ask('/logging?level=debug', 'POST')).status).toBe(200)
  expect((await ask('/metrics')).body).toContain('sidestep_requests_in_flight 0')
  expect((await ask('/quitquitquit', 'GET')).status).toBe(405)
  child.kill('SIGTERM')
  expect(await ended).toMatchObject({ code: 0 })
}, 60_000)

test('a second signal ends it at once', async () => {
  const { child, ended } = start({ ...alone, SIDESTEP_DRAIN_DELAY_MS: '600000' })
  await serves()
  child.kill('SIGTERM')
  await expect.poll(async () => (JSON.parse((await ask('/state')).body) as { draining: boolean }).draining, { timeout: 20_000 }).toBe(true)
  expect(JSON.parse((await ask('/ready')).body)).toMatchObject({ ready: false, waitingFor: ['the end of what is under way'] })
  child.kill('SIGTERM')
  expect(await ended).toMatchObject({ code: 0 })
}, 60_000)
