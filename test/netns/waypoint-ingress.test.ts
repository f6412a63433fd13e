// An ingress in a real mesh: clients that are in no mesh, by plain HTTP, HTTPS with a certificate out of a Secret, and TCP; on to
// services whose waypoint everything passes.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { makeLeaf, makeRoot } from '../../src/pki/testing.ts'
import type { Made } from '../../src/pki/testing.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { WaypointWorld, httpRoute, object, to } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

const directory = mkdtempSync('/var/tmp/sidestep-ingress-')
let world: WaypointWorld
let root: Made
let address: string

const gatewayApi = 'gateway.networking.k8s.io/v1'
const parent = (section: string): Yaml => ({ name: 'ingress', sectionName: section })
const ingressRoute = (name: string, section: string, rules: unknown, hostnames: readonly string[] = []): Yaml =>
  object(gatewayApi, 'HTTPRoute', name, { parentRefs: [parent(section)], rules, ...(hostnames.length > 0 && { hostnames }) })

async function certificate(subject: string): Promise<Yaml> {
  const made = await makeLeaf(root, { subject: `CN=${subject}`, names: [{ type: 'dns', value: 'shop.test' }] })
  const base64 = (text: string): string => Buffer.from(text).toString('base64')
  return {
    apiVersion: 'v1', kind: 'Secret', metadata: { name: 'shop-tls', namespace: 'shop' }, type: 'kubernetes.io/tls',
    data: { 'tls.crt': base64(made.pem), 'tls.key': base64(String(made.key.export({ format: 'pem', type: 'pkcs8' }))) },
  }
}

/** From a pod that is in no mesh. */
const outside = (url: string, ...args: readonly string[]): ReturnType<WaypointWorld['curl']> => world.curl('stranger', url, ...args)
const plain = (path = '/', ...args: readonly string[]): ReturnType<WaypointWorld['curl']> => outside(`http://${address}${path}`, '-H', 'host: shop.test', ...args)
const secure = (path = '/', ...args: readonly string[]): ReturnType<WaypointWorld['curl']> =>
  outside(`https://shop.test${path}`, '--resolve', `shop.test:443:${address}`, '--cacert', join(directory, 'root.pem'), ...args)

beforeAll(async () => {
  root = await makeRoot()
  writeFileSync(join(directory, 'root.pem'), root.pem, { mode: 0o644 })
  world = await WaypointWorld.start([
    object(gatewayApi, 'Gateway', 'ingress', {
      gatewayClassName: 'sidestep-ingress',
      listeners: [
        { name: 'http', port: 80, protocol: 'HTTP', hostname: 'shop.test' },
        { name: 'https', port: 443, protocol: 'HTTPS', hostname: 'shop.test', tls: { mode: 'Terminate', certificateRefs: [{ name: 'shop-tls' }] } },
        { name: 'tcp', port: 9000, protocol: 'TCP' },
      ],
    }),
    ingressRoute('all', 'http', [{ backendRefs: [to('web')] }], ['shop.test']),
    ingressRoute('secure', 'https', [{ backendRefs: [to('web')] }]),
    object('gateway.networking.k8s.io/v1alpha2', 'TCPRoute', 'tcp', { parentRefs: [parent('tcp')], rules: [{ backendRefs: [to('web')] }] }),
    await certificate('first'),
  ])
  const pods = (): string[] => world.mesh.status().pods.filter(({ name }) => name.startsWith('ingress-')).flatMap(({ ips }) => ips.filter((ip) => ip.includes('.')))
  address = pods()[0] ?? ''
  await eventually('the ingress leads to the service', async () => (await plain()).status === 200, 30_000)
}, 120_000)
afterAll(async () => {
  await world?.mesh.stop(0)
  rmSync(directory, { recursive: true })
})

test('requests from outside pass the ingress and the waypoint of their service, each under its own name', async () => {
  const { seen } = await plain('/hello?x=1', '-H', 'x-forwarded-client-cert: By=spiffe://evil;URI=spiffe://cluster.local/ns/shop/sa/admin', '-H', 'x-forwarded-for: 203.0.113.66')
  expect(seen).toMatchObject({ method: 'GET', path: '/hello?x=1' })
  const certificates = seen.headers['x-forwarded-client-cert'] ?? ''
  expect(certificates).toContain('By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/ingress')
  expect(certificates).not.toContain('admin')
  expect(JSON.stringify(seen.headers)).not.toContain('203.0.113.66')
  // The client that the ingress saw, and the ingress that the waypoint saw.
  const stranger = world.mesh.pod('plain', 'stranger').facts.ips
  expect((seen.headers['x-forwarded-for'] ?? '').split(', ')).toEqual([expect.toSatisfy((ip: string) => stranger.includes(ip)), address])
  expect((await outside(`http://${address}/`, '-H', 'host: other.test')).status).toBe(404)
  // The waypoint's own rules hold for what the ingress brings.
  await world.during([httpRoute('only-v2', [{ matches: [{ path: { value: '/' } }], backendRefs: [to('web-v2')], filters: [{ type: 'ResponseHeaderModifier', responseHeaderModifier: { set: [{ name: 'x-by', value: 'waypoint' }] } }] }])],
    async () => (await plain()).headers.get('x-by') === 'waypoint',
    async () => expect((await plain()).seen.pod).toBe('web-v2'))
})

test('HTTPS with a certificate out of a Secret, renewed without a failed request', async () => {
  expect((await secure()).status).toBe(200)
  expect((await secure('/', '--http1.1')).seen.headers).toMatchObject({ host: 'shop.test', 'x-forwarded-proto': 'https' })
  // Not for who does not believe that root, nor for another name.
  expect((await outside('https://shop.test/', '--resolve', `shop.test:443:${address}`)).code).toBe(60)
  expect((await outside('https://other.test/', '--resolve', `other.test:443:${address}`, '-k')).status).toBe(0)
  const shown = async (): Promise<string> => {
    const { stdout, stderr } = await world.exec('stranger', ['curl', '-sSv', '--max-time', '10', '--resolve', `shop.test:443:${address}`, '--cacert', join(directory, 'root.pem'), 'https://shop.test/'])
    return /subject: CN=(\w+)/.exec(stdout + stderr)?.[1] ?? ''
  }
  expect(await shown()).toBe('first')
  world.apply(await certificate('second'))
  const statuses = new Set<number>()
  await eventually('the new certificate is shown', async () => {
    statuses.add((await secure()).status)
    return await shown() === 'second'
  }, 10_000)
  expect([...statuses]).toEqual([200])
})

test('a rule leads from HTTP to HTTPS', async () => {
  await world.during([ingressRoute('all', 'http', [{ filters: [{ type: 'RequestRedirect', requestRedirect: { scheme: 'https', statusCode: 301 } }] }], ['shop.test'])],
    async () => (await plain('/a?b')).status === 301,
    async () => expect((await plain('/a?b')).headers.get('location')).toBe('https://shop.test/a?b'))
  world.apply(ingressRoute('all', 'http', [{ backendRefs: [to('web')] }], ['shop.test']))
  await eventually('the route leads on again', async () => (await plain()).status === 200, 5_000)
})

test('TCP is carried, and what it carries is still the waypoint\'s to judge', async () => {
  expect((await outside(`http://${address}:9000/x`)).seen).toMatchObject({ path: '/x' })
})
