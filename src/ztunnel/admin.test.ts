import { createServer, request } from 'node:http'
import type { IncomingHttpHeaders } from 'node:http'
import { connect } from 'node:net'
import type { AddressInfo } from 'node:net'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { silentLogger } from '../core/log.ts'
import { readinessSchema, ztunnelStateSchema } from '../model/ztunnel-state.ts'
import { certificateViewSchema, connectionViewSchema, explainAnswerSchema, learnedViewSchema, policyViewSchema, serviceViewSchema, workloadViewSchema } from '../model/ztunnel-views.ts'
import { make } from '../pki/testing.ts'
import { startAdmin } from './admin.ts'
import type { AdminServers } from '../member/admin.ts'
import type { AdminOptions } from './admin.ts'
import { listenUnix } from '../member/admin-listener.ts'
import { shop, testSource, workload } from './testing-admin.ts'
import type { TestSource } from './testing-admin.ts'
import { ZtunnelMetrics } from './telemetry/metrics.ts'

let directory: string
let source: TestSource
let metrics: ZtunnelMetrics
let servers: AdminServers
const socketPath = (): string => join(directory, 'ztunnel.sock')
const options = (): AdminOptions => ({
  socketPath: socketPath(), adminAddress: '127.0.0.1:0', metricsAddress: '127.0.0.1:0', readinessAddress: '[::1]:0', source, metrics, logger: silentLogger,
})

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-admin-'))
  source = testSource(shop())
  metrics = new ZtunnelMetrics()
  servers = await startAdmin(options())
})
afterEach(async () => {
  await servers.close()
  rmSync(directory, { recursive: true })
})

interface Asked {
  readonly path: string
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly port?: number | undefined
  readonly host?: string
}
interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

/** On the unix socket unless a port is given. */
function ask({ path, method = 'GET', headers = {}, port, host = '127.0.0.1' }: Asked): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request({ ...(port === undefined ? { socketPath: socketPath() } : { host, port }), path, method, headers }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', reject)
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }))
    })
    sent.on('error', reject)
    sent.end()
  })
}
const json = async <T>(schema: z.ZodType<T>, path: string): Promise<T> => schema.parse(JSON.parse((await ask({ path })).body.toString()))

test('what is shown has the shapes that askers check', async () => {
  expect(await json(ztunnelStateSchema, '/state')).toMatchObject({ node: 'node-a', xds: { state: 'ready' }, certificates: { total: 1, failed: 1, soonestExpiry: '' } })
  const workloads = await json(z.array(workloadViewSchema), '/workloads')
  expect(workloads.map(({ name }) => name)).toEqual(['web', 'catalogue', 'payments', 'legacy'])
  expect(workloads[1]).toMatchObject({ identity: 'spiffe://cluster.local/ns/shop/sa/catalogue', policies: ['shop/web-only'], node: 'node-b' })
  expect(await json(z.array(serviceViewSchema), '/services')).toMatchObject([{ name: 'catalogue', addresses: ['10.96.0.1'], endpoints: [{ name: 'catalogue' }] }, { name: 'payments' }, { endpoints: [] }])
  expect(await json(z.array(policyViewSchema), '/policies')).toMatchObject([{ name: 'web-only', rules: [[[{ destinationPorts: [8080] }]]] }, { action: 'deny' }])
  expect(await json(z.array(connectionViewSchema), '/connections')).toMatchObject([{ pod: 'shop/web', protocol: 'hbone' }])
  expect(await json(z.array(learnedViewSchema), '/egress')).toMatchObject([{ address: '203.0.113.1', count: 3, firstSeen: '2026-01-01T00:00:00.000Z', verdict: 'denied' }])
  expect(await json(z.array(certificateViewSchema), '/certificates')).toMatchObject([{ state: 'failed', error: 'the CA said no', renewAt: '2030-01-01T00:00:00.000Z' }])
})

