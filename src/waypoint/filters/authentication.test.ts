// RequestAuthentication with a real issuer: an HTTP server whose keys rotate, go away and grow out of bounds.
import { generateKeyPairSync } from 'node:crypto'
import type { RequestListener } from 'node:http'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import type { CryptoKey, JWK, JWTPayload } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Clock } from '../../core/clock.ts'
import { systemClock } from '../../core/clock.ts'
import { emptyL7Match } from '../../model/authorization-l7.ts'
import type { AuthorizationL7 } from '../../model/authorization-l7.ts'
import type { JwtRule } from '../../model/manifest-traffic-auth.ts'
import { echo, ruleOf, serviceAt, shopService, startBackend, startWorld } from './testing.ts'
import type { Backend, Echoed, World } from './testing.ts'

interface Key {
  readonly kid: string
  readonly privateKey: CryptoKey
  readonly jwk: JWK
}

async function keyOf(kid: string, alg = 'RS256'): Promise<Key> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true })
  return { kid, privateKey, jwk: { ...await exportJWK(publicKey), kid, alg, use: 'sig' } }
}

const issuer = {
  backend: undefined as Backend | undefined, keys: [] as JWK[], asked: 0,
  mode: 'ok' as 'ok' | 'away' | 'huge' | 'garbage' | 'slow',
}
const serve: RequestListener = (req, res) => {
  issuer.asked++
  if (issuer.mode === 'away') res.writeHead(500).end()
  else if (issuer.mode === 'huge') {
    res.writeHead(200)
    const more = (): void => {
      while (!res.destroyed && res.write('x'.repeat(65_536))) { /* until it is full */ }
    }
    res.on('drain', more)
    more()
  } else if (issuer.mode === 'slow') res.write('{')
  else if (issuer.mode === 'garbage') res.end('{"keys": "none"}')
  else if (req.url?.endsWith('openid-configuration') === true) res.end(JSON.stringify({
    jwks_uri: `http://127.0.0.1:${issuer.backend?.port}/keys`,
  }))
  else res.end(JSON.stringify({ keys: issuer.keys }))
}

const open: { close(): unknown }[] = []
let now = Date.now()
let monotonic = 0
const clock: Clock = { ...systemClock, nowMs: () => now, monotonicMs: () => monotonic }
let first: Key
let second: Key
let made: World
let uri = ''

