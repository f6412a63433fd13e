// Outside of the mesh through a waypoint, by ServiceEntry: requests by Host, TLS by server name, wildcards, policies, TLS that the
// waypoint begins, and that nothing is reached by it that no entry covers. The servers are in the underlay, where the mesh ends.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { underlayIps } from '../../src/local/addresses.ts'
import { runCommand } from '../../src/local/command.ts'
import { object, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

const outside = underlayIps.v4
const directory = mkdtempSync(join(tmpdir(), 'sidestep-egress-'))
const file = (name: string): string => join(directory, name)
let world: WaypointWorld
let servers: ChildProcess | undefined

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
  name, host: request.headers.host, url: request.url, serverName: request.socket.servername, client: request.socket.getPeerCertificate?.().subject?.CN }))
const read = (name) => readFileSync(${JSON.stringify(directory)} + '/' + name)
const tls = { cert: read('server.crt'), key: read('server.key') }
require('node:http').createServer(answer('plain')).listen(9080, '${outside}')
require('node:https').createServer(tls, answer('tls')).listen(9443, '${outside}')
require('node:https').createServer({ ...tls, ca: read('ca.crt'), requestCert: true, rejectUnauthorized: true }, answer('mutual')).listen(9444, '${outside}')
require('node:net').createServer((socket) => { socket.on('error', () => {}); socket.end('greetings') }).listen(9025, '${outside}', () => console.log('up'))
`

function entry(name: string, address: string, spec: Yaml, namespace = 'shop'): Yaml {
  return object('networking.istio.io/v1', 'ServiceEntry', name, {
    location: 'MESH_EXTERNAL', resolution: 'STATIC', addresses: [address], ...(spec['resolution'] === undefined && { endpoints: [{ address: outside }] }), ...spec,
  }, { namespace })
}

const http = { number: 80, name: 'http', protocol: 'HTTP', targetPort: 9080 }
const https = { number: 443, name: 'https', protocol: 'TLS', targetPort: 9443 }
const originated = { number: 80, name: 'http', protocol: 'HTTP', targetPort: 9443 }

beforeAll(async () => {
  await makeCertificates()
  world = await WaypointWorld.start([
    entry('api', '240.0.1.1', { hosts: ['api.example.com'], ports: [http, https, { number: 25, name: 'tcp', protocol: 'TCP', targetPort: 9025 }] }),
    entry('both', '240.0.1.2', { hosts: ['one.example.org', 'two.example.org'], ports: [http, https] }),
    entry('wild', '240.0.1.3', { hosts: ['*.wild.example.com'], ports: [http, https] }),
    entry('secure', '240.0.1.4', { hosts: ['secure.example.com'], ports: [originated] }),
  ])
  servers = spawn('nsenter', [`--net=${world.mesh.underlayNetns}`, '--', process.execPath, '-e', serverScript], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise((resolve) => servers?.stdout?.once('data', resolve))
}, 120_000)
afterAll(async () => {
  servers?.kill('SIGKILL')
  rmSync(directory, { recursive: true })
  await world?.[Symbol.asyncDispose]()
})

interface Outside { readonly name: string; readonly host: string; readonly url: string; readonly serverName?: string; readonly client?: string }
const ask = async (url: string, ...args: string[]): Promise<{ readonly status: number; readonly code: number; readonly seen: Partial<Outside> }> => {
  const { status, code, seen } = await world.curl('client', url, ...args)
  return { status, code, seen: seen as Partial<Outside> }
}

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
})
