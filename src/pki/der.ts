// A reader for DER (X.690): exactly what certificates and CRLs need, with positions kept, because signatures and issuer names
// are compared as the bytes that were sent. It exists beside @peculiar/x509 because that neither hands out those bytes nor reads a
// CRL of more than a few thousand entries, and beside node:crypto because that hides path lengths and critical flags. It never
// reads outside its input, never recurses, and accepts definite lengths only. Everything throws BAD_MESSAGE.
import { MeshError } from '../core/errors.ts'

export interface Der {
  readonly tag: number
  /** The whole element with its header. */
  readonly raw: Buffer
  readonly body: Buffer
}

export const tags = {
  boolean: 0x01, integer: 0x02, bitString: 0x03, octetString: 0x04, oid: 0x06, enumerated: 0x0a,
  utcTime: 0x17, generalizedTime: 0x18, sequence: 0x30, set: 0x31,
} as const

/** Certificates and CRLs nest few levels; a million elements in one list is a large CRL. */
const maxChildren = 1_000_000

export function badDer(what: string): MeshError {
  return new MeshError('BAD_MESSAGE', `not DER: ${what}`)
}

function elementAt(bytes: Buffer, offset: number): Der {
  const tag = bytes[offset]
  const first = bytes[offset + 1]
  if (tag === undefined || first === undefined) throw badDer('cut off')
  if ((tag & 0x1f) === 0x1f) throw badDer('long tag')
  let length = first
  let start = offset + 2
  if (first >= 0x80) {
    const size = first & 0x7f
    if (size === 0 || size > 4) throw badDer('length form')
    if (start + size > bytes.length) throw badDer('cut off')
    length = bytes.readUIntBE(start, size)
    if (length < 0x80 || (size > 1 && bytes[start] === 0)) throw badDer('length not minimal')
    start += size
  }
  const end = start + length
  if (end > bytes.length) throw badDer('cut off')
  return { tag, raw: bytes.subarray(offset, end), body: bytes.subarray(start, end) }
}

/** The one element that fills `bytes`. */
export function readDer(bytes: Uint8Array, tag?: number): Der {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const element = elementAt(buffer, 0)
  if (element.raw.length !== buffer.length) throw badDer('bytes after the end')
  return tag === undefined ? element : expectTag(element, tag)
}

/** The elements inside a constructed element. */
export function children(parent: Der): Der[] {
  if ((parent.tag & 0x20) === 0) throw badDer('no elements inside a primitive')
  const list: Der[] = []
  for (let offset = 0; offset < parent.body.length;) {
    if (list.length === maxChildren) throw badDer('too many elements')
    const element = elementAt(parent.body, offset)
    list.push(element)
    offset += element.raw.length
  }
  return list
}

export function expectTag(element: Der | undefined, tag: number): Der {
  if (element?.tag !== tag) throw badDer(`expected tag ${tag}, found ${element?.tag ?? 'nothing'}`)
  return element
}

export function readBoolean(element: Der): boolean {
  const { body } = expectTag(element, tags.boolean)
  if (body.length !== 1) throw badDer('boolean')
  return body[0] !== 0
}

/** Lower-case hex without leading zero bytes, as serial numbers are compared; negative numbers are refused. */
export function readIntegerHex(element: Der | undefined): string {
  const { body } = expectTag(element, tags.integer)
  if (body.length === 0) throw badDer('empty integer')
  if ((body[0] ?? 0) >= 0x80) throw badDer('negative integer')
  return normalSerial(body.toString('hex'))
}

/** A small number, for versions, path lengths and reasons. */
export function readSmallInteger(element: Der | undefined): number {
  const hex = readIntegerHex(element)
  if (hex.length > 8) throw badDer('integer too large')
  return Number.parseInt(hex, 16)
}

/** Two spellings of one serial number become one: lower case, whole bytes, no leading zero byte. */
export function normalSerial(hex: string): string {
  const digits = hex.toLowerCase().replace(/[^0-9a-f]/g, '').replace(/^0+/, '')
  if (digits === '') return '00'
  return digits.length % 2 === 0 ? digits : `0${digits}`
}

export function readOid(element: Der | undefined): string {
  const { body } = expectTag(element, tags.oid)
  if (body.length === 0 || body.length > 64) throw badDer('object identifier')
  const parts: number[] = []
  let value = 0
  for (const byte of body) {
    value = value * 128 + (byte & 0x7f)
    if (value > Number.MAX_SAFE_INTEGER / 256) throw badDer('object identifier')
    if (byte < 0x80) {
      parts.push(value)
      value = 0
    }
  }
  if ((body.at(-1) ?? 0) >= 0x80) throw badDer('object identifier')
  const first = parts[0] ?? 0
  const root = Math.min(2, Math.floor(first / 40))
  return [root, first - root * 40, ...parts.slice(1)].join('.')
}

/** Bytes of a bit string that is a whole number of bytes, as signatures are. */
export function readBitString(element: Der | undefined): Buffer {
  const { body } = expectTag(element, tags.bitString)
  if (body[0] !== 0) throw badDer('bit string')
  return body.subarray(1)
}

/** Named bits, first bit first, as key usage has them. */
export function readBits(element: Der | undefined): boolean[] {
  const { body } = expectTag(element, tags.bitString)
  const unused = body[0]
  if (unused === undefined || unused > 7 || body.length > 5) throw badDer('bit string')
  const count = (body.length - 1) * 8 - unused
  return Array.from({ length: Math.max(0, count) }, (_, i) => (((body[1 + (i >> 3)] ?? 0) >> (7 - (i & 7))) & 1) === 1)
}

const utc = /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/
const generalized = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/

/** Milliseconds since 1970, of the two forms RFC 5280 allows. */
export function readTime(element: Der | undefined): number {
  const text = element?.body.toString('latin1') ?? ''
  const parts = element?.tag === tags.utcTime ? utc.exec(text) : element?.tag === tags.generalizedTime ? generalized.exec(text) : null
  if (!parts) throw badDer('time')
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = parts.slice(1).map(Number)
  const full = element?.tag === tags.utcTime ? (year < 50 ? 2000 + year : 1900 + year) : year
  // Date.UTC takes years below 100 for 19xx; no certificate is that old.
  if (full < 1950 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 59) throw badDer('time')
  return Date.UTC(full, month - 1, day, hour, minute, second)
}
