// HBONE against a program that is not ours: our pool in front of Envoy's server, and Envoy's client in front of our server.
// Payload, half-close, resets, refusals and who the peer is must come through. Loopback only; Envoy is the bench's.
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { CertificateSource, CertifiedKey, PeerVerifier } from '../../src/core/certificates.ts'
import { formatIdentity } from '../../src/core/identity.ts'
import { HbonePool } from '../../src/hbone/pool.ts'
import type { TunnelRequest } from '../../src/hbone/pool.ts'
import { HboneServer } from '../../src/hbone/server.ts'
import type { ConnectHandler, ConnectRequest } from '../../src/hbone/server-session.ts'
import { dialLoopback, readAll, until } from '../../src/hbone/testing.ts'
import { verifyPeer } from '../../src/pki/verify.ts'
import { identities, makeCredentials, trustDomain } from '../bench/rivals/credentials.ts'
import type { AllCredentials } from '../bench/rivals/credentials.ts'
import type { EndPlan } from '../bench/rivals/end.ts'
import { envoyCommand } from '../bench/rivals/envoy.ts'
import { fetchEnvoy } from '../bench/rivals/fetch.ts'
import { LineProcess } from '../helpers/line-process.ts'

const directory = mkdtempSync(join(tmpdir(), 'sidestep-interop-'))
const cleanUps: (() => unknown)[] = []
let credentials: AllCredentials
let binary: string

beforeAll(async () => {
  credentials = await makeCredentials(join(directory, 'mesh'))
  const envoy = await fetchEnvoy()
  if (envoy.t === 'missing') throw new Error(envoy.because)
  binary = envoy.files.binary
}, 300_000)
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp()
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const sourceOf = (certified: CertifiedKey): CertificateSource => ({
  peek: () => certified, get: () => Promise.resolve(certified), onChange: () => () => {}, revocation: () => undefined,
})
const verifier: PeerVerifier = {
  verifyPeer: (chain, rootsPem, expected) => verifyPeer(chain, rootsPem, { trustDomains: [trustDomain], role: expected.role, nowMs: Date.now() }),
}
const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')

async function serve(onConnection: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>()
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket.on('error', () => {}))
    onConnection(socket)
  })
  cleanUps.push(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return (server.address() as AddressInfo).port
}

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer()
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

const local = (port: number): { ip: string; port: number } => ({ ip: '127.0.0.1', port })

