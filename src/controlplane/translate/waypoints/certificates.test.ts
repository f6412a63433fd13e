// Certificates out of Secrets: what fits together is used, what does not is not there, and no reason quotes it.
import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { expect, test } from 'vitest'
import { make } from '../../../pki/testing.ts'
import { object } from '../arbitraries.ts'
import { tlsContent, type TlsContent } from './certificates.ts'

const pem = (key: KeyObject, cipher: object = {}): string => key.export({ type: 'pkcs8', format: 'pem', ...cipher }).toString()
const authority = await make({ subject: 'CN=authority', ca: true })
const leaf = await make({ subject: 'CN=leaf', issuer: authority })
const other = await make({ subject: 'CN=other' })
const rsa = (modulusLength: number): KeyObject => generateKeyPairSync('rsa', { modulusLength }).privateKey
const read = (stringData: object, type = 'kubernetes.io/tls'): TlsContent => tlsContent(object('Secret', 'shop/s', { type, stringData }))

test('a chain with its key and authorities, cleaned of what is around them', () => {
  const content = read({ 'tls.crt': `subject: x\n${leaf.pem}\n# above\n${authority.pem}`, 'tls.key': `junk\n${pem(leaf.key)}`, 'ca.crt': authority.pem })
  expect(content.certificateProblem).toBeUndefined()
  expect(content.certificate?.chain.match(/BEGIN CERTIFICATE/g)).toHaveLength(2)
  expect(content.certificate?.chain).not.toContain('subject')
  expect(content.certificate?.privateKey.startsWith('-----BEGIN PRIVATE KEY-----')).toBe(true)
  expect(content.authorities).toContain('BEGIN CERTIFICATE')
  expect(tlsContent(object('ConfigMap', 'shop/c', { data: { 'ca.crt': authority.pem, other: 'x' } })).authorities).toBe(content.authorities)
})

test('kinds of keys that servers use', async () => {
  for (const key of [rsa(2048), generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey]) {
    const { pem: chain } = await make({ subject: 'CN=x', key })
    expect(read({ 'tls.crt': chain, 'tls.key': pem(key) }).certificate).toBeDefined()
  }
})

const sec1 = leaf.key.export({ type: 'sec1', format: 'pem' }).toString()
test('the older form of an EC key, too', () => expect(read({ 'tls.crt': leaf.pem, 'tls.key': sec1 }).certificate).toBeDefined())

test.each<[string, object, string]>([
  ['no key', { 'tls.crt': leaf.pem }, 'tls.key is missing'],
  ['no certificate', { 'tls.key': pem(leaf.key) }, 'tls.crt is missing'],
  ['another key', { 'tls.crt': leaf.pem, 'tls.key': pem(other.key) }, 'does not belong'],
  ['a key of another kind', { 'tls.crt': leaf.pem, 'tls.key': pem(rsa(2048)) }, 'does not belong'],
  ['the leaf not first', { 'tls.crt': authority.pem + leaf.pem, 'tls.key': pem(leaf.key) }, 'does not belong'],
  ['no PEM', { 'tls.crt': 'hunter2', 'tls.key': pem(leaf.key) }, 'no certificate in PEM'],
  ['PEM of nothing', { 'tls.crt': '-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----', 'tls.key': pem(leaf.key) }, 'cannot be read'],
  ['a key with a passphrase', { 'tls.crt': leaf.pem, 'tls.key': pem(leaf.key, { cipher: 'aes-256-cbc', passphrase: 'hunter2' }) }, 'passphrase'],
  ['a weak key', { 'tls.crt': leaf.pem, 'tls.key': pem(rsa(1024)) }, '2048'],
  ['a key that cannot sign', { 'tls.crt': leaf.pem, 'tls.key': pem(generateKeyPairSync('x25519').privateKey) }, 'kind'],
  ['too long a chain', { 'tls.crt': leaf.pem.repeat(30), 'tls.key': pem(leaf.key) }, 'more than 20'],
])('%s: there is no certificate', (_what, data, why) => {
  const { certificate, certificateProblem = '' } = read(data)
  expect(certificate).toBeUndefined()
  expect(certificateProblem).toContain(why)
  expect(certificateProblem).not.toMatch(/hunter2|BEGIN|aHVud/)
})

test('an Opaque Secret without any of it has nothing, and nothing is wrong', () => {
  expect(read({ password: 'x' }, 'Opaque')).toEqual({})
  expect(read({ 'ca.crt': 'x' }, 'Opaque')).toEqual({ authoritiesProblem: 'ca.crt has no certificate in PEM' })
})
