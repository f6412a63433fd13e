// The control plane of a local mesh, asked from the namespaces of nodes as their ztunnels would: who hears what, who is refused and
// why, and what a bad object, a crash, a rotation and an ending do. The ztunnels here are stand-ins that capture everything.
import { X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Identity } from '../../src/core/identity.ts'
import { underlayIps } from '../../src/local/addresses.ts'
import { runCommand, type CommandResult } from '../../src/local/command.ts'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { readProcessRecords } from '../../src/local/state.ts'
import { localStatusSchema, type LocalControlPlane } from '../../src/model/local-status.ts'
import { readCrls } from '../../src/pki/crl.ts'
import { TokenIssuer } from '../../src/pki/tokens.ts'
import type { CaLine, ClientPlan, KnownLine, StateLine } from '../helpers/control-plane-client.ts'
import { LineProcess, runLines } from '../helpers/line-process.ts'
import { eventually, inNetns, meshed, namespaceYaml, podYaml, serviceYaml, uniqueName, world } from '../helpers/world.ts'

const program = (path: string): string => fileURLToPath(new URL(path, import.meta.url))
const clientProgram = program('../helpers/control-plane-client.ts')
const serverName = 'sidestep-controlplane.sidestep-system.svc'
const audience = 'sidestep-controlplane'
const v4 = `${underlayIps.v4}:15012`
const v6 = `[${underlayIps.v6}]:15012`

const base = mkdtempSync(join(tmpdir(), 'sidestep-cp-'))
const directory = join(base, 'manifests')
const ztunnelCommand = [process.execPath, program('../helpers/fake-ztunnel.ts'), base]
const policyYaml = (name: string, spec: string): string =>
  `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: ${name}, namespace: shop }\nspec: ${spec}\n`
const nodeYaml = (name: string, region: string): string =>
  `apiVersion: v1\nkind: Node\nmetadata: { name: ${name}, labels: { topology.kubernetes.io/region: ${region}, topology.kubernetes.io/zone: ${region}-1 } }\n`
const account = (serviceAccountName: string): object => ({ spec: { serviceAccountName } })
const identity = (serviceAccount: string, more: Partial<Identity> = {}): Identity => ({ trustDomain: 'cluster.local', namespace: 'shop', serviceAccount, ...more })
const web = 'Kubernetes//Pod/shop/web'

let mesh: LocalMesh

beforeAll(async () => {
  mkdirSync(directory)
  writeFileSync(join(base, 'answer'), 'ack')
  writeFileSync(join(directory, 'a-shop.yaml'), [
    namespaceYaml('shop', meshed), namespaceYaml('plain'), nodeYaml('node-a', 'eu'),
    podYaml('web', { namespace: 'shop', node: 'node-a', labels: { app: 'web' }, ...account('web') }),
    podYaml('cart', { namespace: 'shop', node: 'node-b', ...account('cart') }),
    podYaml('bystander', { namespace: 'plain', node: 'node-a', ...account('bystander') }),
    serviceYaml('web', [{ port: 80, targetPort: 8080 }], {}, 'shop'),
  ].join('---\n'))
  writeFileSync(join(directory, 'b-policy.yaml'), policyYaml('lock', '{ action: DENY, rules: [{ from: [{ source: { namespaces: [plain] } }] }] }'))
  mesh = await world().yaml(nodeYaml('node-b', 'us')).start({
    directory, ztunnelCommand, controlPlaneEnvironment: { SIDESTEP_CERTIFICATE_MAX_TTL_SECONDS: '3600', SIDESTEP_CERTIFICATE_TTL_SECONDS: '600', SIDESTEP_SERVING_TTL_SECONDS: '10' },
  })
})
afterAll(async () => {
  await mesh?.stop(100)
  rmSync(base, { recursive: true })
})

const plan = (mode: 'xds' | 'ca', more: Partial<ClientPlan>): ClientPlan => ({ mode, address: v4, serverName, rootsFile: mesh.paths.rootsFile, ...more })
const wrapped = (node: string): { wrap: string[] } => ({ wrap: ['nsenter', `--net=${mesh.nodeNetns(node)}`, '--'] })
const listener = (node: string, more: Partial<ClientPlan> = {}): LineProcess =>
  new LineProcess([process.execPath, clientProgram, JSON.stringify(plan('xds', { token: mesh.paths.tokenFile(node), node, ...more }))], wrapped(node))
