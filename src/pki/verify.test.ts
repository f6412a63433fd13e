import * as x509 from './x509.ts'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { certificateFacts } from './facts.ts'
import { certificatePem, certificatesOf } from './pem.ts'
import { bothUsages, day, ecKey, make, makeIntermediate, makeLeaf, makeRoot } from './testing.ts'
import type { Made } from './testing.ts'
import { verifyPeer } from './verify.ts'
import type { PeerRules } from './verify.ts'

const me = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'frontend' }
const uri = 'spiffe://cluster.local/ns/shop/sa/frontend'
let root: Made
let intermediate: Made
let leaf: Made

beforeAll(async () => {
  root = await makeRoot({ pathLength: 1 })
  intermediate = await makeIntermediate(root, { pathLength: 0 })
  leaf = await makeLeaf(intermediate)
})

function verdict(chain: readonly Uint8Array[], rules: Partial<PeerRules> = {}, roots = [root.pem]): unknown {
  const answer = verifyPeer(chain, roots, { trustDomains: ['cluster.local'], role: 'client', nowMs: Date.now(), ...rules })
  return 'ok' in answer ? answer.ok : answer.refused
}

const of = (...made: readonly Made[]): Buffer[] => made.map((m) => m.der)

describe('chains that hold', () => {
  test('leaf, intermediate and root; with the root sent too; in another order', () => {
    expect(verdict(of(leaf, intermediate))).toEqual(me)
    expect(verdict(of(leaf, intermediate), { role: 'server' })).toEqual(me)
    expect(verdict(of(leaf, intermediate, root))).toEqual(me)
    expect(verdict(of(leaf, root, intermediate))).toEqual(me)
  })

  test('a leaf straight from the root, and any root of the bundle will do', async () => {
    const other = await makeRoot({ subject: 'CN=Other root' })
    const direct = await makeLeaf(other)
    expect(verdict(of(direct), {}, [root.pem, other.pem])).toEqual(me)
    expect(verdict(of(direct), {}, [root.pem + other.pem])).toEqual(me)
    expect(verdict(of(leaf, intermediate), {}, [other.pem, root.pem])).toEqual(me)
  })

  test('two roots of one name: the right key is found', async () => {
    const twin = await makeRoot({})
    expect(verdict(of(leaf, intermediate), {}, [twin.pem, root.pem])).toEqual(me)
    expect(verdict(of(leaf, intermediate), {}, [twin.pem])).toBe('badSignature')
  })

  test('an alias of the trust domain', async () => {
    const old = await makeLeaf(intermediate, { names: [{ type: 'url', value: 'spiffe://old.example/ns/shop/sa/frontend' }] })
    expect(verdict(of(old, intermediate))).toBe('wrongTrustDomain')
    expect(verdict(of(old, intermediate), { trustDomains: ['cluster.local', 'old.example'] })).toEqual({ ...me, trustDomain: 'old.example' })
  })

  test('P-384 and RSA', async () => {
    const strong = await makeRoot({ key: ecKey('P-384'), subject: 'CN=P-384' })
    expect(verdict(of(await makeLeaf(strong)), {}, [strong.pem])).toEqual(me)
  })
})

