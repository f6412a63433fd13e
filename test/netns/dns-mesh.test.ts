// Names in a real local mesh: what the control plane makes of Kubernetes objects is what a captured pod's resolver finds.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { buildApps } from '../helpers/apps.ts'
import { nameServer, type NameServer } from '../helpers/name-server.ts'
import { eventually, meshed, podYaml, serviceYaml, whoServer, world } from '../helpers/world.ts'

let mesh: LocalMesh
/** Has an answer of its own for what the mesh has, too. */
let host: NameServer
let muslResolve: string

const entry = (name: string, spec: string): string =>
  `apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: ${name}, namespace: shop }\nspec: ${spec}\n`

beforeAll(async () => {
  muslResolve = (await buildApps()).muslResolve
  host = await nameServer((name, type) => (name === 'api.example.com' && type === 'A' ? [{ type, name, ttl: 9, data: '192.0.2.99' }] : 'NXDOMAIN'))
  mesh = await world()
    .namespace('shop', meshed)
    .namespace('other', meshed)
    .yaml(podYaml('client', { namespace: 'shop', node: 'node-a' }))
    .yaml(podYaml('abroad', { namespace: 'other', node: 'node-b' }))
    .yaml(podYaml('own-dns', { namespace: 'shop', node: 'node-a', labels: { 'sidestep.dev/dns': 'disabled' } }))
    .yaml(podYaml('picky', { namespace: 'shop', node: 'node-a', spec: {
      dnsPolicy: 'None', dnsConfig: { nameservers: ['10.96.0.10'], searches: ['example.com'], options: [{ name: 'ndots', value: '1' }] },
    } }))
    .yaml(podYaml('web', { namespace: 'shop', node: 'node-b', labels: { app: 'web' }, command: whoServer() }))
    .yaml(podYaml('db-0', { namespace: 'shop', node: 'node-b', labels: { app: 'db' }, spec: { hostname: 'db-0', subdomain: 'db' } }))
    .yaml(podYaml('db-1', { namespace: 'shop', node: 'node-a', labels: { app: 'db' }, spec: { hostname: 'db-1', subdomain: 'db' } }))
    .yaml(serviceYaml('web', [{ name: 'http', port: 80, targetPort: 8080 }, { name: 'talk', port: 53, protocol: 'UDP' }], { clusterIP: '10.96.0.77', ipFamilyPolicy: 'SingleStack' }, 'shop'))
    .yaml(serviceYaml('db', [{ name: 'sql', port: 5432 }], { clusterIP: 'None' }, 'shop'))
    .yaml(`apiVersion: v1\nkind: Service\nmetadata: { name: shortcut, namespace: shop }\nspec: { type: ExternalName, externalName: web.shop.svc.cluster.local }\n`)
    .yaml(entry('api', '{ hosts: [api.example.com], addresses: [240.0.9.1], ports: [{ number: 443, name: tls, protocol: TLS }], resolution: STATIC, endpoints: [{ address: 192.0.2.1 }] }'))
    .yaml(entry('wild', '{ hosts: ["*.example.org"], addresses: [240.0.9.2], ports: [{ number: 443, name: tls, protocol: TLS }], resolution: NONE }'))
    .start({ nameServers: [host.address] })
  await eventually(async () => expect(await dig('client', 'web.shop.svc.cluster.local')).toEqual(['10.96.0.77']), 20_000)
})
afterAll(async () => {
  await mesh?.stop()
  await host?.[Symbol.asyncDispose]()
})

async function run(pod: string, ...command: string[]): Promise<string> {
  const { stdout } = await mesh.exec(pod === 'abroad' ? 'other' : 'shop', pod, undefined, command)
  return stdout.trim()
}
const dig = async (pod: string, ...args: string[]): Promise<string[]> => (await run(pod, 'dig', '+short', '+time=2', '+tries=1', ...args)).split('\n').toSorted()
const ip = (name: string): string => mesh.pod('shop', name).facts.ips[0] ?? ''

