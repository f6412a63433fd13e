import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { HbonePool } from './pool.ts'
import { HboneServer } from './server.ts'
import { client, dialLoopback, echo, payments, TestCa, TestCertificates, TestVerifier } from './testing.ts'

const cleanUp: (() => unknown)[] = []
afterEach(async () => {
  for (const clean of cleanUp.splice(0).reverse()) await clean()
})

describe('a peer that ends one connection after the other, as one being replaced does,', () => {
  /** Its first `endings` connections end before they take anything. */
  async function startLeaving(endings: number) {
    const ca = await TestCa.make()
    const certificates = new TestCertificates().put(await ca.leaf(client)).put(await ca.leaf(payments))
    let connections = 0
    const shared = { identity: payments, handler: echo, certificates, verifier: new TestVerifier(), events: () => {} }
    const tcp = createServer({ allowHalfOpen: true }, (socket) => {
      const server = new HboneServer(shared)
      cleanUp.push(() => server.close())
      server.accept(socket)
      if (++connections <= endings) void server.drain()
    })
    tcp.listen(0, '127.0.0.1')
    await once(tcp, 'listening')
    const { port } = tcp.address() as AddressInfo
    const pool = new HbonePool({ certificates, verifier: new TestVerifier(), dial: dialLoopback, events: () => {} })
    cleanUp.push(() => tcp.close(), () => pool.close())
    const target = { source: client, identities: [payments], address: { ip: '127.0.0.1', port }, sourceKey: '' }
    return { open: () => pool.openTunnel({ target, authority: { t: 'hostname', hostname: 'web', port: 80 }, headers: {} }), count: () => connections }
  }

  test('is asked again until it stays', async () => {
    const { open, count } = await startLeaving(10)
    await open()
    expect(count()).toBe(11)
  })

  test('but not for ever', async () => {
    const { open, count } = await startLeaving(Infinity)
    await expect(open()).rejects.toMatchObject({ code: 'TUNNEL_CLOSED', retry: 'always' })
    expect(count()).toBe(16)
  })
})
