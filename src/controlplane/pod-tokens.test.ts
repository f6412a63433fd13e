// Token files of gateways' pods, as real files: there while the pod runs, renewed, gone with it, and never outside of their
// directory, whatever a pod is called.
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { nativeTunnelLabel } from '../model/enrolment.ts'
import { gatewayNameLabel } from '../model/gateway-labels.ts'
import type { RunningPod, RuntimeFacts } from '../model/running-pod.ts'
import { FakeClock, temporaryDirectory } from '../pki/testing.ts'
import { TokenIssuer, type TokenHolder } from '../pki/tokens.ts'
import { watchGatewayPods } from './gateway-pods.ts'
import { InProcessPods, type PodListener } from './pod-source.ts'
import { PodTokens } from './pod-tokens.ts'

let base: ReturnType<typeof temporaryDirectory>
let directory: string
let clock: FakeClock
let issuer: TokenIssuer
let tokens: PodTokens
let failures = 0

const labels = { [gatewayNameLabel]: 'way', [nativeTunnelLabel]: 'http' }
const pod = (name: string, more: Partial<RunningPod> = {}): RunningPod => ({
  uid: `u-${name}`, namespace: 'shop', name, node: 'node-a', ips: [], ready: true, labels, serviceAccount: 'way', isCaptured: false, isHostNetwork: false, ports: [], ...more,
})
const facts = (...pods: readonly RunningPod[]): RuntimeFacts => ({ pods: new Map(pods.map((each) => [`${each.namespace}/${each.name}`, each])), serviceIps: new Map() })
const deaf: PodListener = { putPod: () => undefined, removePod: () => undefined, setServiceIps: () => undefined }
const fileOf = (name: string, namespace = 'shop'): string => join(directory, namespace, name, 'token')

async function holderOf(name: string): Promise<TokenHolder | undefined> {
  if (!existsSync(fileOf(name))) return undefined
  const verdict = await issuer.verify(readFileSync(fileOf(name), 'utf8').trim(), 'us')
  return verdict.ok ? verdict : undefined
}

function make(): PodTokens {
  const issue = async (holder: TokenHolder): ReturnType<TokenIssuer['issue']> => {
    if (failures-- > 0) throw new Error('not now')
    return issuer.issue(holder, 'us', 100)
  }
  return new PodTokens({ directory, issue, logger: silentLogger, clock })
}

beforeEach(async () => {
  base = temporaryDirectory()
  directory = join(base.path, 'tokens', 'pods')
  clock = new FakeClock(1_800_000_000_000)
  issuer = await TokenIssuer.open(join(base.path, 'key'), clock)
  failures = 0
  tokens = make()
})
afterEach(async () => {
  await tokens.stop()
  base.remove()
})

