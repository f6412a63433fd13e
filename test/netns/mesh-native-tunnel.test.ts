// A pod that speaks HBONE itself, as a waypoint or a gateway does: it is left alone, and others come to it through tunnels.
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { Server } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { CertificateSource, CertifiedKey } from '../../src/core/certificates.ts'
import { formatIdentity, parseIdentity } from '../../src/core/identity.ts'
import { HboneServer } from '../../src/hbone/server.ts'
import type { ConnectRequest } from '../../src/hbone/server-session.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { listenInNetns } from '../../src/kernel/sockets.ts'
import { startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { ForgingCa } from '../helpers/hostile.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { TunnelWorld } from '../helpers/tunnel-world.ts'

const port = { echo: 7001 } as const
const day = 86_400_000

let world: TunnelWorld
let server: RunningServer
let door: Server
let tunnels: HboneServer
const requests: ConnectRequest[] = []

beforeAll(async () => {
  world = await TunnelWorld.start({
    client: { node: 'node-a' }, server: { node: 'node-b' }, gateway: { node: 'node-b', labels: { 'networking.istio.io/tunnel': 'http' } },
  })
  server = await startServer(['--echo', port.echo], world.inside('server'))
  const identity = parseIdentity(world.identity('gateway')) ?? expect.fail()
  const { chainPem, key, serial } = await (await ForgingCa.ofMesh(world)).leaf(formatIdentity(identity))
  const certified: CertifiedKey = { identity, chainPem, key, serial, rootsPem: [], notBeforeMs: Date.now() - day, notAfterMs: Date.now() + day }
  const certificates: CertificateSource = { peek: () => certified, get: async () => certified, onChange: () => () => {}, revocation: () => undefined }
  tunnels = new HboneServer({
    identity, certificates, events: () => {},
    verifier: { verifyPeer: ([leaf]) => ({ ok: parseIdentity(uriOf(leaf)) ?? expect.fail() }) },
    handler: async (request) => {
      requests.push(request)
      return { t: 'accept', carry: (stream) => void stream.on('error', () => {}).pipe(stream) }
    },
  })
  const netns = await Netns.open(world.netns('gateway'))
  const fd = await listenInNetns(netns, { port: 15_008 })
  netns.close()
  door = createServer({ allowHalfOpen: true }, (socket) => tunnels.accept(socket))
  door.listen({ fd: fd.release() })
  await once(door, 'listening')
})
afterAll(async () => {
  await tunnels?.close()
  door?.close()
  await server?.stop()
  await world?.[Symbol.asyncDispose]()
})

function uriOf(leaf: Uint8Array | undefined): string {
  return /URI:(\S+)/.exec(new X509Certificate(leaf ?? expect.fail()).subjectAltName ?? '')?.[1] ?? ''
}

test('it is not captured, and known as one that takes tunnels', async () => {
  const { pods } = await world.admin('node-b', '/state') as { pods: { name: string }[] }
  expect(pods.map(({ name }) => name)).toEqual(['server'])
  const workloads = await world.workloads('node-a')
  expect(workloads.find(({ name }) => name === 'gateway')).toMatchObject({ tunnelProtocol: 'hbone' })
})

test('others reach it through a tunnel, which it ends itself', async () => {
  expect(await world.reaches('client', 'gateway', port.echo)).toBe(true)
  expect(requests).toMatchObject([{
    authority: { t: 'address', address: { ip: world.ip('gateway'), port: port.echo } }, peerIdentity: parseIdentity(world.identity('client')),
  }])
  await eventually('the client knows whom it met', async () => world.log('node-a').some((line) => line['dst.identity'] === world.identity('gateway')))
})

test('what it connects to itself goes out as it is, to the server as to anybody', async () => {
  expect(await world.reaches('gateway', 'server', port.echo)).toBe(true)
  const own = ({ 'src.addr': from, direction }: Readonly<Record<string, unknown>>): boolean => direction === 'outbound' && String(from).startsWith(`${world.ip('gateway')}:`)
  const atServer = await eventually('the server was reached in plain text', async () => world.log('node-b').find((line) => line['direction'] === 'inbound' && line['dst.workload'] === 'server'))
  expect(atServer['src.identity']).toBeUndefined()
  expect(world.log('node-b').filter(own)).toEqual([])
})
