// `sidestep authz explain` of requests: what it says is what the waypoint does with the real ones, and it does not guess.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { authzCommand } from '../../src/cli/authz.ts'
import { silentLogger } from '../../src/core/log.ts'
import { serveApi } from '../../src/local/api.ts'
import { object, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

let world: WaypointWorld
let api: Awaited<ReturnType<typeof serveApi>>
beforeAll(async () => {
  world = await WaypointWorld.start([
    { apiVersion: 'v1', kind: 'Service', metadata: { name: 'bare', namespace: 'away' }, spec: { selector: { app: 'guest' }, ports: [{ port: 80 }] } },
    object('networking.istio.io/v1', 'ServiceEntry', 'api', {
      hosts: ['api.example.com'], addresses: ['240.0.1.1'], resolution: 'STATIC', endpoints: [{ address: '192.0.2.1' }], ports: [{ number: 80, name: 'http', protocol: 'HTTP' }],
    }),
  ])
  api = await serveApi(world.mesh, silentLogger)
}, 120_000)
afterAll(async () => {
  await api?.close()
  await world?.[Symbol.asyncDispose]()
})

async function explain(from: string, to: string, ...args: string[]): Promise<{ readonly code: number; readonly text: string }> {
  let text = ''
  const take = (line: string): void => void (text += `${line}\n`)
  await authzCommand({ print: take, warn: take }).parseAsync(['explain', from, to, '--port', '80', '--name', world.mesh.name, ...args], { from: 'user' })
  const code = Number(process.exitCode)
  process.exitCode = 0
  return { code, text }
}

const policy = (name: string, spec: Yaml): Yaml =>
  object('security.istio.io/v1', 'AuthorizationPolicy', name, { targetRefs: [{ group: '', kind: 'Service', name: 'web' }], ...spec })

it('says of each request what becomes of the real one, and which policy decides', async () => {
  const objects = [
    policy('deny', { action: 'DENY', rules: [{ to: [{ operation: { paths: ['/admin*'] } }] }, { when: [{ key: 'request.headers[x-evil]', values: ['yes'] }] }] }),
    policy('allow', { action: 'ALLOW', rules: [
      { to: [{ operation: { methods: ['GET'] } }] },
      { from: [{ source: { principals: ['cluster.local/ns/shop/sa/client'] } }], to: [{ operation: { methods: ['POST'], paths: ['/orders/*'] } }] },
    ] }),
  ]
  await world.during(objects, async () => (await world.curl('other', 'http://web/x', '-d', 'x')).status === 403, async () => {
    for (const [from, method, path, header] of [
      ['client', 'GET', '/x'], ['client', 'POST', '/orders/1'], ['other', 'POST', '/orders/1'], ['client', 'POST', '/x'],
      ['client', 'GET', '/x/../admin'], ['client', 'GET', '/x', 'x-evil=yes'], ['client', 'GET', '/x', 'x-evil=no'], ['client', 'GET', '/%2e%2e/x'],
    ] as const) {
      const real = await world.curl(from, `http://web${path}`, '--path-as-is', '-X', method, ...(header === undefined ? [] : ['-H', header.replace('=', ': ')]))
      const said = await explain(`shop/${from}`, 'web.shop', '--method', method, '--path', path, ...(header === undefined ? [] : ['--header', header]))
      expect([from, method, path, header, said.code]).toEqual([from, method, path, header, real.status === 200 ? 0 : 1])
    }
    const { text } = await explain('shop/other', 'web.shop', '--method', 'POST', '--path', '/orders/1')
    expect(text).toMatch(/^REFUSED: there are ALLOW policies and none of their rules matched\n/)
    expect(text).toContain('DENY shop/deny: did not match')
    expect(text).toContain('ALLOW shop/allow: did not match')
    expect((await explain('shop/client', 'web.shop', '--path', '/admin')).text).toContain('rule 0 of policy shop/deny (DENY) matched')
  })
})

it('knows what an entry covers, and says where it cannot tell', async () => {
  expect((await explain('shop/client', 'api.example.com', '--method', 'GET')).code).toBe(0)
  expect(await explain('shop/client', 'api.example.com', '--host', 'evil.net')).toMatchObject({ code: 1, text: expect.stringContaining('421') })
  expect(await explain('shop/client', 'bare.away', '--method', 'GET')).toMatchObject({ code: 2, text: expect.stringContaining('no waypoint stands before bare.away') })
  expect(await explain('plain/stranger', 'web.shop', '--method', 'GET')).toMatchObject({ code: 2, text: expect.stringContaining('proves no identity') })
  expect(await explain('shop/client', 'web.shop', '--header', 'nonsense')).toMatchObject({ code: 2, text: expect.stringContaining('NAME: VALUE') })
  const custom = [
    object('sidestep.dev/v1alpha1', 'AuthorizationProvider', 'ask', { protocol: 'HTTP', service: 'web-v2', port: 80 }),
    policy('custom', { action: 'CUSTOM', provider: { name: 'ask' }, rules: [{ to: [{ operation: { paths: ['/asked'] } }] }] }),
  ]
  await world.during(custom, async () => (await explain('shop/client', 'web.shop', '--path', '/asked')).code === 2, async () => {
    expect((await explain('shop/client', 'web.shop', '--path', '/asked')).text).toContain('is asked (policy shop/custom)')
    expect((await explain('shop/client', 'web.shop', '--path', '/free')).code).toBe(0)
  })
})
