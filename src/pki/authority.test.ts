import { execFileSync } from 'node:child_process'
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { chmodSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:tls'
import { join } from 'node:path'
import { once } from 'node:events'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import { silentLogger } from '../core/log.ts'
import { Authority, defaultTtlMs } from './authority.ts'
import type { AuthorityOptions, SignAnswer, Signed } from './authority.ts'
import { makeCsr, newKey, readCsr } from './csr.ts'
import { certificateFacts } from './facts.ts'
import { certificatesOf, decodePem, encodePem } from './pem.ts'
import { day, ecKey, makeIntermediate, makeRoot, temporaryDirectory } from './testing.ts'
import { verifyPeer } from './verify.ts'
import * as x509 from './x509.ts'

const frontend: Identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'frontend' }
const caller = { node: 'node-a' }
let base: ReturnType<typeof temporaryDirectory>
let directory: string

beforeEach(() => {
  base = temporaryDirectory()
  directory = join(base.path, 'ca')
})
afterEach(() => base.remove())

function open(options: Partial<AuthorityOptions> = {}): Promise<Authority> {
  return Authority.open({ trustDomain: 'cluster.local', directory, maySign: () => true, logger: silentLogger, ...options })
}

async function request(identity = frontend, key = ecKey()): Promise<string> {
  return makeCsr(identity, key)
}

function signed(answer: SignAnswer): Signed {
  if (answer.t !== 'signed') throw new Error(`${answer.reason}: ${answer.message}`)
  return answer
}

