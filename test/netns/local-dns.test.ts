// The name server of a local mesh, asked by real resolvers in captured pods, in pods outside the mesh and on nodes: names of the
// cluster are there or are not, at once; other names are this machine's servers' to answer.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { nameServer, type NameServer } from '../helpers/name-server.ts'
import { eventually, inNetns, meshed, podYaml, serviceYaml, whoServer, world } from '../helpers/world.ts'

const cluster = '10.96.0.10'
const cluster6 = 'fd00:10:96::a'
let mesh: LocalMesh
/** This machine's: knows `outside.test` and `big.test`, says nothing about `silent.test`. */
let host: NameServer

beforeAll(async () => {
  host = await nameServer((name, type, transport) => {
    if (name === 'silent.test') return 'silence'
    if (name === 'big.test') {
      return transport === 'udp' ? 'truncated' : Array.from({ length: 100 }, (_, i) => ({ type: 'TXT' as const, name, ttl: 9, data: `${i} `.padEnd(200, 'x') }))
    }
    if (name !== 'outside.test') return 'NXDOMAIN'
    return type === 'A' || type === 'AAAA' ? [{ type, name, ttl: 9, data: type === 'A' ? '192.0.2.1' : '2001:db8::1' }] : []
  })
  mesh = await world()
    .namespace('shop', meshed)
    .yaml(podYaml('client', { namespace: 'shop', node: 'node-a' }))
    .yaml(podYaml('web', { namespace: 'shop', node: 'node-b', labels: { app: 'web' }, command: whoServer(), ports: [{ name: 'http', containerPort: 8080 }] }))
    .yaml(podYaml('db-0', { namespace: 'shop', node: 'node-b', labels: { app: 'db' }, spec: { hostname: 'db-0', subdomain: 'db' } }))
    .pod('plain', { node: 'node-a' })
    .pod('other', { node: 'node-b' })
    .pod('flood', { node: 'node-b' })
    .yaml(serviceYaml('web', [{ name: 'http', port: 80, targetPort: 'http' }], { clusterIP: '10.96.0.77' }, 'shop'))
    .yaml(serviceYaml('db', [{ name: 'sql', port: 5432 }], { clusterIP: 'None' }, 'shop'))
    .yaml('apiVersion: v1\nkind: Service\nmetadata: { name: far, namespace: shop }\nspec: { type: ExternalName, externalName: outside.test }\n')
    .start({ nameServers: [host.address] })
})
afterAll(async () => {
  await mesh?.stop()
  await host?.[Symbol.asyncDispose]()
})

const pods = ['client', 'plain', 'other'] as const
async function run(pod: string, ...command: string[]): Promise<string> {
  const { stdout } = await mesh.exec(pod === 'client' ? 'shop' : 'default', pod, undefined, command)
  return stdout.trim()
}
const dig = (pod: string, ...args: string[]): Promise<string> => run(pod, 'dig', '+time=4', '+tries=1', ...args)
const short = async (pod: string, ...args: string[]): Promise<string[]> => (await dig(pod, '+short', ...args)).split('\n').toSorted()
const ip = (name: string, family = 0): string => mesh.pod('shop', name).facts.ips[family] ?? ''

describe.each(pods)('pod %s finds', (pod) => {
  test('services by getaddrinfo, and reaches one by its name', async () => {
    expect(await run(pod, 'getent', 'ahostsv4', 'web.shop')).toMatch(/^10\.96\.0\.77 /)
    expect(await run(pod, 'curl', '-sS', '--max-time', '5', 'http://web.shop/')).toMatch(/^web /)
  })

  test('names of the cluster, over UDP and TCP', async () => {
    for (const way of ['+notcp', '+tcp']) {
      expect(await short(pod, way, 'web.shop.svc.cluster.local')).toEqual(['10.96.0.77'])
      expect(await short(pod, way, 'db-0.db.shop.svc.cluster.local', 'AAAA')).toEqual([ip('db-0', 1)])
      expect(await short(pod, way, 'SRV', '_sql._tcp.db.shop.svc.cluster.local')).toEqual(['0 100 5432 db-0.db.shop.svc.cluster.local.'])
      expect(await short(pod, way, '-x', ip('db-0'))).toEqual(['db-0.db.shop.svc.cluster.local.'])
      expect(await short(pod, way, '-x', '10.96.0.77')).toEqual(['web.shop.svc.cluster.local.'])
    }
  })

  test('that a name of the cluster is not there, without anybody outside being asked', async () => {
    host.asked.length = 0
    for (const way of ['+notcp', '+tcp']) {
      expect(await dig(pod, way, 'TXT', '_grpc_config.web.shop.svc.cluster.local')).toMatch(/status: NXDOMAIN[^]*flags: qr aa[^]*cluster\.local\.\s+5\s+IN\s+SOA/)
      expect(await dig(pod, way, 'TXT', 'web.shop.svc.cluster.local')).toMatch(/status: NOERROR[^]*ANSWER: 0/)
      expect(await dig(pod, way, 'nobody.shop.svc.cluster.local')).toMatch(/status: NXDOMAIN/)
      expect(await dig(pod, way, '-x', '10.244.9.9')).toMatch(/status: NXDOMAIN/)
    }
    expect(host.asked).toEqual([])
  })

  test('names outside, also what is too large for UDP, and a service that stands for one', async () => {
    for (const way of ['+notcp', '+tcp']) {
      expect(await short(pod, way, 'outside.test')).toEqual(['192.0.2.1'])
      expect(await dig(pod, way, 'gone.test')).toMatch(/status: NXDOMAIN/)
      expect(await short(pod, way, 'far.shop.svc.cluster.local', 'AAAA')).toEqual(['2001:db8::1', 'outside.test.'])
    }
    host.asked.length = 0
    expect(await short(pod, 'TXT', 'big.test')).toHaveLength(100)
    expect(host.asked).toEqual(['udp big.test TXT', 'tcp big.test TXT'])
    expect(await run(pod, 'getent', 'ahostsv6', 'outside.test')).toMatch(/^2001:db8::1 /)
  })

  test('a failure where no server outside answers', async () => {
    expect(await dig(pod, 'silent.test')).toMatch(/status: SERVFAIL/)
    expect(await dig(pod, '+tcp', 'silent.test')).toMatch(/status: SERVFAIL/)
  })
})

