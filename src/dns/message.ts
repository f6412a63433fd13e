// DNS messages on the wire (RFC 1035, EDNS of RFC 6891): questions that could be answered here, and their answers. Reads
// nothing else: what is not a plain question of one name goes on as the bytes it came in. Never throws, whatever the bytes.
import { ipToBytes } from '../core/address.ts'

/** Largest answer over UDP to a client that does not say more (RFC 1035 section 4.2.1). */
const plainUdpBytes = 512
/** Largest over UDP at all. Answers stay inside the pod's namespace, so there is no path on which they could be cut. */
const maxUdpBytes = 4_096
const maxTcpBytes = 65_535
/** No question with EDNS options comes near. */
const maxQueryBytes = 4_096
export const headerBytes = 12

const classIn = 1
const typeOpt = 41
const flagResponse = 0x8000
const flagAuthoritative = 0x0400
const flagTruncated = 0x0200
const flagRecursionDesired = 0x0100
const flagRecursionAvailable = 0x0080
const opcodeMask = 0x7800
const dnssecOk = 0x8000
/** Where the name of the question is: a pointer to it is two bytes (RFC 1035 section 4.1.4). */
const questionPointer = 0xc000 | headerBytes

const typeNumbers = {
  A: 1, NS: 2, CNAME: 5, SOA: 6, PTR: 12, MX: 15, TXT: 16, AAAA: 28, SRV: 33, NAPTR: 35, DS: 43, DNSKEY: 48, SVCB: 64, HTTPS: 65, AXFR: 252, ANY: 255,
} as const
/** `other` is every type that has no name here, so that a metric's label has few values. */
export type RecordType = keyof typeof typeNumbers | 'other'
const typeNames: ReadonlyMap<number, RecordType> = new Map(Object.entries(typeNumbers).map(([name, number]) => [number, name as RecordType]))

/** Refresh, retry and expiry of an SOA, in seconds: nobody transfers our zones. */
const zoneTransferTimes = [7200, 1800, 86_400] as const

const rcodes = { NOERROR: 0, FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5 } as const
export type ResponseCode = keyof typeof rcodes

export interface Query {
  readonly id: number
  /** As asked, in the client's own capitals; labels joined with dots, none of which has a dot of its own. */
  readonly name: string
  readonly type: RecordType
  /** The question as it came: name, type, class. */
  readonly question: Uint8Array
  readonly isRecursionDesired: boolean
  /** Largest UDP answer the client takes, in bytes; undefined where it sent no OPT record. */
  readonly udpBytes: number | undefined
  readonly isDnssecOk: boolean
}

/** One record of an answer. `owner` is absent where it is the name that was asked for. */
export type Answer = { readonly owner?: string; readonly ttl: number } & (
  | { readonly type: 'A' | 'AAAA'; readonly ip: string }
  | { readonly type: 'CNAME' | 'PTR'; readonly target: string }
  | { readonly type: 'SRV'; readonly priority: number; readonly weight: number; readonly port: number; readonly target: string }
  /** Seconds, as RFC 1035 section 3.3.13 has them; `minimumTtl` is how long a client may keep that something is not there. */
  | { readonly type: 'SOA'; readonly primary: string; readonly contact: string; readonly serial: number; readonly minimumTtl: number }
)

