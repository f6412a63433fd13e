// The CA's directory: keys and certificates of each root with its intermediate, and state.json, which says what is in force. Never
// overwrites a key or certificate. A directory that lacks something is an error that names it, because a CA made anew over a broken
// one would cut off every node that trusts the old root. The same files may be kept elsewhere, by an AuthorityStore.
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

/** Where the files of a CA are kept. */
export interface AuthorityStore {
  /** As it is now; made anew if there is nothing at all, and nothing was there before. Throws BAD_CONFIG. */
  open(trustDomain: string, nowMs: number): Promise<AuthorityState>
  /** As it is now, beside an intermediate of one's own; nothing at all is a state without revocations. Throws BAD_CONFIG. */
  openOwn(trustDomain: string): Promise<AuthorityState>
  /** Of each root in force. Throws BAD_CONFIG with what is missing or does not fit. */
  signers(rotation: Rotation): Promise<Map<string, Signer>>
  /** Makes a new root and intermediate, and returns their name; a state that names them must be saved next. */
  createSigner(trustDomain: string, nowMs: number): Promise<string>
  /** False if somebody else changed the state since it was opened or saved last: then nothing is saved. */
  save(state: AuthorityState): Promise<boolean>
}

/** A directory that is one process's alone. */
export function directoryStore(directory: string): AuthorityStore {
  return {
    open: (trustDomain, nowMs) => openDirectory(directory, trustDomain, nowMs),
    openOwn: (trustDomain) => openOwnState(directory, trustDomain),
    signers: (rotation) => loadSigners(directory, rotation),
    createSigner: (trustDomain, nowMs) => createSigner(directory, trustDomain, nowMs),
    save: async (state) => {
      await writeState(directory, state)
      return true
    },
  }
}

const rootLifetimeMs = 10 * 365 * 86_400_000
export const stateFile = 'state.json'
export const ownStateFile = 'own-state.json'

/** Names of the files of a root. */
export const signerFiles = (name: string): Record<'rootCertificate' | 'rootKey' | 'certificate' | 'key', string> => ({
  rootCertificate: `root-${name}.pem`,
  rootKey: `root-${name}.key`,
  certificate: `intermediate-${name}.pem`,
  key: `intermediate-${name}.key`,
})

/** Makes a new root and intermediate in `directory`, which must exist; returns their name. */
export async function createSigner(directory: string, trustDomain: string, nowMs: number): Promise<string> {
  const { name, files } = await newSigner(trustDomain, nowMs)
  for (const [file, text] of files) await createFile(join(directory, file), text)
  return name
}

/** A new root and intermediate, as the files that they are kept in. */
export async function newSigner(trustDomain: string, nowMs: number): Promise<{ readonly name: string; readonly files: ReadonlyMap<string, string> }> {
  const name = newSerial().slice(0, 8)
  const validity = { notBeforeMs: nowMs - backdateMs, notAfterMs: nowMs + rootLifetimeMs }
  const rootKey = await newKey()
  const root = { key: rootKey, facts: await issueRoot(rootKey, `O=${trustDomain}, CN=Sidestep root ${name}`, validity) }
  const key = await newKey()
  const facts = await issueIntermediate(createPublicKey(key), `O=${trustDomain}, CN=Sidestep intermediate ${name}`, validity, root)
  const at = signerFiles(name)
  const files = new Map([
    [at.rootCertificate, certificatePem(root.facts.der)], [at.rootKey, keyPem(rootKey)], [at.certificate, certificatePem(facts.der)], [at.key, keyPem(key)],
  ])
  return { name, files }
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
    const state = firstState(trustDomain, await createSigner(temporary, trustDomain, nowMs))
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
  const { file, text } = stateText(state)
  await writeFileAtomic(join(directory, file), text)
}

/** What a state is kept as. */
export function stateText(state: AuthorityState): { readonly file: string; readonly text: string } {
  return { file: state.rotation.root === ownRoot ? ownStateFile : stateFile, text: `${JSON.stringify(state, undefined, 2)}\n` }
}

export function firstState(trustDomain: string, root: string): AuthorityState {
  return { version: 1, trustDomain, rotation: { t: 'steady', root }, lastExpiryMs: {}, crlNumber: 0, revoked: [] }
}

/** The name under which an intermediate that the operator brought goes. */
export const ownRoot = 'own'

/** State beside an intermediate of one's own: what was revoked must survive a restart there too. */
export async function openOwnState(directory: string, trustDomain: string): Promise<AuthorityState> {
  await makePrivateDirectory(directory)
  if ((await listDirectory(directory)).includes(ownStateFile)) return readState(directory, trustDomain, ownStateFile)
  return firstState(trustDomain, ownRoot)
}

