// Real resolvers in captured pods: mesh names are answered by the ztunnel's DNS, everything else by the server that was
// asked, and a client cannot tell that anybody is in between.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Service, Workload } from '../../src/model/workload.ts'
import { buildApps, runProbe } from '../helpers/apps.ts'
import { DnsWorld } from '../helpers/dns-world.ts'
import { eventually, world as meshOf } from '../helpers/world.ts'

/** Servers outside: two that answer, one that never does, one that takes a second, one address where nobody is. */
const first = '172.30.255.250'
const second = '172.30.255.251'
const silent = '172.30.255.252'
const slow = '172.30.255.253'
const absent = '172.30.255.254'
const searches = ['default.svc.cluster.local', 'svc.cluster.local', 'cluster.local']
const withServers = (...nameservers: string[]) => ({
  node: 'node-a', spec: { dnsPolicy: 'None', dnsConfig: { nameservers, searches, options: [{ name: 'ndots', value: '5' }] } },
})

let world: DnsWorld
let muslResolve: string

const service = (hostname: string, parts: Partial<Service> = {}): Service => ({
  name: hostname, namespace: 'default', hostname, addresses: [], ports: [], subjectAltNames: [], ipFamilies: 'automatic',
  isCanonical: false, isNamespaceLocal: false, ...parts,
})
const member = (name: string, ip: string, key: string): Workload => ({
  uid: name, name, namespace: 'default', ips: [ip], network: '', trustDomain: 'cluster.local', serviceAccount: 'default', node: 'a',
  clusterId: 'c', tunnelProtocol: 'hbone', nativeTunnel: false, isHostNetwork: false, canonicalName: '', canonicalRevision: '',
  workloadType: 'pod', workloadName: '', isHealthy: true, capacity: 1, locality: { region: '', zone: '', subzone: '' },
  policies: [], services: new Map([[key, []]]), endpointNames: new Map([[key, name]]),
})

beforeAll(async () => {
  muslResolve = (await buildApps()).muslResolve
  const mesh = await meshOf()
    .pod('client', withServers(first))
    .pod('two', withServers(first, second))
    .pod('first-silent', withServers(silent, first))
    .pod('last-silent', withServers(first, silent))
    .pod('lost', withServers(absent, silent))
    .pod('stranger', { node: 'node-a' })
    .start({ mesh: false })
  world = await DnsWorld.capture(mesh, ['client', 'two', 'first-silent', 'last-silent', 'lost'])
  world.store.apply({
    services: [
      service('web.default.svc.cluster.local', {
        addresses: [{ network: '', ip: '10.96.0.7' }, { network: '', ip: 'fd00:10:96::7' }],
        ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'http11', name: 'http' }],
      }),
      service('db.default.svc.cluster.local', { isHeadless: true, ports: [{ servicePort: 5432, targetPort: 5432, appProtocol: 'tcp', name: 'sql' }] }),
      service('crowd.default.svc.cluster.local', { isHeadless: true }),
      service('api.example.com', { addresses: [{ network: '', ip: '240.0.0.1' }] }),
      service('*.example.org', { addresses: [{ network: '', ip: '240.0.0.2' }] }),
    ],
    workloads: [
      member('db-0', '10.244.7.1', 'default/db.default.svc.cluster.local'),
      member('db-1', '10.244.7.2', 'default/db.default.svc.cluster.local'),
      ...Array.from({ length: 400 }, (_, i) => member(`crowd-${i}`, `10.245.${i >> 8}.${i & 255}`, 'default/crowd.default.svc.cluster.local')),
    ],
  })
  const big = Array.from({ length: 12 }, (_, i) => `--txt-record=big.test,${String(i).repeat(200).slice(0, 200)}`)
  await world.dnsmasq(first, '--host-record=outside.test,192.0.2.1,2001:db8::1', '--address=/gone.test/', '--local=/cluster.local/', '--local=/who.test/', '--host-record=first.who.test,192.0.2.11', ...big)
  await world.dnsmasq(second, '--host-record=outside.test,192.0.2.1,2001:db8::1', '--local=/cluster.local/', '--local=/who.test/', '--host-record=second.who.test,192.0.2.12')
  await world.outside(silent, [process.execPath, '-e', `require('node:dgram').createSocket('udp4').bind(53, '${silent}'); setInterval(() => {}, 1e6)`])
  await world.outside(slow, [process.execPath, '-e', `const socket = require('node:dgram').createSocket('udp4'); socket.bind(53, '${slow}')
    socket.on('message', (query, from) => { query[2] |= 0x80; setTimeout(() => socket.send(query, from.port, from.address), 1000) })`])
  for (const [pod, server] of [['client', first], ['two', second]] as const) {
    await eventually(async () => expect((await world.run(pod, 'dig', `@${server}`, '+short', '+time=1', '+tries=1', 'outside.test')).stdout).toBe('192.0.2.1'))
  }
})
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
})
beforeEach(() => {
  world.queries.length = 0
})

