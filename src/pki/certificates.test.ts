import { X509Certificate } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { silentLogger } from '../core/log.ts'
import { CertificateManager } from './certificates.ts'
import type { CertificateManagerOptions, CertificateRequest, CertificateState } from './certificates.ts'
import { readCsr } from './csr.ts'
import { backdateMs, issueLeaf } from './issue.ts'
import { certificatePem } from './pem.ts'
import { FakeClock, ecKey, makeIntermediate, makeRoot } from './testing.ts'
import type { Made } from './testing.ts'

const frontend: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'frontend' }
const named = (serviceAccount: string): Identity => ({ ...frontend, serviceAccount })
const minute = 60_000
const hour = 60 * minute

let root: Made
let ca: Made
let other: Made
let key: KeyObject
let clock: FakeClock
let manager: CertificateManager

beforeAll(async () => {
  const far = { notAfterMs: Date.now() + 400 * 24 * hour }
  root = await makeRoot(far)
  ca = await makeIntermediate(root, far)
  other = await makeRoot({ ...far, subject: 'CN=Next root' })
  key = ecKey()
})
beforeEach(() => {
  clock = new FakeClock(Math.floor(Date.now() / 1000) * 1000)
})
afterEach(() => manager.close())

/** A CA that can be slow, broken or hostile; each answer is a real certificate. */
class TestCa {
  ttlMs = hour
  failure: Error | undefined
  roots = [root.pem]
  /** While held, requests wait here. */
  held: (() => void)[] | undefined
  readonly asked: string[] = []
  change: (chain: string[], request: CertificateRequest) => Promise<string[]> | string[] = (chain) => chain
  running = 0
  most = 0

  async request(request: CertificateRequest): Promise<string[]> {
    this.asked.push(request.identity.serviceAccount)
    this.most = Math.max(this.most, ++this.running)
    try {
      if (this.held) await new Promise<void>((resolve) => this.held?.push(resolve))
      if (this.failure) throw this.failure
      const { identity, publicKey } = readCsr(request.csrPem)
      const times = { notBeforeMs: clock.nowMs() - backdateMs, notAfterMs: clock.nowMs() + this.ttlMs }
      const leaf = await issueLeaf(publicKey, identity, times, ca)
      return await this.change([certificatePem(leaf.der), ca.pem, this.roots.join('')], request)
    } finally {
      this.running--
    }
  }
}

function start(options: Partial<CertificateManagerOptions> = {}): TestCa {
  const testCa = new TestCa()
  manager = new CertificateManager({ ca: testCa, logger: silentLogger, clock, random: () => 0.5, newKey: () => Promise.resolve(key), ...options })
  return testCa
}

function stateOf(identity = frontend): CertificateState {
  const found = manager.states().find((s) => formatIdentity(s.identity) === formatIdentity(identity))
  if (!found) throw new Error('forgotten')
  return found.state
}

const settled = (identity = frontend): Promise<unknown> => expect.poll(() => stateOf(identity).t, { interval: 2 }).toMatch(/ready|failed/)
/** Lets time pass and what it sets going come to rest. */
async function pass(ms: number, identity = frontend): Promise<void> {
  clock.advance(ms)
  await settled(identity)
}