test('the config dump has Istio\'s fields and no key', async () => {
  const { pem, key, der } = await make({ subject: 'CN=a' })
  const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }
  await servers.close()
  source = testSource(shop(), 'node-a', [{
    identity, state: { t: 'ready', renewAtMs: 2, current: { identity, chainPem: pem, key, rootsPem: [pem], notBeforeMs: 0, notAfterMs: 1_000, serial: 'ab' } },
  }])
  servers = await startAdmin(options())
  const { body } = await ask({ path: '/config_dump' })
  expect(Object.keys(JSON.parse(body.toString()) as object)).toEqual(expect.arrayContaining(
    ['workloads', 'services', 'policies', 'stagedServices', 'staticConfig', 'version', 'config', 'certificates', 'workloadState'],
  ))
  expect(JSON.parse(body.toString())).toMatchObject({
    certificates: [{ state: 'ready', certChain: pem, rootCerts: [pem] }],
    workloadState: { 'shop/web': { state: 'Up', connections: { inbound: [], outbound: [{ id: '7' }] } } }, config: { node: { from: 'environment' } },
  })
  expect(der.length).toBeGreaterThan(0)
  const secret = Buffer.from(key.export({ format: 'jwk' }).d ?? '', 'base64url')
  expect(secret).toHaveLength(32)
  for (const form of ['base64', 'base64url', 'hex'] as const) expect(body.toString()).not.toContain(secret.toString(form))
  expect(body.toString()).not.toContain('PRIVATE')
})

test('a list of 20,000 arrives whole, and others are served meanwhile', async () => {
  await servers.close()
  const store = shop()
  store.apply({ workloads: Array.from({ length: 20_000 }, (_, i) => workload(`w${i}`, { uid: `u${i}`, ips: [] })) })
  source = testSource(store)
  servers = await startAdmin(options())
  const order: string[] = []
  const long = ask({ path: '/workloads' }).then((answer) => {
    order.push('long')
    return answer
  })
  await ask({ path: '/ready' }).then(() => order.push('short'))
  expect((JSON.parse((await long).body.toString()) as unknown[]).length).toBe(20_004)
  expect(order).toEqual(['short', 'long'])
})

test('readiness says what it waits for', async () => {
  const ready = { path: '/healthz/ready', port: servers.ports.readiness, host: '::1' }
  expect(await ask(ready)).toMatchObject({ status: 200 })
  source.waitingFor = ['the first answer of the control plane', 'the node agent']
  const waiting = await ask(ready)
  expect([waiting.status, waiting.body.toString()]).toEqual([503, 'waiting for the first answer of the control plane and for the node agent.\n'])
  expect(await json(readinessSchema, '/ready')).toEqual({ ready: false, waitingFor: source.waitingFor })
  expect(await ask({ ...ready, path: '/healthz/live' })).toMatchObject({ status: 200 })
  expect((await ask({ ...ready, path: '/' })).status).toBe(404)
})

test('log levels change one by one, together, and back', async () => {
  const post = async (path: string): Promise<number> => (await ask({ path, method: 'POST' })).status
  expect(await post('/logging?level=debug&component=xds')).toBe(200)
  expect(source.levels).toEqual({ default: 'info', xds: 'debug' })
  expect(await post('/logging?level=default:warn,xds:error')).toBe(200)
  expect(source.levels).toEqual({ default: 'warn', xds: 'error' })
  await ask({ path: '/logging?reset' })
  expect(source.levels).toEqual({ default: 'warn', xds: 'error' })
  expect(await post('/logging?reset')).toBe(200)
  expect(source.levels).toEqual({ default: 'info', xds: 'info' })
  expect(await post('/logging?level=debug')).toBe(200)
  expect(source.levels).toEqual({ default: 'debug', xds: 'debug' })
  // All of it or nothing.
  expect([await post('/logging?level=xds:info,nobody:info'), await post('/logging?level=loud'), await post('/logging'), await post('/logging?level=__proto__:info')]).toEqual([404, 400, 400, 404])
  expect(source.levels).toEqual({ default: 'debug', xds: 'debug' })
  expect((await ask({ path: '/logging?level=debug', method: 'PUT' })).status).toBe(405)
})

test('a page in a browser can neither read nor change anything on loopback', async () => {
  const { admin: port } = servers.ports
  const status = async (method: string, headers: Record<string, string>, path = '/logging?level=error'): Promise<number> => (await ask({ path, method, headers, port })).status
  expect(await status('POST', { origin: 'https://evil.example' })).toBe(403)
  expect(await status('POST', { origin: 'null' })).toBe(403)
  expect(await status('POST', { 'sec-fetch-site': 'cross-site' })).toBe(403)
  expect(await status('GET', { host: 'evil.example:15000' }, '/config_dump')).toBe(403)
  expect(await status('GET', { host: '127.0.0.1.evil.example' }, '/config_dump')).toBe(403)
  expect(await status('GET', { 'sec-fetch-site': 'same-site' }, '/debug/pprof/profile')).toBe(403)
  expect(source.levels).toEqual({ default: 'info', xds: 'info' })
  // People, port forwards and our own page.
  expect(await status('GET', { host: 'localhost:9' }, '/')).toBe(200)
  expect(await status('POST', { host: `localhost:${port}`, origin: `http://localhost:${port}`, 'sec-fetch-site': 'same-origin' })).toBe(200)
  expect(source.levels).toEqual({ default: 'error', xds: 'error' })
})