describe('hostile certificates', () => {
  test.each<[string, string, () => Promise<Buffer[]>]>([
    ['no certificate', 'noCertificate', async () => []],
    ['self-signed', 'selfSigned', async () => of(await make({ subject: 'CN=me', names: [{ type: 'url', value: uri }], extended: bothUsages }))],
    ['self-signed with an empty name', 'selfSigned', async () => of(await make({ names: [{ type: 'url', value: uri }], extended: bothUsages }))],
    ['of a CA nobody trusts', 'untrusted', async () => of(await makeLeaf(await makeRoot({ subject: 'CN=Stranger' })))],
    ['own root sent along', 'selfSigned', async () => {
      const stranger = await makeRoot({ subject: 'CN=Stranger' })
      return of(await makeLeaf(stranger), stranger).reverse()
    }],
    ['forged root of the same name', 'badSignature', async () => {
      const forged = await makeRoot({})
      return of(await makeLeaf(forged), forged)
    }],
    ['expired', 'expired', async () => of(await makeLeaf(intermediate, { notAfterMs: Date.now() - 1000 }), intermediate)],
    ['not yet valid', 'notYetValid', async () => of(await makeLeaf(intermediate, { notBeforeMs: Date.now() + 60_000 }), intermediate)],
    ['below an expired intermediate', 'expired', async () => {
      const old = await makeIntermediate(root, { notAfterMs: Date.now() - 1000 })
      return of(await makeLeaf(old), old)
    }],
    ['below a leaf: CA:FALSE', 'notACa', async () => {
      const fake = await makeIntermediate(root, { ca: false })
      return of(await makeLeaf(fake), fake)
    }],
    ['below a certificate without basic constraints', 'notACa', async () => {
      const fake = await make({ subject: 'CN=v3', issuer: root })
      return of(await makeLeaf(fake), fake)
    }],
    ['below a CA that may not sign certificates', 'notACa', async () => {
      const fake = await makeIntermediate(root, { usages: x509.KeyUsageFlags.digitalSignature })
      return of(await makeLeaf(fake), fake)
    }],
    ['below one CA too many', 'pathTooLong', async () => {
      const second = await makeIntermediate(intermediate, { subject: 'CN=Second' })
      return of(await makeLeaf(second), second, intermediate)
    }],
    ['two URIs', 'severalIdentities', async () =>
      of(await makeLeaf(intermediate, { names: [{ type: 'url', value: uri }, { type: 'url', value: `${uri}2` }] }), intermediate)],
    ['DNS name only', 'noIdentity', async () => of(await makeLeaf(intermediate, { names: [{ type: 'dns', value: 'shop' }] }), intermediate)],
    ['URI in the DNS name', 'noIdentity', async () => of(await makeLeaf(intermediate, { names: [{ type: 'dns', value: uri }] }), intermediate)],
    ['no names', 'noIdentity', async () => of(await make({ issuer: intermediate, extended: bothUsages }), intermediate)],
    ['identity as the subject', 'noIdentity', async () =>
      of(await make({ issuer: intermediate, extended: bothUsages, subject: `CN=${uri}` }), intermediate)],
    ['zero byte in the URI', 'noIdentity', async () =>
      of(await makeLeaf(intermediate, { names: [{ type: 'url', value: `${uri}\0.evil` }] }), intermediate)],
    ['no usages', 'wrongUsage', async () => of(await make({ issuer: intermediate, names: [{ type: 'url', value: uri }] }), intermediate)],
    ['server only, as a client', 'wrongUsage', async () => of(await makeLeaf(intermediate, { extended: [bothUsages[0] ?? ''] }), intermediate)],
    ['a CA as a workload', 'leafIsCa', async () =>
      of(await makeLeaf(root, { ca: true, subject: 'CN=x', usages: x509.KeyUsageFlags.digitalSignature }))],
    ['unknown critical extension', 'unknownCritical', async () =>
      of(await makeLeaf(intermediate, { extensions: [new x509.Extension('1.2.3.4', true, Buffer.from([5, 0]))] }), intermediate)],
    ['signed with SHA-1', 'weakSignature', async () => of(await makeLeaf(intermediate, { hash: 'SHA-1' }), intermediate)],
    ['nine certificates', 'chainTooLong', async () => of(leaf, ...Array<Made>(8).fill(intermediate))],
    ['garbage', 'malformed', async () => [Buffer.from('garbage')]],
    ['garbage behind a good leaf', 'malformed', async () => [leaf.der, Buffer.from([0x30, 0x80, 0, 0])]],
    ['a byte after the end', 'malformed', async () => [Buffer.concat([leaf.der, Buffer.from([0])]), intermediate.der]],
    ['far too large', 'malformed', async () => [Buffer.alloc(100_000, 0x30)]],
  ])('%s: %s', async (_name, reason, chain) => {
    expect(verdict(await chain())).toBe(reason)
  })

  test('a certificate that carries another one as text is not taken for that one', async () => {
    const smuggle = new x509.Extension('1.2.3.5', false, Buffer.from(`\n${leaf.pem}`))
    const forged = await makeLeaf(await makeRoot({}), { extensions: [] })
    expect(() => certificateFacts(Buffer.concat([forged.der]))).not.toThrow()
    await expect(makeLeaf(await makeRoot({}), { extensions: [smuggle] })).rejects.toMatchObject({ code: 'BAD_MESSAGE' })
  })

  test('revocation is asked with the whole path, and its reason kept', () => {
    const seen: number[] = []
    const revocation = (chain: readonly Uint8Array[]): string => {
      seen.push(chain.length)
      return 'serial 1 revoked'
    }
    expect(verdict(of(leaf, intermediate), { revocation })).toBe('revoked')
    expect(seen).toEqual([3])
  })

  test('many CAs of one name that sign each other end in a refusal, soon', async () => {
    const ring = await Promise.all(Array.from({ length: 7 }, async () => makeIntermediate(root, { issuer: { name: 'CN=Ring', key: ecKey() }, subject: 'CN=Ring' })))
    const end = await makeLeaf(ring[0] as Made)
    const began = performance.now()
    expect(verdict(of(end, ...ring))).toMatch(/badSignature|pathTooLong/)
    expect(performance.now() - began).toBeLessThan(1_000)
  })
})