interface Question {
  readonly name: string
  readonly type: RecordType
  readonly isInternet: boolean
  readonly end: number
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

function readQuestion(message: Uint8Array): Question | undefined {
  const labels: string[] = []
  let at = headerBytes
  for (;;) {
    const length = message[at]
    // A pointer has nothing before the first name that it could point to.
    if (length === undefined || length > 63 || at - headerBytes > 253) return undefined
    at++
    if (length === 0) break
    const label = Buffer.from(message.buffer, message.byteOffset + at, Math.min(length, message.length - at)).toString('latin1')
    if (label.length < length || label.includes('.')) return undefined
    labels.push(label)
    at += length
  }
  if (at + 4 > message.length) return undefined
  const words = view(message)
  return { name: labels.join('.'), type: typeNames.get(words.getUint16(at)) ?? 'other', isInternet: words.getUint16(at + 2) === classIn, end: at + 4 }
}

/** A question that could be answered here: one question, class IN, opcode QUERY, at most EDNS 0 behind it. Undefined for all else. */
export function readQuery(message: Uint8Array): Query | undefined {
  if (message.length < headerBytes || message.length > maxQueryBytes) return undefined
  const words = view(message)
  const flags = words.getUint16(2)
  const [questions, answers, authorities, additionals] = [4, 6, 8, 10].map((at) => words.getUint16(at))
  if ((flags & (flagResponse | opcodeMask | flagTruncated)) !== 0 || questions !== 1 || answers !== 0 || authorities !== 0) return undefined
  const question = readQuestion(message)
  if (!question?.isInternet) return undefined
  const query = {
    id: words.getUint16(0),
    name: question.name,
    type: question.type,
    question: message.subarray(headerBytes, question.end),
    isRecursionDesired: (flags & flagRecursionDesired) !== 0,
  }
  if (additionals === 0) return question.end === message.length ? { ...query, udpBytes: undefined, isDnssecOk: false } : undefined
  // The OPT record and nothing behind it: root name, type, UDP size, extended code, version, flags, options.
  const at = question.end
  if (additionals !== 1 || at + 11 > message.length || message[at] !== 0 || words.getUint16(at + 1) !== typeOpt) return undefined
  if (message[at + 6] !== 0 || at + 11 + words.getUint16(at + 9) !== message.length) return undefined
  return { ...query, udpBytes: words.getUint16(at + 3), isDnssecOk: (words.getUint16(at + 7) & dnssecOk) !== 0 }
}

/** What a message asks about, for a metric; `other` where that cannot be told. */
export function typeAsked(message: Uint8Array): RecordType {
  return (message.length >= headerBytes && readQuestion(message)?.type) || 'other'
}

/** How many records an answer can have at most: no name and no address is shorter than a pointer and four bytes. */
export function mostRecords(query: Query, transport: 'udp' | 'tcp'): number {
  return Math.floor(limitOf(query, transport) / 16)
}

function limitOf(query: Query, transport: 'udp' | 'tcp'): number {
  return transport === 'tcp' ? maxTcpBytes : Math.max(plainUdpBytes, Math.min(query.udpBytes ?? plainUdpBytes, maxUdpBytes))
}

/**
 * The answer's bytes. Over UDP it has as many records as the client takes, with TC set where some are left out, so that it
 * asks again over TCP; resolvers that cannot (musl before 1.2.4) use what is there. `authority` goes to the authority section if
 * there is room.
 */
export function writeAnswer(query: Query, answers: readonly Answer[], transport: 'udp' | 'tcp', rcode: ResponseCode = 'NOERROR', authority?: Answer): Buffer {
  const writer = new AnswerWriter(limitOf(query, transport), query)
  const written = answers.findIndex((answer) => !writer.add(answer))
  const isCut = written >= 0 && transport === 'udp'
  if (authority) writer.add(authority, 'authority')
  const recursion = query.isRecursionDesired ? flagRecursionDesired : 0
  // A failure is nobody's authoritative word.
  const isAuthoritative = rcode === 'NOERROR' || rcode === 'NXDOMAIN' ? flagAuthoritative : 0
  return writer.finish(flagResponse | isAuthoritative | recursion | flagRecursionAvailable | (isCut ? flagTruncated : 0) | rcodes[rcode])
}

/** SERVFAIL, or what `rcode` says, for any message that has a header; its question comes back if it has exactly one that can be read. */
export function serverFailure(message: Uint8Array, rcode: ResponseCode = 'SERVFAIL'): Buffer {
  const words = view(message)
  const question = words.getUint16(4) === 1 ? readQuestion(message) : undefined
  const answer = Buffer.alloc(question?.end ?? headerBytes)
  answer.set(message.subarray(0, answer.length))
  answer.fill(0, 6, headerBytes)
  answer.writeUInt16BE(flagResponse | (words.getUint16(2) & (opcodeMask | flagRecursionDesired)) | flagRecursionAvailable | rcodes[rcode], 2)
  answer.writeUInt16BE(question ? 1 : 0, 4)
  return answer
}

class AnswerWriter {
  readonly #buffer: Buffer
  readonly #query: Query
  readonly #names = new Map<string, number>()
  readonly #end: number
  #at: number
  readonly #counts = { answer: 0, authority: 0 }