async function certificate(node: string, wanted: Identity, more: Partial<ClientPlan> = {}): Promise<CaLine> {
  const asked = plan('ca', { token: mesh.paths.tokenFile(node), identity: wanted, ...more })
  return (await runLines([process.execPath, clientProgram, JSON.stringify(asked)], wrapped(node))).last as CaLine
}
const isKnown = (line: unknown): line is KnownLine => typeof line === 'object' && line !== null && 'known' in line
const isState = (...wanted: string[]) => (line: unknown): line is StateLine =>
  typeof line === 'object' && line !== null && 'state' in line && typeof line.state === 'string' && wanted.includes(line.state)
const lastKnown = (client: LineProcess): KnownLine => client.lines.findLast(isKnown) ?? { known: [], workloads: {} }
const states = (client: LineProcess): string[] => client.lines.filter(isState('ready', 'waiting', 'connecting', 'syncing')).map(({ state }) => state)
async function report(): Promise<NonNullable<LocalControlPlane['report']>> {
  const { controlPlane } = await mesh.fullStatus()
  if (!controlPlane.report) throw new Error(`the control plane does not answer: ${JSON.stringify(controlPlane)}`)
  return controlPlane.report
}
function admin(method: string, path: string, body?: unknown): Promise<{ status: number; body: unknown }> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: mesh.paths.controlPlaneSocket, method, path, agent: false }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => (text += part))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }))
    })
    sent.on('error', reject)
    sent.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