async function readState(directory: string, trustDomain: string, file = stateFile): Promise<AuthorityState> {
  let text: string | undefined
  try {
    text = await readFile(join(directory, file), 'utf8')
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error
  }
  return stateOf(text, `the CA directory ${directory}`, file, await listDirectory(directory), trustDomain)
}

/** `where` the files are, with these names beside it, for messages. Throws BAD_CONFIG. */
export function stateOf(text: string | undefined, where: string, file: string, names: readonly string[], trustDomain: string): AuthorityState {
  let state: AuthorityState
  try {
    if (text === undefined) throw new MeshError('NOT_FOUND', `there is no ${file}`)
    state = JSON.parse(text) as AuthorityState
  } catch (cause) {
    const what = text === undefined ? `lacks ${file}` : `has a ${file} that cannot be read`
    const message = `${where} is partly there: it ${what} and has ${names.join(', ')}. Restore it, or move it away for a new CA`
    throw new MeshError('BAD_CONFIG', message, { cause })
  }
  const isUsable = state?.version === 1 && Array.isArray(state.revoked) && typeof state.crlNumber === 'number' &&
    ['steady', 'announcing', 'retiring'].includes(state.rotation?.t) && typeof state.lastExpiryMs === 'object'
  if (!isUsable) throw new MeshError('BAD_CONFIG', `${file} in ${where} is not of a kind this version reads`)
  if (state.trustDomain !== trustDomain) {
    throw new MeshError('BAD_CONFIG', `the CA in ${where.replace(/^the CA directory /, '')} is of trust domain ${state.trustDomain}, not ${trustDomain}`)
  }
  return state
}

/** Keys and certificates of each root in force. Throws BAD_CONFIG with the file that is missing or does not fit. */
export async function loadSigners(directory: string, rotation: Rotation): Promise<Map<string, Signer>> {
  return signersOf(rotation, {
    nameOf: (file) => join(directory, file),
    certificate: (file) => readText(join(directory, file)),
    key: async (file) => {
      await requirePrivate(join(directory, file)).catch((cause: unknown) => {
        throw missing(join(directory, file), cause)
      })
      return readText(join(directory, file))
    },
  })
}

/** How files of a CA are read. */
export interface SignerReader {
  /** For messages. */
  nameOf(file: string): string
  /** Throw BAD_CONFIG for what is not there. */
  certificate(file: string): Promise<string>
  key(file: string): Promise<string>
}

export async function signersOf(rotation: Rotation, reader: SignerReader): Promise<Map<string, Signer>> {
  const signers = new Map<string, Signer>()
  for (const name of trustedBy(rotation)) {
    const at = signerFiles(name)
    const root = await loadIssuer(reader, at.rootCertificate, at.rootKey)
    const intermediate = await loadIssuer(reader, at.certificate, at.key)
    if (intermediate.facts.issuer !== root.facts.subject || !intermediate.facts.x509.verify(root.facts.x509.publicKey)) {
      throw new MeshError('BAD_CONFIG', `${reader.nameOf(at.certificate)} is not signed by ${at.rootCertificate}`)
    }
    signers.set(name, { name, root, intermediate })
  }
  return signers
}

async function loadIssuer(reader: SignerReader, certificateFile: string, keyFile: string): Promise<Issuer> {
  const [certificateName, keyName] = [reader.nameOf(certificateFile), reader.nameOf(keyFile)]
  const [facts] = certificatesIn(await reader.certificate(certificateFile), certificateName)
  return issuerOf(facts, certificateName, keyIn(await reader.key(keyFile), keyName), keyName)
}

function readText(file: string): Promise<string> {
  return readFile(file, 'utf8').catch((cause: unknown) => {
    throw missing(file, cause)
  })
}

export async function readCertificates(file: string): Promise<[CertificateFacts, ...CertificateFacts[]]> {
  return certificatesIn(await readText(file), file)
}

function certificatesIn(text: string, file: string): [CertificateFacts, ...CertificateFacts[]] {
  try {
    const [first, ...rest] = certificatesOf(text).map(certificateFacts)
    if (first) return [first, ...rest]
  } catch (cause) {
    throw new MeshError('BAD_CONFIG', `${file} has a certificate that cannot be read`, { cause })
  }
  throw new MeshError('BAD_CONFIG', `${file} has no certificate`)
}

export async function readKey(file: string): Promise<KeyObject> {
  return keyIn(await readText(file), file)
}

function keyIn(text: string, file: string): KeyObject {
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