const dig = async (...args: string[]): Promise<string[]> =>
  (await world.run('client', 'dig', '+short', '+time=3', '+tries=1', ...args)).stdout.split('\n').toSorted()
const results = (of = 'client'): string[] =>
  [...new Set(world.queries.flatMap(({ pod, transport, result }) => (pod === of ? [`${transport} ${result}`] : [])))].toSorted()

describe('glibc', () => {
  const getent = async (pod: string, name: string, database = 'ahostsv4'): Promise<string[]> =>
    [...new Set((await world.run(pod, 'getent', database, name)).stdout.split('\n').map((line) => line.split(/\s+/)[0] ?? ''))].toSorted()

  test.each([
    ['web', 'ahostsv4', ['10.96.0.7']],
    ['web.default.svc.cluster.local', 'ahostsv6', ['fd00:10:96::7']],
    ['db', 'ahostsv4', ['10.244.7.1', '10.244.7.2']],
    ['db-1.db', 'ahostsv4', ['10.244.7.2']],
    ['api.example.com', 'ahostsv4', ['240.0.0.1']],
    ['any.example.org', 'ahostsv4', ['240.0.0.2']],
  ])('%s is answered here', async (name, database, expected) => {
    expect(await getent('client', name, database)).toEqual(expected)
    expect(results()).toEqual(['udp answered'])
  })

  test('a name of the world needs no second query for the search domains of the cluster where the mesh has it', async () => {
    expect(await getent('client', 'api.example.com')).toEqual(['240.0.0.1'])
    expect(world.queries.filter(({ pod }) => pod === 'client')).toHaveLength(1)
  })

  test('a name outside comes from the server that was asked, and one that is not there is not there', async () => {
    expect(await getent('client', 'outside.test')).toEqual(['192.0.2.1'])
    expect(results()).toEqual(['udp forwarded'])
    expect((await world.run('client', 'getent', 'hosts', 'gone.test')).code).toBe(2)
  })

  test('goes on to the second server where the first is silent', async () => {
    expect(await getent('first-silent', 'outside.test.')).toEqual(['192.0.2.1'])
  })

  test('gives the name of an address', async () => {
    expect((await world.run('client', 'getent', 'hosts', '10.96.0.7')).stdout).toMatch(/web\.default\.svc\.cluster\.local/)
    expect((await world.run('client', 'getent', 'hosts', '10.244.7.2')).stdout).toMatch(/db-1\.db\.default\.svc\.cluster\.local/)
  })
})

describe('musl, which asks all servers at once from one socket', () => {
  const musl = async (pod: string, name: string, family = '4'): Promise<string[]> => {
    const { stdout, stderr } = await world.run(pod, muslResolve, family, name)
    expect(stderr).toBe('')
    return stdout.split('\n').toSorted()
  }

  test.each(['client', 'two', 'first-silent', 'last-silent'])('finds names of the mesh and of the world in pod %s', async (pod) => {
    expect(await musl(pod, 'web')).toEqual(['10.96.0.7'])
    expect(await musl(pod, 'db')).toEqual(['10.244.7.1', '10.244.7.2'])
    expect(await musl(pod, 'web', '0')).toEqual(['10.96.0.7', 'fd00:10:96::7'])
    expect(await musl(pod, 'outside.test.')).toEqual(['192.0.2.1'])
    expect(await musl(pod, 'outside.test.', '0')).toEqual(['192.0.2.1', '2001:db8::1'])
  })

  test('takes as many addresses as fit where there are too many', async () => {
    expect((await musl('client', 'crowd')).length).toBeGreaterThan(20)
  })
})