beforeAll(async () => {
  issuer.backend = await startBackend(serve)
  const backend = await startBackend(echo)
  first = await keyOf('one')
  second = await keyOf('two', 'ES256')
  issuer.keys = [first.jwk]
  uri = `http://127.0.0.1:${issuer.backend.port}/keys`
  made = await startWorld(
    { rules: [ruleOf()], clock },
    [{ service: shopService, port: backend.port }, { service: serviceAt('issuer'), port: issuer.backend.port }],
  )
  open.push(issuer.backend, backend, made)
})
afterAll(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

function jwtRule(parts: Partial<JwtRule> = {}): JwtRule {
  return {
    issuer: 'https://issuer.test', audiences: [], fromHeaders: [], fromParams: [], fromCookies: [], forwardOriginalToken: false,
    outputClaimToHeaders: [], spaceDelimitedClaims: [],
    ...(parts.jwks === undefined && { jwksUri: uri }), ...parts,
  }
}

const sign = (claims: JWTPayload = {}, key = first, iss = 'https://issuer.test', alg = key.jwk.alg ?? ''): Promise<string> =>
  new SignJWT({
    sub: 'ann', aud: 'shop', exp: Math.floor(now / 1000) + 600, ...claims,
  }).setProtectedHeader({ alg, kid: key.kid }).setIssuer(iss).sign(key.privateKey)

/** Status, and what the backend got. */
async function ask(token: string | undefined, path = '/', headers: Record<string, string> = {}): Promise<{
  readonly status: number; readonly seen: Echoed | undefined; readonly answer: Response
}> {
  const answer = await fetch(
    `${made.url}${path}`, { headers: { ...(token !== undefined && { authorization: `Bearer ${token}` }), ...headers } },
  )
  const text = await answer.text()
  return { status: answer.status, seen: text.startsWith('{') ? JSON.parse(text) as Echoed : undefined, answer }
}

const requirePrincipal = (value: string): AuthorizationL7 => ({
  name: 'p', namespace: 'shop', action: 'allow', isDryRun: false,
  rules: [[[{ ...emptyL7Match, requestPrincipals: [{ kind: 'exact', value }] }]]],
})

describe('a request with a token', () => {
  it('passes with a good one, without any, and not with a bad one', async () => {
    made.change({ jwtRules: [jwtRule()], policies: [] })
    const good = await ask(await sign())
    expect(good.status).toBe(200)
    expect(good.seen?.headers).not.toHaveProperty('authorization')
    expect((await ask(undefined)).status).toBe(200)
    const bad = await ask((await sign()).slice(0, -8) + 'AAAAAAAA')
    expect(bad.status).toBe(401)
    expect(bad.answer.headers.get('www-authenticate')).toMatch(/^Bearer realm="http:\/\/127.0.0.1:\d+\/", error="invalid_token"$/)
    expect(made.records.at(-1)?.reasons[0]?.[0]).toBe('tokenInvalid')
  })

  it('is known to policies by its principal, and nobody without one is', async () => {
    made.change({ jwtRules: [jwtRule()], policies: [requirePrincipal('https://issuer.test/ann')] })
    expect((await ask(await sign())).status).toBe(200)
    expect((await ask(await sign({ sub: 'bob' }))).status).toBe(403)
    expect((await ask(undefined)).status).toBe(403)
    made.change({ policies: [] })
  })

  it('is refused for another audience, another issuer, before and after its time', async () => {
    made.change({ jwtRules: [jwtRule({ audiences: ['shop', 'desk'] })] })
    const seconds = Math.floor(now / 1000)
    expect((await ask(await sign())).status).toBe(200)
    expect((await ask(await sign({ aud: ['x', 'desk'] }))).status).toBe(200)
    for (const token of [
      await sign({ aud: 'bank' }), await sign({}, first, 'https://other.test'), await sign({ exp: seconds - 120 }),
      await sign({ nbf: seconds + 120 }), await sign({ exp: 'never' as unknown as number }),
    ]) expect((await ask(token)).status).toBe(401)
  })

  it('is refused when it has run out, even if it was good a moment ago', async () => {
    made.change({ jwtRules: [jwtRule()] })
    const token = await sign({ exp: Math.floor(now / 1000) + 5 })
    expect((await ask(token)).status).toBe(200)
    expect((await ask(token)).status).toBe(200)
    now += 120_000
    expect((await ask(token)).status).toBe(401)
  })

  it('tells gRPC in its own words', async () => {
    const { answer } = await ask('nonsense', '/', { 'content-type': 'application/grpc' })
    expect([answer.status, answer.headers.get('grpc-status')]).toEqual([200, '16'])
  })

  it('is believed for the issuer whose rule it is, of several', async () => {
    const keySet = JSON.stringify({ keys: [second.jwk] })
    made.change({
      jwtRules: [
        jwtRule(),
        jwtRule({ issuer: 'https://second.test', jwks: keySet, outputClaimToHeaders: [{ header: 'x-by', claim: 'iss' }] }),
      ],
    })
    expect((await ask(await sign())).status).toBe(200)
    const other = await ask(await sign({}, second, 'https://second.test'))
    expect(other.seen?.headers['x-by']).toBe('https://second.test')
    // A key of the one issuer says nothing for the other.
    expect((await ask(await sign({}, first, 'https://second.test'))).status).toBe(401)
    expect((await ask(await sign({}, second))).status).toBe(401)
  })
})

describe('where a token stands', () => {
  it('is any header with its prefix, parameter or cookie, and is taken from there', async () => {
    made.change({
      jwtRules: [
        jwtRule({
          fromHeaders: [{ name: 'X-Token', prefix: 'jwt:' }], fromParams: ['t'], fromCookies: ['session'],
          outputClaimToHeaders: [{ header: 'x-user', claim: 'sub' }],
        }),
      ],
    })
    const token = await sign()
    const header = await ask(undefined, '/', { 'x-token': `jwt:${token}` })
    expect(header.seen?.headers).toMatchObject({ 'x-user': 'ann' })
    expect(header.seen?.headers).not.toHaveProperty('x-token')
    const query = await ask(undefined, `/p?a=1&t=${token}&b=2`)
    expect(query.seen).toMatchObject({ url: '/p?a=1&b=2', headers: { 'x-user': 'ann' } })
    const cookie = await ask(undefined, '/', { cookie: `a=1; session=${token}; b=2` })
    expect(cookie.seen?.headers).toMatchObject({ cookie: 'a=1; b=2', 'x-user': 'ann' })
    // The default place is none any more.
    const other = await ask(token)
    expect(other.seen?.headers).toHaveProperty('authorization')
    expect(other.seen?.headers).not.toHaveProperty('x-user')
  })

  it('is left as it is where the rule says so', async () => {
    made.change({ jwtRules: [jwtRule({ forwardOriginalToken: true })] })
    const token = await sign()
    expect((await ask(token)).seen?.headers['authorization']).toBe(`Bearer ${token}`)
    expect((await ask(undefined, `/?access_token=${token}`)).seen?.url).toBe(`/?access_token=${token}`)
    expect((await ask(undefined, '/', { authorization: 'Basic YTpi' })).seen?.headers['authorization']).toBe('Basic YTpi')
  })
})

describe('claims in headers', () => {
  const rule = (): JwtRule => jwtRule({
    outputPayloadToHeader: 'x-payload', outputClaimToHeaders: [
      { header: 'x-user', claim: 'sub' }, { header: 'x-deep', claim: 'realm.roles' }, { header: 'x-num', claim: 'level' },
      { header: 'x-name', claim: 'name' },
    ],
  })

  it('are the verified ones, and never what a client says', async () => {
    made.change({ jwtRules: [rule()] })
    const { seen } = await ask(await sign({ realm: { roles: ['a', 'b'] }, level: 7, name: 'Zoë' }), '/', { 'x-user': 'root' })
    expect(seen?.headers).toMatchObject({ 'x-user': 'ann', 'x-num': '7' })
    expect(Buffer.from(seen?.headers['x-name'] ?? '', 'latin1').toString()).toBe('Zoë')
    expect(JSON.parse(Buffer.from(seen?.headers['x-deep'] ?? '', 'base64url').toString())).toEqual(['a', 'b'])
    expect(JSON.parse(Buffer.from(seen?.headers['x-payload'] ?? '', 'base64url').toString())).toMatchObject(
      { sub: 'ann', level: 7 },
    )
    const anonymous = await ask(undefined, '/', { 'x-user': 'root', 'x-deep': 'x', 'x-payload': 'x' })
    expect(anonymous.seen?.headers).not.toHaveProperty('x-user')
    expect(anonymous.seen?.headers).not.toHaveProperty('x-deep')
    expect(anonymous.seen?.headers).not.toHaveProperty('x-payload')
  })

  it('do not break out of their line', async () => {
    const { seen, status } = await ask(await sign({ sub: 'a\r\nx-admin: 1', name: 'a\0b' }), '/', { 'x-name': 'root' })
    expect(status).toBe(200)
    expect(seen?.headers).not.toHaveProperty('x-user')
    expect(seen?.headers).not.toHaveProperty('x-name')
    expect(seen?.headers).not.toHaveProperty('x-admin')
  })
})

describe('forged tokens', () => {
  const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

  it.each(['none', 'NONE', 'nOnE', ''])('without a signature (alg %s) are refused', async (alg) => {
    made.change({ jwtRules: [jwtRule()] })
    const claims = { iss: 'https://issuer.test', sub: 'ann' }
    expect((await ask(`${part({ alg, typ: 'JWT' })}.${part(claims)}.`)).status).toBe(401)
  })

  it('signed with the public key as a secret are refused', async () => {
    const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 2_048 })
    for (const secret of [publicKey.export({ type: 'spki', format: 'pem' }), JSON.stringify(first.jwk), first.jwk.n ?? '']) {
      const token = await new SignJWT({ sub: 'ann' }).setProtectedHeader({
        alg: 'HS256', kid: 'one',
      }).setIssuer('https://issuer.test').sign(Buffer.from(secret))
      expect((await ask(token)).status).toBe(401)
    }
  })

  it('signed with a shared secret in the key set are refused', async () => {
    const secret = Buffer.from('a secret that everybody can read in the set')
    const jwks = JSON.stringify({ keys: [first.jwk, { kty: 'oct', kid: 'oct', k: secret.toString('base64url') }] })
    made.change({ jwtRules: [jwtRule({ jwks })] })
    const token = await new SignJWT({ sub: 'ann' }).setProtectedHeader({
      alg: 'HS256', kid: 'oct',
    }).setIssuer('https://issuer.test').sign(secret)
    expect((await ask(token)).status).toBe(401)
    expect((await ask(await sign())).status).toBe(200)
  })

  it('with their own keys in the header are refused', async () => {
    const mine = await keyOf('mine')
    const token = await new SignJWT({ sub: 'ann' }).setProtectedHeader({
      alg: 'RS256', kid: 'one', jwk: mine.jwk, jku: uri,
    }).setIssuer('https://issuer.test').sign(mine.privateKey)
    expect((await ask(token)).status).toBe(401)
  })

  it.each([
    '', 'a', 'a.b', 'a.b.c', '..', 'é.é.é', 'x'.repeat(20_000), `${'a'.repeat(30_000)}.b.c`, '{}',
  ])('that are none are refused: %#', async (token) => {
    made.change({ jwtRules: [jwtRule({ fromHeaders: [{ name: 'x-token' }] })] })
    const { status } = await ask(undefined, '/', { 'x-token': Buffer.from(token, 'utf8').toString('latin1') })
    expect(status).toBe(token === '' ? 200 : 401)
  })
})

