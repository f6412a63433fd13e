// For tests only: certificates as an attacker or a careless operator would make them, each wrong in one chosen way.
import * as x509 from './x509.ts'
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Clock } from '../core/clock.ts'
import { certificateFacts } from './facts.ts'
import { newSerial, signingAlgorithm } from './issue.ts'
import type { Issuer } from './issue.ts'
import { certificatePem } from './pem.ts'

export const day = 86_400_000

export function ecKey(curve = 'P-256'): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: curve }).privateKey
}

export interface Wish {
  readonly subject?: string
  readonly issuer?: { readonly name: string; readonly key: KeyObject }
  readonly key?: KeyObject
  readonly ca?: boolean
  readonly pathLength?: number
  readonly usages?: x509.KeyUsageFlags
  readonly extended?: readonly string[]
  readonly names?: x509.JsonGeneralNames
  readonly notBeforeMs?: number
  readonly notAfterMs?: number
  readonly extensions?: readonly x509.Extension[]
  readonly hash?: string
  readonly serial?: string
}

export interface Made extends Issuer {
  readonly name: string
  readonly der: Buffer
  readonly pem: string
}

/** Exactly what is wished for, without judgement. */
export async function make(wish: Wish): Promise<Made> {
  const key = wish.key ?? ecKey()
  const signer = wish.issuer ?? { name: wish.subject ?? '', key }
  const algorithm = { ...signingAlgorithm(signer.key), ...(wish.hash && { hash: wish.hash }) }
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: wish.serial ?? newSerial(),
    notBefore: new Date(wish.notBeforeMs ?? Date.now() - day),
    notAfter: new Date(wish.notAfterMs ?? Date.now() + day),
    ...(wish.subject && { subject: wish.subject }),
    ...(signer.name && { issuer: signer.name }),
    publicKey: new x509.PublicKey(createPublicKey(key).export({ format: 'der', type: 'spki' })),
    signingKey: signer.key.toCryptoKey(algorithm, false, ['sign']),
    signingAlgorithm: algorithm,
    extensions: [
      ...(wish.ca === undefined ? [] : [new x509.BasicConstraintsExtension(wish.ca, wish.pathLength, true)]),
      ...(wish.usages === undefined ? [] : [new x509.KeyUsagesExtension(wish.usages, true)]),
      ...(wish.extended ? [new x509.ExtendedKeyUsageExtension([...wish.extended])] : []),
      ...(wish.names ? [new x509.SubjectAlternativeNameExtension(wish.names, true)] : []),
      ...(wish.extensions ?? []),
    ],
  })
  const der = Buffer.from(certificate.rawData)
  return { key, name: wish.subject ?? '', der, pem: certificatePem(der), facts: certificateFacts(der) }
}

export function makeRoot(wish: Wish = {}): Promise<Made> {
  return make({ subject: 'CN=Test root', ca: true, usages: x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, ...wish })
}

export function makeIntermediate(issuer: Made, wish: Wish = {}): Promise<Made> {
  return makeRoot({ subject: 'CN=Test intermediate', issuer, ...wish })
}

export const bothUsages = ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']

export function makeLeaf(issuer: Made, wish: Wish = {}): Promise<Made> {
  return make({
    issuer,
    usages: x509.KeyUsageFlags.digitalSignature,
    extended: bothUsages,
    names: [{ type: 'url', value: 'spiffe://cluster.local/ns/shop/sa/frontend' }],
    ...wish,
  })
}

/** A fresh directory of its own and how to remove it. */
export function temporaryDirectory(): { readonly path: string; readonly remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'sidestep-pki-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

/** A clock that stands still until it is told. */
export class FakeClock implements Clock {
  #now: number
  #timers: { readonly at: number; readonly call: () => void }[] = []

  constructor(nowMs: number) {
    this.#now = nowMs
  }

  nowMs(): number {
    return this.#now
  }

  monotonicMs(): number {
    return this.#now
  }

  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#now + Math.max(0, ms), call }
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter((t) => t !== timer)
    }
  }

  /** Moves on and calls what is due, in order, also what that sets going. */
  advance(ms: number): void {
    const end = this.#now + ms
    for (;;) {
      const [first] = this.#timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)
      if (!first) break
      this.#timers = this.#timers.filter((t) => t !== first)
      this.#now = Math.max(this.#now, first.at)
      first.call()
    }
    this.#now = end
  }
}