test.each(['plain', 'client'])('it answers pod %s over IPv6, too', async (pod) => {
  for (const way of ['+notcp', '+tcp']) {
    expect(await short(pod, `@${cluster6}`, way, 'web.shop.svc.cluster.local')).toEqual(['10.96.0.77'])
    expect(await short(pod, `@${cluster6}`, way, 'outside.test')).toEqual(['192.0.2.1'])
  }
})

test.each(['node-a', 'node-b'])('it answers on %s, and its address serves nothing else', async (node) => {
  const netns = mesh.nodeNetns(node)
  expect((await inNetns(netns, ['dig', `@${cluster}`, '+short', '+time=3', 'web.shop.svc.cluster.local'])).stdout).toBe('10.96.0.77\n')
  expect((await inNetns(netns, ['curl', '-sS', '--max-time', '5', `http://${cluster}/`])).code).toBe(7)
})

test('pods and services that come are found, and those that go are not', async () => {
  mesh.apply(podYaml('db-1', { namespace: 'shop', node: 'node-a', labels: { app: 'db' }, spec: { hostname: 'db-1', subdomain: 'db' } }))
  await eventually(async () => expect(await short('plain', 'db-1.db.shop.svc.cluster.local')).toEqual([ip('db-1')]), 20_000)
  mesh.unapply('Pod shop/db-1')
  await eventually(async () => expect(await dig('plain', 'db-1.db.shop.svc.cluster.local')).toMatch(/NXDOMAIN/), 20_000)
})

test('a Service at the address of the name server is asked in its place', async () => {
  const answers = `const socket = require('node:dgram').createSocket('udp4'); socket.bind(53, '0.0.0.0')
    socket.on('message', (query, from) => { query[2] |= 0x80; query[3] = 5; socket.send(query, from.port, from.address) })`
  mesh.apply(podYaml('own', { namespace: 'shop', node: 'node-b', labels: { app: 'own' }, command: [process.execPath, '-e', answers] }))
  mesh.apply(serviceYaml('own', [{ port: 53, protocol: 'UDP' }], { clusterIP: cluster, ipFamilyPolicy: 'SingleStack' }, 'shop'))
  await eventually(async () => expect(await dig('plain', 'outside.test')).toMatch(/status: REFUSED/), 20_000)
  mesh.unapply('Service shop/own')
  await eventually(async () => expect(await short('plain', 'outside.test')).toEqual(['192.0.2.1']), 20_000)
})

test('a pod that floods it, with questions, rubbish and connections, harms nobody else', async () => {
  const script = `
    const socket = require('node:dgram').createSocket('udp4'), net = require('node:net')
    const name = (text) => Buffer.concat([...text.split('.').map((label) => Buffer.from([label.length, ...Buffer.from(label)])), Buffer.from([0, 0, 1, 0, 1])])
    const query = Buffer.concat([Buffer.from([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]), name('silent.test')])
    const codes = {}; socket.on('message', (answer) => { const code = answer[3] & 15; codes[code] = (codes[code] ?? 0) + 1 })
    let reset = 0
    for (let i = 0; i < 60; i++) { const s = net.connect(53, '${cluster}'); s.on('error', () => {}); s.on('close', () => reset++); s.write(Buffer.alloc(2000, i)) }
    for (let i = 0; i < 40; i++) { const s = net.connect(53, '${cluster}'); s.on('error', () => {}); s.on('close', () => reset++) }
    let left = 3000; const step = () => {
      for (let i = 0; i < 20 && left > 0; i++, left--) { socket.send(query, 53, '${cluster}'); socket.send(Buffer.alloc(left % 60, left), 53, '${cluster}') }
      if (left > 0) setTimeout(step, 2); else setTimeout(() => { console.log(JSON.stringify({ reset, servfail: codes[2] ?? 0 })); process.exit(0) }, 500) }; step()`
  const flood = run('flood', process.execPath, '-e', script)
  for (let i = 0; i < 5; i++) {
    expect(await short('plain', 'web.shop.svc.cluster.local')).toEqual(['10.96.0.77'])
    expect(await short('other', '+tcp', 'outside.test')).toEqual(['192.0.2.1'])
  }
  const { reset, servfail } = JSON.parse(await flood) as { reset: number; servfail: number }
  expect(reset).toBeGreaterThanOrEqual(84)
  // Some are lost on the way, as the pod has sent more than its share.
  expect(servfail).toBeGreaterThan(100)
  await eventually(async () => expect(await short('flood', 'outside.test')).toEqual(['192.0.2.1']))
})