  constructor(limit: number, query: Query) {
    this.#buffer = Buffer.allocUnsafe(limit)
    this.#query = query
    this.#end = limit - (query.udpBytes === undefined ? 0 : 11)
    this.#buffer.set(query.question, headerBytes)
    this.#at = headerBytes + query.question.length
  }

  /** False, and nothing changed, where the record does not fit. */
  add(answer: Answer, section: 'answer' | 'authority' = 'answer'): boolean {
    const start = this.#at
    const data = dataOf(answer)
    const owner = answer.owner === undefined ? undefined : this.#names.get(answer.owner)
    const name = answer.owner === undefined || owner !== undefined ? pointer(owner) : nameBytes(answer.owner)
    if (!data || !name || start + name.length + 10 + data.length > this.#end) return false
    this.#buffer.set(name, start)
    let at = start + name.length
    at = this.#buffer.writeUInt16BE(typeNumbers[answer.type], at)
    at = this.#buffer.writeUInt16BE(classIn, at)
    at = this.#buffer.writeUInt32BE(answer.ttl, at)
    at = this.#buffer.writeUInt16BE(data.length, at)
    this.#buffer.set(data, at)
    this.#at = at + data.length
    // A pointer has 14 bits.
    if (answer.owner !== undefined && owner === undefined && start < 0x4000) this.#names.set(answer.owner, start)
    this.#counts[section]++
    return true
  }

  finish(flags: number): Buffer {
    const buffer = this.#buffer
    const { id, udpBytes, isDnssecOk } = this.#query
    buffer.writeUInt16BE(id, 0)
    buffer.writeUInt16BE(flags, 2)
    buffer.writeUInt16BE(1, 4)
    buffer.writeUInt16BE(this.#counts.answer, 6)
    buffer.writeUInt16BE(this.#counts.authority, 8)
    buffer.writeUInt16BE(udpBytes === undefined ? 0 : 1, 10)
    if (udpBytes === undefined) return buffer.subarray(0, this.#at)
    let at = buffer.writeUInt8(0, this.#at)
    at = buffer.writeUInt16BE(typeOpt, at)
    at = buffer.writeUInt16BE(maxUdpBytes, at)
    // Extended code and version 0; DO comes back as it was (RFC 3225 section 3).
    at = buffer.writeUInt32BE(isDnssecOk ? dnssecOk : 0, at)
    at = buffer.writeUInt16BE(0, at)
    return buffer.subarray(0, at)
  }
}

function pointer(at: number | undefined): Uint8Array {
  const target = at === undefined ? questionPointer : 0xc000 | at
  return Uint8Array.of(target >> 8, target & 0xff)
}

/** Undefined for what is no name. */
function nameBytes(name: string): Buffer | undefined {
  const labels = name.split('.')
  const bytes = Buffer.alloc(name.length + 2)
  if (bytes.length > 255) return undefined
  let at = 0
  for (const label of labels) {
    if (label.length === 0 || label.length > 63) return undefined
    at = bytes.writeUInt8(label.length, at)
    at += bytes.write(label, at, 'latin1')
  }
  return bytes
}

function dataOf(answer: Answer): Uint8Array | undefined {
  switch (answer.type) {
    case 'A':
      return ipToBytes(answer.ip)?.subarray(12)
    case 'AAAA':
      return ipToBytes(answer.ip)
    case 'CNAME':
    case 'PTR':
      return nameBytes(answer.target)
    case 'SRV': {
      // The target is not compressed: RFC 2782.
      const target = nameBytes(answer.target)
      if (!target) return undefined
      const head = Buffer.alloc(6)
      head.writeUInt16BE(answer.priority, 0)
      head.writeUInt16BE(answer.weight, 2)
      head.writeUInt16BE(answer.port, 4)
      return Buffer.concat([head, target])
    }
    case 'SOA': {
      const [primary, contact] = [nameBytes(answer.primary), nameBytes(answer.contact)]
      if (!primary || !contact) return undefined
      const times = Buffer.alloc(20)
      for (const [index, value] of [answer.serial, ...zoneTransferTimes, answer.minimumTtl].entries()) times.writeUInt32BE(value, index * 4)
      return Buffer.concat([primary, contact, times])
    }
  }
}
