// Making CRLs. Encoded here rather than by @peculiar/x509, whose generator compares each entry with all before it: a minute of
// standing still for 20,000 entries. The issuer's name is copied byte by byte.
import { sign } from 'node:crypto'
import { normalSerial, tags } from './der.ts'
import { signingAlgorithm } from './issue.ts'
import type { Issuer } from './issue.ts'

export interface Revoked {
  /** Hex. */
  readonly serial: string
  readonly revokedMs: number
}

export interface CrlTimes {
  readonly thisUpdateMs: number
  readonly nextUpdateMs: number
  /** Must grow from list to list. */
  readonly number: number
}

/** A full CRL of one issuer, DER. */
export function issueCrl(issuer: Issuer, revoked: readonly Revoked[], times: CrlTimes): Buffer {
  const { name, hash } = signingAlgorithm(issuer.key)
  const algorithm = name === 'ECDSA'
    ? sequence(encode(tags.oid, Buffer.from(hash === 'SHA-256' ? '2a8648ce3d040302' : '2a8648ce3d040303', 'hex')))
    : sequence(encode(tags.oid, Buffer.from('2a864886f70d01010b', 'hex')), Buffer.from([0x05, 0x00]))
  const entries = revoked.map(({ serial, revokedMs }) => sequence(integer(serial), time(revokedMs)))
  const tbs = sequence(
    integer('01'),
    algorithm,
    Buffer.from(issuer.facts.subject, 'hex'),
    time(times.thisUpdateMs),
    time(times.nextUpdateMs),
    ...(entries.length > 0 ? [sequence(...entries)] : []),
    encode(0xa0, sequence(...extensions(issuer.facts.subjectKeyId, times.number))),
  )
  const signature = sign(hash.replace('-', '').toLowerCase(), tbs, issuer.key)
  return sequence(tbs, algorithm, encode(tags.bitString, Buffer.from([0]), signature))
}

function extensions(keyId: string | undefined, number: number): Buffer[] {
  const extension = (id: number, value: Buffer): Buffer =>
    sequence(encode(tags.oid, Buffer.from([0x55, 0x1d, id])), encode(tags.octetString, value))
  return [
    ...(keyId === undefined ? [] : [extension(35, sequence(encode(0x80, Buffer.from(keyId, 'hex'))))]),
    extension(20, integer(number.toString(16))),
  ]
}

function encode(tag: number, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  if (body.length < 0x80) return Buffer.concat([Buffer.from([tag, body.length]), body])
  const length = Buffer.from(normalSerial(body.length.toString(16)), 'hex')
  return Buffer.concat([Buffer.from([tag, 0x80 | length.length]), length, body])
}

function sequence(...parts: readonly Buffer[]): Buffer {
  return encode(tags.sequence, ...parts)
}

/** A positive integer of hex digits, with a zero byte before a set high bit. */
function integer(hex: string): Buffer {
  const bytes = Buffer.from(normalSerial(hex), 'hex')
  return (bytes[0] ?? 0) >= 0x80 ? encode(tags.integer, Buffer.from([0]), bytes) : encode(tags.integer, bytes)
}

/** UTCTime until 2049, GeneralizedTime after (RFC 5280, 5.1.2.4). */
function time(ms: number): Buffer {
  const digits = `${new Date(ms).toISOString().replace(/\.\d+Z$/, '').replace(/\D/g, '')}Z`
  return digits < '2050' ? encode(tags.utcTime, Buffer.from(digits.slice(2))) : encode(tags.generalizedTime, Buffer.from(digits))
}