describe('one certificate', () => {
  test('is fetched once for all who wait, and answers peek after', async () => {
    const testCa = start()
    expect(manager.peek(frontend)).toBeUndefined()
    const all = await Promise.all([manager.get(frontend, 1000), manager.get(frontend, 1000), manager.get(frontend, 1000)])
    expect(new Set(all.map((c) => c.serial)).size).toBe(1)
    expect(testCa.asked).toEqual(['frontend'])
    expect(manager.peek(frontend)).toBe(all[0])
    expect(all[0]).toMatchObject({ identity: frontend, notAfterMs: clock.nowMs() + hour })
    expect(all[0]?.chainPem.split('BEGIN')).toHaveLength(3)
    expect(all[0]?.rootsPem).toEqual([root.pem])
    expect(stateOf()).toMatchObject({ t: 'ready' })
  })

  test('is renewed at half of its life, with jitter, and the old one serves until then', async () => {
    for (const [random, at] of [[0, 0.45], [0.5, 0.5], [1, 0.55]] as const) {
      const testCa = start({ random: () => random })
      const first = await manager.get(frontend, 1000)
      clock.advance(hour * at - 1)
      expect(testCa.asked).toHaveLength(1)
      await pass(1)
      await expect.poll(() => manager.peek(frontend)?.serial).not.toBe(first.serial)
      expect(testCa.asked).toHaveLength(2)
      manager.close()
    }
  })

  test('a lifetime shorter than the backdating is renewed at its half, not in a hot loop', async () => {
    const testCa = start()
    testCa.ttlMs = minute
    await manager.get(frontend, 1000)
    clock.advance(29_999)
    expect(testCa.asked).toHaveLength(1)
    for (let i = 0; i < 10; i++) {
      await pass(1)
      await expect.poll(() => testCa.asked.length).toBe(i + 2)
      await settled()
      clock.advance(29_999)
    }
    expect(testCa.asked).toHaveLength(11)
  })

  test('whoever waits too long is told why', async () => {
    const testCa = start()
    testCa.held = []
    const waiting = manager.get(frontend, 5_000)
    clock.advance(5_000)
    await expect(waiting).rejects.toMatchObject({ code: 'CERTIFICATE_UNAVAILABLE' })
    testCa.held.splice(0).forEach((go) => go())
    testCa.held = undefined
    await settled()
    expect(manager.peek(frontend)).toBeDefined()
  })
})

