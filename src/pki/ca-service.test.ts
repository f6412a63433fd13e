import { Server, ServerCredentials } from '@grpc/grpc-js'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { silentLogger } from '../core/log.ts'
import { Authority } from './authority.ts'
import { CaClient } from './ca-client.ts'
import type { CaClientOptions } from './ca-client.ts'
import { registerCaService } from './ca-service.ts'
import type { CaOutcome } from './ca-service.ts'
import { decodeRequest, decodeResponse, encodeRequest, encodeResponse } from './ca-wire.ts'
import { CertificateManager } from './certificates.ts'
import { makeCsr } from './csr.ts'
import { certificatesOf } from './pem.ts'
import { ecKey, makeRoot, temporaryDirectory } from './testing.ts'
import { TokenIssuer, keepTokenFile, tokenFromFile } from './tokens.ts'
import { verifyPeer } from './verify.ts'

const frontend: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'frontend' }
const admin: Identity = { ...frontend, serviceAccount: 'admin' }
const ztunnel: Identity = { ...frontend, namespace: 'mesh', serviceAccount: 'ztunnel' }
const serverName = 'istiod.istio-system.svc'

let base: ReturnType<typeof temporaryDirectory>
let authority: Authority
let tokens: TokenIssuer
let server: Server
let address: string
let outcomes: CaOutcome[]
let clients: { close(): void }[]

beforeEach(async () => {
  base = temporaryDirectory()
  outcomes = []
  clients = []
  authority = await Authority.open({
    trustDomain: 'cluster.local',
    directory: join(base.path, 'ca'),
    maySign: ({ node }, identity) =>
      node === 'node-a' && identity.serviceAccount !== 'admin' ? true : 'none of its pods run there',
    logger: silentLogger,
  })
  tokens = await TokenIssuer.open(join(base.path, 'token.key'))
  const serving = await authority.issueServing({ dns: [serverName], ips: [] })
  const certificate = { cert_chain: Buffer.from(serving.chainPem), private_key: Buffer.from(serving.key.export({ format: 'pem', type: 'pkcs8' })) }
  server = new Server({ 'grpc.max_receive_message_length': 64 * 1024 })
  registerCaService(server, {
    authority,
    authenticate: async ({ metadata }) => {
      if (metadata.get('clusterid') !== 'Kubernetes') return { ok: false, code: 'unauthenticated', because: 'another cluster' }
      const verdict = await tokens.verifyHeader(metadata.get('authorization'), 'istio-ca')
      if (!verdict.ok) return { ok: false, code: 'unauthenticated', because: `the token is ${verdict.because}` }
      return { ok: true, caller: { node: verdict.node, identity: ztunnel } }
    },
    logger: silentLogger,
    onOutcome: (outcome) => outcomes.push(outcome),
  })
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createSsl(null, [certificate]), (error, bound) => (error ? reject(error) : resolve(bound)))
  })
  address = `127.0.0.1:${port}`
})
afterEach(() => {
  for (const client of clients) client.close()
  server.forceShutdown()
  base.remove()
})

function clientOf(options: Partial<CaClientOptions> = {}, node = 'node-a'): CaClient {
  const client = new CaClient({
    address,
    serverName,
    roots: () => Promise.resolve(authority.rootsPem().join('')),
    token: async () => (await tokens.issue({ node, subject: 'ztunnel' }, 'istio-ca', 60)).text,
    clusterId: 'Kubernetes',
    timeoutMs: 3_000,
    ...options,
  })
  clients.push(client)
  return client
}

const ask = async (client: CaClient, identity = frontend, ttlSeconds = 3600, csrOf = identity): Promise<readonly string[]> =>
  client.request({ identity, csrPem: await makeCsr(csrOf, ecKey()), ttlSeconds })