test('each of three servers that one socket asks at once answers for itself, under its own address', async () => {
  const script = `
    const socket = require('node:dgram').createSocket('udp4')
    const query = (id, name) => Buffer.concat([Buffer.from([0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
      ...name.split('.').map((label) => Buffer.from([label.length, ...Buffer.from(label)])), Buffer.from([0, 0, 1, 0, 1])])
    const heard = []
    socket.on('message', (answer, from) => {
      heard.push([answer[1], from.address, from.port, answer[3] & 15, answer[7]])
      if (heard.length === 4) { console.log(JSON.stringify(heard.sort((a, b) => a[0] - b[0]))); socket.close() }
    })
    for (const [id, name, server] of [[1, 'first.who.test', '${first}'], [2, 'x.test', '${silent}'], [3, 'second.who.test', '${second}'],
      [4, 'second.who.test', '${first}'], [5, 'first.who.test', '${second}']]) socket.send(query(id, name), 53, server)`
  const { stdout, stderr } = await world.run('two', process.execPath, '-e', script)
  expect(stderr).toBe('')
  // Each server knows its own name and says that the other's does not exist.
  expect(JSON.parse(stdout)).toEqual([[1, first, 53, 0, 1], [3, second, 53, 0, 1], [4, first, 53, 3, 0], [5, second, 53, 3, 0]])
})

describe('dig', () => {
  test.each([
    [['web.default.svc.cluster.local', 'AAAA'], ['fd00:10:96::7']],
    [['SRV', '_http._tcp.web.default.svc.cluster.local'], ['0 100 80 web.default.svc.cluster.local.']],
    [['SRV', '_sql._tcp.db.default.svc.cluster.local'], ['0 50 5432 db-0.db.default.svc.cluster.local.', '0 50 5432 db-1.db.default.svc.cluster.local.']],
    [['-x', '10.96.0.7'], ['web.default.svc.cluster.local.']],
    [['-x', 'fd00:10:96::7'], ['web.default.svc.cluster.local.']],
  ])('%j over UDP and TCP', async (args, expected) => {
    expect(await dig(...args)).toEqual(expected)
    expect(await dig('+tcp', ...args)).toEqual(expected)
    expect(results()).toEqual(['tcp answered', 'udp answered'])
  })

  test('what is too large is cut, asked for again over TCP, and whole there', async () => {
    const cut = await world.run('client', 'dig', '+ignore', '+noedns', 'crowd.default.svc.cluster.local')
    expect(cut.stdout).toMatch(/flags: qr aa tc rd ra;.*ANSWER: 2\d,/)
    expect(await dig('crowd.default.svc.cluster.local')).toHaveLength(400)
    expect(results()).toEqual(['tcp answered', 'udp answered'])
  })

  test('an answer from outside comes whole by EDNS, cut without, and by TCP after that', async () => {
    const wide = await world.run('client', 'dig', '+bufsize=4096', 'TXT', 'big.test')
    expect(wide.stdout).toMatch(/ANSWER: 12,/)
    expect((await world.run('client', 'dig', '+noedns', '+ignore', 'TXT', 'big.test')).stdout).toMatch(/flags:[^;]* tc/)
    expect(await dig('+noedns', 'TXT', 'big.test')).toHaveLength(12)
    expect(results()).toEqual(['tcp forwarded', 'udp forwarded'])
  })

  test('several queries share one connection', async () => {
    const { stdout } = await world.run('client', 'dig', '+tcp', '+keepopen', '+short', 'web.default.svc.cluster.local', 'outside.test', 'api.example.com', 'outside.test')
    expect(stdout.split('\n')).toEqual(['10.96.0.7', '192.0.2.1', '240.0.0.1', '192.0.2.1'])
    const told = world.queries.filter(({ pod }) => pod === 'client').map(({ transport, result }) => `${transport} ${result}`)
    expect(told).toEqual(['tcp answered', 'tcp forwarded', 'tcp answered', 'tcp forwarded'])
  })

  test('a server that is not there is a failure, and one that is silent stays silent', async () => {
    expect((await world.run('lost', 'dig', `@${absent}`, '+tries=1', 'outside.test')).stdout).toMatch(/status: SERVFAIL/)
    expect((await world.run('lost', 'dig', `@${absent}`, '+tcp', '+tries=1', 'outside.test')).stdout).toMatch(/status: SERVFAIL/)
    expect((await world.run('lost', 'dig', `@${silent}`, '+tries=1', '+time=1', 'outside.test')).code).toBe(9)
    expect(await dig('web.default.svc.cluster.local')).toEqual(['10.96.0.7'])
  })

  test('before the mesh is known, its names fail and the world\'s do not', async () => {
    world.isKnown = false
    try {
      expect((await world.run('client', 'dig', 'new.default.svc.cluster.local')).stdout).toMatch(/status: SERVFAIL/)
      expect(await dig('web.default.svc.cluster.local')).toEqual(['10.96.0.7'])
      expect(await dig('outside.test')).toEqual(['192.0.2.1'])
    } finally {
      world.isKnown = true
    }
    expect((await world.run('client', 'dig', 'new.default.svc.cluster.local')).stdout).toMatch(/status: NXDOMAIN/)
  })
})

