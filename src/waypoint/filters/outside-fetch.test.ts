import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { MeshError } from '../../core/errors.ts'
import { readKeySet } from './jwks.ts'
import { isForbiddenAddress, OutsideFetch } from './outside-fetch.ts'
import { startBackend } from './testing.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})
const limits = { timeoutMs: 1_000, maxBytes: 1_000 }

describe('a document from outside', () => {
  it('is not fetched from this machine, whatever it is called', async () => {
    let asked = 0
    const backend = await startBackend((_, res) => {
      asked++
      res.end('{}')
    })
    const outside = new OutsideFetch()
    open.push(backend, outside)
    for (const host of ['127.0.0.1', 'localhost', '[::1]', '0.0.0.0', '[::ffff:127.0.0.1]', '2130706433', '0x7f.1', '[::]']) {
      await expect(outside.fetch(new URL(`http://${host}:${backend.port}/`), limits)).rejects.toBeInstanceOf(MeshError)
    }
    expect(asked).toBe(0)
    const local = new OutsideFetch({ mayReachLocal: true })
    open.push(local)
    expect(await local.fetch(new URL(`http://127.0.0.1:${backend.port}/`), limits)).toBe('{}')
  })

  it('follows no redirect, and is bounded in size and time', async () => {
    const backend = await startBackend((req, res) => {
      if (req.url === '/moved') res.writeHead(302, { location: '/there' }).end()
      else if (req.url === '/large') res.end('x'.repeat(2_000))
      else if (req.url === '/there') res.end('there')
    })
    const local = new OutsideFetch({ mayReachLocal: true })
    open.push(backend, local)
    for (const path of ['/moved', '/large', '/never']) {
      await expect(local.fetch(
        new URL(`http://127.0.0.1:${backend.port}${path}`), { ...limits, timeoutMs: 300 },
      )).rejects.toMatchObject({ code: 'CONNECT_FAILED' })
    }
    await expect(local.fetch(new URL('file:///etc/passwd'), limits)).rejects.toBeInstanceOf(MeshError)
  })

  it.each([
    '127.0.0.1', '127.9.9.9', '169.254.169.254', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1', '::ffff:169.254.169.254', 'fe80::1',
    'fe80::1%eth0', '224.0.0.1', '255.255.255.255', 'ff02::1', 'fd00:ec2::254', 'nonsense',
  ])('never comes from %s', (ip) => {
    expect(isForbiddenAddress(ip)).toBe(true)
  })

  it.each(['10.0.0.1', '192.0.2.1', '2001:db8::1', 'fd00::1', '::ffff:10.0.0.1'])('may come from %s', (ip) => {
    expect(isForbiddenAddress(ip)).toBe(false)
  })
})

describe('a key set', () => {
  const key = { kty: 'RSA', n: 'AQAB', e: 'AQAB', kid: 'a' }

  it('has only public keys, so many and so large', () => {
    expect(readKeySet(JSON.stringify({
      keys: [{ ...key, d: 'secret' }, { kty: 'oct', k: 'x' }],
    })).find.jwks().keys).toEqual([key])
    expect(readKeySet(JSON.stringify({ keys: Array.from({ length: 5_000 }, () => key) })).find.jwks().keys).toHaveLength(100)
    for (const bad of [
      '', '[]', '{}', '{"keys":[]}', '{"keys":[1,null,"x"]}', JSON.stringify({ keys: [{ ...key, n: 'A'.repeat(10_000) }] }),
      ' '.repeat(300_000), `{"keys":${'['.repeat(10_000)}`,
    ]) {
      expect(() => readKeySet(bad)).toThrow(MeshError)
    }
  })

  it('is one, or a MeshError, whatever the document', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json(), fc.record({ keys: fc.anything() }).map((value) => {
      try {
        return JSON.stringify(value) ?? ''
      } catch {
        // Not everything can be written as JSON.
        return ''
      }
    })), (text) => {
      try {
        readKeySet(text)
      } catch (error) {
        expect(error).toBeInstanceOf(MeshError)
      }
    }))
  })
})