describe('the service', () => {
  test('signs for a node what runs there; leaf first, the bundle last', async () => {
    const chain = await ask(clientOf())
    expect(chain).toHaveLength(3)
    expect(chain.at(-1)).toBe(authority.rootsPem().join(''))
    const verdict = verifyPeer(chain.slice(0, -1).flatMap(certificatesOf), [chain.at(-1) ?? ''], { trustDomains: ['cluster.local'], role: 'client', nowMs: Date.now() })
    expect(verdict).toEqual({ ok: frontend })
    expect(outcomes).toEqual(['signed'])
  })

  test('hands out both roots while one follows the other', async () => {
    await authority.beginRotation(60_000)
    const chain = await ask(clientOf())
    expect(certificatesOf(chain.at(-1) ?? '')).toHaveLength(2)
  })

  test.each<[string, CaOutcome, RegExp, (client: () => CaClient) => Promise<unknown>]>([
    ['an identity of another node', 'notAllowed', /none of its pods run there/, (client) => ask(client(), admin)],
    ['a node without that pod', 'notAllowed', /node-b/, () => ask(clientOf({}, 'node-b'))],
    ['another trust domain', 'wrongTrustDomain', /not of trust domain/, (client) => ask(client(), { ...frontend, trustDomain: 'other.example' })],
    ['a request that names another identity', 'badRequest', /this call is for/, (client) => ask(client(), frontend, 0, admin)],
    ['a lifetime of 91 days', 'badTtl', /90 days/, (client) => ask(client(), frontend, 91 * 86_400)],
    ['garbage as a request', 'badRequest', /PEM/, (client) => client().request({ identity: frontend, csrPem: 'hello', ttlSeconds: 0 })],
    ['no token', 'unauthenticated', /missing/, () => ask(clientOf({ token: () => Promise.resolve(undefined) }))],
    ['a token for others', 'unauthenticated', /wrongAudience/, () =>
      ask(clientOf({ token: async () => (await tokens.issue({ node: 'node-a', subject: 'x' }, 'xds', 60)).text }))],
    ['another cluster', 'unauthenticated', /another cluster/, () => ask(clientOf({ clusterId: 'elsewhere' }))],
    ['a workload\'s identity without impersonation', 'badRequest', /this call is for .*ztunnel/, () => ask(clientOf({ isImpersonating: false }))],
  ])('refuses %s', async (_name, outcome, message, request) => {
    await expect(request(clientOf)).rejects.toMatchObject({ code: 'CERTIFICATE_REFUSED', message: expect.stringMatching(message) })
    expect(outcomes).toEqual([outcome])
  })

  test('a caller may have its own identity without impersonation', async () => {
    expect(await ask(clientOf({ isImpersonating: false }), ztunnel)).toHaveLength(3)
  })

  test('more requests at once than it takes are told to come again', async () => {
    const gate = Promise.withResolvers<void>()
    const busy = new Server()
    registerCaService(busy, {
      authority, logger: silentLogger, maxConcurrent: 2, onOutcome: (outcome) => outcomes.push(outcome),
      authenticate: async () => {
        await gate.promise
        return { ok: true, caller: { node: 'node-a' } }
      },
    })
    const serving = await authority.issueServing({ dns: [serverName], ips: [] })
    const certificate = { cert_chain: Buffer.from(serving.chainPem), private_key: Buffer.from(serving.key.export({ format: 'pem', type: 'pkcs8' })) }
    const port = await new Promise<number>((resolve) => {
      busy.bindAsync('127.0.0.1:0', ServerCredentials.createSsl(null, [certificate]), (_error, bound) => resolve(bound))
    })
    try {
      const client = clientOf({ address: `127.0.0.1:${port}` })
      const all = Promise.allSettled([ask(client), ask(client), ask(client)])
      await expect.poll(() => outcomes).toEqual(['overloaded'])
      gate.resolve()
      const results = await all
      expect(results.filter((r) => r.status === 'fulfilled')).toHaveLength(2)
      expect(results.find((r) => r.status === 'rejected')).toMatchObject({ reason: { code: 'CERTIFICATE_UNAVAILABLE' } })
    } finally {
      busy.forceShutdown()
    }
  })
})

