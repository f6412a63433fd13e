// What the CA answered, checked before anybody uses it: a CA that is broken or replaced must not make this node present a
// certificate that its peers refuse, or of somebody else.
import type { KeyObject } from 'node:crypto'
import type { CertifiedKey } from '../core/certificates.ts'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { certificateFacts } from './facts.ts'
import { certificatePem, certificatesOf } from './pem.ts'
import { verifyPeer } from './verify.ts'

/**
 * `chain`: PEM elements, leaf first, the last one or several roots. Throws BAD_MESSAGE: too short, another key, another identity,
 * expired, or not of the roots that came along.
 */
export function certifiedKey(chain: readonly string[], identity: Identity, key: KeyObject, nowMs: number): CertifiedKey {
  const roots = certificatesOf(chain.at(-1) ?? '')
  const presented = chain.slice(0, -1).flatMap(certificatesOf)
  const [leafDer] = presented
  if (!leafDer || roots.length === 0) throw new MeshError('BAD_MESSAGE', `the CA answered with ${chain.length} certificates; a leaf and a root are needed`)
  const leaf = certificateFacts(leafDer)
  if (!leaf.x509.checkPrivateKey(key)) throw new MeshError('BAD_MESSAGE', 'the CA answered with a certificate for another key')
  const rootsPem = roots.map(certificatePem)
  for (const role of ['client', 'server'] as const) {
    const verdict = verifyPeer(presented, rootsPem, { trustDomains: [identity.trustDomain], role, nowMs })
    if ('refused' in verdict) throw new MeshError('BAD_MESSAGE', `the CA answered with a certificate that no peer would accept (${verdict.refused})`)
    if (formatIdentity(verdict.ok) !== formatIdentity(identity)) {
      throw new MeshError('BAD_MESSAGE', `the CA answered with a certificate of ${formatIdentity(verdict.ok)}`)
    }
  }
  const isRoot = (der: Buffer): boolean => roots.some((root) => root.equals(der))
  return {
    identity,
    chainPem: presented.filter((der) => !isRoot(der)).map(certificatePem).join(''),
    key,
    rootsPem,
    notBeforeMs: leaf.notBeforeMs,
    notAfterMs: leaf.notAfterMs,
    serial: leaf.serial,
  }
}
