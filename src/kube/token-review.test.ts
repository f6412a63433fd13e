import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { FakeKubeApi } from './testing.ts'
import { readReview, TokenReviewer } from './token-review.ts'

const audience = 'sidestep-controlplane'
const opened: { close(): unknown }[] = []
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

/** Looks like a token; whether it is one is the server's to say. */
function token(claims: object): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
  return `${part({ alg: 'RS256' })}.${part(claims)}.${Buffer.from('signature').toString('base64url')}`
}

const soon = (): number => Math.floor(Date.now() / 1_000) + 3_600

const status = {
  authenticated: true, audiences: [audience],
  user: {
    username: 'system:serviceaccount:sidestep-system:sidestep-ztunnel', uid: 'u', groups: ['system:serviceaccounts'],
    extra: {
      'authentication.kubernetes.io/pod-name': ['sidestep-ztunnel-x'], 'authentication.kubernetes.io/pod-uid': ['1234'],
      'authentication.kubernetes.io/node-name': ['n1'], 'authentication.kubernetes.io/node-uid': ['5678'],
    },
  },
}
const verdict = {
  ok: true, namespace: 'sidestep-system', serviceAccount: 'sidestep-ztunnel', pod: { name: 'sidestep-ztunnel-x', uid: '1234' }, node: 'n1', nodeUid: '5678',
}

async function reviewer(options: Partial<ConstructorParameters<typeof TokenReviewer>[0]> = {}): Promise<{ api: FakeKubeApi; tokens: TokenReviewer }> {
  const api = await new FakeKubeApi().start()
  const client = api.client()
  opened.push({ close: () => api.stop() }, client)
  return { api, tokens: new TokenReviewer({ api: client, audience, ...options }) }
}

describe('a review of tokens', () => {
  it('says whose it is, and asks once for many calls', async () => {
    const { api, tokens } = await reviewer()
    const good = token({ aud: [audience], exp: soon() })
    api.tokens.set(good, status)
    const all = await Promise.all(Array.from({ length: 50 }, () => tokens.review(good)))
    for (const one of all) expect(one).toEqual(verdict)
    expect(await tokens.review(good)).toEqual(verdict)
    expect(api.seen.length).toBe(1)
    expect(api.seen[0]?.body).toMatchObject({ spec: { token: good, audiences: [audience] } })
  })

  it('asks again when a verdict is old, so that a pod that went is refused', async () => {
    const { api, tokens } = await reviewer({ keepMs: 30 })
    const good = token({ aud: audience, exp: soon() })
    api.tokens.set(good, status)
    expect((await tokens.review(good)).ok).toBe(true)
    api.tokens.delete(good)
    await expect.poll(() => tokens.review(good)).toEqual({ ok: false, because: 'refused' })
  })

  it('keeps no verdict past the end of the token', async () => {
    let nowMs = Date.now()
    const { api, tokens } = await reviewer({ keepMs: 1e9, clock: { nowMs: () => nowMs, monotonicMs: () => nowMs, after: () => () => {} } })
    const good = token({ aud: [audience], exp: Math.floor(nowMs / 1_000) + 60 })
    api.tokens.set(good, status)
    expect((await tokens.review(good)).ok).toBe(true)
    nowMs += 61_000
    expect(await tokens.review(good)).toEqual({ ok: false, because: 'expired' })
  })

  it('asks nobody about what cannot be right', async () => {
    const { api, tokens } = await reviewer()
    const cases = { malformed: ['', 'x', 'a.b', 'a.b.c', `${'x'.repeat(20_000)}.y.z`, `x.${Buffer.from('[]').toString('base64url')}.y`, `x.${Buffer.from('7').toString('base64url')}.y`],
      wrongAudience: [token({ aud: ['other'], exp: soon() }), token({ exp: soon() }), token({ aud: { x: audience } })], expired: [token({ aud: [audience], exp: 5 })] }
    for (const [because, texts] of Object.entries(cases)) {
      for (const text of texts) expect(await tokens.review(text), text.slice(0, 40)).toMatchObject({ ok: false, because: expect.stringMatching(`${because}|malformed`) as string })
    }
    expect(api.seen).toEqual([])
  })

  it('passes on that nobody can tell, and does not keep that', async () => {
    const { api, tokens } = await reviewer()
    const good = token({ aud: [audience], exp: soon() })
    api.tokens.set(good, status)
    api.fault = () => ({ status: 403 })
    const refused = tokens.review(good)
    await expect(refused).rejects.toMatchObject({ code: 'KUBE_API', detail: { status: 403 } })
    // The token is in no part of the error.
    const error: unknown = await refused.catch((thrown: unknown) => thrown)
    expect(JSON.stringify([String(error), (error as { detail: unknown }).detail])).not.toContain(good)
    api.fault = () => undefined
    expect((await tokens.review(good)).ok).toBe(true)
  })

  it('asks a few at once and lets few wait', async () => {
    const { api, tokens } = await reviewer({ atOnce: 2, mostWaiting: 3, most: 4 })
    const all = Array.from({ length: 12 }, (_, index) => token({ aud: [audience], exp: soon(), index }))
    for (const one of all) api.tokens.set(one, status)
    const results = await Promise.allSettled(all.map((one) => tokens.review(one)))
    expect(results.filter(({ status: state }) => state === 'fulfilled').length).toBe(5)
    for (const one of results) if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'OVERLOADED' })
    for (const one of all) expect((await tokens.review(one)).ok).toBe(true)
  })

  it.each<[object | undefined, string]>([
    [{ ...status, audiences: [] }, 'wrongAudience'], [{ ...status, audiences: ['other'] }, 'wrongAudience'], [{ ...status, audiences: undefined }, 'wrongAudience'],
    [{ ...status, authenticated: 'true' }, 'refused'], [undefined, 'refused'],
    [{ ...status, user: { username: 'system:admin' } }, 'notAServiceAccount'], [{ ...status, user: { username: 'system:serviceaccount:a:b:c' } }, 'notAServiceAccount'],
    [{ ...status, user: undefined }, 'notAServiceAccount'],
  ])('refuses %j', (answer, because) => {
    expect(readReview(answer, audience)).toEqual({ ok: false, because })
  })

  it('binds to nothing that is not said once', () => {
    const extra = { 'authentication.kubernetes.io/pod-name': ['a', 'b'], 'authentication.kubernetes.io/pod-uid': ['u'], 'authentication.kubernetes.io/node-name': 'n1' }
    expect(readReview({ ...status, user: { ...status.user, extra } }, audience)).toEqual({ ok: true, namespace: 'sidestep-system', serviceAccount: 'sidestep-ztunnel' })
  })

  it('reads any answer', () => {
    fc.assert(fc.property(fc.anything(), (answer) => void readReview(answer, audience)))
    fc.assert(fc.property(fc.record({ authenticated: fc.constant(true), audiences: fc.constant([audience]), user: fc.anything() }), (answer) => void readReview(answer, audience)))
  })
})
