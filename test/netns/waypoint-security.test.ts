// Who may make which request, by real requests through a real waypoint: by method, path and principal, by tokens whose keys change,
// by asking somebody else; and that there is no way round the waypoint.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import type { JWK } from 'jose'
import { underlayIps } from '../../src/local/addresses.ts'
import { runCommand } from '../../src/local/command.ts'
import { object, waypoint, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

const issuer = 'https://issuer.example'
let world: WaypointWorld
beforeAll(async () => {
  world = await WaypointWorld.start()
}, 120_000)
afterAll(() => world?.[Symbol.asyncDispose]())

const status = async (from: string, url: string, ...args: string[]): Promise<number> => (await world.curl(from, url, ...args)).status
const service = (name: string): Yaml => ({ targetRefs: [{ group: '', kind: 'Service', name }] })
const policy = (name: string, spec: Yaml): Yaml => object('security.istio.io/v1', 'AuthorizationPolicy', name, spec)

interface Keys {
  readonly jwk: JWK
  token(claims: Record<string, unknown>, issuedBy?: string): Promise<string>
}

async function newKeys(kid: string): Promise<Keys> {
  const { publicKey, privateKey } = await generateKeyPair('ES256', { extractable: true })
  return {
    jwk: { ...(await exportJWK(publicKey)), kid, alg: 'ES256', use: 'sig' },
    token: (claims, issuedBy = issuer) => new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid }).setIssuer(issuedBy).setSubject('alice').setExpirationTime('5m').sign(privateKey),
  }
}

describe('AuthorizationPolicy for requests', () => {
  it('lets one principal post, everybody read, and says 403 to the rest', async () => {
    const post = policy('post', { ...service('web'), action: 'ALLOW', rules: [
      { to: [{ operation: { methods: ['GET'] } }] },
      { from: [{ source: { principals: ['cluster.local/ns/shop/sa/client'] } }], to: [{ operation: { methods: ['POST'], paths: ['/orders/*'] } }] },
    ] })
    await world.during([post], async () => (await status('other', 'http://web/orders/1', '-d', 'x')) === 403, async () => {
      expect(await status('client', 'http://web/orders/1', '-d', 'x')).toBe(200)
      expect(await status('client', 'http://web/other', '-d', 'x')).toBe(403)
      expect(await status('other', 'http://web/orders/1')).toBe(200)
      // The same path in other words is the same path.
      expect(await status('client', 'http://web/other/..//orders/1', '--path-as-is', '-d', 'x')).toBe(200)
      expect(await status('client', 'http://web/orders/../secret', '--path-as-is', '-d', 'x')).toBe(403)
      expect((await world.curl('other', 'http://web/', '-d', 'x')).body).toContain('RBAC: access denied')
    })
    expect(await status('other', 'http://web/orders/1', '-d', 'x')).toBe(200)
  })

  it('denies by header and by path, whatever else allows', async () => {
    const deny = policy('deny', { ...service('web'), action: 'DENY', rules: [{ to: [{ operation: { paths: ['/admin', '/admin/*'] } }] }, { when: [{ key: 'request.headers[x-evil]', values: ['yes'] }] }] })
    await world.during([deny], async () => (await status('client', 'http://web/admin')) === 403, async () => {
      for (const path of ['/admin/', '/%61dmin', '//admin', '/x/../admin', '/admin;x=1', '/./admin/users']) {
        expect([path, await status('client', `http://web${path}`, '--path-as-is')]).toEqual([path, 403])
      }
      expect(await status('client', 'http://web/', '-H', 'x-evil: yes')).toBe(403)
      expect(await status('client', 'http://web/', '-H', 'x-evil: no')).toBe(200)
      expect(await status('client', 'http://web/administrator')).toBe(200)
    })
  })

  it('of the waypoint holds for everything behind it', async () => {
    const all = policy('all', { targetRefs: [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'waypoint' }], action: 'DENY', rules: [{ to: [{ operation: { methods: ['DELETE'] } }] }] })
    await world.during([all], async () => (await status('client', 'http://web-v1/', '-X', 'DELETE')) === 403, async () => {
      expect(await status('client', 'http://web/', '-X', 'DELETE')).toBe(403)
      expect(await status('client', 'http://web/')).toBe(200)
    })
  })
})