describe('the client', () => {
  test('does not talk to a server of another root or name', async () => {
    const stranger = await makeRoot()
    await expect(ask(clientOf({ roots: () => Promise.resolve(stranger.pem), timeoutMs: 500 }))).rejects.toMatchObject({ code: 'CERTIFICATE_UNAVAILABLE' })
    await expect(ask(clientOf({ serverName: 'other.svc', timeoutMs: 500 }))).rejects.toMatchObject({ code: 'CERTIFICATE_UNAVAILABLE' })
    expect(outcomes).toEqual([])
  })

  test('reads roots and token anew for each request', async () => {
    const rootsFile = join(base.path, 'roots.pem')
    const tokenFile = join(base.path, 'token')
    writeFileSync(rootsFile, (await makeRoot()).pem)
    writeFileSync(tokenFile, 'stale')
    const client = clientOf({ roots: tokenFromFile(rootsFile), token: tokenFromFile(tokenFile), timeoutMs: 500 })
    await expect(ask(client)).rejects.toMatchObject({ code: 'CERTIFICATE_UNAVAILABLE' })
    writeFileSync(rootsFile, authority.rootsPem().join(''))
    await expect(ask(client)).rejects.toMatchObject({ code: 'CERTIFICATE_REFUSED' })
    const issue = (): ReturnType<TokenIssuer['issue']> => tokens.issue({ node: 'node-a', subject: 'x' }, 'istio-ca', 60)
    const keeper = await keepTokenFile({ path: tokenFile, issue, logger: silentLogger })
    keeper.stop()
    expect(await ask(client)).toHaveLength(3)
  })

  test('ends by itself when nobody answers', async () => {
    const began = performance.now()
    await expect(ask(clientOf({ address: '127.0.0.1:1', timeoutMs: 300 }))).rejects.toMatchObject({ code: 'CERTIFICATE_UNAVAILABLE' })
    expect(performance.now() - began).toBeLessThan(3_000)
    const closed = clientOf()
    closed.close()
    await expect(ask(closed)).rejects.toMatchObject({ code: 'CLOSED' })
  })
})

test('a node keeps many identities fresh over the wire', async () => {
  const manager = new CertificateManager({ ca: clientOf(), logger: silentLogger, ttlSeconds: 6 })
  try {
    const names = Array.from({ length: 20 }, (_, i) => ({ ...frontend, serviceAccount: `sa-${i}` }))
    const first = await Promise.all(names.map((identity) => manager.get(identity, 10_000)))
    expect(first.map((c) => formatIdentity(c.identity))).toEqual(names.map(formatIdentity))
    const isRenewed = (name: Identity, i: number): boolean => ![undefined, first[i]?.serial].includes(manager.peek(name)?.serial)
    await expect.poll(() => names.every(isRenewed), { timeout: 15_000 }).toBe(true)
    await expect(manager.get(admin, 1_000)).rejects.toMatchObject({ message: expect.stringMatching(/none of its pods/) })
  } finally {
    manager.close()
  }
})

test('any bytes are messages or BAD_MESSAGE', () => {
  const only = (read: (bytes: Uint8Array) => unknown) => (bytes: Uint8Array): void => {
    try {
      read(bytes)
    } catch (error) {
      expect(error).toBeInstanceOf(MeshError)
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), only(decodeRequest)))
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), only(decodeResponse)))
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.nat(), fc.option(fc.string({ unit: 'grapheme' }), { nil: undefined }), (csrPem, ttlSeconds, impersonated) => {
      const call = { csrPem, ttlSeconds, ...(impersonated !== undefined && { impersonated }) }
      expect(decodeRequest(encodeRequest(call))).toEqual(call)
    }),
  )
  fc.assert(fc.property(fc.array(fc.string({ unit: 'grapheme' })), (chain) => {
    expect(decodeResponse(encodeResponse(chain))).toEqual(chain)
  }))
})
