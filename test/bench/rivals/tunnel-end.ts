#!/usr/bin/env node
// One end of an HBONE tunnel as a plain process, without mesh, policy or redirection: what src/hbone and the ztunnel's carry
// cost alone. `client`: takes TCP connections and carries each through the pool. `server`: takes HBONE and dials what the
// CONNECT names. Started by the bench with an EndPlan as its argument.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createPrivateKey } from 'node:crypto'
import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'
import type { SocketAddr } from '../../../src/core/address.ts'
import type { CertificateSource, CertifiedKey, PeerVerifier } from '../../../src/core/certificates.ts'
import { HbonePool } from '../../../src/hbone/pool.ts'
import { HboneServer } from '../../../src/hbone/server.ts'
import { certifiedKey } from '../../../src/pki/certified-key.ts'
import { verifyPeer } from '../../../src/pki/verify.ts'
import { carryTunnel } from '../../../src/ztunnel/carry-tunnel.ts'
import { identities, trustDomain } from './credentials.ts'
import type { EndPlan } from './end.ts'

function loadCertified({ role, files }: EndPlan): CertifiedKey {
  const [chain, key, roots] = [files.chain, files.key, files.roots].map((path) => readFileSync(path, 'utf8'))
  return certifiedKey([chain ?? '', roots ?? ''], identities[role], createPrivateKey(key ?? ''), Date.now())
}

function sourceOf(certified: CertifiedKey): CertificateSource {
  return { peek: () => certified, get: () => Promise.resolve(certified), onChange: () => () => {}, revocation: () => undefined }
}

const verifier: PeerVerifier = {
  verifyPeer: (chain, rootsPem, expected) => verifyPeer(chain, rootsPem, { trustDomains: [trustDomain], role: expected.role, nowMs: Date.now() }),
}

async function dial({ ip, port }: SocketAddr): Promise<Socket> {
  const socket = connect({ host: ip, port, allowHalfOpen: true, noDelay: true })
  await once(socket, 'connect')
  return socket
}

function clientOf(plan: EndPlan): (socket: Socket) => void {
  const pool = new HbonePool({
    certificates: sourceOf(loadCertified(plan)), verifier, dial: ({ address }) => dial(address), events: () => {},
  })
  const request = {
    target: { source: identities.client, identities: [identities.server], address: plan.to, sourceKey: 'bench' },
    authority: { t: 'address', address: plan.target }, headers: {},
  } as const
  return (socket) => {
    pool.openTunnel(request).then(({ stream }) => carryTunnel(socket, stream), () => socket.resetAndDestroy())
  }
}

function serverOf(plan: EndPlan): (socket: Socket) => void {
  const server = new HboneServer({
    identity: identities.server, certificates: sourceOf(loadCertified(plan)), verifier, events: () => {},
    handler: async ({ authority }) => {
      if (authority.t !== 'address') return { t: 'refuse', status: 400, because: 'notAnAddress' }
      const socket = await dial(authority.address)
      return { t: 'accept', carry: (stream) => void carryTunnel(socket, stream) }
    },
  })
  return (socket) => server.accept(socket)
}

const plan = JSON.parse(process.argv[2] ?? '') as EndPlan
const onConnection = plan.role === 'client' ? clientOf(plan) : serverOf(plan)
const listener = createServer({ allowHalfOpen: true, pauseOnConnect: plan.role === 'client', noDelay: true }, (socket) => {
  socket.on('error', () => {}) // the carry or the session reports what becomes of it
  onConnection(socket)
})
listener.listen({ host: plan.listen.ip, port: plan.listen.port, backlog: 65_535 })