const openssl = (...args: string[]): string => execFileSync('openssl', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
const der = (chainPem: readonly string[]): Buffer[] => chainPem.flatMap(certificatesOf)

describe('the directory', () => {
  test('is made once, private, and read again', async () => {
    const roots = (await open()).rootsPem()
    expect(statSync(directory).mode & 0o777).toBe(0o700)
    const names = readdirSync(directory)
    expect(names).toHaveLength(5)
    for (const name of names) expect(statSync(join(directory, name)).mode & 0o777).toBe(0o600)
    const before = names.map((name) => readFileSync(join(directory, name), 'utf8'))
    expect((await open()).rootsPem()).toEqual(roots)
    expect(names.map((name) => readFileSync(join(directory, name), 'utf8'))).toEqual(before)
    expect(readdirSync(base.path)).toEqual(['ca'])
  })

  test('an empty directory is filled; several at once agree on one CA', async () => {
    mkdirSync(directory)
    const all = await Promise.all([open(), open(), open()])
    expect(new Set(all.map((a) => a.rootsPem().join(''))).size).toBe(1)
    expect(readdirSync(base.path)).toEqual(['ca'])
  })

  test('whatever single file is missing: an error that names it, and nothing is replaced', async () => {
    await open()
    for (const name of readdirSync(directory)) {
      const path = join(directory, name)
      const content = readFileSync(path)
      rmSync(path)
      await expect(open()).rejects.toMatchObject({ code: 'BAD_CONFIG', message: expect.stringContaining(name) })
      expect(readdirSync(directory)).not.toContain(name)
      writeFileSync(path, content, { mode: 0o600 })
    }
    await open()
  })

  test('a key that others can read, a foreign key, broken state, another trust domain', async () => {
    await open()
    const keyFile = join(directory, readdirSync(directory).find((name) => name.startsWith('intermediate') && name.endsWith('.key')) ?? '')
    chmodSync(keyFile, 0o644)
    await expect(open()).rejects.toMatchObject({ code: 'BAD_CONFIG', message: expect.stringContaining('600') })
    chmodSync(keyFile, 0o600)
    writeFileSync(keyFile, ecKey().export({ format: 'pem', type: 'pkcs8' }))
    await expect(open()).rejects.toMatchObject({ code: 'BAD_CONFIG', message: expect.stringContaining('is not the key of') })
    await expect(open({ trustDomain: 'other.example' })).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    for (const text of ['{', 'null', '[]', '{"version":2}']) {
      writeFileSync(join(directory, 'state.json'), text)
      await expect(open()).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    }
  })
})

describe('signing', () => {
  test('the leaf is what Istio makes, and nothing of the request but key and URI is in it', async () => {
    const authority = await open()
    const key = ecKey()
    const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
    const greedy = await x509.Pkcs10CertificateRequestGenerator.create({
      name: 'CN=admin',
      keys: {
        privateKey: key.toCryptoKey(algorithm, false, ['sign']),
        publicKey: createPublicKey(key).toCryptoKey(algorithm, true, ['verify']),
      },
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(true, 5, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
        new x509.SubjectAlternativeNameExtension([
          { type: 'url', value: 'spiffe://cluster.local/ns/shop/sa/frontend' },
          { type: 'dns', value: 'bank.example' },
        ]),
      ],
    })
    const before = Date.now()
    const answer = signed(await authority.sign({ csrPem: greedy.toString('pem'), ttlSeconds: 0, caller }))
    const text = openssl('x509', '-noout', '-text', '-in', write('leaf.pem', answer.chainPem[0] ?? ''))
    expect(text).toMatch(/Subject: *\n/)
    expect(text).toMatch(/Subject Alternative Name: critical\n\s+URI:spiffe:\/\/cluster\.local\/ns\/shop\/sa\/frontend\n/)
    expect(text).toMatch(/Key Usage: critical\n\s+Digital Signature, Key Encipherment\n/)
    expect(text).toMatch(/TLS Web Server Authentication, TLS Web Client Authentication\n/)
    expect(text).toMatch(/CA:FALSE/)
    expect(text).toMatch(/NIST CURVE: P-256/)
    expect(text).not.toMatch(/bank|admin|Certificate Sign/)
    const leaf = certificateFacts(der(answer.chainPem)[0] ?? Buffer.alloc(0))
    expect(leaf.x509.checkPrivateKey(key)).toBe(true)
    expect(Math.abs(leaf.notBeforeMs - (before - 120_000))).toBeLessThan(3_000)
    expect(Math.abs(leaf.notAfterMs - (before + defaultTtlMs))).toBeLessThan(3_000)
    expect(leaf.serial).toMatch(/^[0-9a-f]{26,32}$/)
  })

  test('openssl and our own verification believe it', async () => {
    const authority = await open()
    const answer = signed(await authority.sign({ csrPem: await request(), ttlSeconds: 3600, caller }))
    const [leaf = '', ...rest] = answer.chainPem
    const roots = write('roots.pem', authority.rootsPem().join(''))
    for (const purpose of ['sslserver', 'sslclient']) {
      const said = openssl('verify', '-x509_strict', '-purpose', purpose, '-CAfile', roots, '-untrusted', write('mid.pem', rest.join('')), write('leaf.pem', leaf))
      expect(said).toMatch(/: OK\n$/)
    }
    expect(verifyPeer(der(answer.chainPem), authority.rootsPem(), { trustDomains: ['cluster.local'], role: 'server', nowMs: Date.now() })).toEqual({ ok: frontend })
  })

  test('P-384 and RSA keys are signed; smaller ones, other curves and other kinds are not', async () => {
    const authority = await open()
    const rsa = (bits: number): KeyObject => generateKeyPairSync('rsa', { modulusLength: bits }).privateKey
    for (const key of [ecKey('P-384'), rsa(2048)]) signed(await authority.sign({ csrPem: await request(frontend, key), ttlSeconds: 0, caller }))
    expect(await authority.sign({ csrPem: await request(frontend, rsa(1024)), ttlSeconds: 0, caller })).toMatchObject({ t: 'refused', reason: 'badRequest' })
    const config = write('req.cnf', '[req]\ndistinguished_name=dn\n[dn]\n')
    for (const kind of [['ec', '-pkeyopt', 'ec_paramgen_curve:secp256k1'], ['ec', '-pkeyopt', 'ec_paramgen_curve:P-521'], ['ed25519']]) {
      const csrPem = openssl('req', '-new', '-config', config, '-newkey', ...kind, '-nodes', '-keyout', join(base.path, 'k'), '-subj', '/', '-addext', 'subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/frontend')
      expect(await authority.sign({ csrPem, ttlSeconds: 0, caller })).toMatchObject({ t: 'refused', reason: 'badRequest' })
    }
  })

  test('a request of openssl is signed; one without, with two or with another URI is not', async () => {
    const authority = await open()
    const config = write('req.cnf', '[req]\ndistinguished_name=dn\n[dn]\n')
    const ask = (...names: string[]): Promise<SignAnswer> => {
      const extension = names.length === 0 ? [] : ['-addext', `subjectAltName=${names.join(',')}`]
      const csrPem = openssl('req', '-new', '-config', config, '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', join(base.path, 'k'), '-subj', '/', ...extension)
      return authority.sign({ csrPem, ttlSeconds: 0, caller })
    }
    signed(await ask('URI:spiffe://cluster.local/ns/shop/sa/frontend'))
    for (const names of [
      [],
      ['DNS:frontend'],
      ['URI:https://cluster.local/ns/shop/sa/frontend'],
      ['URI:spiffe://cluster.local/ns/shop/sa/frontend', 'URI:spiffe://cluster.local/ns/shop/sa/admin'],
      ['URI:spiffe://cluster.local/ns/shop/sa/frontend/x'],
      ['URI:spiffe://cluster.local/ns/../sa/frontend'],
    ]) {
      expect(await ask(...names)).toMatchObject({ t: 'refused', reason: 'badRequest' })
    }
  })

  test('the asker must have the key', async () => {
    const authority = await open()
    const [own] = decodePem(await request(), ['CERTIFICATE REQUEST'])
    const stolen = Buffer.from(own ?? '')
    // The last byte belongs to the signature.
    stolen[stolen.length - 1] = (stolen.at(-1) ?? 0) ^ 1
    const csrPem = encodePem('CERTIFICATE REQUEST', stolen)
    expect(await authority.sign({ csrPem, ttlSeconds: 0, caller })).toMatchObject({ reason: 'badRequest', message: expect.stringContaining('own key') })
  })

  test('identities of other nodes and trust domains are refused, and it says why', async () => {
    const authority = await open({ maySign: ({ node }, { serviceAccount }) => (serviceAccount === 'frontend' && node === 'node-a' ? true : 'no such pod there') })
    signed(await authority.sign({ csrPem: await request(), ttlSeconds: 0, caller }))
    expect(await authority.sign({ csrPem: await request(), ttlSeconds: 0, caller: { node: 'node-b' } })).toMatchObject({
      t: 'refused', reason: 'notAllowed', message: expect.stringMatching(/node-b: no such pod there/),
    })
    expect(await authority.sign({ csrPem: await request({ ...frontend, trustDomain: 'other.example' }), ttlSeconds: 0, caller })).toMatchObject({
      t: 'refused', reason: 'wrongTrustDomain',
    })
    expect(await authority.sign({ csrPem: await request(), ttlSeconds: 0, caller, expected: 'spiffe://cluster.local/ns/shop/sa/admin' })).toMatchObject({
      t: 'refused', reason: 'badRequest',
    })
  })

  test('lifetimes: as asked, at most 90 days, never beyond the issuer', async () => {
    const authority = await open()
    const ask = async (ttlSeconds: number, ca = authority): Promise<SignAnswer> => ca.sign({ csrPem: await request(), ttlSeconds, caller })
    expect(Math.abs(signed(await ask(60)).notAfterMs - Date.now() - 60_000)).toBeLessThan(3_000)
    signed(await ask(90 * 86_400))
    for (const bad of [90 * 86_400 + 1, -1, Number.NaN, Number.POSITIVE_INFINITY]) expect(await ask(bad)).toMatchObject({ reason: 'badTtl' })
    const late = await open({ now: () => authority.issuerExpiryMs - 10_000 })
    expect(Math.abs(signed(await ask(3600, late)).notAfterMs - authority.issuerExpiryMs)).toBeLessThan(2_000)
    expect(await ask(3600, await open({ now: () => authority.issuerExpiryMs }))).toMatchObject({ reason: 'issuerExpired' })
  })

  test('any bytes as a request give a refusal', async () => {
    const [good = Buffer.alloc(0)] = decodePem(await request(), ['CERTIFICATE REQUEST'])
    const refuses = (pem: string): void => {
      expect(() => readCsr(pem)).toThrow(MeshError)
    }
    fc.assert(fc.property(fc.string(), refuses))
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => refuses(encodePem('CERTIFICATE REQUEST', bytes))))
    for (let at = 0; at < good.length; at++) {
      for (const by of [1, 2, 0x10, 0x80, 0xff]) {
        const changed = Buffer.from(good)
        changed[at] = (changed[at] ?? 0) ^ by
        refuses(encodePem('CERTIFICATE REQUEST', changed))
      }
      refuses(encodePem('CERTIFICATE REQUEST', good.subarray(0, at)))
    }
  })
})

