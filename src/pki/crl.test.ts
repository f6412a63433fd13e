import { execFileSync } from 'node:child_process'
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { silentLogger } from '../core/log.ts'
import { Authority } from './authority.ts'
import type { Signed } from './authority.ts'
import { watchCrlFile } from './crl-file.ts'
import { issueCrl } from './crl-issue.ts'
import { RevocationList, readCrls } from './crl.ts'
import type { CrlProblem } from './crl.ts'
import { makeCsr } from './csr.ts'
import { certificatesOf, decodePem, encodePem } from './pem.ts'
import { day, ecKey, makeIntermediate, makeLeaf, makeRoot, temporaryDirectory } from './testing.ts'
import type { Made } from './testing.ts'
import { verifyPeer } from './verify.ts'
import * as x509 from './x509.ts'

let base: ReturnType<typeof temporaryDirectory>
let root: Made
let ca: Made
let leaf: Made

beforeAll(async () => {
  root = await makeRoot()
  ca = await makeIntermediate(root)
  leaf = await makeLeaf(ca)
})
beforeEach(() => {
  base = temporaryDirectory()
})
afterEach(() => base.remove())

function crlOf(issuer: Made, revoked: readonly Made[], nextUpdateMs = Date.now() + day): Buffer {
  const entries = revoked.map((made) => ({ serial: made.facts.serial, revokedMs: Date.now() - 1000 }))
  return issueCrl(issuer, entries, { thisUpdateMs: Date.now() - 1000, nextUpdateMs, number: 200 })
}

function listOf(...ders: readonly Buffer[]): { list: RevocationList; problems: CrlProblem[] } {
  const problems: CrlProblem[] = []
  const list = new RevocationList({ onProblem: (problem) => problems.push(problem) })
  list.replace(ders.flatMap(readCrls))
  return { list, problems }
}

test('leaf and intermediates are found by issuer and serial', () => {
  const chain = [leaf.der, ca.der, root.der]
  expect(listOf().list.check(chain)).toBeUndefined()
  expect(listOf(crlOf(ca, [])).list.check(chain)).toBeUndefined()
  expect(listOf(crlOf(ca, [leaf])).list.check(chain)).toMatch(leaf.facts.serial)
  expect(listOf(crlOf(root, [ca])).list.check(chain)).toMatch(ca.facts.serial)
  // The right serial of another issuer.
  expect(listOf(crlOf(root, [leaf])).list.check(chain)).toBeUndefined()
  const { list } = listOf(crlOf(root, [ca]))
  list.setRoots([root.facts])
  expect(list.check([leaf.der, ca.der])).toMatch(ca.facts.serial)
})

test('a list counts only under the signature of the issuer', async () => {
  const forger = await makeIntermediate(root)
  const forged = crlOf({ ...forger, facts: { ...forger.facts, subject: ca.facts.subject } }, [leaf])
  const { list, problems } = listOf(forged)
  expect([list.check([leaf.der, ca.der]), list.check([leaf.der, ca.der])]).toEqual([undefined, undefined])
  expect(problems).toEqual(['badSignature'])
  const unknown = listOf(crlOf(ca, [leaf]))
  expect(unknown.list.check([leaf.der])).toBeUndefined()
  expect(unknown.problems).toEqual(['issuerUnknown'])
})

test('a list past its time still revokes, and is reported', () => {
  const { list, problems } = listOf(crlOf(ca, [leaf], Date.now() - 500))
  expect(list.check([leaf.der, ca.der])).toMatch(/revoked/)
  expect(problems).toEqual(['stale'])
})

test('delta and indirect lists, SHA-1 and trailing bytes are not used', async () => {
  const make = (extensions: x509.Extension[], hash = 'SHA-256'): Promise<x509.X509Crl> => {
    const signingAlgorithm = { name: 'ECDSA', namedCurve: 'P-256', hash }
    return x509.X509CrlGenerator.create({
      issuer: 'CN=x', signingAlgorithm, signingKey: ca.key.toCryptoKey(signingAlgorithm, false, ['sign']), extensions,
    })
  }
  const raw = async (crl: Promise<x509.X509Crl>): Promise<Buffer> => Buffer.from((await crl).rawData)
  expect(readCrls(await raw(make([])))).toHaveLength(1)
  const delta = await raw(make([new x509.Extension('2.5.29.27', true, Buffer.from([2, 1, 1]))]))
  for (const der of [delta, await raw(make([], 'SHA-1')), Buffer.concat([await raw(make([])), Buffer.from([0])])]) {
    expect(() => readCrls(der)).toThrow(MeshError)
  }
})

test('lists of openssl, with 20,000 entries, are read as openssl and the library read ours', () => {
  const entries = Array.from({ length: 20_000 }, (_, i) => ({ serial: `1${i.toString(16).padStart(31, '0')}`, revokedMs: Date.now() }))
  const der = issueCrl(ca, entries, { thisUpdateMs: Date.now(), nextUpdateMs: Date.now() + day, number: 1 })
  const began = performance.now()
  const [crl] = readCrls(der)
  expect(performance.now() - began).toBeLessThan(2_000)
  expect(crl?.revoked.size).toBe(20_000)
  const some = new x509.X509Crl(crlOf(ca, [leaf, root]))
  expect(some.entries.map((e) => e.serialNumber.replace(/^(00)+/, ''))).toEqual([leaf.facts.serial, root.facts.serial])
  const caFile = join(base.path, 'ca.pem')
  const keyFile = join(base.path, 'ca.key')
  writeFileSync(caFile, ca.pem)
  writeFileSync(keyFile, ca.key.export({ format: 'pem', type: 'pkcs8' }))
  writeFileSync(join(base.path, 'index'), `R\t300101000000Z\t260101000000Z,keyCompromise\t${leaf.facts.serial.toUpperCase()}\tunknown\t/\n`)
  const config = join(base.path, 'c')
  writeFileSync(config, `[ca]\ndefault_ca=d\n[d]\ndatabase=${base.path}/index\ndefault_md=sha256\ndefault_crl_days=1\n`)
  const pem = execFileSync('openssl', ['ca', '-gencrl', '-config', config, '-cert', caFile, '-keyfile', keyFile], { stdio: ['ignore', 'pipe', 'ignore'] })
  const { list } = listOf()
  list.replace(readCrls(pem))
  expect(list.check([leaf.der, ca.der])).toMatch(/2026-01-01/)
})