describe('RequestAuthentication', () => {
  it('believes tokens of its issuer, gives claims to headers and policies, and refuses others', async () => {
    const [good, bad] = await Promise.all([newKeys('one'), newKeys('one')])
    const objects = [
      object('security.istio.io/v1', 'RequestAuthentication', 'jwt', {
        ...service('web'),
        jwtRules: [{ issuer, jwks: JSON.stringify({ keys: [good.jwk] }), outputClaimToHeaders: [{ header: 'x-role', claim: 'role' }] }],
      }),
      policy('role', { ...service('web'), action: 'ALLOW', rules: [{ from: [{ source: { requestPrincipals: [`${issuer}/*`] } }], when: [{ key: 'request.auth.claims[role]', values: ['clerk'] }] }] }),
    ]
    const ask = async (token: string, ...more: string[]): Promise<number> => status('client', 'http://web/', '-H', `authorization: Bearer ${token}`, ...more)
    await world.during(objects, async () => (await status('client', 'http://web/')) === 403, async () => {
      const clerk = await good.token({ role: 'clerk' })
      expect(await ask(clerk)).toBe(200)
      expect(await ask(await good.token({ role: 'guest' }))).toBe(403)
      expect(await ask(await bad.token({ role: 'clerk' }))).toBe(401)
      expect(await ask(await good.token({ role: 'clerk' }, 'https://other.example'))).toBe(401)
      const none = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${clerk.split('.')[1]}.`
      expect(await ask(none)).toBe(401)
      const { seen } = await world.curl('client', 'http://web/', '-H', `authorization: Bearer ${clerk}`, '-H', 'x-role: king')
      expect(seen.headers['x-role']).toBe('clerk')
      expect(seen.headers).not.toHaveProperty('authorization')
    })
  })

  it('follows an issuer that changes its keys', async () => {
    const [first, second] = await Promise.all([newKeys('first'), newKeys('second')])
    const directory = mkdtempSync(join(tmpdir(), 'sidestep-issuer-'))
    const file = join(directory, 'keys.json')
    const publish = (...keys: JWK[]): void => writeFileSync(file, JSON.stringify({ keys }))
    publish(first.jwk)
    // In the underlay: outside of the mesh, as an issuer is.
    const script = `require('node:http').createServer((q, s) => s.setHeader('content-type', 'application/json').end(require('node:fs').readFileSync(${JSON.stringify(file)}))).listen(8099, '${underlayIps.v4}')`
    const server = spawn('nsenter', [`--net=${world.mesh.underlayNetns}`, '--', process.execPath, '-e', script], { stdio: 'ignore' })
    try {
      await expect.poll(async () => (await runCommand(['nsenter', `--net=${world.mesh.underlayNetns}`, '--', 'curl', '-sf', `http://${underlayIps.v4}:8099/`])).code, { timeout: 10_000 }).toBe(0)
      const jwt = object('security.istio.io/v1', 'RequestAuthentication', 'rotating', { ...service('web'), jwtRules: [{ issuer, jwksUri: `http://${underlayIps.v4}:8099/keys` }] })
      const ask = async (token: string): Promise<number> => status('client', 'http://web/', '-H', `authorization: Bearer ${token}`)
      await world.during([jwt], async () => (await ask('nonsense')) === 401, async () => {
        expect(await ask(await first.token({}))).toBe(200)
        expect(await ask(await second.token({}))).toBe(401)
        publish(first.jwk, second.jwk)
        await expect.poll(async () => ask(await second.token({})), { timeout: 30_000, interval: 500 }).toBe(200)
        expect(await ask(await first.token({}))).toBe(200)
      })
    } finally {
      server.kill('SIGKILL')
      rmSync(directory, { recursive: true })
    }
  })
})

describe('external authorization', () => {
  it('asks, and does as it is told', async () => {
    // The test's own backend answers the question with the status that the prefix says.
    const provider = (name: string, pathPrefix: string): Yaml => object('sidestep.dev/v1alpha1', 'AuthorizationProvider', name, { protocol: 'HTTP', service: 'web-v2', port: 80, pathPrefix, timeout: '2s' })
    const custom = policy('ask', { ...service('web'), action: 'CUSTOM', provider: { name: 'no' }, rules: [{ to: [{ operation: { paths: ['/asked*'] } }] }] })
    await world.during([provider('no', '/status/401?'), custom], async () => (await status('client', 'http://web/asked')) === 401, async () => {
      expect(await status('client', 'http://web/free')).toBe(200)
    })
    const asked = async (): Promise<number> => (JSON.parse((await world.curl('other', 'http://web-v2/counts')).body) as Record<string, number>)['/status/200'] ?? 0
    const yes = policy('ask', { ...service('web'), action: 'CUSTOM', provider: { name: 'yes' }, rules: [{ to: [{ operation: { paths: ['/asked*'] } }] }] })
    let last = 0
    await world.during([provider('yes', '/status/200?'), yes], async () => {
      last = await asked()
      return (await status('client', 'http://web/asked')) === 200 && await asked() > last
    })
    const gone = policy('ask', { ...service('web'), action: 'CUSTOM', provider: { name: 'nobody' }, rules: [{ to: [{ operation: { paths: ['/asked*'] } }] }] })
    await world.during([gone], async () => (await status('client', 'http://web/asked')) === 403)
  })
})

describe('the way past the waypoint', () => {
  const address = (name: string): string => world.mesh.pod('shop', name).facts.ips.find((ip) => !ip.includes(':')) ?? ''

  it('is closed: in plain text, and by the address of a pod', async () => {
    // From outside of the mesh nothing gets past; from inside, the pod's address leads through the waypoint, too.
    expect((await world.curl('stranger', `http://${address('web-v1')}:8080/`)).code).not.toBe(0)
    const { seen } = await world.curl('client', `http://${address('web-v1')}:8080/by-address`)
    expect(seen.headers).toHaveProperty('x-forwarded-client-cert')
  })

  it('is refused while the waypoint is not there, or taken where its owner wants that', async () => {
    world.apply(waypoint('waypoint', { 'sidestep.dev/replicas': '0' }))
    await expect.poll(() => status('client', 'http://web/'), { timeout: 45_000 }).toBe(0)
    expect((await world.curl('client', `http://${address('web-v1')}:8080/`)).code).not.toBe(0)
    world.apply(waypoint('waypoint', { 'sidestep.dev/replicas': '0', 'sidestep.dev/waypoint-failure-mode': 'open' }))
    await expect.poll(() => status('client', 'http://web/'), { timeout: 10_000 }).toBe(200)
    world.apply(waypoint())
    await expect.poll(async () => (await world.curl('client', 'http://web/')).seen.headers?.['x-forwarded-client-cert'], { timeout: 45_000 }).toBeDefined()
  })
})
