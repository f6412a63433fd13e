// An intermediate that the operator brings, signed by a root kept elsewhere. Everything a peer would check of it later is checked
// when it is loaded, so that a mistake is one clear sentence at start instead of failed handshakes on every node.
import { MeshError } from '../core/errors.ts'
import { issuerOf, readCertificates, readKey } from './authority-store.ts'
import type { CertificateFacts } from './facts.ts'
import type { Issuer } from './issue.ts'
import { findPath } from './path.ts'

export interface OwnIntermediateFiles {
  /** PEM: the intermediate first, then those between it and the root, if any. */
  readonly certificateFile: string
  readonly keyFile: string
  /** PEM: the trust bundle. */
  readonly rootsFile: string
}

export interface OwnIntermediate {
  readonly issuer: Issuer
  readonly parents: readonly CertificateFacts[]
  readonly roots: readonly CertificateFacts[]
}

/** Throws BAD_CONFIG: files missing, key of another certificate, no CA, expired, chain that does not end in the bundle, no room below. */
export async function loadOwnIntermediate(files: OwnIntermediateFiles, nowMs: number): Promise<OwnIntermediate> {
  const [first, ...parents] = await readCertificates(files.certificateFile)
  const roots = await readCertificates(files.rootsFile)
  const issuer = issuerOf(first, files.certificateFile, await readKey(files.keyFile), files.keyFile)
  const refuse = (why: string): never => {
    throw new MeshError('BAD_CONFIG', `${files.certificateFile} cannot sign for the mesh: ${why}`)
  }
  const notRoot = roots.find((root) => !root.isCa)
  if (notRoot) refuse(`the bundle ${files.rootsFile} has a certificate that is no CA (serial ${notRoot.serial})`)
  if (first.keyUsage && first.keyUsage[5] !== true) refuse('its key usage does not allow signing certificates')
  const isRoot = roots.some((root) => root.der.equals(first.der))
  if (!isRoot) {
    const found = findPath(first, parents, roots, nowMs)
    if ('refused' in found) return refuse(`its chain does not hold (${found.refused})`)
    // Path lengths count the CAs below a CA. findPath took the intermediate for the end of the chain, but a leaf will follow it.
    found.path.forEach((ca, i) => {
      if (i > 0 && ca.pathLength !== undefined && i > ca.pathLength) refuse(`the CA ${i} above it allows only ${ca.pathLength} CAs below`)
    })
  } else if (nowMs >= first.notAfterMs || nowMs < first.notBeforeMs) {
    refuse('it is not valid now')
  }
  return { issuer, parents: parents.filter((p) => !roots.some((root) => root.der.equals(p.der))), roots }
}