test('what is asked wrongly is refused and ends nothing', async () => {
  const statuses = []
  for (const path of ['/nothing', '//', '/%', '/constructor', '/state/', '/explain', '/explain?from=a', '/explain?from=a&to=b&port=0', '/debug/pprof/profile?seconds=1000']) statuses.push((await ask({ path })).status)
  expect(statuses).toEqual([404, 404, 404, 404, 404, 400, 400, 400, 400])
  expect((await ask({ path: `/${'x'.repeat(10_000)}` })).status).toBe(431)
  expect((await ask({ path: '/logging?level=debug', method: 'POST', headers: { 'content-length': '10000000' } }).catch(() => ({ status: 'cut' }))).status).not.toBe(200)
  // Connections without end, and one that says nothing, do not keep others out.
  const idle = Array.from({ length: 10 }, () => connect(socketPath()))
  expect((await ask({ path: '/ready' })).status).toBe(200)
  for (const socket of idle) socket.destroy()
})

test('quitting takes a POST', async () => {
  expect((await ask({ path: '/quitquitquit' })).status).toBe(405)
  expect(source.quits).toBe(0)
  expect((await ask({ path: '/quitquitquit', method: 'POST' })).status).toBe(200)
  expect(source.quits).toBe(1)
})

test('profiles are taken one at a time', async () => {
  const first = ask({ path: '/debug/pprof/profile?seconds=1' })
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect((await ask({ path: '/debug/pprof/heap?seconds=1' })).status).toBe(429)
  const cpu = await first
  expect(cpu.headers['content-disposition']).toContain('.cpuprofile')
  expect(Object.keys(JSON.parse(cpu.body.toString()) as object)).toEqual(expect.arrayContaining(['nodes', 'samples', 'startTime', 'endTime']))
  const heap = await ask({ path: '/debug/pprof/heap?seconds=1' })
  expect(Object.keys(JSON.parse(heap.body.toString()) as object)).toEqual(expect.arrayContaining(['head', 'samples']))
})

test('a profile ends with who asked for it', async () => {
  const asked = request({ socketPath: socketPath(), path: '/debug/pprof/profile?seconds=300' })
  asked.on('error', () => {}).end()
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect((await ask({ path: '/debug/pprof/profile?seconds=1' })).status).toBe(429)
  asked.destroy()
  await expect.poll(async () => (await ask({ path: '/debug/pprof/profile?seconds=1' })).status, { timeout: 10_000 }).toBe(200)
})

test('metrics come compressed and as OpenMetrics to whoever prefers that', async () => {
  metrics.refused('denyPolicy')
  const at = { path: '/metrics', port: servers.ports.metrics }
  const plain = await ask(at)
  expect(plain.headers['content-type']).toContain('version=0.0.4')
  expect(plain.body.toString()).toContain('# TYPE sidestep_refusals_total counter\nsidestep_refusals_total{because="denyPolicy"} 1')
  // For whoever has no way into the node's network namespace.
  for (const way of [{ port: servers.ports.admin }, {}]) {
    expect((await ask({ ...way, path: '/metrics' })).body.toString()).toContain('sidestep_refusals_total{because="denyPolicy"} 1')
  }
  const small = await ask({ ...at, path: '/stats/prometheus', headers: { 'accept-encoding': 'gzip', accept: 'application/openmetrics-text;version=1.0.0,text/plain;q=0.5' } })
  expect([small.headers['content-encoding'], small.headers['content-type']]).toEqual(['gzip', expect.stringContaining('openmetrics')])
  const open = gunzipSync(small.body).toString()
  expect(open).toContain('# TYPE sidestep_refusals counter\nsidestep_refusals_total{because="denyPolicy"} 1')
  expect(open.endsWith('\n# EOF\n')).toBe(true)
  // One who prefers the other form afterwards gets it.
  expect((await ask({ ...at, headers: { 'accept-encoding': 'gzip;q=0' } })).body.toString()).toEqual(plain.body.toString())
  expect((await ask({ ...at, path: '/state' })).status).toBe(404)
})

