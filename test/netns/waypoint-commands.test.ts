// `sidestep waypoint` against a real mesh and its API: what it prints, applies, waits for, refuses and takes back. What runs in the
// pods only says that it is ready; what a waypoint does is for other tests.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { Output } from '../../src/cli/output.ts'
import { statusCommand } from '../../src/cli/status.ts'
import { waypointCommand } from '../../src/cli/waypoint.ts'
import { describeError } from '../../src/core/errors.ts'
import { silentLogger } from '../../src/core/log.ts'
import { serveApi } from '../../src/local/api.ts'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { parseManifest } from '../../src/model/manifest-parse.ts'
import { eventually, meshed, namespaceYaml, serviceYaml, world } from '../helpers/world.ts'

const script = 'for (const port of [80, 15021]) require("node:http").createServer((request, response) => { response.statusCode = process.env.SIDESTEP_LOG_LEVEL === "error" && request.url !== "/healthz/live" ? 503 : 200; response.end() }).listen(port, "::")'
const directory = mkdtempSync(join(tmpdir(), 'sidestep-waypoint-'))
let mesh: LocalMesh
let api: Awaited<ReturnType<typeof serveApi>>

interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

async function sidestep(...args: string[]): Promise<Ran> {
  const text = { out: '', err: '' }
  const output: Output = { print: (line) => void (text.out += `${line}\n`), warn: (line) => void (text.err += `${line}\n`) }
  const commands = new Command('sidestep').addCommand(waypointCommand(() => Promise.reject(new Error('there is no cluster here')), output)).addCommand(statusCommand(output.print))
  const silence = (command: Command): void => {
    command.exitOverride().configureOutput({ writeErr: (line) => void (text.err += line), writeOut: (line) => void (text.out += line) })
    command.commands.forEach(silence)
  }
  silence(commands)
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
const inMesh = (...args: string[]): Promise<Ran> => sidestep(...args, '--name', mesh.name)

beforeAll(async () => {
  writeFileSync(join(directory, 'shop.yaml'), `${namespaceYaml('shop', meshed)}---\n${serviceYaml('web', [{ port: 80 }], {}, 'shop')}`)
  mesh = await world().start({ directory, gatewayCommand: [process.execPath, '-e', script] })
  api = await serveApi(mesh, silentLogger)
})
afterAll(async () => {
  await api?.close()
  await mesh?.stop(100)
  rmSync(directory, { recursive: true })
})
afterEach(async () => {
  for (const { namespace, name, file } of mesh.status().gateways) if (file === '') mesh.unapply(`Gateway ${namespace}/${name}`)
  for (const { name, file } of mesh.status().namespaces) if (file === '') mesh.unapply(`Namespace ${name}`)
  await mesh.waitUntil(() => mesh.status().pods.length === 0, 10_000)
})

test('generate prints what apply would apply', async () => {
  const { out, code } = await sidestep('waypoint', 'generate', '-n', 'shop', '--for', 'service', '--replicas', '2', '--enroll-namespace')
  expect(code).toBe(0)
  const { objects, problems } = parseManifest(out, 'out.yaml')
  expect(problems).toEqual([])
  expect(objects).toMatchObject([
    { kind: 'Gateway', metadata: { name: 'waypoint', namespace: 'shop', labels: { 'sidestep.dev/waypoint-for': 'service' }, annotations: { 'sidestep.dev/replicas': '2' } }, spec: { gatewayClassName: 'sidestep-waypoint' } },
    { kind: 'Namespace', metadata: { name: 'shop', labels: { 'sidestep.dev/use-waypoint': 'waypoint' } } },
  ])
  expect((await sidestep('waypoint', 'generate', 'own', '-n', 'shop')).out).not.toContain('Namespace')
})

test('apply, wait, list, status, restart, delete', async () => {
  const applied = await inMesh('waypoint', 'apply', '-n', 'away', '--enroll-namespace', '--wait')
  expect([applied.err, applied.code]).toEqual(['', 0])
  expect(applied.out).toMatch(/applied Gateway away\/waypoint\napplied Namespace away\n[^]*1 of 1 ready\n$/)

  expect((await inMesh('waypoint', 'list')).out).toMatch(/away +waypoint +1\/1 +all +Namespace away +applied/)
  expect(JSON.parse((await inMesh('waypoint', 'list', '-o', 'json')).out)).toMatchObject([{ namespace: 'away', name: 'waypoint', usedBy: ['Namespace away'] }])
  expect((await inMesh('waypoint', 'list', '-n', 'shop')).out).toBe('no waypoints\n')

  mesh.apply(serviceYaml('mine', [{ port: 80 }], {}, 'away'))
  await eventually(async () => expect((await inMesh('waypoint', 'status', '-n', 'away')).out).toContain('in force before services: away/mine\n'))
  const status = await inMesh('waypoint', 'status', '-n', 'away')
  expect([status.code, status.out]).toEqual([0, expect.stringMatching(/^waypoint away\/waypoint \(applied\), for services and pods\nready: yes, 1 of 1 pods\n {2}waypoint-\S+ on node-\w \(10\.\S+\): ready\nasked for by: Namespace away\n/)])
  mesh.unapply('Service away/mine')
  const whole = await inMesh('status')
  expect(whole.out).toMatch(/NAMESPACE +GATEWAY +ROLE[^]*away +waypoint +waypoint +1\/1 +all +Namespace away/)

  const [before] = mesh.status().pods.map(({ name }) => name)
  const restarted = await inMesh('waypoint', 'restart', '-n', 'away', '--wait')
  expect([restarted.err, restarted.code]).toEqual(['', 0])
  expect(mesh.status().pods.filter(({ phase }) => phase === 'Running').map(({ name }) => name)).not.toContain(before)

  const refused = await inMesh('waypoint', 'delete', 'waypoint', '-n', 'away')
  expect([refused.code, refused.err]).toEqual([1, expect.stringContaining('Namespace away still asks for away/waypoint, and without it their requests would be refused')])
  expect(mesh.status().gateways).toHaveLength(1)
  const forced = await inMesh('waypoint', 'delete', '--all', '-n', 'away', '--force')
  expect([forced.code, forced.out, forced.err]).toEqual([0, 'took back Gateway away/waypoint\n', expect.stringContaining('are refused until')])
  await mesh.waitUntil(() => mesh.status().gateways.length === 0, 5_000)
  expect((await inMesh('waypoint', 'status', '-n', 'away')).err).toContain('has no waypoint away/waypoint; it has none')
  expect((await inMesh('waypoint', 'delete', '--all', '-n', 'away')).out).toBe('no waypoints were applied in away\n')
})

test('applying again changes it, and another one for the namespace needs to be meant', async () => {
  await inMesh('waypoint', 'apply', '-n', 'away', '--enroll-namespace', '--wait')
  expect(await inMesh('waypoint', 'apply', '-n', 'away', '--replicas', '2', '--wait')).toMatchObject({ code: 0, err: '' })
  expect(mesh.status().gateways).toMatchObject([{ replicas: 2, ready: 2, usedBy: ['Namespace away'] }])
  const other = await inMesh('waypoint', 'apply', 'other', '-n', 'away', '--enroll-namespace')
  expect([other.code, other.err]).toEqual([1, expect.stringContaining('the namespace away uses the waypoint away/waypoint; --overwrite gives it this one')])
  expect((await inMesh('waypoint', 'apply', 'other', '-n', 'away', '--enroll-namespace', '--overwrite')).code).toBe(0)
  await eventually(() => expect(mesh.status().gateways.find(({ name }) => name === 'other')).toMatchObject({ usedBy: ['Namespace away'] }))
  expect((await inMesh('waypoint', 'delete', 'waypoint', '-n', 'away')).code).toBe(0)
})

test('what a file says is changed in the file, and it is said which', async () => {
  const enrol = await inMesh('waypoint', 'apply', '-n', 'shop', '--enroll-namespace')
  expect(enrol.code).toBe(1)
  expect(enrol.err).toContain('the namespace shop is in shop.yaml:1')
  expect(enrol.err).toContain('    sidestep.dev/use-waypoint: waypoint\n')
  expect(mesh.status().gateways).toEqual([])

  const text = readFileSync(join(directory, 'shop.yaml'), 'utf8')
  writeFileSync(join(directory, 'shop.yaml'), text.replace('sidestep.dev/mesh: enabled', 'sidestep.dev/mesh: enabled\n    sidestep.dev/use-waypoint: waypoint'))
  writeFileSync(join(directory, 'waypoint.yaml'), (await sidestep('waypoint', 'generate', '-n', 'shop')).out)
  await mesh.waitUntil(() => mesh.status().gateways.length === 1, 5_000)
  const again = await inMesh('waypoint', 'apply', '-n', 'shop', '--enroll-namespace')
  expect([again.code, again.err]).toEqual([1, expect.stringContaining('the Gateway shop/waypoint is in waypoint.yaml:1')])
  expect((await inMesh('waypoint', 'delete', 'waypoint', '-n', 'shop', '--force')).err).toContain('is in waypoint.yaml:1: remove it there')
  // Nothing of the namespace would change, so this may go on.
  expect((await inMesh('waypoint', 'apply', '-n', 'shop', '--enroll-namespace', '--overwrite', '--replicas', '2', '--wait')).code).toBe(0)
  expect(mesh.status().gateways).toMatchObject([{ replicas: 2, file: '' }])
  expect((await inMesh('waypoint', 'delete', 'waypoint', '-n', 'shop', '--force')).out).toContain('the Gateway of waypoint.yaml:1 counts again')
  writeFileSync(join(directory, 'shop.yaml'), text)
  rmSync(join(directory, 'waypoint.yaml'))
})

test('one that does not become ready is an error that says why', async () => {
  mesh.apply((await sidestep('waypoint', 'generate', 'bad', '-n', 'away')).out.replace('namespace: away', 'namespace: away\n  annotations: {sidestep.dev/settings: SIDESTEP_LOG_LEVEL=error}'))
  await mesh.waitUntil(() => mesh.status().gateways.length === 1, 5_000)
  const restarted = await inMesh('waypoint', 'restart', 'bad', '-n', 'away', '--wait', '--timeout', '4')
  expect([restarted.code, restarted.err]).toEqual([1, expect.stringMatching(/waypoint away\/bad is not ready after 4 s: not ready: answered with status 503; see `sidestep waypoint status bad -n away`/)])
  const status = await inMesh('waypoint', 'status', 'bad', '-n', 'away')
  expect([status.code, status.out]).toEqual([1, expect.stringContaining('ready: no, 0 of 1 pods: not ready: answered with status 503')])
})

test.each([
  [['apply', '../x'], 'DNS label'], [['apply', '--replicas', '101'], 'from 0 to 100'], [['apply', '--for', 'everything'], 'Allowed choices'],
  [['delete'], 'say which waypoints, or --all'], [['restart', 'ghost'], 'has no waypoint default/ghost'],
])('waypoint %j is refused: %s', async (args, why) => {
  const { code, err } = await inMesh('waypoint', ...args)
  expect([code, err]).toEqual([1, expect.stringContaining(why)])
})