test('a stranger who asks a pod\'s DNS, or answers from its port, is not heard', async () => {
  // The client's own socket has an entry for its port; the stranger sends from the same one.
  const asked = await runProbe('dns', ['web.default.svc.cluster.local', first], { wrap: ['nsenter', `--net=${world.mesh.podNetns('default', 'client')}`, '--'] })
  const port = Number(/:(\d+)$/.exec(asked.exchanges[0]?.socket.local ?? '')?.[1])
  expect(port).toBeGreaterThan(0)
  const { stdout } = await world.run('stranger', 'dig', `@${world.ip('client')}`, '-p', '15053', '-b', `0.0.0.0#${port}`, '+time=1', '+tries=1', 'web.default.svc.cluster.local')
  expect(stdout).toMatch(/no servers could be reached|timed out/)
  await eventually(() => expect(results()).toContain('udp dropped'))
  // And the client is not told that what a stranger sends from port 15053 came from its server.
  const script = `
    const socket = require('node:dgram').createSocket('udp4')
    socket.on('message', (text, from) => { if (text.toString() === 'forged') { console.log(from.address + ' ' + from.port); socket.close() } })
    socket.bind(40444, () => socket.send('x', 53, '${silent}', () => console.error('asked')))
    setTimeout(() => socket.close(), 5000).unref()`
  const listening = world.run('client', process.execPath, '-e', script)
  const forge = `const socket = require('node:dgram').createSocket('udp4'); socket.bind(15053, () => {
    const timer = setInterval(() => socket.send('forged', 40444, '${world.ip('client')}'), 50); setTimeout(() => { clearInterval(timer); socket.close() }, 2000) })`
  await world.run('stranger', process.execPath, '-e', forge)
  expect((await listening).stdout).toBe(`${world.ip('stranger')} 15053`)
})