describe('token files of pods', () => {
  test('are there while the pod runs, for its own life and account, and private', async () => {
    const source = new InProcessPods()
    source.update(facts(pod('way-1'), pod('way-2', { node: 'node-b' }), pod('web', { labels: {} })))
    await watchGatewayPods(source, tokens).start(deaf)
    await expect.poll(() => holderOf('way-2')).toMatchObject({ node: 'node-b', pod: { namespace: 'shop', name: 'way-2', serviceAccount: 'way', uid: 'u-way-2' } })
    expect(await holderOf('way-1')).toMatchObject({ node: 'node-a', subject: 'gateway shop/way' })
    expect(readdirSync(join(directory, 'shop'))).toEqual(['way-1', 'way-2'])
    expect(statSync(fileOf('way-1')).mode & 0o777).toBe(0o600)
    expect(statSync(join(directory, 'shop')).mode & 0o777).toBe(0o700)

    source.update(facts(pod('way-1', { uid: 'again' })))
    await expect.poll(() => holderOf('way-1')).toMatchObject({ pod: { uid: 'again' } })
    await expect.poll(() => readdirSync(join(directory, 'shop'))).toEqual(['way-1'])
    source.update(facts(pod('way-1', { uid: 'again', labels: {} })))
    await expect.poll(() => readdirSync(directory)).toEqual([])
  })

  test('are renewed, and written late where writing failed', async () => {
    failures = 1
    const source = new InProcessPods()
    source.update(facts(pod('way-1')))
    await watchGatewayPods(source, tokens).start(deaf)
    await expect.poll(() => failures).toBe(0)
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(existsSync(fileOf('way-1'))).toBe(false)
    clock.advance(5_000)
    await expect.poll(() => holderOf('way-1')).toBeDefined()
    const first = readFileSync(fileOf('way-1'), 'utf8')
    // The write is done when the next one is due, so time is moved until that is so.
    await expect.poll(() => {
      clock.advance(10_000)
      return readFileSync(fileOf('way-1'), 'utf8')
    }).not.toBe(first)
  })

  test('a pod that comes and goes quickly leaves nothing', async () => {
    const source = new InProcessPods()
    await watchGatewayPods(source, tokens).start(deaf)
    for (let i = 0; i < 20; i++) {
      source.update(facts(pod('way-1', { uid: `u${i}` }), pod('way-2')))
      source.update(facts(pod('way-2')))
    }
    await expect.poll(() => existsSync(directory) && readdirSync(join(directory, 'shop'))).toEqual(['way-2'])
    source.update(facts())
    await expect.poll(() => readdirSync(directory)).toEqual([])
  })

  test('a directory that is shown to pods stays the same, with the newest token in it', async () => {
    mkdirSync(dirname(fileOf('way-1')), { recursive: true })
    const { ino } = statSync(dirname(fileOf('way-1')))
    const source = new InProcessPods()
    source.update(facts(pod('way-1', { uid: 'u1' })))
    await watchGatewayPods(source, tokens).start(deaf)
    await expect.poll(() => holderOf('way-1')).toMatchObject({ pod: { uid: 'u1' } })
    source.update(facts(pod('way-1', { uid: 'u2' })))
    await expect.poll(() => holderOf('way-1')).toMatchObject({ pod: { uid: 'u2' } })
    source.update(facts())
    await expect.poll(() => existsSync(fileOf('way-1'))).toBe(false)
    source.update(facts(pod('way-1', { uid: 'u3' })))
    await expect.poll(() => holderOf('way-1')).toMatchObject({ pod: { uid: 'u3' } })
    expect(statSync(dirname(fileOf('way-1'))).ino).toBe(ino)
  })

  test('of an earlier run are removed where the pod is gone, and nothing outside is touched', async () => {
    for (const namespace of ['shop', 'gone']) mkdirSync(join(directory, namespace), { recursive: true })
    const outside = join(base.path, 'outside')
    mkdirSync(outside)
    writeFileSync(join(outside, 'x.token'), 'keep')
    symlinkSync(outside, join(directory, 'linked'))
    for (const path of [fileOf('way-1'), fileOf('way-9'), `${fileOf('way-9')}.0a0b.tmp`, fileOf('x', 'gone')]) {
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, 'old')
    }
    mkdirSync(join(directory, 'shop', 'way-10')) // made by whoever makes pods, for one that we have not heard of yet
    const source = new InProcessPods()
    source.update(facts(pod('way-1')))
    await watchGatewayPods(source, tokens).start(deaf)
    await expect.poll(() => readdirSync(directory, { recursive: true }).map(String).sort()).toEqual([
      'gone', 'gone/x', 'linked', 'linked/x.token', 'shop', 'shop/way-1', 'shop/way-1/token', 'shop/way-10', 'shop/way-9',
    ])
    await expect.poll(() => holderOf('way-1')).toBeDefined()
    expect(readFileSync(join(outside, 'x.token'), 'utf8')).toBe('keep')
  })

  test('stay when we stop', async () => {
    const source = new InProcessPods()
    source.update(facts(pod('way-1')))
    await watchGatewayPods(source, tokens).start(deaf)
    await expect.poll(() => holderOf('way-1')).toBeDefined()
    await tokens.stop()
    clock.advance(1_000_000)
    expect(existsSync(fileOf('way-1'))).toBe(true)
  })
})

describe('names of strangers', () => {
  const strange = fc.oneof(
    fc.constantFrom('..', '.', '...', '../x', '..%2fx', 'a/../b', '-a', 'a.', 'x'.repeat(250), 'ä', 'a\u0000b', '', ' ', 'A', '~', 'a..b', '__proto__'),
    fc.string({ unit: 'grapheme', maxLength: 12 }), fc.stringMatching(/^[a-z0-9.-]{1,20}$/),
  )

  test('never become paths outside of the directory', async () => {
    let written = 0
    await fc.assert(fc.asyncProperty(strange, strange, async (namespace, name) => {
      const before = readdirSync(base.path).sort()
      const source = new InProcessPods()
      const own = make()
      try {
        source.update(facts(pod(name, { namespace, uid: 'u' })))
        await watchGatewayPods(source, own).start(deaf)
        await own.stop()
        expect(readdirSync(base.path).sort().filter((each) => each !== 'tokens')).toEqual(before.filter((each) => each !== 'tokens'))
        const made = existsSync(directory) ? readdirSync(directory, { recursive: true, withFileTypes: true }).filter((each) => each.isFile()) : []
        written += made.length
        for (const file of made) expect([join(directory, namespace, name), 'token']).toEqual([file.parentPath, file.name])
      } finally {
        source.update(facts())
        const last = make()
        last.synced()
        await last.stop()
      }
    }), { numRuns: 200 })
    expect(written).toBeGreaterThan(0)
  })

  test('that could be files are written, and others are not', async () => {
    const source = new InProcessPods()
    source.update(facts(...['way-1', 'a.b-c.1', '..', 'a/b', 'A', `${'x'.repeat(254)}`].map((name) => pod(name)), pod('x', { namespace: '..' })))
    await watchGatewayPods(source, tokens).start(deaf)
    await expect.poll(() => existsSync(join(directory, 'shop')) && readdirSync(join(directory, 'shop')).sort()).toEqual(['a.b-c.1', 'way-1'])
    await tokens.stop()
    expect(readdirSync(directory)).toEqual(['shop'])
  })
})