describe('rotation', () => {
  test('through a whole rotation every certificate is believed by every bundle that is still about', async () => {
    let now = Date.now()
    const authority = await open({ now: () => now })
    const held: Signed[] = []
    const check = async (): Promise<void> => {
      held.push(signed(await authority.sign({ csrPem: await request(), ttlSeconds: 3600, caller })))
      const valid = held.filter((h) => h.notAfterMs > now)
      for (const one of valid) {
        for (const other of valid) {
          expect(verifyPeer(der(one.chainPem), other.rootsPem, { trustDomains: ['cluster.local'], role: 'client', nowMs: now })).toEqual({ ok: frontend })
        }
      }
    }
    await check()
    const before = authority.rootsPem()
    await authority.beginRotation()
    await expect(authority.beginRotation()).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    const seen: string[] = []
    for (let hour = 0; hour < 8; hour++) {
      await authority.continueRotation()
      seen.push(authority.rotation.t)
      await check()
      now += 1_800_000
    }
    expect([...new Set(seen)]).toEqual(['announcing', 'retiring', 'steady'])
    expect(authority.rootsPem()).toHaveLength(1)
    expect(authority.rootsPem()).not.toEqual(before)
  })

  test('goes on after a restart', async () => {
    const first = await open()
    await first.beginRotation(0)
    const second = await open()
    expect(second.rotation.t).toBe('announcing')
    expect(second.rootsPem()).toHaveLength(2)
    await second.continueRotation()
    expect((await open()).rotation.t).toBe('steady')
  })
})

