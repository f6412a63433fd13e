// What people see of real connections: both sides' logs and metrics, what stands while it stands, spans at a collector, and the
// command line against a running mesh.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { silentLogger } from '../../src/core/log.ts'
import { underlayIps } from '../../src/local/addresses.ts'
import { serveApi } from '../../src/local/api.ts'
import { certificateViewSchema, connectionViewSchema, explainAnswerSchema } from '../../src/model/ztunnel-views.ts'
import { startProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { policyYaml, TunnelWorld } from '../helpers/tunnel-world.ts'
import { inNetns } from '../helpers/world.ts'

const port = 7001
const program = fileURLToPath(new URL('../../src/bin/sidestep.ts', import.meta.url))
let world: TunnelWorld
let api: Awaited<ReturnType<typeof serveApi>> | undefined
let server: RunningServer

beforeAll(async () => {
  world = await TunnelWorld.start({ client: { node: 'node-a' }, stranger: { node: 'node-a' }, server: { node: 'node-b' } }, {
    ztunnelEnvironment: { SIDESTEP_OTLP_ENDPOINT: `http://${underlayIps.v4}:4318` },
    yaml: [policyYaml('AuthorizationPolicy', 'shop', 'client-only', {
      selector: { matchLabels: { app: 'server' } }, rules: [{ from: [{ source: { principals: ['cluster.local/ns/shop/sa/client'] } }] }],
    })],
  })
  api = await serveApi(world.mesh, silentLogger)
  server = await startServer(['--echo', port], world.inside('server'))
  await world.inForce('shop/client-only')
})
afterAll(async () => {
  await server?.stop()
  await api?.close()
  await world?.[Symbol.asyncDispose]()
})

function sidestep(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [program, ...args, '--name', world.mesh.name], { stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    let err = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
    child.on('close', (code) => resolve({ code, out, err }))
  })
}

const labels = (reporter: string): Record<string, string> => ({
  reporter, source_workload: 'client', source_principal: world.identity('client'), destination_workload: 'server', destination_principal: world.identity('server'),
  connection_security_policy: 'mutual_tls', response_flags: '-',
})

test('both sides log one line for a connection, and count it', async () => {
  const msg = { msg: 'connection complete', 'dst.workload': 'server', 'src.identity': world.identity('client'), 'dst.identity': world.identity('server') }
  const [outbound, inbound] = [world.logged('node-a', { ...msg, direction: 'outbound' }), world.logged('node-b', { ...msg, direction: 'inbound' })]
  expect(await world.reaches('client', 'server', port)).toBe(true)
  const [asked] = await outbound()
  // Of the tunnel's connection, which the outbound side knows.
  expect(asked).toMatchObject({ rtt: expect.stringMatching(/^[1-9]\d*us$/) as string, retransmits: 0 })
  for (const [line] of [await outbound(), await inbound()]) {
    expect(line).toMatchObject({ bytes_sent: 4, bytes_recv: 4, verdict: 'allowed', reason: 'finished', 'dst.addr': `${world.ip('server')}:${port}` })
    expect(line?.['duration']).toMatch(/^\d+ms$/)
  }
  expect(await world.metric('node-a', 'istio_tcp_connections_opened_total', labels('source'))).toBeGreaterThanOrEqual(1)
  expect(await world.metric('node-b', 'istio_tcp_connections_closed_total', labels('destination'))).toBeGreaterThanOrEqual(1)
  expect(await world.metric('node-b', 'sidestep_hbone_handshakes_total', { side: 'server' })).toBeGreaterThanOrEqual(1)
})

test('a connection that leaves the mesh has TCP statistics, too', async () => {
  await using outside = await startServer(['--echo', port], world.inside('outside'))
  expect(outside).toBeDefined()
  const plain = world.logged('node-a', { msg: 'connection complete', 'dst.addr': `${underlayIps.v4}:${port}` })
  expect(await world.reaches('client', 'outside', port)).toBe(true)
  expect((await plain())[0]).toMatchObject({ rtt: expect.stringMatching(/^[1-9]\d*us$/) as string, retransmits: 0, bytes_sent: 4 })
})

test('a refusal is a warning with the policy\'s reason on the node that refused', async () => {
  const refused = world.logged('node-b', { msg: 'connection refused', 'src.identity': world.identity('stranger') })
  expect(await world.reaches('stranger', 'server', port)).toBe(false)
  expect((await refused())[0]).toMatchObject({ level: 40, verdict: 'denied', reason: 'noAllowMatched', direction: 'inbound' })
  expect(await world.metric('node-b', 'istio_tcp_connections_failed_total', { response_flags: 'DENY', source_principal: world.identity('stranger') })).toBeGreaterThanOrEqual(1)
})

