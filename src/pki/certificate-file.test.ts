import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { CertifiedKey } from '../core/certificates.ts'
import type { Identity } from '../core/identity.ts'
import { silentLogger } from '../core/log.ts'
import { CertificateKeeper, loadCertificates, saveCertificates } from './certificate-file.ts'
import { certifiedKey } from './certified-key.ts'
import { CertificateManager } from './certificates.ts'
import { issueLeaf } from './issue.ts'
import { certificatePem } from './pem.ts'
import { ecKey, makeIntermediate, makeRoot } from './testing.ts'
import { createPublicKey } from 'node:crypto'

const hour = 3_600_000
const nowMs = Math.floor(Date.now() / 1000) * 1000
const directory = mkdtempSync(join(tmpdir(), 'sidestep-certificates-'))
const path = join(directory, 'certificates.json')
const named = (serviceAccount: string): Identity => ({ trustDomain: 'cluster.local', namespace: 'shop', serviceAccount })
let web: CertifiedKey
let short: CertifiedKey

beforeAll(async () => {
  const far = { notAfterMs: nowMs + 400 * 24 * hour }
  const root = await makeRoot(far)
  const ca = await makeIntermediate(root, far)
  const issue = async (identity: Identity, lifeMs: number): Promise<CertifiedKey> => {
    const key = ecKey()
    const leaf = await issueLeaf(createPublicKey(key), identity, { notBeforeMs: nowMs - hour, notAfterMs: nowMs + lifeMs }, ca)
    return certifiedKey([certificatePem(leaf.der), ca.pem, root.pem], identity, key, nowMs)
  }
  web = await issue(named('web'), hour)
  short = await issue(named('short'), 60_000)
})
afterAll(() => rmSync(directory, { recursive: true }))

const facts = ({ identity, serial, chainPem, rootsPem, notAfterMs }: CertifiedKey) => ({ identity, serial, chainPem, rootsPem, notAfterMs })

test('what was saved is read back, without what has expired meanwhile; others cannot read it', async () => {
  await saveCertificates(path, [web, short])
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect((await loadCertificates(path, nowMs, silentLogger)).map(facts)).toEqual([web, short].map(facts))
  expect((await loadCertificates(path, nowMs + 120_000, silentLogger)).map(facts)).toEqual([facts(web)])
})

test('a file that others can read, that is broken or of which there is none is not used', async () => {
  await saveCertificates(path, [web])
  chmodSync(path, 0o640)
  expect(await loadCertificates(path, nowMs, silentLogger)).toEqual([])
  expect(await loadCertificates(join(directory, 'none'), nowMs, silentLogger)).toEqual([])
  await fc.assert(fc.asyncProperty(fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 8 }), async (at, bytes) => {
    await saveCertificates(path, [web])
    const content = readFileSync(path)
    content.set(bytes, Math.min(at % content.length, content.length - bytes.length))
    writeFileSync(path, content)
    // Whatever is left of it is the certificate, or nothing.
    for (const read of await loadCertificates(path, nowMs, silentLogger)) expect(read.serial).toBe(web.serial)
  }), { numRuns: 60 })
})

test('a certificate of another key or for another identity is left out, and its neighbour is not', async () => {
  await saveCertificates(path, [web, short])
  const swapped = JSON.parse(readFileSync(path, 'utf8')) as { certificates: { identity: string; keyPem: string }[] }
  const [first, second] = swapped.certificates
  if (!first || !second) throw new Error('two were saved')
  first.keyPem = second.keyPem
  writeFileSync(path, JSON.stringify(swapped))
  expect((await loadCertificates(path, nowMs, silentLogger)).map(facts)).toEqual([facts(short)])
  second.identity = first.identity
  writeFileSync(path, JSON.stringify(swapped))
  expect(await loadCertificates(path, nowMs, silentLogger)).toEqual([])
})

test('a manager serves a restored certificate while the CA is away, and forgets it when it has expired', async () => {
  const ca = { request: () => Promise.reject(new Error('away')) }
  const manager = new CertificateManager({ ca, logger: silentLogger })
  manager.restore([web])
  manager.prefetch(web.identity)
  expect(await manager.get(web.identity, 0)).toBe(web)
  expect(manager.rootsPem).toEqual(web.rootsPem)
  await expect(manager.get(named('other'), 50)).rejects.toMatchObject({ code: 'CERTIFICATE_UNAVAILABLE' })
  manager.close()
})

test('a keeper writes once for many changes, and before it closes', async () => {
  const own = join(directory, 'own.json')
  const keeper = new CertificateKeeper(own, () => [web], silentLogger, 60_000)
  for (let i = 0; i < 100; i++) keeper.changed()
  await keeper.close()
  expect((await loadCertificates(own, nowMs, silentLogger)).map(facts)).toEqual([facts(web)])
})