describe('over TCP', () => {
  /** Sends bytes to the server's port 53 from inside the pod; what came back, in hexadecimal, and how it ended. */
  const talk = async (hex: string, more = '', rubbishBytes = 0): Promise<{ got: string; end: string }> => {
    const script = `
      const socket = require('node:net').connect(53, '${first}'); let got = ''
      socket.on('data', (chunk) => (got += chunk.toString('hex'))); socket.on('error', () => {})
      socket.on('end', () => (socket.ended = true))
      socket.on('close', () => console.log(JSON.stringify({ got, end: socket.ended ? 'eof' : 'reset' })))
      socket.write(Buffer.concat([Buffer.from('${hex}', 'hex'), Buffer.alloc(${rubbishBytes}, 255)])); ${more}`
    const { stdout, stderr } = await world.run('client', process.execPath, '-e', script)
    expect(stderr).toBe('')
    return JSON.parse(stdout) as { got: string; end: string }
  }
  const queryOf = (id: number, name: string): string => {
    const labels = name.split('.').map((label) => Buffer.from([label.length, ...Buffer.from(label)]))
    const message = Buffer.concat([Buffer.from([0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]), ...labels, Buffer.from([0, 0, 1, 0, 1])])
    return Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message]).toString('hex')
  }
  const answers = (hex: string): [id: number, rcode: number, count: number][] => {
    const bytes = Buffer.from(hex, 'hex')
    const found: [number, number, number][] = []
    for (let at = 0; at < bytes.length; at += 2 + bytes.readUInt16BE(at)) found.push([bytes.readUInt16BE(at + 2), bytes.readUInt8(at + 5) & 15, bytes.readUInt16BE(at + 8)])
    return found
  }

  test('pipelined queries are all answered, ours and the server\'s, also after the client has finished sending', async () => {
    const list = Array.from({ length: 200 }, (_, i) => queryOf(i, i % 2 === 0 ? 'web.default.svc.cluster.local' : 'outside.test'))
    const { got, end } = await talk(list.join(''), 'socket.end()')
    expect(end).toBe('eof')
    expect(answers(got).toSorted(([a], [b]) => a - b)).toEqual(list.map((_, i) => [i, 0, 1]))
  })

  test('a message that is none ends that connection, and no other', async () => {
    const [broken, good] = await Promise.all([talk('000401020304'), talk(queryOf(7, 'web.default.svc.cluster.local'), 'socket.end()')])
    expect(broken).toEqual({ got: '', end: 'reset' })
    expect(answers(good.got)).toEqual([[7, 0, 1]])
  })

  test('rubbish of the largest size is the server\'s to judge, and costs nobody else anything', async () => {
    const rubbish = await talk('ffff', 'setTimeout(() => socket.end(), 300)', 65_535)
    expect(rubbish.got.length).toBeLessThan(200)
    expect(await dig('+tcp', 'web.default.svc.cluster.local')).toEqual(['10.96.0.7'])
  })

  test('a client that dawdles in the middle of a message loses its connection', { timeout: 30_000 }, async () => {
    expect(await talk('0020ff')).toEqual({ got: '', end: 'reset' })
  })

  test('too many connections of one pod are refused, and room comes back', async () => {
    const script = `
      const net = require('node:net'); let reset = 0; const all = []
      for (let i = 0; i < 80; i++) { const s = net.connect(53, '${first}'); s.on('error', () => {}); s.on('close', () => reset++); all.push(s) }
      setTimeout(() => { console.log(reset); all.forEach((s) => s.destroy()) }, 1000)`
    expect((await world.run('client', process.execPath, '-e', script)).stdout).toBe('16')
    await eventually(async () => expect(await dig('+tcp', 'outside.test')).toEqual(['192.0.2.1']))
  })
})

test('a flood of queries of one pod is bounded, and another pod goes on', async () => {
  const script = `
    const socket = require('node:dgram').createSocket('udp4')
    const query = Buffer.concat([Buffer.from([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]), Buffer.from('x'), Buffer.from([4]), Buffer.from('test'), Buffer.from([0, 0, 1, 0, 1])])
    let left = 3000; const step = () => { for (let i = 0; i < 20 && left > 0; i++, left--) socket.send(query, 53, '${silent}')
      if (left > 0) setTimeout(step, 2); else setTimeout(() => socket.close(), 200) }; step()`
  const flood = world.run('lost', process.execPath, '-e', script)
  expect(await dig('outside.test')).toEqual(['192.0.2.1'])
  await flood
  expect(results('lost')).toContain('udp dropped')
  expect(await dig('web.default.svc.cluster.local')).toEqual(['10.96.0.7'])
})

test('queries on the way when capture ends have their answers, and later ones go straight to the server', async () => {
  const { proxy, netns } = world.pod('last-silent')
  const before = proxy.queries
  const asked = world.run('last-silent', 'dig', `@${slow}`, '+time=5', '+tries=1', 'outside.test')
  await eventually(() => expect(proxy.queries).toBe(before + 1))
  world.redirection.unenrol(netns.cookie)
  const closed = proxy.close()
  expect((await asked).stdout).toMatch(/status: NOERROR/)
  await closed
  expect((await world.run('last-silent', 'dig', `@${first}`, '+short', 'outside.test')).stdout).toBe('192.0.2.1')
  expect(proxy.queries).toBe(before + 1)
})
