// The CA's directory: keys and certificates of each root with its intermediate, and state.json, which says what is in force. Never
// overwrites a key or certificate. A directory that lacks something is an error that names it, because a CA made anew over a broken
// one would cut off every node that trusts the old root.
import { createPrivateKey, createPublicKey } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { mkdtemp, readFile, readdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { MeshError } from '../core/errors.ts'
import type { Revoked } from './crl-issue.ts'
import { newKey } from './csr.ts'
import { certificateFacts } from './facts.ts'
import type { CertificateFacts } from './facts.ts'
import { createFile, isErrno, makePrivateDirectory, requirePrivate, writeFileAtomic } from './files.ts'
import { backdateMs, issueIntermediate, issueRoot, newSerial } from './issue.ts'
import type { Issuer } from './issue.ts'
import { hasGoodKey } from './path.ts'
import { certificatePem, certificatesOf } from './pem.ts'
import { trustedBy } from './rotation.ts'
import type { Rotation } from './rotation.ts'

export interface AuthorityState {
  readonly version: 1
  readonly trustDomain: string
  readonly rotation: Rotation
  /** Root name to when the last certificate below it expires at the latest. */
  readonly lastExpiryMs: Readonly<Record<string, number>>
  readonly crlNumber: number
  /** With the root name of the issuer. */
  readonly revoked: readonly (Revoked & { readonly root: string })[]
}

/** A root with the intermediate that signs below it. */
export interface Signer {
  readonly name: string
  readonly root: Issuer
  readonly intermediate: Issuer
}

const rootLifetimeMs = 10 * 365 * 86_400_000
const stateFile = 'state.json'
const ownStateFile = 'own-state.json'

const files = (name: string): Record<'rootCertificate' | 'rootKey' | 'certificate' | 'key', string> => ({
  rootCertificate: `root-${name}.pem`,
  rootKey: `root-${name}.key`,
  certificate: `intermediate-${name}.pem`,
  key: `intermediate-${name}.key`,
})

/** Makes a new root and intermediate in `directory`, which must exist; returns their name. */
export async function createSigner(directory: string, trustDomain: string, nowMs: number): Promise<string> {
  const name = newSerial().slice(0, 8)
  const validity = { notBeforeMs: nowMs - backdateMs, notAfterMs: nowMs + rootLifetimeMs }
  const rootKey = await newKey()
  const root = { key: rootKey, facts: await issueRoot(rootKey, `O=${trustDomain}, CN=Sidestep root ${name}`, validity) }
  const key = await newKey()
  const facts = await issueIntermediate(createPublicKey(key), `O=${trustDomain}, CN=Sidestep intermediate ${name}`, validity, root)
  const at = files(name)
  await createFile(join(directory, at.rootCertificate), certificatePem(root.facts.der))
  await createFile(join(directory, at.rootKey), keyPem(rootKey))
  await createFile(join(directory, at.certificate), certificatePem(facts.der))
  await createFile(join(directory, at.key), keyPem(key))
  return name
}

function keyPem(key: KeyObject): string {
  return key.export({ format: 'pem', type: 'pkcs8' }).toString()
}

/**
 * The state of the CA in `directory`, made anew if the directory is absent or empty. Made beside it and moved into place whole, so
 * that a crash or a second process never leaves or sees half a CA. Throws BAD_CONFIG.
 */
export async function openDirectory(directory: string, trustDomain: string, nowMs: number): Promise<AuthorityState> {
  const names = await listDirectory(directory)
  if (names.length === 0) {
    const made = await createDirectory(directory, trustDomain, nowMs)
    if (made) return made
  }
  return readState(directory, trustDomain)
}

async function listDirectory(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
}

/** Undefined if another process was faster. */
async function createDirectory(directory: string, trustDomain: string, nowMs: number): Promise<AuthorityState | undefined> {
  await makePrivateDirectory(dirname(directory))
  const temporary = await mkdtemp(join(dirname(directory), `.${basename(directory)}-new-`))
  try {
    const root = await createSigner(temporary, trustDomain, nowMs)
    const state: AuthorityState = { version: 1, trustDomain, rotation: { t: 'steady', root }, lastExpiryMs: {}, crlNumber: 0, revoked: [] }
    await writeState(temporary, state)
    await rename(temporary, directory)
    return state
  } catch (error) {
    await rm(temporary, { recursive: true, force: true })
    if (isErrno(error, 'ENOTEMPTY') || isErrno(error, 'EEXIST')) return undefined
    throw error
  }
}

export async function writeState(directory: string, state: AuthorityState): Promise<void> {
  const file = state.rotation.root === ownRoot ? ownStateFile : stateFile
  await writeFileAtomic(join(directory, file), `${JSON.stringify(state, undefined, 2)}\n`)
}

/** The name under which an intermediate that the operator brought goes. */
export const ownRoot = 'own'

/** State beside an intermediate of one's own: what was revoked must survive a restart there too. */
export async function openOwnState(directory: string, trustDomain: string): Promise<AuthorityState> {
  await makePrivateDirectory(directory)
  if ((await listDirectory(directory)).includes(ownStateFile)) return readState(directory, trustDomain, ownStateFile)
  return { version: 1, trustDomain, rotation: { t: 'steady', root: ownRoot }, lastExpiryMs: {}, crlNumber: 0, revoked: [] }
}

async function readState(directory: string, trustDomain: string, file = stateFile): Promise<AuthorityState> {
  let state: AuthorityState
  try {
    state = JSON.parse(await readFile(join(directory, file), 'utf8')) as AuthorityState
  } catch (cause) {
    const names = (await listDirectory(directory)).join(', ')
    const what = isErrno(cause, 'ENOENT') ? `lacks ${file}` : `has a ${file} that cannot be read`
    const message = `the CA directory ${directory} is partly there: it ${what} and has ${names}. Restore it, or move it away for a new CA`
    throw new MeshError('BAD_CONFIG', message, { cause })
  }
  const isUsable = state?.version === 1 && Array.isArray(state.revoked) && typeof state.crlNumber === 'number' &&
    ['steady', 'announcing', 'retiring'].includes(state.rotation?.t) && typeof state.lastExpiryMs === 'object'
  if (!isUsable) throw new MeshError('BAD_CONFIG', `${join(directory, file)} is not of a kind this version reads`)
  if (state.trustDomain !== trustDomain) {
    throw new MeshError('BAD_CONFIG', `the CA in ${directory} is of trust domain ${state.trustDomain}, not ${trustDomain}`)
  }
  return state
}

/** Keys and certificates of each root in force. Throws BAD_CONFIG with the file that is missing or does not fit. */
export async function loadSigners(directory: string, rotation: Rotation): Promise<Map<string, Signer>> {
  const signers = new Map<string, Signer>()
  for (const name of trustedBy(rotation)) {
    const at = files(name)
    const root = await loadIssuer(join(directory, at.rootCertificate), join(directory, at.rootKey))
    const intermediate = await loadIssuer(join(directory, at.certificate), join(directory, at.key))
    if (intermediate.facts.issuer !== root.facts.subject || !intermediate.facts.x509.verify(root.facts.x509.publicKey)) {
      throw new MeshError('BAD_CONFIG', `${join(directory, at.certificate)} is not signed by ${at.rootCertificate}`)
    }
    signers.set(name, { name, root, intermediate })
  }
  return signers
}

async function loadIssuer(certificateFile: string, keyFile: string): Promise<Issuer> {
  const [facts] = await readCertificates(certificateFile)
  await requirePrivate(keyFile).catch((cause: unknown) => {
    throw missing(keyFile, cause)
  })
  return issuerOf(facts, certificateFile, await readKey(keyFile), keyFile)
}

export async function readCertificates(file: string): Promise<[CertificateFacts, ...CertificateFacts[]]> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    throw missing(file, cause)
  })
  try {
    const [first, ...rest] = certificatesOf(text).map(certificateFacts)
    if (first) return [first, ...rest]
  } catch (cause) {
    throw new MeshError('BAD_CONFIG', `${file} has a certificate that cannot be read`, { cause })
  }
  throw new MeshError('BAD_CONFIG', `${file} has no certificate`)
}

export async function readKey(file: string): Promise<KeyObject> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    throw missing(file, cause)
  })
  try {
    return createPrivateKey(text)
  } catch (cause) {
    throw new MeshError('BAD_CONFIG', `${file} has no private key that can be read`, { cause })
  }
}

function missing(file: string, cause: unknown): MeshError {
  if (cause instanceof MeshError) return cause
  return new MeshError('BAD_CONFIG', `the CA file ${file} ${isErrno(cause, 'ENOENT') ? 'is missing' : 'cannot be read'}`, { cause })
}

/** Pairs a CA certificate with its key; throws BAD_CONFIG unless they belong together and may sign. */
export function issuerOf(facts: CertificateFacts, certificateFile: string, key: KeyObject, keyFile: string): Issuer {
  if (!facts.isCa) throw new MeshError('BAD_CONFIG', `${certificateFile} is no CA certificate`)
  if (!hasGoodKey(facts)) throw new MeshError('BAD_CONFIG', `${certificateFile} has a key that is too weak`)
  if (!facts.x509.checkPrivateKey(key)) throw new MeshError('BAD_CONFIG', `${keyFile} is not the key of ${certificateFile}`)
  return { facts, key }
}