describe('when the CA fails', () => {
  test('it is asked again after 1, 2, 4 ... 150 seconds, and at once when it is back', async () => {
    const testCa = start()
    testCa.failure = new MeshError('CERTIFICATE_REFUSED', 'no such pod')
    manager.prefetch(frontend)
    await settled()
    for (const wait of [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]) {
      const state = stateOf()
      if (state.t !== 'failed') throw new Error(state.t)
      expect(state.retryAtMs - clock.nowMs()).toBe(wait * 1000)
      expect(state.because).toMatch(/no such pod/)
      const before = testCa.asked.length
      clock.advance(wait * 1000)
      await expect.poll(() => testCa.asked.length).toBe(before + 1)
      await settled()
    }
    testCa.failure = undefined
    manager.retryNow()
    await expect.poll(() => stateOf().t).toBe('ready')
  })

  test('jitter is a fifth, and never above the cap', async () => {
    const seen: number[] = []
    for (const random of [0, 1]) {
      const testCa = start({ random: () => random })
      testCa.failure = new Error('down')
      manager.prefetch(frontend)
      await settled()
      const state = stateOf()
      if (state.t === 'failed') seen.push(state.retryAtMs - clock.nowMs())
      manager.close()
    }
    expect(seen).toEqual([800, 1200])
  })

  test('a connection that waits does not sleep through minutes of backoff', async () => {
    const testCa = start()
    testCa.failure = new Error('down')
    manager.prefetch(frontend)
    await settled()
    for (let i = 0; i < 8; i++) await pass(150_000)
    const waiting = manager.get(frontend, 10_000)
    testCa.failure = undefined
    clock.advance(5_000)
    await expect(waiting).resolves.toMatchObject({ identity: frontend })
  })

  test('the certificate there is serves until it expires, is tried for to the last, and then is no more', async () => {
    const testCa = start()
    const first = await manager.get(frontend, 1000)
    testCa.failure = new Error('down')
    let latest = 0
    while (clock.nowMs() < first.notAfterMs - 1) {
      expect(manager.peek(frontend)?.serial).toBe(first.serial)
      const state = stateOf()
      const next = state.t === 'failed' ? state.retryAtMs : state.t === 'ready' ? state.renewAtMs : clock.nowMs()
      if (next >= first.notAfterMs) break
      latest = next
      const before = testCa.asked.length
      clock.advance(next - clock.nowMs())
      await expect.poll(() => testCa.asked.length, { interval: 1 }).toBe(before + 1)
      await settled()
    }
    expect(first.notAfterMs - latest).toBeLessThanOrEqual(2_000)
    clock.advance(first.notAfterMs - clock.nowMs())
    expect(manager.peek(frontend)).toBeUndefined()
    testCa.failure = undefined
    const waiting = manager.get(frontend, 20_000)
    clock.advance(5_000)
    expect((await waiting).serial).not.toBe(first.serial)
  })

  test.each<[string, (chain: string[], request: CertificateRequest) => Promise<string[]> | string[], RegExp]>([
    ['too few certificates', ([leaf = '']) => [leaf], /a leaf and a root/],
    ['nothing', () => [], /a leaf and a root/],
    ['no PEM', () => ['hello', 'world'], /a leaf and a root/],
    ['a root that did not sign', ([leaf = '', mid = '']) => [leaf, mid, other.pem], /untrusted/],
    ['the intermediate left out', ([leaf = '', , roots = '']) => [leaf, roots], /untrusted/],
    ['another key', async (chain) => {
      const facts = await issueLeaf(other.facts.x509.publicKey, frontend, { notBeforeMs: clock.nowMs(), notAfterMs: clock.nowMs() + hour }, ca)
      return [certificatePem(facts.der), ...chain.slice(1)]
    }, /another key/],
    ['another identity', async (chain, { csrPem }) => {
      const { publicKey } = readCsr(csrPem)
      const facts = await issueLeaf(publicKey, named('admin'), { notBeforeMs: clock.nowMs(), notAfterMs: clock.nowMs() + hour }, ca)
      return [certificatePem(facts.der), ...chain.slice(1)]
    }, /of spiffe:.*admin/],
    ['an expired one', async (chain, { csrPem }) => {
      const { publicKey } = readCsr(csrPem)
      const facts = await issueLeaf(publicKey, frontend, { notBeforeMs: clock.nowMs() - hour, notAfterMs: clock.nowMs() }, ca)
      return [certificatePem(facts.der), ...chain.slice(1)]
    }, /expired/],
  ])('or answers with %s, that is a failure', async (_name, change, because) => {
    const testCa = start()
    testCa.change = change
    manager.prefetch(frontend)
    await settled()
    expect(stateOf()).toMatchObject({ t: 'failed', because: expect.stringMatching(because) })
    expect(manager.peek(frontend)).toBeUndefined()
  })
})

describe('many identities', () => {
  test('eight requests at once; who waits first, then renewals, then what is fetched ahead', async () => {
    const testCa = start()
    await manager.get(named('old'), 1000)
    testCa.held = []
    for (let i = 0; i < 20; i++) manager.prefetch(named(`warm${i}`))
    await expect.poll(() => testCa.running).toBe(8)
    clock.advance(hour / 2)
    void manager.get(named('urgent'), hour)
    void manager.get(named('warm15'), hour)
    expect(manager.load()).toEqual({ queued: 14, running: 8 })
    const held = testCa.held
    testCa.held = undefined
    held.forEach((go) => go())
    await expect.poll(() => testCa.asked.length, { timeout: 10_000 }).toBe(23)
    expect(testCa.most).toBe(8)
    const after = testCa.asked.slice(9)
    // warm15 was in line before urgent, and both are waited for.
    expect(after.slice(0, 3)).toEqual(['warm15', 'urgent', 'old'])
    expect(after.slice(3)).toEqual([...Array(20).keys()].filter((i) => i > 7 && i !== 15).map((i) => `warm${i}`))
  })

  test('a forgotten identity is renewed no more, its waiters are told, a late answer is dropped', async () => {
    const testCa = start()
    testCa.held = []
    const waiting = manager.get(frontend, hour)
    await expect.poll(() => testCa.running).toBe(1)
    manager.forget(frontend)
    manager.forget(frontend)
    await expect(waiting).rejects.toMatchObject({ code: 'CERTIFICATE_UNAVAILABLE' })
    testCa.held.forEach((go) => go())
    await expect.poll(() => testCa.running).toBe(0)
    expect(manager.states()).toEqual([])
    clock.advance(24 * hour)
    expect(testCa.asked).toHaveLength(1)
  })

  test('close ends everything', async () => {
    const testCa = start()
    testCa.held = []
    const waiting = manager.get(frontend, hour)
    manager.close()
    await expect(waiting).rejects.toMatchObject({ code: 'CLOSED' })
    await expect(manager.get(frontend, 1)).rejects.toMatchObject({ code: 'CLOSED' })
    testCa.held.forEach((go) => go())
  })
})