describe('keys', () => {
  it('are fetched once however many wait, and again when a token names one that is not known', async () => {
    const path = `${uri}?a`
    issuer.keys = [first.jwk]
    issuer.asked = 0
    made.change({ jwtRules: [jwtRule({ jwksUri: path })] })
    const token = await sign()
    expect(await Promise.all(Array.from({ length: 10 }, async () => (await ask(token)).status))).toEqual(Array.from(
      { length: 10 }, () => 200,
    ))
    expect(issuer.asked).toBe(1)

    issuer.keys = [second.jwk]
    expect((await ask(await sign({}, second))).status).toBe(200)
    expect((await ask(await sign())).status).toBe(401)
    expect(issuer.asked).toBe(2)
    // The next change is followed not so soon after the last one.
    issuer.keys = [first.jwk]
    expect((await ask(await sign({ jti: 'x' }))).status).toBe(401)
    expect(issuer.asked).toBe(2)
    monotonic += 15_000
    expect((await ask(await sign({ jti: 'x' }))).status).toBe(200)
    expect(issuer.asked).toBe(3)
    // Nobody can make us ask by naming keys that are not there.
    for (let i = 0; i < 20; i++) expect((await ask(await sign(
      { jti: String(i) }, { ...first, kid: `no-${i}` },
    ))).status).toBe(401)
    expect(issuer.asked).toBe(3)
  })

  it('count on while the issuer is away, and are fetched when they are old', async () => {
    const path = `${uri}?b`
    issuer.keys = [first.jwk]
    made.change({ jwtRules: [jwtRule({ jwksUri: path })] })
    expect((await ask(await sign())).status).toBe(200)
    issuer.mode = 'away'
    monotonic += 400_000
    expect((await ask(await sign({ jti: '1' }))).status).toBe(200)
    issuer.mode = 'ok'
    issuer.keys = [second.jwk]
    monotonic += 400_000
    await ask(await sign({ jti: '2' }))
    await expect.poll(async () => (await ask(await sign({ jti: '3' }, second))).status).toBe(200)
  })

  it.each([
    'away', 'huge', 'garbage', 'slow',
  ] as const)('that never came (%s) are told as 503, and fetched again later', async (mode) => {
    const path = `${uri}?${mode}`
    issuer.mode = mode
    issuer.keys = [first.jwk]
    made.change({ jwtRules: [jwtRule({ jwksUri: path, timeout: 300 })] })
    const { status, answer } = await ask(await sign())
    expect([status, answer.headers.get('retry-after')]).toEqual([503, '5'])
    expect(made.records.at(-1)?.reasons[0]?.[0]).toBe('keysAway')
    const asked = issuer.asked
    expect((await ask(await sign())).status).toBe(503)
    expect(issuer.asked).toBe(asked)
    issuer.mode = 'ok'
    monotonic += 1_000
    expect((await ask(await sign())).status).toBe(200)
  })

  it('are found by OpenID Connect discovery where the rule names none', async () => {
    const iss = `http://127.0.0.1:${issuer.backend?.port}`
    const { jwksUri: _, ...rule } = jwtRule({ issuer: iss })
    made.change({ jwtRules: [rule] })
    expect((await ask(await sign({}, first, iss))).status).toBe(200)
  })

  it('of an issuer in the mesh are asked for as a service of the mesh', async () => {
    made.plans.length = 0
    made.change({ jwtRules: [jwtRule({ jwksUri: 'http://issuer.shop.svc.cluster.local/keys' })] })
    expect((await ask(await sign())).status).toBe(200)
    const plan = made.plans.find(({ to }) => to.t === 'service' && to.service.name === 'issuer')
    expect(plan?.request.connection.caller.identity?.serviceAccount).toBe('waypoint')
  })

  it('that share a name, or a token without one, are all tried', async () => {
    const other = await keyOf('one')
    made.change({ jwtRules: [jwtRule({ jwks: JSON.stringify({ keys: [other.jwk, first.jwk] }) })] })
    expect((await ask(await sign())).status).toBe(200)
    const nameless = await new SignJWT({ sub: 'ann' }).setProtectedHeader({ alg: 'RS256' }).setIssuer('https://issuer.test').sign(other.privateKey)
    expect((await ask(nameless)).status).toBe(200)
    const stranger = await keyOf('one')
    expect((await ask(await sign({}, stranger))).status).toBe(401)
  })
})
