// Who may talk to whom, by real connections: AuthorizationPolicy in every form that a connection can answer, dry runs, what a
// change does to connections that stand, what may leave the mesh, and what becomes of a policy that is written wrongly.
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { silentLogger } from '../../src/core/log.ts'
import { serveApi } from '../../src/local/api.ts'
import { runCommand } from '../../src/local/command.ts'
import { encodeAuthorization } from '../../src/xds/encode.ts'
import { loadState, saveState } from '../../src/xds/state-file.ts'
import { isClosed, runProbe, startProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import type { LineProcess } from '../helpers/line-process.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { TunnelWorld, policyYaml } from '../helpers/tunnel-world.ts'
import { inNetns, namespaceYaml } from '../helpers/world.ts'

const MiB = 1024 * 1024
const port = { echo: 7001, banner: 7002, other: 7003, bulk: 7006 } as const
/** Outside like the bridge's own address, but one that a ServiceEntry names. */
const knownOutside = '172.30.255.253'
const meshed = { 'sidestep.dev/mesh': 'enabled' } as const
const egress = (mode: string): Readonly<Record<string, string>> => ({ ...meshed, 'sidestep.dev/egress': mode })
const callers = ['client', 'buyer', 'teller', 'stranger'] as const
type Caller = (typeof callers)[number]
/** In a namespace each, with what it says of egress. */
const leavers = { free: 'allow', watched: 'audit', shut: 'deny', typo: 'Deny' } as const

const base = mkdtempSync(join(tmpdir(), 'sidestep-policy-'))
let world: TunnelWorld
let api: Awaited<ReturnType<typeof serveApi>> | undefined
let server: RunningServer
let bystander: RunningServer
let vault: RunningServer
let outside: RunningServer

beforeAll(async () => {
  world = await TunnelWorld.start({
    client: { node: 'node-a' },
    buyer: { node: 'node-a' },
    teller: { node: 'node-a', namespace: 'bank' },
    stranger: { node: 'node-a', namespace: 'plain' },
    server: { node: 'node-b' },
    bystander: { node: 'node-b' },
    vault: { node: 'node-b', namespace: 'bank' },
    ...Object.fromEntries(Object.keys(leavers).map((name) => [name, { node: 'node-a', namespace: `ns-${name}` }])),
  }, {
    directory: base,
    namespaces: { plain: {}, ...Object.fromEntries(Object.entries(leavers).map(([name, mode]) => [`ns-${name}`, egress(mode)])) },
    yaml: [stringify({
      apiVersion: 'networking.istio.io/v1', kind: 'ServiceEntry', metadata: { name: 'known', namespace: 'ns-shut' },
      spec: {
        hosts: ['known.example.com'], addresses: ['240.240.0.9'], ports: [{ number: 80, name: 'tcp', targetPort: port.echo }],
        resolution: 'STATIC', endpoints: [{ address: knownOutside }],
      },
    })],
  })
  api = await serveApi(world.mesh, silentLogger)
  const options = ['--echo', port.echo, '--banner', port.banner, '--echo', port.other, '--bulk', port.bulk, '--log']
  await inNetns(world.netns('outside'), ['ip', 'addr', 'add', `${knownOutside}/16`, 'dev', 'br0'])
  server = await startServer(options, world.inside('server'))
  bystander = await startServer(options, world.inside('bystander'))
  vault = await startServer(options, world.inside('vault'))
  outside = await startServer(options, world.inside('outside'))
})
afterAll(async () => {
  await Promise.all([server, bystander, vault, outside].map((each) => each?.stop()))
  await api?.close()
  await world?.[Symbol.asyncDispose]()
  rmSync(base, { recursive: true })
})

/** Who of the callers is served on that port of the server. */
async function served(number: number = port.echo, host = world.ip('server')): Promise<Caller[]> {
  const answers = await Promise.all(callers.map((from) => world.connect(from, host, number, ['--send', 'ping'])))
  return callers.filter((_, i) => answers[i]?.ok === true && answers[i].reply?.includes('ping'))
}

let policies = 0

/** Has a policy of the server in force while it acts. */
async function under(
  spec: object, act: (key: string) => Promise<void>, { namespace = 'shop', annotations = {} }: { namespace?: string; annotations?: Record<string, string> } = {},
): Promise<void> {
  const name = `policy-${++policies}`
  world.mesh.apply(policyYaml('AuthorizationPolicy', namespace, name, spec, annotations))
  try {
    await world.inForce(`${namespace}/${name}`)
    await act(`${namespace}/${name}`)
  } finally {
    world.mesh.unapply(`AuthorizationPolicy ${namespace}/${name}`)
    await world.inForce({ gone: `${namespace}/${name}` })
  }
}

const from = (source: object): object => ({ from: [{ source }] })
const to = (operation: object): object => ({ to: [{ operation }] })
const principal = (name: string): string => `cluster.local/ns/shop/sa/${name}`

describe('AuthorizationPolicy', () => {
  const all = [...callers]
  const known: Caller[] = ['client', 'buyer', 'teller']
  // What is said, who is served on 7001, who on 7002 where that is somebody else.
  const cases: readonly (readonly [string, () => object, readonly Caller[], (readonly Caller[])?])[] = [
    ['that allows nothing', () => ({}), []],
    ['that allows everything', () => ({ rules: [{}] }), all],
    ['that denies everything', () => ({ action: 'DENY', rules: [{}] }), []],
    ['ALLOW a principal', () => ({ rules: [from({ principals: [principal('client')] })] }), ['client']],
    ['ALLOW a principal written as an URI', () => ({ rules: [from({ principals: [`spiffe://${principal('client')}`] })] }), ['client']],
    ['ALLOW principals by prefix', () => ({ rules: [from({ principals: ['cluster.local/ns/shop/*'] })] }), ['client', 'buyer']],
    ['ALLOW principals by suffix', () => ({ rules: [from({ principals: ['*/sa/teller'] })] }), ['teller']],
    ['ALLOW whoever has a principal', () => ({ rules: [from({ principals: ['*'] })] }), known],
    ['DENY whoever has none', () => ({ action: 'DENY', rules: [from({ notPrincipals: ['*'] })] }), known],
    ['ALLOW all but a principal', () => ({ rules: [from({ notPrincipals: [principal('buyer')] })] }), ['client', 'teller', 'stranger']],
    ['ALLOW a namespace', () => ({ rules: [from({ namespaces: ['bank'] })] }), ['teller']],
    ['DENY a namespace', () => ({ action: 'DENY', rules: [from({ namespaces: ['shop'] })] }), ['teller', 'stranger']],
    ['DENY all but a namespace', () => ({ action: 'DENY', rules: [from({ notNamespaces: ['shop'] })] }), ['client', 'buyer']],
    ['ALLOW accounts, of the own and of another namespace', () => ({ rules: [from({ serviceAccounts: ['buyer', 'bank/teller'] })] }), ['buyer', 'teller']],
    ['DENY all but an account', () => ({ action: 'DENY', rules: [from({ notServiceAccounts: ['client'] })] }), ['client']],
    ['ALLOW a port', () => ({ rules: [to({ ports: ['7002'] })] }), [], all],
    ['DENY all but a port', () => ({ action: 'DENY', rules: [to({ notPorts: ['7001'] })] }), all, []],
    ['ALLOW a block', () => ({ rules: [from({ ipBlocks: [world.ip('client'), `${world.ip('stranger')}/32`] })] }), ['client', 'stranger']],
    ['ALLOW all but a block', () => ({ rules: [from({ notIpBlocks: [world.ip('client')] })] }), ['buyer', 'teller', 'stranger']],
    ['ALLOW a namespace on a port', () => ({ rules: [{ ...from({ namespaces: ['bank'] }), ...to({ ports: ['7002'] }) }] }), [], ['teller']],
    ['ALLOW one of several rules', () => ({ rules: [from({ namespaces: ['bank'] }), from({ principals: [principal('buyer')] })] }), ['buyer', 'teller']],
    ['ALLOW on conditions', () => ({ rules: [{ when: [{ key: 'source.namespace', values: ['shop'] }, { key: 'destination.port', notValues: ['7002'] }] }] }),
      ['client', 'buyer'], []],
    ['ALLOW what only an L7 proxy can judge', () => ({ rules: [{ ...from({ namespaces: ['shop'] }), ...to({ methods: ['GET'] }) }] }), []],
    ['DENY what only an L7 proxy can judge in full', () => ({ action: 'DENY', rules: [{ ...from({ namespaces: ['shop'] }), ...to({ paths: ['/admin'] }) }] }),
      ['teller', 'stranger']],
  ]
  for (const [what, spec, onEcho, onBanner = onEcho] of cases) {
    test(what, () => under({ selector: { matchLabels: { app: 'server' } }, ...spec() }, async () => {
      expect([await served(port.echo), await served(port.banner)]).toEqual([onEcho, onBanner])
      // Of another workload nothing was said.
      expect(await world.reaches('stranger', 'bystander', port.echo)).toBe(true)
    }))
  }

  test('DENY goes before ALLOW, whichever comes first and wherever it is said; in a root namespace it is for the mesh', async () => {
    await under({ rules: [from({ namespaces: ['shop'] })] }, async () => {
      expect(await served()).toEqual(['client', 'buyer'])
      await under({ action: 'DENY', rules: [from({ principals: [principal('buyer')] })] }, async () => {
        expect(await served()).toEqual(['client'])
        expect(await world.reaches('buyer', 'bystander', port.echo)).toBe(false)
      }, { namespace: 'sidestep-system' })
      expect(await served()).toEqual(['client', 'buyer'])
    })
    expect(await served()).toEqual(all)
  })

  test('by IPv6 the address of a client is its IPv6 address', async () => {
    await under({ rules: [from({ ipBlocks: [`${world.ip('client', 6)}/128`] })] }, async () => {
      expect(await served(port.echo, world.ip('server', 6))).toEqual(['client'])
      expect(await served()).toEqual([])
    })
  })

  test('a refusal is a reset before any byte, logged with the rule that decided, and counted', async () => {
    await under({ action: 'DENY', rules: [from({ namespaces: ['nobody'] }), from({ namespaces: ['bank'] })] }, async (key) => {
      const before = await world.metric('node-b', 'sidestep_refusals_total', { because: 'denyPolicy' })
      const connections = server.process.lines.filter(isClosed).length
      const atServer = world.logged('node-b', { direction: 'inbound', verdict: 'denied', policy: key })
      const atClient = world.logged('node-a', { direction: 'outbound', 'src.workload': 'teller', verdict: 'denied' })
      expect(await world.connect('teller', 'server', port.banner, ['--read'])).toMatchObject({ ok: false, errno: 'ECONNRESET', received: 0 })
      expect((await atServer())[0]).toMatchObject({ rule: 1, reason: 'denyPolicy', 'src.identity': world.identity('teller'), 'dst.workload': 'server' })
      await atClient()
      expect(await world.metric('node-b', 'sidestep_refusals_total', { because: 'denyPolicy' })).toBe(before + 1)
      expect(await world.metric('node-b', 'istio_tcp_connections_failed_total', { response_flags: 'DENY', source_principal: world.identity('teller') })).toBeGreaterThan(0)
      expect(server.process.lines.filter(isClosed).length).toBe(connections)
    })
  })

  test.each(['sidestep.dev/dry-run', 'istio.io/dry-run'])('with %s it is counted and logged, and not enforced', async (annotation) => {
    await under({ action: 'DENY', rules: [from({ principals: [principal('buyer')] })] }, async (key) => {
      const counted = (): Promise<number> => world.metric('node-b', 'sidestep_policy_dry_run_total', { policy: key, action: 'deny' })
      const logged = world.logged('node-b', { direction: 'inbound', 'src.identity': world.identity('buyer'), dry_run: `deny ${key} rule 0` })
      expect(await world.reaches('client', 'server', port.echo)).toBe(true)
      expect(await counted()).toBe(0)
      expect(await world.reaches('buyer', 'server', port.echo)).toBe(true)
      expect((await logged())[0]).toMatchObject({ verdict: 'allowed' })
      expect(await counted()).toBe(1)
    }, { annotations: { [annotation]: 'true' } })
  })
})

describe('connections that stand when a policy comes', () => {
  /** So many connections of that pod that are held; they may be cut. */
  const hold = (name: string, number: number, count: number, at = 'server'): Promise<LineProcess> =>
    startProbe('many', [world.ip(at), number, count, '--echo', '--hold', 60], world.inside(name, { timeoutMs: 70_000 }))
  const standing = async (name: string, number: number): Promise<number> =>
    (await world.connections('node-b')).filter(({ source, destination }) => source.addr.startsWith(`${world.ip(name)}:`) && destination.addr.endsWith(`:${number}`)).length

  test('are cut if it denies them; those beside them in the same tunnel go on, and no byte of them is lost', async () => {
    await using cut = await hold('client', port.other, 20)
    await using plain = await hold('stranger', port.other, 5)
    await using kept = await hold('client', port.echo, 20)
    await using other = await hold('buyer', port.echo, 20)
    await eventually('all stand', async () => await standing('client', port.other) === 20 && await standing('stranger', port.other) === 5
      && await standing('client', port.echo) === 20 && await standing('buyer', port.echo) === 20)
    // Long enough to be under way through everything that follows.
    const bulk = runProbe('bulk', [world.ip('server'), port.bulk, 'both', 24 * MiB, '--rate', 8 * MiB], world.inside('client', { timeoutMs: 30_000 }))
    await eventually('the transfer is under way', async () => await standing('client', port.bulk) === 1)
    const logged = world.logged('node-b', { direction: 'inbound', reason: 'policyChanged' })
    await under({ selector: { matchLabels: { app: 'server' } }, action: 'DENY', rules: [to({ ports: [String(port.other)] })] }, async () => {
      await logged(25)
      expect([await standing('client', port.other), await standing('stranger', port.other)]).toEqual([0, 0])
      expect([await standing('client', port.echo), await standing('buyer', port.echo), await standing('client', port.bulk)]).toEqual([20, 20, 1])
    })
    const result = await bulk
    expect(result).toMatchObject({ ok: true, received: 24 * MiB, sent: 24 * MiB, firstBadOffset: -1 })
    expect([result.serverReceivedHash, result.serverSentHash]).toEqual([result.sentHash, result.receivedHash])
    expect([await standing('client', port.echo), await standing('buyer', port.echo)]).toEqual([20, 20])
    // Clients and server saw resets, not ends of files that could pass for answers.
    await eventually('the server saw them go', async () => server.process.lines.filter(isClosed).filter(({ mode, end }) => mode === 'echo' && end === 'ECONNRESET').length >= 25)
    void cut
    void plain
    void kept
    void other
  })

  test('are left alone by policies of others, dry runs and policies that allow them', async () => {
    await using kept = await hold('client', port.echo, 5)
    await eventually('they stand', async () => await standing('client', port.echo) === 5)
    await under({ selector: { matchLabels: { app: 'bystander' } }, action: 'DENY', rules: [{}] }, () =>
      under({ action: 'DENY', rules: [{}] }, () =>
        under({ rules: [from({ principals: [principal('client')] })] }, async () => {
          expect(await served()).toEqual(['client'])
          expect(await standing('client', port.echo)).toBe(5)
        }), { annotations: { 'istio.io/dry-run': 'true' } }))
    expect(await standing('client', port.echo)).toBe(5)
    void kept
  })

  test('are cut, too, when labels of their pod bring it under a policy; new ones are refused then', async () => {
    await under({ selector: { matchLabels: { tier: 'closed' } }, action: 'DENY', rules: [from({ namespaces: ['shop'] })] }, async () => {
      await using held = await hold('client', port.echo, 5, 'bystander')
      await using teller = await hold('teller', port.echo, 5, 'bystander')
      await eventually('they stand', async () => await standing('client', port.echo) === 5 && await standing('teller', port.echo) === 5)
      world.relabel('bystander', { tier: 'closed' })
      await eventually('they are cut', async () => await standing('client', port.echo) === 0)
      expect(await standing('teller', port.echo)).toBe(5)
      expect(await world.reaches('client', 'bystander', port.echo)).toBe(false)
      world.relabel('bystander', {})
      await eventually('new ones are let in again', () => world.reaches('client', 'bystander', port.echo))
      void held
      void teller
    })
  })
})

describe('what leaves the mesh', () => {
  const host = (family: 4 | 6): string => world.ip('outside', family)

  test.each([['free', true, undefined], ['watched', true, 'egressAudited'], ['shut', false, 'egressDenied'], ['typo', false, 'egressUnreadable']] as const)(
    'namespace of %s', async (name, isServed, because) => {
      for (const family of [4, 6] as const) {
        const counted = (): Promise<number> => world.metric('node-a', 'sidestep_egress_total', { namespace: `ns-${name}`, because: because ?? 'egressAllowed' })
        const before = await counted()
        const logged = world.logged('node-a', { direction: 'outbound', 'src.workload': name, verdict: isServed ? 'allowed' : 'denied', ...(!isServed && { reason: because }) })
        expect(await world.reaches(name, host(family), port.echo)).toBe(isServed)
        expect(await counted()).toBe(before + 1)
        await logged()
        // In the mesh, beside it but known, and itself: no egress.
        for (const to of ['server', 'bystander']) expect(await world.reaches(name, world.ip(to, family), port.echo)).toBe(true)
        expect(await counted()).toBe(before + 1)
      }
    })

  test('a ServiceEntry is the way out of a namespace that is shut; its label opens it at once, and shuts it again', async () => {
    expect(await world.reaches('shut', '240.240.0.9', 80)).toBe(true)
    expect(await world.reaches('shut', host(4), port.echo)).toBe(false)
    world.mesh.apply(namespaceYaml('ns-shut', egress('allow')))
    await eventually('it is open', () => world.reaches('shut', host(4), port.echo))
    world.mesh.apply(namespaceYaml('ns-shut', egress('deny')))
    await eventually('it is shut', async () => !(await world.reaches('shut', host(4), port.echo)))
  })

  test('the mesh has a default, and a namespace that says something goes its own way', async () => {
    world.mesh.apply(namespaceYaml('sidestep-system', { 'sidestep.dev/egress': 'deny' }))
    await eventually('the default is in force', async () => !(await world.reaches('client', host(4), port.echo)))
    expect(await world.reaches('free', host(4), port.echo)).toBe(true)
    expect(await world.reaches('client', 'server', port.echo)).toBe(true)
    world.mesh.unapply('Namespace sidestep-system')
    await eventually('it is taken back', () => world.reaches('client', host(4), port.echo))
  })
})

test('a policy that is written wrongly is reported on itself, and the last good one stays in force', async () => {
  const write = (spec: string): void => writeFileSync(join(base, 'policy.yaml'),
    `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: lock, namespace: shop }\nspec: ${spec}\n`)
  const status = async (): Promise<string> => {
    const program = fileURLToPath(new URL('../../src/bin/sidestep.ts', import.meta.url))
    const { stdout, stderr, code } = await runCommand([process.execPath, program, 'status', '--name', world.mesh.name])
    expect([stderr, code]).toEqual(['', 0])
    return stdout
  }
  write('{ rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }] }] }')
  await world.inForce('shop/lock')
  expect(await served()).toEqual(['client'])
  expect(await status()).not.toContain('shop/lock')
  // A misspelt property, which read leniently would let everybody in.
  write('{ rules: [{ from: [{ source: { principal: [cluster.local/ns/shop/sa/buyer] } }] }] }')
  await eventually('it is reported', async () => /NOT IN FORCE AS WRITTEN\n {2}AuthorizationPolicy shop\/lock \(policy\.yaml:\d+\): .*principal/.test(await status()))
  expect(await served()).toEqual(['client'])
  // Not YAML at all: nor does that take the policy away.
  writeFileSync(join(base, 'policy.yaml'), 'spec: { rules: [')
  await eventually('that is reported, too', async () => /policy\.yaml:1: /.test(await status()))
  expect(await served()).toEqual(['client'])
  write('{ rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/buyer] } }] }] }')
  await eventually('the corrected one is in force', async () => (await served()).join(' ') === 'buyer')
  expect(await status()).not.toContain('shop/lock')
  rmSync(join(base, 'policy.yaml'))
  await world.inForce({ gone: 'shop/lock' })
  expect(await served()).toEqual([...callers])
})

test('a policy of a later version, of which a part is not understood, refuses rather than passes', async () => {
  const { controlPlane } = await world.mesh.fullStatus()
  const pidOf = async (): Promise<number> => (await world.admin('node-b', '/state') as { pid: number }).pid
  const before = await pidOf()
  const file = { path: join(world.mesh.paths.nodeState('node-b'), 'mesh.state'), scope: 'Kubernetes cluster.local' }
  // Our control plane never says such a thing, so the ztunnel hears it from what it kept of an earlier one.
  process.kill(controlPlane.pid ?? 0, 'SIGSTOP')
  const stoppedMs = Date.now()
  try {
    // What changed last is kept two seconds later; nothing changes any more.
    await eventually('nothing is left to be kept', async () => Date.now() - Math.max(stoppedMs, statSync(file.path).mtimeMs) > 2_500)
    const kept = await loadState(file)
    if (!kept.ok) throw new Error(kept.because)
    const known = encodeAuthorization({ namespace: 'bank', name: 'later', scope: 'namespace', action: 'deny', isDryRun: false, rules: [] })
    // One more rule (field 5), of which nothing but a field 14 is said.
    const value = Buffer.concat([known, Buffer.from([0x2a, 2, 0x70, 1])])
    await saveState(file, { ...kept.value, authorization: [...kept.value.authorization, { name: 'bank/later', version: '1', aliases: [], value }] })
    process.kill(before, 'SIGKILL')
    await eventually('another ztunnel serves', async () => await pidOf().catch(() => before) !== before && world.reaches('client', 'server', port.echo), 20_000)
    const policy = (await world.policies('node-b')).find(({ name }) => name === 'later')
    expect(policy?.unsupported).toContain('field 14')
    const logged = world.logged('node-b', { direction: 'inbound', verdict: 'denied', policy: 'bank/later', reason: 'unsupportedPolicy' })
    for (const from of ['client', 'teller', 'stranger']) expect(await world.reaches(from, 'vault', port.echo), from).toBe(false)
    await logged(3)
    expect(await served()).toEqual([...callers])
  } finally {
    process.kill(controlPlane.pid ?? 0, 'SIGCONT')
  }
  await eventually('the control plane takes it back', () => world.reaches('client', 'vault', port.echo), 40_000)
}, 90_000)