test('any bytes are lists or BAD_MESSAGE', () => {
  const good = crlOf(ca, [leaf])
  const read = (bytes: Uint8Array): void => {
    try {
      readCrls(bytes)
    } catch (error) {
      expect(error).toBeInstanceOf(MeshError)
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), read))
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => read(Buffer.from(encodePem('X509 CRL', bytes)))))
  for (let at = 0; at < good.length; at++) {
    const changed = Buffer.from(good)
    changed[at] = (changed[at] ?? 0) ^ 0x11
    read(changed)
    if (at > 0) expect(() => readCrls(good.subarray(0, at))).toThrow(MeshError)
    const { list } = listOf()
    try {
      list.replace(readCrls(changed))
    } catch (error) {
      expect(error).toBeInstanceOf(MeshError)
    }
    // Nothing that was changed may revoke anything.
    expect(list.check([leaf.der, ca.der])).toBeUndefined()
  }
})

test('the CA revokes; its list says so to us and to openssl, across a restart', async () => {
  const options = { trustDomain: 'cluster.local', directory: join(base.path, 'ca'), maySign: () => true as const, logger: silentLogger }
  const authority = await Authority.open(options)
  const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'frontend' }
  const sign = async (): Promise<Signed> => {
    const answer = await authority.sign({ csrPem: await makeCsr(identity, ecKey()), ttlSeconds: 0, caller: { node: 'a' } })
    if (answer.t !== 'signed') throw new Error(answer.message)
    return answer
  }
  const [bad, good] = [await sign(), await sign()]
  await authority.revoke(bad.serial.toUpperCase())
  await authority.revoke(bad.serial)
  const again = await Authority.open(options)
  expect(again.revokedSerials).toEqual([bad.serial])
  const pem = await again.crlPem()
  const { list } = listOf()
  list.replace(readCrls(Buffer.from(pem)))
  const verdict = (signed: Signed): unknown =>
    verifyPeer(signed.chainPem.flatMap(certificatesOf), signed.rootsPem, {
      trustDomains: ['cluster.local'], role: 'client', nowMs: Date.now(), revocation: (chain) => list.check(chain),
    })
  expect(verdict(bad)).toMatchObject({ refused: 'revoked' })
  expect(verdict(good)).toEqual({ ok: identity })
  const file = (name: string, content: string): string => {
    writeFileSync(join(base.path, name), content)
    return join(base.path, name)
  }
  const check = (signed: Signed): string => {
    const [first = '', ...rest] = signed.chainPem
    const files = ['-CAfile', file('roots', signed.rootsPem.join('')), '-untrusted', file('mid', rest.join('')), '-CRLfile', file('crl', pem)]
    try {
      return execFileSync('openssl', ['verify', '-crl_check', ...files, file('leaf', first)], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
    } catch (error) {
      return String((error as { stderr: string }).stderr)
    }
  }
  expect(check(good)).toMatch(/OK/)
  expect(check(bad)).toMatch(/certificate revoked/)
  const number = (text: string): string =>
    execFileSync('openssl', ['crl', '-noout', '-crlnumber'], { input: text, encoding: 'utf8' })
  expect(number(await again.crlPem())).not.toBe(number(pem))
})

test('a file is followed: absent, written, swapped by symlink, broken, gone', async () => {
  const list = new RevocationList()
  const path = join(base.path, 'live', 'crl.pem')
  let changes = 0
  const watcher = await watchCrlFile({ path, list, logger: silentLogger, intervalMs: 20, onChange: () => changes++ })
  try {
    const isRevoked = (): boolean => list.check([leaf.der, ca.der]) !== undefined
    const version = (name: string, revoked: readonly Made[]): void => {
      mkdirSync(join(base.path, name))
      writeFileSync(join(base.path, name, 'crl.pem'), encodePem('X509 CRL', crlOf(ca, revoked)))
      symlinkSync(name, join(base.path, 'next'))
      renameSync(join(base.path, 'next'), join(base.path, 'live'))
    }
    version('v1', [])
    await expect.poll(() => changes).toBe(1)
    expect(isRevoked()).toBe(false)
    version('v2', [leaf])
    await expect.poll(isRevoked).toBe(true)
    writeFileSync(path, '-----BEGIN X509 CRL-----\nMII')
    await watcher.check()
    await watcher.check()
    expect(isRevoked()).toBe(true)
    writeFileSync(path, '')
    await expect.poll(isRevoked).toBe(false)
    version('v3', [leaf])
    await expect.poll(isRevoked).toBe(true)
    rmSync(path)
    await expect.poll(isRevoked).toBe(false)
  } finally {
    watcher.stop()
  }
  expect(decodePem(encodePem('X509 CRL', crlOf(ca, [])), ['X509 CRL'])).toHaveLength(1)
})