test('a connection is shown and its bytes are counted while it stands', async () => {
  const sent = (): Promise<number> => world.metric('node-a', 'istio_tcp_received_bytes_total', labels('source'))
  const before = await sent()
  await using held = await startProbe('many', [world.ip('server'), port, 3, '--echo', '--hold', 60], world.inside('client', { timeoutMs: 70_000 }))
  expect(held).toBeDefined()
  const standing = await eventually('three connections stand and have carried', async () => {
    const found = (await world.connections('node-a')).filter(({ bytesSent, bytesReceived }) => bytesSent > 0 && bytesSent === bytesReceived)
    return found.length === 3 && found
  })
  expect(standing[0]).toMatchObject({
    direction: 'outbound', pod: 'shop/client', protocol: 'hbone', source: { identity: world.identity('client') },
    destination: { workload: 'server', hboneAddr: `${world.ip('server')}:15008`, identity: world.identity('server') },
  })
  expect(await sent() - before).toBe(standing.reduce((sum, { bytesSent }) => sum + bytesSent, 0))
  expect(await world.metric('node-a', 'istio_tcp_sockets_open', { reporter: 'source' })).toBe(3)
  const { code, out } = await sidestep('connections', '-n', 'shop', '--direction', 'inbound', '-o', 'json')
  expect(code).toBe(0)
  expect(connectionViewSchema.array().parse(JSON.parse(out))).toHaveLength(3)
})

/** Prints the body of each request. */
const collectorScript = `require('node:http').createServer((request, response) => {
  let body = ''
  request.on('data', (chunk) => body += chunk).on('end', () => (response.end('{}'), console.log(body)))
}).listen(4318, '${underlayIps.v4}', () => console.log('{"event":"listening"}'))`
const spanSchema = z.object({ traceId: z.string(), spanId: z.string(), parentSpanId: z.string().optional(), name: z.string(), attributes: z.array(z.object({ key: z.string(), value: z.unknown() })) })
const batchSchema = z.object({ resourceSpans: z.array(z.object({ scopeSpans: z.array(z.object({ spans: z.array(spanSchema) })) })) })

test('both nodes\' spans of a connection are one trace at the collector', async () => {
  await using collector = new LineProcess([process.execPath, '-e', collectorScript], world.inside('outside', { timeoutMs: 60_000 }))
  await collector.waitFor((line): line is { event: 'listening' } => z.object({ event: z.literal('listening') }).safeParse(line).success)
  expect(await world.reaches('client', 'server', port)).toBe(true)
  const joined = await eventually('a client span has a server span below it', () => {
    const spans = collector.lines.flatMap((line) => batchSchema.safeParse(line).data?.resourceSpans ?? []).flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans))
    const accepted = spans.find(({ name, parentSpanId }) => name === 'tcp accept' && spans.some(({ spanId }) => spanId === parentSpanId))
    const connected = accepted && spans.find(({ spanId }) => spanId === accepted.parentSpanId)
    return Promise.resolve(accepted && connected && { accepted, connected })
  }, 20_000)
  expect(joined.connected).toMatchObject({ name: 'tcp connect', traceId: joined.accepted.traceId })
  for (const { attributes } of [joined.accepted, joined.connected]) {
    expect(attributes).toContainEqual({ key: 'sidestep.source.identity', value: { stringValue: world.identity('client') } })
  }
})

test('the command line asks a running mesh', async () => {
  const allowed = await sidestep('authz', 'explain', 'shop/client', 'shop/server', '--port', `${port}`)
  expect([allowed.code, allowed.out], allowed.err).toEqual([0, expect.stringMatching(/^ALLOWED: rule 0 of policy shop\/client-only/)])
  const denied = await sidestep('authz', 'explain', 'shop/stranger', 'shop/server', '--port', `${port}`, '-o', 'json')
  expect([denied.code, explainAnswerSchema.parse(JSON.parse(denied.out))]).toMatchObject([1, { answer: 'denied', because: 'noAllowMatched' }])
  const certs = await sidestep('certs', '-o', 'json')
  expect(certificateViewSchema.array().parse(JSON.parse(certs.out)).map(({ identity, state }) => [identity, state]).sort()).toEqual([
    [world.identity('client'), 'ready'], [world.identity('server'), 'ready'], [world.identity('stranger'), 'ready'],
  ])
  const status = await sidestep('status')
  expect(status.out).toMatch(/^node-a .* connected +ready +2\/2, first expires in \d+h/m)
  expect((await sidestep('log-level', 'debug', '--component', 'access', '--node', 'node-a')).code).toBe(0)
  expect((await sidestep('log-level', '--node', 'node-b')).out).toMatch(/^node-b +access +info$/m)
})

test('the loopback address of a node serves people, and nobody from outside of it', async () => {
  const get = (from: string, url: string): Promise<string> => inNetns(world.netns(from), ['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '3', url]).then(({ stdout }) => stdout)
  expect(await get('node-a', 'http://127.0.0.1:15000/config_dump')).toBe('200')
  expect(await get('node-a', 'http://localhost:15021/healthz/ready')).toBe('200')
  expect(await get('client', 'http://127.0.0.1:15000/config_dump')).toBe('000')
  const [address = ''] = world.mesh.status().nodes.find(({ name }) => name === 'node-a')?.ips ?? []
  expect(await get('outside', `http://${address}:15021/healthz/ready`)).toBe('200')
  expect(await get('outside', `http://${address}:15000/config_dump`)).toBe('000')
})
