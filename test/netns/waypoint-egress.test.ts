// Outside of the mesh through a waypoint, by ServiceEntry: requests by Host, TLS by server name, wildcards, policies, TLS that the
// waypoint begins, and that nothing is reached by it that no entry covers. The servers are in the underlay, where the mesh ends.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createSocket } from 'node:dgram'
import type { Socket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import dnsPacket from 'dns-packet'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { underlayIps } from '../../src/local/addresses.ts'
import { runCommand } from '../../src/local/command.ts'
import { object, waypoint, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

const outside = underlayIps.v4
const directory = mkdtempSync(join(tmpdir(), 'sidestep-egress-'))
const file = (name: string): string => join(directory, name)
let world: WaypointWorld
let servers: ChildProcess | undefined
let nameServer: Socket | undefined
let questions: string[] = []

/** An authority, a server for every host below example.com, a client of it, and somebody else's authority. */
async function makeCertificates(): Promise<void> {
  const run = async (...args: string[]): Promise<void> => {
    const { code, stderr } = await runCommand(['openssl', ...args])
    if (code !== 0) throw new Error(stderr)
  }
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  for (const name of ['ca', 'other-ca']) await run('req', '-x509', ...key, '-keyout', file(`${name}.key`), '-out', file(`${name}.crt`), '-subj', `/CN=${name}`, '-days', '2')
  for (const [name, names] of [['server', 'DNS:api.example.com,DNS:*.wild.example.com'], ['client', 'DNS:shop.example.com']] as const) {
    await run('req', '-x509', ...key, '-CA', file('ca.crt'), '-CAkey', file('ca.key'), '-keyout', file(`${name}.key`), '-out', file(`${name}.crt`), '-subj', `/CN=${name}`, '-days', '2', '-addext', `subjectAltName=${names}`)
  }
}

/** Each says which it is, the host and path that it was asked for, and who asked, where it knows that. */
const serverScript = `
const { readFileSync } = require('node:fs')
const answer = (name) => (request, response) => response.end(JSON.stringify({
  name, host: request.headers.host, url: request.url, serverName: request.socket.servername, client: request.socket.getPeerCertificate?.().subject?.CN,
  inside: request.headers['x-forwarded-client-cert'] ?? request.headers['x-forwarded-for'] }))
const read = (name) => readFileSync(${JSON.stringify(directory)} + '/' + name)
const tls = { cert: read('server.crt'), key: read('server.key') }
require('node:http').createServer(answer('plain')).listen(9080, '${outside}')
require('node:http').createServer(answer('unnamed')).listen(9081, '${outside}')
require('node:https').createServer(tls, answer('tls')).listen(9443, '${outside}')
require('node:https').createServer({ ...tls, ca: read('ca.crt'), requestCert: true, rejectUnauthorized: true }, answer('mutual')).listen(9444, '${outside}')
require('node:net').createServer((socket) => { socket.on('error', () => {}); socket.end('greetings') }).listen(9025, '${outside}', () => console.log('up'))
`

function entry(name: string, address: string, spec: Yaml): Yaml {
  return object('networking.istio.io/v1', 'ServiceEntry', name, {
    location: 'MESH_EXTERNAL', resolution: 'STATIC', addresses: [address], ...(spec['resolution'] === undefined && { endpoints: [{ address: outside }] }), ...spec,
  })
}

const http = { number: 80, name: 'http', protocol: 'HTTP', targetPort: 9080 }
const https = { number: 443, name: 'https', protocol: 'TLS', targetPort: 9443 }
const originated = { number: 81, name: 'originated', protocol: 'HTTP', targetPort: 9443 }
const mutual = { number: 82, name: 'mutual', protocol: 'HTTP', targetPort: 9444 }

/** Of the world outside: it knows two hosts, one of which says that it is a pod of the mesh. */
async function startNameServer(): Promise<Socket> {
  const socket = createSocket('udp4', (message, from) => {
    const query = dnsPacket.decode(message)
    const [question] = query.questions ?? []
    if (!question) return
    questions.push(`${question.type} ${question.name}`)
    const evil = world?.mesh.pod('shop', 'web-v1').facts.ips.find((ip) => !ip.includes(':')) ?? ''
    const known: Record<string, string> = { 'named.example.net': outside, 'some.none.example.net': outside, 'evil.none.example.net': evil }
    const data = known[question.name]
    const answers = data !== undefined && question.type === 'A' ? [{ type: 'A' as const, name: question.name, ttl: 60, data }] : []
    socket.send(dnsPacket.encode({ type: 'response', id: query.id ?? 0, flags: 0x0180, questions: query.questions ?? [], answers }), from.port, from.address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return socket
}

beforeAll(async () => {
  await makeCertificates()
  nameServer = await startNameServer()
  world = await WaypointWorld.start([
    entry('api', '240.0.1.1', { hosts: ['api.example.com'], ports: [http, https, originated, mutual, { number: 25, name: 'tcp', protocol: 'TCP', targetPort: 9025 }] }),
    entry('one', '240.0.1.2', { hosts: ['one.example.org'], ports: [http] }),
    entry('two', '240.0.1.2', { hosts: ['two.example.org'], ports: [http] }),
    entry('wild', '240.0.1.3', { hosts: ['*.wild.example.com'], ports: [http, https, originated] }),
    entry('named', '240.0.1.4', { hosts: ['named.example.net'], resolution: 'DNS', ports: [http, https] }),
    entry('none', '240.0.1.5', { hosts: ['*.none.example.net'], resolution: 'NONE', ports: [http, https, { ...http, number: 8080, name: 'pod', targetPort: 8080 }] }),
  ], waypoint(), {}, { nameServers: [{ ip: '127.0.0.1', port: nameServer.address().port }] })
  servers = spawn('nsenter', [`--net=${world.mesh.underlayNetns}`, '--', process.execPath, '-e', serverScript], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise((resolve) => servers?.stdout?.once('data', resolve))
}, 120_000)
afterAll(async () => {
  servers?.kill('SIGKILL')
  nameServer?.close()
  rmSync(directory, { recursive: true })
  await world?.[Symbol.asyncDispose]()
})

interface Outside { readonly name: string; readonly host: string; readonly url: string; readonly serverName?: string | false; readonly client?: string }
const askAs = async (from: string, url: string, ...args: string[]): Promise<{ readonly status: number; readonly code: number; readonly seen: Partial<Outside> }> => {
  const { status, code, seen } = await world.curl(from, url, ...args)
  return { status, code, seen: seen as Partial<Outside> }
}
const ask = (url: string, ...args: string[]): ReturnType<typeof askAs> => askAs('client', url, ...args)
const policy = (name: string, target: string, spec: Yaml): Yaml =>
  object('security.istio.io/v1', 'AuthorizationPolicy', name, { targetRefs: [{ group: 'networking.istio.io', kind: 'ServiceEntry', name: target }], ...spec })
const secret = (name: string, files: Readonly<Record<string, string>>): Yaml => ({
  apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace: 'shop' }, type: 'Opaque',
  data: Object.fromEntries(Object.entries(files).map(([key, each]) => [key, readFileSync(file(each)).toString('base64')])),
})
const rule = (host: string, port: number, tls: Yaml): Yaml => object('networking.istio.io/v1', 'DestinationRule', `tls-${port}`, {
  host, trafficPolicy: { portLevelSettings: [{ port: { number: port }, tls }] },
})

describe('a ServiceEntry behind a waypoint', () => {
  it('is reached by its name, and by no other Host', async () => {
    const { status, seen } = await ask('http://api.example.com/x?y=1')
    expect([status, seen]).toEqual([200, { name: 'plain', host: 'api.example.com', url: '/x?y=1' }])
    for (const host of ['other.example.com', 'example.com', 'api.example.com.evil.net', 'web', outside]) {
      expect([host, (await ask('http://api.example.com/', '-H', `host: ${host}`)).status]).toEqual([host, 421])
    }
    expect((await ask('http://api.example.com/', '-H', 'host: API.example.com:80')).status).toBe(200)
  })

  it('carries TLS by its server name, and none that the entry does not cover', async () => {
    const ca = ['--cacert', file('ca.crt')]
    const { seen } = await ask('https://api.example.com/', ...ca)
    expect(seen).toMatchObject({ name: 'tls', serverName: 'api.example.com' })
    expect((await ask('https://other.example.com/', '-k', '--connect-to', 'other.example.com:443:240.0.1.1:443')).code).not.toBe(0)
    // Without a server name, and without TLS.
    expect((await ask('https://240.0.1.1/', '-k')).code).not.toBe(0)
    expect((await ask('http://api.example.com:443/')).code).not.toBe(0)
  })

  it('of plain TCP is carried as it is', async () => {
    expect((await world.exec('client', ['curl', '-s', '--http0.9', '--max-time', '10', 'http://api.example.com:25/'])).stdout).toBe('greetings')
  })
  it('shares an address with others, and the host says which is meant', async () => {
    const deny = policy('two', 'two', { action: 'DENY', rules: [{ to: [{ operation: { paths: ['/no'] } }] }] })
    await world.during([deny], async () => (await ask('http://two.example.org/no')).status === 403, async () => {
      expect((await ask('http://two.example.org/yes')).seen.host).toBe('two.example.org')
      expect((await ask('http://one.example.org/no')).seen.host).toBe('one.example.org')
      // Another Host under the name of the first is judged as the second.
      expect((await ask('http://one.example.org/no', '-H', 'host: two.example.org')).status).toBe(403)
    })
  })

  it('of a wildcard is for every host below it', async () => {
    expect((await ask('http://a.wild.example.com/')).seen).toMatchObject({ name: 'plain', host: 'a.wild.example.com' })
    expect((await ask('http://b.a.wild.example.com/')).seen).toMatchObject({ host: 'b.a.wild.example.com' })
    expect((await ask('http://a.wild.example.com/', '-H', 'host: wild.example.com')).status).toBe(421)
    expect((await ask('https://a.wild.example.com/', '--cacert', file('ca.crt'))).seen).toMatchObject({ name: 'tls', serverName: 'a.wild.example.com' })
    expect((await ask('https://a.evil.example.com/', '-k', '--connect-to', '::240.0.1.3:')).code).not.toBe(0)
  })

  it('opens no other port of its machine', async () => {
    expect((await runCommand(['nsenter', `--net=${world.mesh.underlayNetns}`, '--', 'curl', '-sf', `http://${outside}:9081/`])).code).toBe(0)
    expect((await ask(`http://${outside}:9081/`)).code).not.toBe(0)
  })
})

describe('policies of a ServiceEntry', () => {
  it('let one principal read one path, and say 403 to the rest', async () => {
    const allow = policy('api', 'api', { action: 'ALLOW', rules: [
      { from: [{ source: { principals: ['cluster.local/ns/shop/sa/client'] } }], to: [{ operation: { methods: ['GET'], paths: ['/read/*'] } }] },
    ] })
    await world.during([allow], async () => (await ask('http://api.example.com/')).status === 403, async () => {
      expect((await ask('http://api.example.com/read/x')).status).toBe(200)
      expect((await ask('http://api.example.com/read/x', '-d', 'x')).status).toBe(403)
      expect((await askAs('other', 'http://api.example.com/read/x')).status).toBe(403)
      // Nobody can look into what is carried as it is, so it is not allowed.
      expect((await ask('https://api.example.com/read/x', '-k')).code).not.toBe(0)
      expect((await ask('http://a.wild.example.com/')).status).toBe(200)
    })
  })
})

describe('TLS that the waypoint begins', () => {
  it('reaches a server that its authority vouches for, and no other', async () => {
    const named = (sni: string): Yaml => rule('api.example.com', 81, { mode: 'SIMPLE', credentialName: 'outside', sni })
    const status = async (): Promise<number> => (await ask('http://api.example.com:81/')).status
    await world.during([secret('outside', { 'ca.crt': 'ca.crt' }), named('api.example.com')], async () => await status() === 200, async () => {
      expect((await ask('http://api.example.com:81/')).seen).toMatchObject({ name: 'tls', host: 'api.example.com:81', serverName: 'api.example.com' })
      world.apply(secret('outside', { 'ca.crt': 'other-ca.crt' }))
      await expect.poll(status, { timeout: 5_000 }).toBe(503)
      world.apply(secret('outside', { 'ca.crt': 'ca.crt' }))
      await expect.poll(status, { timeout: 5_000 }).toBe(200)
      world.apply(named('else.example.com'))
      await expect.poll(status, { timeout: 5_000 }).toBe(503)
      world.apply(named('api.example.com'))
      await expect.poll(status, { timeout: 5_000 }).toBe(200)
    })
  })

  it('shows a certificate of its own where the server wants one', async () => {
    const tls = { mode: 'MUTUAL', credentialName: 'own' }
    const objects = [secret('own', { 'ca.crt': 'ca.crt', 'tls.crt': 'client.crt', 'tls.key': 'client.key' }), rule('api.example.com', 82, tls)]
    await world.during(objects, async () => (await ask('http://api.example.com:82/')).status === 200, async () => {
      expect((await ask('http://api.example.com:82/')).seen).toMatchObject({ name: 'mutual', client: 'client' })
    })
  })

  it('asks for the host of the request where an entry has many', async () => {
    const objects = [secret('outside', { 'ca.crt': 'ca.crt' }), rule('*.wild.example.com', 81, { mode: 'SIMPLE', credentialName: 'outside' })]
    await world.during(objects, async () => (await ask('http://c.wild.example.com:81/')).status === 200, async () => {
      expect((await ask('http://d.wild.example.com:81/')).seen).toMatchObject({ name: 'tls', serverName: 'd.wild.example.com' })
      // Of which the certificate has no name.
      expect((await ask('http://x.d.wild.example.com:81/')).status).toBe(503)
    })
  })
})

describe('a ServiceEntry whose endpoints are names', () => {
  it('is looked up by the waypoint, once for many', async () => {
    questions = []
    for (let i = 0; i < 5; i++) expect((await ask('http://named.example.net/', '-H', 'connection: close')).seen).toMatchObject({ name: 'plain', host: 'named.example.net' })
    expect(questions.filter((each) => each === 'A named.example.net').length).toBe(1)
    expect((await ask('https://named.example.net/', '-k')).seen).toMatchObject({ serverName: 'named.example.net' })
  })

  it('with a wildcard leads to what each name says, and never into the mesh in plain text', async () => {
    expect((await ask('http://some.none.example.net/')).seen).toMatchObject({ host: 'some.none.example.net' })
    expect((await ask('https://some.none.example.net/', '-k')).seen).toMatchObject({ name: 'tls', serverName: 'some.none.example.net' })
    expect((await ask('https://nobody.none.example.net/', '-k')).code).not.toBe(0)
    expect((await ask('http://nobody.none.example.net/')).status).toBe(503)
    expect((await ask('http://evil.none.example.net:8080/')).status).toBe(503)
    expect((await ask('http://some.none.example.net/', '-H', 'host: named.example.net')).status).toBe(421)
  })
})