describe('listeners', () => {
  test('hear of each renewal and of a new bundle for all identities', async () => {
    const testCa = start()
    const heard: string[] = []
    const stop = manager.onChange((identity) => heard.push(identity.serviceAccount))
    await manager.get(named('a'), 1000)
    await manager.get(named('b'), 1000)
    expect(heard).toEqual(['a', 'b'])
    testCa.roots = [root.pem, other.pem]
    await manager.get(named('c'), 1000)
    expect(heard.slice(2).sort()).toEqual(['a', 'b', 'c'])
    for (const name of ['a', 'b', 'c']) expect(manager.peek(named(name))?.rootsPem).toEqual([root.pem, other.pem])
    expect(manager.rootsPem).toHaveLength(2)
    stop()
    await manager.get(named('d'), 1000)
    expect(heard).toHaveLength(5)
  })

  test('what is revoked is shown no more, and another is asked for at once; what is not stays', async () => {
    const revoked = new Set<string>()
    const testCa = start({ revocation: ([leaf]) => (leaf && revoked.has(new X509Certificate(leaf).serialNumber) ? 'on the list' : undefined) })
    const first = await manager.get(frontend, 1000)
    const other = await manager.get(named('cart'), 1000)
    manager.replaceRevoked()
    expect(testCa.asked).toEqual(['frontend', 'cart'])
    revoked.add(new X509Certificate(first.chainPem).serialNumber)
    testCa.held = []
    manager.replaceRevoked()
    expect(manager.peek(frontend)).toBeUndefined()
    const waiting = manager.get(frontend, 1000)
    await expect.poll(() => testCa.held?.length, { interval: 2 }).toBe(1)
    // Asked again while the request is under way: one is enough.
    manager.replaceRevoked()
    for (const go of testCa.held) go()
    expect((await waiting).serial).not.toBe(first.serial)
    expect(manager.peek(named('cart'))).toBe(other)
    expect(testCa.asked).toEqual(['frontend', 'cart', 'frontend'])
  })

  test('one from an earlier process that was revoked meanwhile is not used', async () => {
    start()
    const before = await manager.get(frontend, 1000)
    manager.close()
    start({ revocation: () => 'on the list' })
    manager.restore([before])
    expect((await manager.get(frontend, 1000)).serial).not.toBe(before.serial)
  })

  test('revocation is asked of whoever knows', () => {
    start({ revocation: () => 'serial 1' })
    expect(manager.revocation([])).toBe('serial 1')
  })
})

test('keys are P-256, made anew for each certificate', async () => {
  const testCa = start()
  manager = new CertificateManager({ ca: testCa, logger: silentLogger, clock })
  const first = await manager.get(frontend, 5000)
  const second = await manager.get(named('b'), 5000)
  expect(first.key.asymmetricKeyDetails?.namedCurve).toBe('prime256v1')
  expect(first.key.equals(second.key)).toBe(false)
})