test('a port that is taken is waited for', async () => {
  const taken = createServer()
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
  const { port } = taken.address() as AddressInfo
  const other = await startAdmin({ ...options(), socketPath: join(directory, 'other.sock'), adminAddress: 'none', metricsAddress: `127.0.0.1:${port}`, readinessAddress: 'none' })
  expect(other.ports).toEqual({ admin: undefined, metrics: undefined, readiness: undefined })
  taken.close()
  await expect.poll(() => other.ports.metrics, { timeout: 10_000 }).toBe(port)
  expect((await ask({ path: '/metrics', port })).status).toBe(200)
  await other.close()
})

test('a successor takes the unix socket over, and the end of the older one leaves it alone', async () => {
  expect(statSync(socketPath()).mode & 0o777).toBe(0o600)
  const successor = await listenUnix(socketPath(), (_request, response) => response.end('new'))
  expect((await ask({ path: '/' })).body.toString()).toBe('new')
  await servers.close()
  expect((await ask({ path: '/' })).body.toString()).toBe('new')
  await successor.close()
  expect(statSync(socketPath(), { throwIfNoEntry: false })).toBeUndefined()
})

const explained = async (from: string, to: string, more = ''): Promise<z.infer<typeof explainAnswerSchema>> =>
  json(explainAnswerSchema, `/explain?from=${encodeURIComponent(from)}&to=${encodeURIComponent(to)}${more}`)

test.each([
  ['a pod that is allowed', 'shop/web', 'shop/catalogue', '&port=8080', 'allowed', 'allowPolicy'],
  ['the same by service, whose port is mapped', 'shop/web', 'catalogue.shop', '', 'allowed', 'allowPolicy'],
  ['by full name', 'shop/web', 'catalogue.shop.svc.cluster.local', '&port=80', 'allowed', 'allowPolicy'],
  ['by part of the name', 'shop/web', 'catalogue.shop.svc', '', 'allowed', 'allowPolicy'],
  ['by address', '10.0.0.1', '10.96.0.1', '&port=80', 'allowed', 'allowPolicy'],
  ['by identity', 'spiffe://cluster.local/ns/shop/sa/web', 'spiffe://cluster.local/ns/shop/sa/catalogue', '&port=8080', 'allowed', 'allowPolicy'],
  ['another port', 'shop/web', 'shop/catalogue', '&port=22', 'denied', 'noAllowMatched'],
  ['another identity', 'shop/payments', 'catalogue.shop', '', 'denied', 'noAllowMatched'],
  ['plain text to who is strict', 'old/legacy', 'payments.shop', '', 'denied', 'denyPolicy'],
  ['the same as if it were in the mesh', 'old/legacy', 'payments.shop', '&mesh=true', 'allowed', 'noAllowPolicies'],
  ['to who is not in the mesh', 'shop/web', 'old/legacy', '', 'allowed', 'notCaptured'],
  ['a service without endpoints', 'shop/web', 'empty.shop', '', 'denied', 'noEndpoints'],
  ['out of the mesh', 'shop/web', '1.1.1.1', '', 'denied', 'egressDenied'],
  ['out of the mesh, nobody minds', 'shop/catalogue', '1.1.1.1', '', 'allowed', 'egressAllowed'],
  ['the port decides and was not said', 'shop/web', 'shop/catalogue', '', 'unknown', 'portNeeded'],
  ['a port that is not served', 'shop/web', 'catalogue.shop', '&port=99', 'denied', 'noEndpointWithPort'],
  ['somebody unknown', 'shop/nobody', 'shop/web', '', 'unknown', 'unknownSource'],
  ['somewhere unknown', 'shop/web', 'shop/nobody', '', 'unknown', 'unknownDestination'],
])('explains %s', async (_what, from, to, more, answer, because) => {
  const explanation = await explained(from, to, more)
  expect({ answer: explanation.answer, because: explanation.because }, explanation.lines.join('\n')).toEqual({ answer, because })
  expect(explanation.lines[0]).toMatch({ allowed: /^ALLOWED: /, denied: /^REFUSED: /, unknown: /^cannot tell: / }[answer] ?? /^$/)
})

test('an explanation names the rule that decided and why others did not', async () => {
  const refused = await explained('shop/payments', 'shop/catalogue', '&port=8080')
  expect(refused.lines.join('\n')).toContain('principal cluster.local/ns/shop/sa/payments is not cluster.local/ns/shop/sa/web')
  expect(await explained('shop/web', 'shop/catalogue', '&port=8080')).toMatchObject({ policy: 'shop/web-only', rule: 0 })
  const strict = await explained('old/legacy', 'shop/payments')
  expect(strict.lines.join('\n')).toContain('PeerAuthentication is in force, as istio-system/istio_converted_static_strict')
})