describe('name constraints', () => {
  const subtree = (text: string): Buffer => {
    const name = Buffer.concat([Buffer.from([0x86, text.length]), Buffer.from(text)])
    return Buffer.concat([Buffer.from([0x30, name.length]), name])
  }
  const constraints = (tag: number, tree: Buffer): x509.Extension =>
    new x509.Extension('2.5.29.30', true, Buffer.concat([Buffer.from([0x30, tree.length + 2, tag, tree.length]), tree]))
  const under = async (extension: x509.Extension): Promise<unknown> => {
    const ca = await makeIntermediate(root, { extensions: [extension] })
    return verdict(of(await makeLeaf(ca), ca))
  }

  test('the trust domain must be permitted and not excluded', async () => {
    expect(await under(constraints(0xa0, subtree('cluster.local')))).toEqual(me)
    expect(await under(constraints(0xa0, subtree('.local')))).toEqual(me)
    expect(await under(constraints(0xa0, subtree('other.example')))).toBe('nameConstraint')
    expect(await under(constraints(0xa1, subtree('cluster.local')))).toBe('nameConstraint')
    expect(await under(constraints(0xa1, subtree('other.example')))).toEqual(me)
  })

  test('what cannot be read permits nothing and excludes everything', async () => {
    expect(await under(constraints(0xa0, subtree('clus\0ter')))).toBe('nameConstraint')
    expect(await under(constraints(0xa1, subtree('clus\0ter')))).toBe('nameConstraint')
  })
})

describe('decoding never surprises', () => {
  const onlyMeshError = (work: () => unknown): void => {
    try {
      work()
    } catch (error) {
      expect(error).toBeInstanceOf(MeshError)
    }
  }

  test('any bytes', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => onlyMeshError(() => certificateFacts(bytes))), { numRuns: 2_000 })
  })

  test('a good certificate with changed bytes is malformed or refused, never believed', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), { minLength: 1, maxLength: 4 }), (changes) => {
        const der = Buffer.from(leaf.der)
        for (const [at, by] of changes) der[at % der.length] = (der[at % der.length] ?? 0) ^ by
        if (der.equals(leaf.der)) return
        const answer = verdict([der, intermediate.der])
        expect(typeof answer).toBe('string')
      }),
      { numRuns: 2_000 },
    )
  })

  test('cut off anywhere', () => {
    for (let end = 0; end < leaf.der.length; end++) expect(verdict([leaf.der.subarray(0, end), intermediate.der])).toBe('malformed')
  })

  test('PEM text', () => {
    fc.assert(fc.property(fc.string(), (text) => onlyMeshError(() => certificatesOf(text))))
    fc.assert(fc.property(fc.string(), (text) => onlyMeshError(() => certificatesOf(`-----BEGIN CERTIFICATE-----${text}-----END CERTIFICATE-----`))))
    fc.assert(fc.property(fc.uint8Array(), (bytes) => bytes.length === 0 || certificatesOf(`# ca\n${certificatePem(bytes)}`)[0]?.equals(bytes)))
    expect(() => certificatesOf(`${leaf.pem}-----BEGIN CERTIFICATE-----\nMII`)).toThrow(/cut off/)
  })

  test('our reader and the library agree on fields', async () => {
    const other = new x509.X509Certificate(leaf.der)
    expect(leaf.facts.serial).toBe(other.serialNumber.replace(/^(00)+/, ''))
    expect(leaf.facts.notAfterMs).toBe(other.notAfter.getTime())
    expect(leaf.facts.notAfterMs - leaf.facts.notBeforeMs).toBeGreaterThan(day)
    expect(leaf.facts.names).toEqual([{ kind: 6, text: uri }])
    expect(Buffer.from(leaf.facts.issuer, 'hex')).toEqual(Buffer.from(intermediate.facts.subject, 'hex'))
  })
})
