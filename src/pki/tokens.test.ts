import { createPrivateKey } from 'node:crypto'
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { SignJWT, UnsecuredJWT } from 'jose'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { FakeClock, ecKey, temporaryDirectory } from './testing.ts'
import { TokenIssuer, keepTokenFile, tokenFromFile } from './tokens.ts'

let base: ReturnType<typeof temporaryDirectory>
let keyFile: string
let clock: FakeClock
let issuer: TokenIssuer
const holder = { node: 'node-a', subject: 'ztunnel' }

beforeEach(async () => {
  base = temporaryDirectory()
  keyFile = join(base.path, 'token.key')
  clock = new FakeClock(1_800_000_000_000)
  issuer = await TokenIssuer.open(keyFile, clock)
})
afterEach(() => base.remove())

test('a token names its node until it expires, also after a restart', async () => {
  const { text, expiresMs } = await issuer.issue(holder, 'istio-ca', 60)
  expect(expiresMs).toBe(clock.nowMs() + 60_000)
  const restarted = await TokenIssuer.open(keyFile, clock)
  expect(await restarted.verify(text, 'istio-ca')).toEqual({ ok: true, ...holder })
  expect(await restarted.verifyHeader(`Bearer ${text}`, 'istio-ca')).toEqual({ ok: true, ...holder })
  clock.advance(59_999)
  expect(await restarted.verify(text, 'istio-ca')).toMatchObject({ ok: true })
  clock.advance(1)
  expect(await restarted.verify(text, 'istio-ca')).toEqual({ ok: false, because: 'expired' })
})

test('every other token is refused with its reason', async () => {
  const { text } = await issuer.issue(holder, 'istio-ca', 60)
  const refused = async (token: string | undefined, audience = 'istio-ca'): Promise<string> => {
    const verdict = await issuer.verify(token, audience)
    return verdict.ok ? 'accepted' : verdict.because
  }
  const key = createPrivateKey(readFileSync(keyFile))
  const now = Math.floor(clock.nowMs() / 1000)
  const jwt = (claims: object, signer = key): Promise<string> =>
    new SignJWT({ iss: 'sidestep.dev', aud: 'istio-ca', sub: 'x', node: 'a', nbf: now, exp: now + 60, ...claims }).setProtectedHeader({ alg: 'ES256' }).sign(signer)
  expect(await refused(await jwt({}))).toBe('accepted')
  expect(await refused(undefined)).toBe('missing')
  expect(await refused('')).toBe('missing')
  expect(await refused('a.b.c')).toBe('malformed')
  expect(await refused('x'.repeat(5_000))).toBe('malformed')
  expect(await refused(text, 'other')).toBe('wrongAudience')
  expect(await refused(await jwt({}, ecKey()))).toBe('badSignature')
  expect(await refused(await jwt({ iss: 'other' }))).toBe('wrongIssuer')
  expect(await refused(await jwt({ nbf: now + 10 }))).toBe('notYetValid')
  expect(await refused(await jwt({ exp: undefined }))).toBe('malformed')
  expect(await refused(await jwt({ node: undefined }))).toBe('noNode')
  expect(await refused(await jwt({ node: '../a' }))).toBe('noNode')
  expect(await refused(new UnsecuredJWT({ node: 'a' }).setAudience('istio-ca').encode())).toBe('malformed')
  const [head, body, signature] = text.split('.')
  expect(await refused([head, Buffer.from('{"node":"b"}').toString('base64url'), signature].join('.'))).toBe('badSignature')
  expect(await refused([head, body].join('.'))).toBe('malformed')
  expect(await issuer.verifyHeader(`Basic ${text}`, 'istio-ca')).toEqual({ ok: false, because: 'missing' })
  await fc.assert(fc.asyncProperty(fc.string(), async (any) => {
    expect(await refused(any)).toMatch(/malformed|missing|badSignature/)
  }))
  await expect(issuer.issue({ ...holder, node: 'a/b' }, 'x', 1)).rejects.toMatchObject({ code: 'BAD_CONFIG' })
})

test('a token may name a pod, and one whose pod cannot be read is nobody, not its node', async () => {
  const pod = { namespace: 'shop', name: 'way-1', serviceAccount: 'way', uid: 'u1' }
  const { text } = await issuer.issue({ ...holder, pod }, 'istio-ca', 60)
  expect(await issuer.verify(text, 'istio-ca')).toEqual({ ok: true, ...holder, pod })
  const key = createPrivateKey(readFileSync(keyFile))
  const now = Math.floor(clock.nowMs() / 1000)
  const broken: unknown[] = [
    null, 'shop/way-1', {}, { ...pod, uid: undefined }, { ...pod, uid: '' }, { ...pod, namespace: '..' }, { ...pod, name: 'a/b' }, { ...pod, serviceAccount: '' }, { ...pod, more: 1 },
  ]
  for (const each of broken) {
    const forged = await new SignJWT({ iss: 'sidestep.dev', aud: 'istio-ca', sub: 'x', node: 'a', nbf: now, exp: now + 60, pod: each }).setProtectedHeader({ alg: 'ES256' }).sign(key)
    expect(await issuer.verify(forged, 'istio-ca')).toEqual({ ok: false, because: 'badPod' })
  }
  for (const name of ['../x', 'a/b', '', '.']) {
    await expect(issuer.issue({ ...holder, pod: { ...pod, name } }, 'istio-ca', 60)).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  }
})

test('the key is private and must stay so', async () => {
  expect(statSync(keyFile).mode & 0o777).toBe(0o600)
  chmodSync(keyFile, 0o640)
  await expect(TokenIssuer.open(keyFile)).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  chmodSync(keyFile, 0o600)
  writeFileSync(keyFile, 'hello')
  await expect(TokenIssuer.open(keyFile)).rejects.toMatchObject({ code: 'BAD_CONFIG' })
})

test('the file is private and written anew before its token expires', async () => {
  const path = join(base.path, 'token')
  let failures = 0
  const issue = async (): ReturnType<TokenIssuer['issue']> => {
    if (failures-- > 0) throw new Error('disk full')
    return issuer.issue(holder, 'istio-ca', 100)
  }
  failures = 0
  const keeper = await keepTokenFile({ path, issue, logger: silentLogger, clock })
  const read = tokenFromFile(path)
  const first = await read()
  expect(statSync(path).mode & 0o777).toBe(0o600)
  clock.advance(79_999)
  expect(await read()).toBe(first)
  failures = 1
  clock.advance(1)
  await expect.poll(() => failures).toBe(0)
  await new Promise((resolve) => setTimeout(resolve, 20))
  clock.advance(5_000)
  await expect.poll(read).not.toBe(first)
  expect(await issuer.verify(await read(), 'istio-ca')).toMatchObject({ ok: true })
  await keeper.stop()
  const last = await read()
  clock.advance(1_000_000)
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(await read()).toBe(last)
  await expect(tokenFromFile(join(base.path, 'none'))()).rejects.toMatchObject({ code: 'BAD_CONFIG' })
})