describe('an intermediate of one\'s own', () => {
  async function bring(change: { ca?: Parameters<typeof makeIntermediate>[1]; root?: Parameters<typeof makeRoot>[0]; key?: boolean; otherRoot?: boolean }): Promise<Authority> {
    const root = await makeRoot(change.root)
    const ca = await makeIntermediate(root, change.ca)
    const key = change.key === false ? ecKey() : ca.key
    const roots = change.otherRoot === true ? await makeRoot({ subject: 'CN=Another' }) : root
    return open({
      own: {
        certificateFile: write('ca-cert.pem', ca.pem),
        keyFile: write('ca-key.pem', key.export({ format: 'pem', type: 'pkcs8' }).toString()),
        rootsFile: write('root-cert.pem', roots.pem),
      },
    })
  }

  test('signs, revokes across restarts, and cannot rotate', async () => {
    const authority = await bring({})
    const answer = signed(await authority.sign({ csrPem: await request(), ttlSeconds: 0, caller }))
    expect(verifyPeer(der(answer.chainPem), answer.rootsPem, { trustDomains: ['cluster.local'], role: 'client', nowMs: Date.now() })).toEqual({ ok: frontend })
    await authority.revoke(answer.serial)
    const own = { certificateFile: join(base.path, 'ca-cert.pem'), keyFile: join(base.path, 'ca-key.pem'), rootsFile: join(base.path, 'root-cert.pem') }
    expect((await open({ own })).revokedSerials).toEqual([answer.serial])
    await expect(authority.beginRotation()).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  })

  test.each<[string, Parameters<typeof bring>[0], RegExp]>([
    ['no CA', { ca: { ca: false } }, /no CA/],
    ['key of another certificate', { key: false }, /not the key/],
    ['expired', { ca: { notAfterMs: Date.now() - day / 2 } }, /expired/],
    ['not yet valid', { ca: { notBeforeMs: Date.now() + day / 2 } }, /notYetValid/],
    ['another root', { otherRoot: true }, /untrusted/],
    ['no room below the root', { root: { pathLength: 0 } }, /allows only 0/],
    ['may not sign certificates', { ca: { usages: x509.KeyUsageFlags.digitalSignature } }, /key usage/],
    ['signed with SHA-1', { ca: { hash: 'SHA-1' } }, /weakSignature/],
  ])('%s: refused at start', async (_name, change, message) => {
    await expect(bring(change)).rejects.toMatchObject({ code: 'BAD_CONFIG', message: expect.stringMatching(message) })
  })
})

test('two workloads talk TLS 1.3 with certificates of ours, and the control plane serves with its own', async () => {
  const authority = await open()
  const side = async (): Promise<{ cert: string; key: string; ca: string[]; minVersion: 'TLSv1.3' }> => {
    const key = await newKey()
    const answer = signed(await authority.sign({ csrPem: await request(frontend, key), ttlSeconds: 0, caller }))
    return { cert: answer.chainPem.join(''), key: key.export({ format: 'pem', type: 'pkcs8' }).toString(), ca: [...answer.rootsPem], minVersion: 'TLSv1.3' }
  }
  const serving = await authority.issueServing({ dns: ['istiod.istio-system.svc'], ips: ['127.0.0.1'] })
  const server = createServer({ ...(await side()), requestCert: true, rejectUnauthorized: true }, (socket) => socket.end('hello'))
  const plain = createServer({ cert: serving.chainPem, key: serving.key.export({ format: 'pem', type: 'pkcs8' }) }, (socket) => socket.end('hello'))
  try {
    server.listen(0, '127.0.0.1')
    plain.listen(0, '127.0.0.1')
    await Promise.all([once(server, 'listening'), once(plain, 'listening')])
    const port = (s: typeof server): number => (s.address() as { port: number }).port
    const client = connect({ host: '127.0.0.1', port: port(server), ...(await side()), checkServerIdentity: () => undefined })
    expect(String((await once(client, 'data'))[0])).toBe('hello')
    const other = connect({ host: '127.0.0.1', port: port(plain), servername: 'istiod.istio-system.svc', ca: [...authority.rootsPem()] })
    expect(String((await once(other, 'data'))[0])).toBe('hello')
    expect(other.authorized).toBe(true)
  } finally {
    server.close()
    plain.close()
  }
})

function write(name: string, content: string): string {
  const path = join(base.path, name)
  writeFileSync(path, content, { mode: 0o600 })
  return path
}