describe('a captured pod finds', () => {
  test('a service, by getaddrinfo of glibc and of musl, and reaches it by its name', async () => {
    expect(await run('client', 'getent', 'ahostsv4', 'web')).toMatch(/^10\.96\.0\.77 /)
    expect(await run('client', muslResolve, '4', 'web')).toBe('10.96.0.77')
    expect(await run('abroad', muslResolve, '4', 'web.shop')).toBe('10.96.0.77')
    expect(await run('client', 'curl', '-sS', '--max-time', '5', 'http://web/')).toMatch(/^web /)
  })

  test('a service over TCP', async () => {
    expect(await dig('client', '+tcp', 'web.shop.svc.cluster.local')).toEqual(['10.96.0.77'])
  })

  test('the pods behind a headless service, each by its host name', async () => {
    expect(await dig('client', 'db.shop.svc.cluster.local')).toEqual([ip('db-0'), ip('db-1')].toSorted())
    expect(await dig('client', 'db-1.db.shop.svc.cluster.local')).toEqual([ip('db-1')])
    expect(await dig('client', '-x', ip('db-0'))).toEqual(['db-0.db.shop.svc.cluster.local.'])
  })

  test('named ports', async () => {
    expect(await dig('client', 'SRV', '_http._tcp.web.shop.svc.cluster.local')).toEqual(['0 100 80 web.shop.svc.cluster.local.'])
    expect(await dig('client', 'SRV', '_talk._udp.web.shop.svc.cluster.local')).toEqual(['0 100 53 web.shop.svc.cluster.local.'])
    expect(await dig('client', 'SRV', '_sql._tcp.db.shop.svc.cluster.local')).toEqual([0, 1].map((n) => `0 50 5432 db-${n}.db.shop.svc.cluster.local.`))
  })

  test('hosts of ServiceEntries, and what a service stands for', async () => {
    expect(await dig('client', 'api.example.com')).toEqual(['240.0.9.1'])
    expect(await dig('client', 'deep.down.example.org')).toEqual(['240.0.9.2'])
    expect(await dig('client', 'shortcut.shop.svc.cluster.local')).toEqual(['10.96.0.77', 'web.shop.svc.cluster.local.'])
  })

  test('names of addresses', async () => {
    expect(await dig('client', '-x', '10.96.0.77')).toEqual(['web.shop.svc.cluster.local.'])
    expect(await dig('client', '-x', ip('client'))).toEqual([`${ip('client').replaceAll('.', '-')}.shop.pod.cluster.local.`])
  })
})

test('a pod with a search list of its own is searched for in that one only', async () => {
  expect(await run('picky', 'getent', 'ahostsv4', 'api')).toMatch(/^240\.0\.9\.1 /)
  expect(await dig('picky', 'api')).toEqual(['240.0.9.1'])
  expect(await dig('picky', 'web.shop.svc.cluster.local')).toEqual(['10.96.0.77'])
  expect(await dig('picky', 'web')).toEqual([''])
  expect(await dig('client', 'web')).toEqual(['10.96.0.77'])
})

test('a pod that says so has no answers but its server\'s', async () => {
  // The cluster's name server knows services, but nothing of ServiceEntries.
  expect(await dig('own-dns', 'web.shop.svc.cluster.local')).toEqual(['10.96.0.77'])
  expect(await dig('own-dns', 'api.example.com')).toEqual(['192.0.2.99'])
  expect(await dig('client', 'api.example.com')).toEqual(['240.0.9.1'])
})

test('a pod that comes is found, and one that goes is not', async () => {
  mesh.apply(podYaml('db-2', { namespace: 'shop', node: 'node-b', labels: { app: 'db' }, spec: { hostname: 'db-2', subdomain: 'db' } }))
  await eventually(async () => expect(await dig('client', 'db-2.db.shop.svc.cluster.local')).toEqual([ip('db-2')]), 20_000)
})