async function startEnvoy(plan: Omit<EndPlan, 'listen'>): Promise<number> {
  const port = await freePort()
  const child = new LineProcess(envoyCommand(binary, join(directory, `${plan.role}-${port}`), { ...plan, listen: local(port) }))
  cleanUps.push(() => child.stop())
  const isListening = async (): Promise<boolean> => {
    const probe = connect(port, '127.0.0.1')
    const answered = await Promise.race([once(probe, 'connect').then(() => true), once(probe, 'error').then(() => false)]).catch(() => false)
    probe.destroy()
    return answered
  }
  const deadline = Date.now() + 20_000
  while (!await isListening()) {
    if (Date.now() > deadline) throw new Error(`Envoy does not listen: ${child.stderr}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return port
}

async function poolToEnvoy(applicationPort: number, certified = credentials.client.certified): Promise<{ pool: HbonePool; request: TunnelRequest }> {
  const target = local(applicationPort)
  const port = await startEnvoy({ role: 'server', files: credentials.server.files, to: target, target })
  const pool = new HbonePool({ certificates: sourceOf(certified), verifier, dial: dialLoopback, events: () => {}, timeouts: { connectTimeoutMs: 5_000 } })
  cleanUps.push(() => pool.close())
  const source = identities.client
  return { pool, request: { target: { source, identities: [identities.server], address: local(port), sourceKey: 'test' }, authority: { t: 'address', address: target }, headers: {
    baggage: { namespace: 'bench', workload: { type: 'pod', name: 'client' } }, forwarded: { client: local(4_321) },
  } } }
}

async function envoyToServer(handler: ConnectHandler): Promise<() => Promise<Socket>> {
  const server = new HboneServer({ identity: identities.server, certificates: sourceOf(credentials.server.certified), verifier, handler, events: () => {} })
  cleanUps.push(() => server.close())
  const tunnel = await serve((socket) => server.accept(socket))
  const entry = await startEnvoy({ role: 'client', files: credentials.client.files, to: local(tunnel), target: local(4_242) })
  return async () => {
    const socket = connect({ host: '127.0.0.1', port: entry, allowHalfOpen: true })
    cleanUps.push(() => socket.destroy())
    await once(socket, 'connect')
    return socket
  }
}

const echo = (socket: Socket): unknown => socket.pipe(socket)

test('our pool through Envoy: payload both ways, half-close, and Envoy is who it says', async () => {
  const { pool, request } = await poolToEnvoy(await serve(echo))
  const { stream, peerIdentity } = await pool.openTunnel(request)
  expect(formatIdentity(peerIdentity)).toBe(formatIdentity(identities.server))
  const payload = randomBytes(8 << 20)
  // The echo ends only when our end has arrived at the application, and everything comes back after that.
  const answer = readAll(stream)
  stream.end(payload)
  expect(hash(await answer)).toBe(hash(payload))
}, 60_000)

test('our pool through Envoy: 250 tunnels at once share its connections', async () => {
  const { pool, request } = await poolToEnvoy(await serve(echo))
  const answers = await Promise.all(Array.from({ length: 250 }, async (_, i) => {
    const { stream } = await pool.openTunnel(request)
    const answer = readAll(stream)
    stream.end(`tunnel ${i}`)
    return (await answer).toString()
  }))
  expect(answers).toEqual(Array.from({ length: 250 }, (_, i) => `tunnel ${i}`))
  expect(pool.connections().length).toBeLessThanOrEqual(20)
}, 60_000)

test('our pool through Envoy: an application that resets is a cut tunnel, not an end', async () => {
  const { pool, request } = await poolToEnvoy(await serve((socket) => socket.once('data', () => socket.resetAndDestroy())))
  const { stream } = await pool.openTunnel(request)
  const failure = once(stream.resume(), 'error')
  stream.write('x')
  expect((await failure)[0]).toMatchObject({ code: 'TUNNEL_CLOSED' })
}, 60_000)

test('Envoy refuses our certificate of another authority, and we do not hand out a tunnel', async () => {
  const stranger = await makeCredentials(join(directory, 'stranger'))
  // Its own roots are those of the mesh, so that it is Envoy who says no.
  const certified = { ...stranger.client.certified, rootsPem: credentials.client.certified.rootsPem }
  const { pool, request } = await poolToEnvoy(await serve(echo), certified)
  await expect(pool.openTunnel(request)).rejects.toMatchObject({ code: 'TLS_FAILED' })
}, 60_000)

test('Envoy through our server: payload both ways, half-close, whose certificate it has and what it asks for', async () => {
  const requests: ConnectRequest[] = []
  const dial = await envoyToServer(async (request) => {
    requests.push(request)
    return { t: 'accept', carry: (stream) => void stream.on('error', () => stream.destroy()).pipe(stream) }
  })
  const socket = await dial()
  const payload = randomBytes(8 << 20)
  const answer = readAll(socket)
  socket.end(payload)
  expect(hash(await answer)).toBe(hash(payload))
  // The last of them: the first ones asked whether Envoy listens.
  const asked = requests.at(-1)
  expect(asked && [asked.authority, formatIdentity(asked.peerIdentity)]).toEqual([{ t: 'address', address: local(4_242) }, formatIdentity(identities.client)])
}, 60_000)

test('Envoy through our server: a reset of the client comes as a reset, and ours reaches it', async () => {
  const cuts: unknown[] = []
  let received = 0
  const dial = await envoyToServer(() => Promise.resolve({
    t: 'accept',
    carry: (stream) => {
      stream.on('error', (error) => cuts.push(error)).on('data', (chunk: Buffer) => {
        received += chunk.length
        if (chunk.toString().includes('cut')) stream.resetAndDestroy()
      })
    },
  }))
  const first = await dial()
  first.write('hello')
  await until(() => received > 0)
  first.resetAndDestroy()
  await until(() => cuts.length > 0)
  expect(cuts[0]).toMatchObject({ code: 'TUNNEL_CLOSED' })
  const second = (await dial()).resume()
  const failure = Promise.race([once(second, 'error'), once(second, 'end')])
  second.write('cut')
  // Envoy passes a reset on as an end or as a reset, by its version; what counts is that the client does not hang.
  await failure
}, 60_000)

test('what our server refuses, Envoy does not carry', async () => {
  const dial = await envoyToServer(() => Promise.resolve({ t: 'refuse', status: 401, because: 'policy' }))
  const socket = (await dial()).on('error', () => {}).resume()
  socket.end('secret')
  await new Promise((resolve) => socket.once('close', resolve))
  expect(socket.bytesRead).toBe(0)
}, 60_000)