describe('nodes', () => {
  test.each([['node-a', v4], ['node-b', v6]])('%s hears everything on %s', async (node, address) => {
    await using client = listener(node, { address })
    await client.waitFor(isState('ready'))
    expect(lastKnown(client).known).toEqual(expect.arrayContaining([web, 'Kubernetes//Pod/shop/cart', 'Kubernetes//Pod/plain/bystander', 'shop/web.shop.svc.cluster.local', 'shop/lock']))
    await eventually(() => expect(lastKnown(client).workloads).toMatchObject({
      // One node's labels come from the directory, the other's were applied.
      [web]: { node: 'node-a', tunnelProtocol: 'hbone', isHealthy: true, locality: { region: 'eu', zone: 'eu-1' } },
      'Kubernetes//Pod/shop/cart': { node: 'node-b', tunnelProtocol: 'hbone', locality: { region: 'us' } },
      'Kubernetes//Pod/plain/bystander': { tunnelProtocol: 'none' },
    }))
    await eventually(async () => expect((await report()).nodes).toContainEqual(expect.objectContaining({ node, connected: true, current: true, nacks: [] })))
  })

  test('hear of what changes: pods, files, and what is applied, which wins over files', async () => {
    await using client = listener('node-a')
    await client.waitFor(isState('ready'))
    mesh.apply(podYaml('late', { namespace: 'shop', node: 'node-b' }) + '---\n' + nodeYaml('node-a', 'asia') + '---\n' + policyYaml('late', '{}'))
    await eventually(() => expect(lastKnown(client)).toMatchObject({
      known: expect.arrayContaining(['shop/late', 'Kubernetes//Pod/shop/late']), workloads: { [web]: { locality: { region: 'asia' } } },
    }))
    for (const key of ['Pod shop/late', 'Node node-a', 'AuthorizationPolicy shop/late']) expect(mesh.unapply(key)).toBe(true)
    await eventually(() => {
      expect(lastKnown(client).known).not.toContain('shop/late')
      expect(lastKnown(client).known).not.toContain('Kubernetes//Pod/shop/late')
      expect(lastKnown(client).workloads[web]?.locality.region).toBe('eu')
    })
  })

  test('are told in their environment where it is', () => {
    const pid = readProcessRecords(mesh.paths).find(({ role, label }) => role === 'ztunnel' && label === 'node-b')?.identity.pid
    const environment = Object.fromEntries(readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').map((line) => line.split(/=(.*)/s)))
    expect(environment).toMatchObject({
      SIDESTEP_NODE: 'node-b', SIDESTEP_XDS_ADDRESS: v4, SIDESTEP_SERVER_NAME: serverName, SIDESTEP_TOKEN_FILE: mesh.paths.tokenFile('node-b'),
      SIDESTEP_ROOTS_FILE: mesh.paths.rootsFile, SIDESTEP_CRL_FILE: mesh.paths.crlFile, SIDESTEP_STATE_DIRECTORY: mesh.paths.nodeState('node-b'),
    })
  })
})

describe('who is refused', () => {
  const issuer = (nowMs = Date.now()): Promise<TokenIssuer> => TokenIssuer.open(join(mesh.paths.controlPlane, 'token.key'), { nowMs: () => nowMs, monotonicMs: () => nowMs, after: () => () => {} })
  const tokens: Readonly<Record<string, () => Promise<string | undefined>>> = {
    none: async () => undefined,
    nonsense: async () => 'nonsense',
    expired: async () => (await (await issuer(Date.now() - 3_600_000)).issue({ node: 'node-a', subject: 'ztunnel' }, audience, 60)).text,
    early: async () => (await (await issuer(Date.now() + 3_600_000)).issue({ node: 'node-a', subject: 'ztunnel' }, audience, 60)).text,
    elsewhere: async () => (await (await issuer()).issue({ node: 'node-a', subject: 'ztunnel' }, 'somebody-else', 60)).text,
    forged: async () => (await (await TokenIssuer.open(join(base, 'other.key'))).issue({ node: 'node-a', subject: 'ztunnel' }, audience, 60)).text,
  }

  test.each([
    ['none', 'there is no bearer token'], ['nonsense', 'not one of ours'], ['expired', 'has expired'], ['early', 'not valid yet'],
    ['elsewhere', 'another audience'], ['forged', 'not signed by this control plane'],
  ])('a token that is %s: %s', async (kind, because) => {
    const token = await tokens[kind]?.()
    const given = token === undefined ? {} : { token }
    const bare = plan('xds', { node: 'node-a', ...given })
    await using client = new LineProcess([process.execPath, clientProgram, JSON.stringify(bare)], wrapped('node-a'))
    expect((await client.waitFor(isState('waiting'))).because).toContain(because)
    const asked = plan('ca', { identity: identity('web'), ...given })
    const { last } = await runLines([process.execPath, clientProgram, JSON.stringify(asked)], wrapped('node-a'))
    expect(last).toMatchObject({ refused: 'CERTIFICATE_REFUSED', because: expect.stringContaining(because) })
    expect(states(client)).not.toContain('ready')
  })

  test.each<[string, Partial<ClientPlan>, string]>([
    ['says that it is another node', { node: 'node-b' }, 'the token is for node node-a, but the request comes as "node-b"'],
    ['means another cluster', { clusterId: 'elsewhere' }, 'this is the control plane of cluster Kubernetes'],
  ])('a node with a good token that %s', async (_what, more, because) => {
    await using client = listener('node-a', more)
    expect((await client.waitFor(isState('waiting'))).because).toContain(because)
    expect(states(client)).not.toContain('ready')
    expect((await report()).nodes.filter(({ node, connected }) => connected && node === 'node-b')).toEqual([])
  })

  test('a node that does not say which it is', async () => {
    const nameless = plan('xds', { token: mesh.paths.tokenFile('node-a') })
    await using client = new LineProcess([process.execPath, clientProgram, JSON.stringify(nameless)], wrapped('node-a'))
    expect((await client.waitFor(isState('waiting'))).because).toContain('without NODE_NAME')
  })

  test.each<[string, Identity, Partial<ClientPlan>, string]>([
    ['of a pod on another node', identity('cart'), {}, 'is not for node node-a: no pod of the service account shop/cart runs on node node-a'],
    ['of nobody', identity('ghost'), {}, 'no pod of the service account shop/ghost'],
    ['of a pod outside the mesh', identity('bystander', { namespace: 'plain' }), {}, 'labelled to be in the mesh'],
    ['of another trust domain', identity('web', { trustDomain: 'evil.example' }), {}, 'is not of trust domain cluster.local'],
    ['that would live too long', identity('web'), { ttlSeconds: 3601 }, 'longer than the 3600 s'],
  ])('a certificate %s', async (_what, wanted, more, because) => {
    expect(await certificate('node-a', wanted, more)).toMatchObject({ refused: 'CERTIFICATE_REFUSED', because: expect.stringContaining(because) })
  })

  test('but not one for a pod on the asking node, with the life that was asked for', async () => {
    for (const [ttlSeconds, lives] of [[0, 600], [30, 30]] as const) {
      const answer = await certificate('node-a', identity('web'), { ttlSeconds })
      if (!('chain' in answer)) throw new Error(answer.because)
      const leaf = new X509Certificate(answer.chain[0] ?? '')
      expect(leaf.subjectAltName).toBe('URI:spiffe://cluster.local/ns/shop/sa/web')
      // Backdated by two minutes.
      expect((Date.parse(leaf.validTo) - Date.parse(leaf.validFrom)) / 1000).toBeGreaterThanOrEqual(lives + 119)
      expect((Date.parse(leaf.validTo) - Date.parse(leaf.validFrom)) / 1000).toBeLessThanOrEqual(lives + 121)
      expect(answer.chain.at(-1)).toBe(readFileSync(mesh.paths.rootsFile, 'utf8'))
    }
    const metrics = (await inNetns(mesh.underlayNetns, ['curl', '-s', 'http://127.0.0.1:15014/metrics'])).stdout
    expect(metrics).toMatch(/sidestep_ca_requests_total\{outcome="signed"\} [1-9]/)
    expect(metrics).toMatch(/sidestep_ca_requests_total\{outcome="notAllowed"\} [1-9]/)
    expect(metrics).toMatch(/sidestep_xds_refused_streams_total\{because="permissionDenied"\} [1-9]/)
    expect(metrics).toMatch(/sidestep_xds_pushes_total\{type="address"\} [1-9]/)
    expect(metrics).toMatch(/sidestep_ca_expiry_timestamp_seconds 2\d{9}/)
  })
})

test('a bad object is reported on that object with its place, and nothing else changes', async () => {
  await using client = listener('node-a')
  await client.waitFor(isState('ready'))
  writeFileSync(join(directory, 'c-bad.yaml'), `${policyYaml('fine', '{}')}---\n${policyYaml('lock', '{}')}---\n${policyYaml('broken', '{ rules: [{ from: [{ source: { principal: [x] } }] }] }')}`)
  await eventually(() => expect(lastKnown(client).known).toContain('shop/fine'))
  expect(lastKnown(client).known).toContain('shop/lock')
  expect(lastKnown(client).known).not.toContain('shop/broken')
  const { refused } = await report()
  expect(refused.map(({ object }) => object).sort()).toEqual(['AuthorizationPolicy shop/broken', 'AuthorizationPolicy shop/lock'])
  expect(refused.find(({ object }) => object.endsWith('broken'))).toMatchObject({ file: 'c-bad.yaml', line: 14, reasons: expect.arrayContaining([expect.stringContaining('c-bad.yaml:14: spec.rules.0.from.0.source')]) })
  writeFileSync(join(directory, 'c-bad.yaml'), '')
  await eventually(async () => expect((await report()).refused).toEqual([]))
  await eventually(() => expect(lastKnown(client).known).not.toContain('shop/fine'))
  expect(states(client).filter((state) => state === 'ready')).toHaveLength(1)
})

describe('the authority', () => {
  const caExpiry = async (): Promise<string> => (await report()).ca.servingExpires

  test('renews the certificate of the control plane itself while connections stand', async () => {
    await using client = listener('node-a')
    await client.waitFor(isState('ready'))
    const before = await caExpiry()
    await eventually(async () => expect(await caExpiry()).not.toBe(before), 20_000)
    await using later = listener('node-b')
    await later.waitFor(isState('ready'))
    expect(states(client).filter((state) => state !== 'ready' && state !== 'syncing' && state !== 'connecting')).toEqual([])
  })

  test('revokes, and writes it where ztunnels look; what is asked wrongly is refused', async () => {
    const answer = await certificate('node-a', identity('web'))
    if (!('chain' in answer)) throw new Error(answer.because)
    const serial = new X509Certificate(answer.chain[0] ?? '').serialNumber.toLowerCase()
    expect(await admin('POST', '/revoke', { serial })).toEqual({ status: 200, body: {} })
    expect(readCrls(readFileSync(mesh.paths.crlFile)).some((crl) => crl.revoked.has(serial))).toBe(true)
    expect((await report()).ca.revoked).toBeGreaterThan(0)
    for (const bad of [{ serial: 'nothing' }, { serial, more: 1 }, undefined]) expect((await admin('POST', '/revoke', bad)).status).toBe(400)
    expect(await admin('GET', '/nowhere')).toMatchObject({ status: 404, body: { code: 'NOT_FOUND' } })
  })

  test('moves to a new root while streams stand: first both are trusted, then the new one signs', async () => {
    await using client = listener('node-a')
    await client.waitFor(isState('ready'))
    const roots = (): number => readFileSync(mesh.paths.rootsFile, 'utf8').split('BEGIN CERTIFICATE').length - 1
    expect(roots()).toBe(1)
    const first = new X509Certificate(readFileSync(mesh.paths.rootsFile))
    expect((await admin('POST', '/rotate', { step: 'begin', overlapSeconds: 2 })).status).toBe(200)
    expect(roots()).toBe(2)
    expect((await report()).ca).toMatchObject({ rotation: 'announcing', roots: 2 })
    expect(await admin('POST', '/rotate', { step: 'begin' })).toMatchObject({ status: 409, body: { message: expect.stringContaining('a rotation is running') } })
    await eventually(async () => expect((await report()).ca.rotation).toBe('retiring'))
    const answer = await certificate('node-a', identity('web'))
    if (!('chain' in answer)) throw new Error(answer.because)
    const signers = (answer.chain.at(-1) ?? '').split(/(?<=-----END CERTIFICATE-----\n)/).filter((pem) => pem.trim() !== '').map((pem) => new X509Certificate(pem))
    expect(signers).toHaveLength(2)
    // The bundle names the signer first, and it is not the root of before.
    expect(signers[0]?.fingerprint256).not.toBe(first.fingerprint256)
    expect(new X509Certificate(answer.chain[1] ?? '').checkIssued(signers[0] ?? first)).toBe(true)
    await using later = listener('node-b')
    await later.waitFor(isState('ready'))
    expect(states(client)).not.toContain('waiting')
  })
})

test('killed with -9 it comes back with the same roots and takes the same tokens; nodes keep what they know', async () => {
  await using client = listener('node-b')
  await client.waitFor(isState('ready'))
  const roots = readFileSync(mesh.paths.rootsFile, 'utf8')
  const token = readFileSync(mesh.paths.tokenFile('node-a'), 'utf8').trim()
  const before = lastKnown(client)
  const { revoked } = (await report()).ca
  const { pid } = mesh.status().controlPlane
  process.kill(pid ?? 0, 'SIGKILL')
  await client.waitFor(isState('waiting'))
  await mesh.waitUntil(() => mesh.status().controlPlane.state === 'ready' && mesh.status().controlPlane.pid !== pid, 15_000)
  await eventually(() => expect(states(client).at(-1)).toBe('ready'))
  expect(lastKnown(client)).toEqual(before)
  expect(readFileSync(mesh.paths.rootsFile, 'utf8')).toBe(roots)
  // The token of before the kill, not the file that was written since.
  await using other = listener('node-a', { token })
  await other.waitFor(isState('ready'))
  expect((await report()).ca.revoked).toBe(revoked)
})

describe('the command line', () => {
  const sidestep = (name: string, verb: string, ...args: string[]): Promise<CommandResult> =>
    runCommand([process.execPath, program('../../src/bin/sidestep.ts'), verb, '--name', name, ...args], { timeoutMs: 50_000 })

  test('shows the control plane; it outlives its daemon, and `down` finds it all the same', async () => {
    const name = uniqueName()
    const manifests = join(base, 'small')
    mkdirSync(manifests)
    writeFileSync(join(manifests, 'a.yaml'), `${podYaml('web')}---\n${policyYaml('broken', '{ rules: [{ from: [{ source: { principal: [x] } }] }] }')}`)
    try {
      const up = await sidestep(name, 'up', manifests, '--nodes', '1')
      expect([up.stderr, up.code]).toEqual(['', 0])
      const table = (await sidestep(name, 'status')).stdout
      expect(table).toMatch(/CONTROL PLANE +PID[^]*\nready +\d+ +1 /)
      expect(table).toMatch(/NOT IN FORCE AS WRITTEN\n {2}AuthorizationPolicy shop\/broken \(a\.yaml:\d+\): .*principal/)
      const { controlPlane } = localStatusSchema.parse(JSON.parse((await sidestep(name, 'status', '-o', 'json')).stdout))
      expect(controlPlane).toMatchObject({ state: 'ready', report: { podsConnected: true, ca: { rotation: 'steady', trustDomain: 'cluster.local' } } })
      const { process: daemon } = JSON.parse(readFileSync(`/run/sidestep/${name}/daemon.json`, 'utf8')) as { process: { pid: number } }
      process.kill(daemon.pid, 'SIGKILL')
      await eventually(() => expect(existsSync(`/proc/${daemon.pid}/exe`)).toBe(false))
      expect(existsSync(`/proc/${controlPlane.pid}/exe`)).toBe(true)
      const down = await sidestep(name, 'down')
      expect([down.stderr, down.code]).toEqual(['', 0])
      await eventually(() => expect(existsSync(`/proc/${controlPlane.pid}/exe`)).toBe(false))
      expect(existsSync(`/run/sidestep/${name}`)).toBe(false)
    } finally {
      await sidestep(name, 'down')
    }
  })

  test('a mesh without ztunnels has no control plane', async () => {
    const bare = await world().nodes(1).start({ mesh: false })
    try {
      expect(bare.status().controlPlane).toEqual({ state: 'off' })
      expect(readdirSync(bare.paths.processes).filter((file) => file.startsWith('controlplane'))).toEqual([])
    } finally {
      await bare.stop(100)
    }
  })
})
