// DNS messages on the wire (RFC 1035, EDNS of RFC 6891), through dns-packet, bounded and never throwing: what does not parse
// is undefined. Only what the resolver answers is ever encoded; everything else is passed on as the bytes it came in.
import { AUTHORITATIVE_ANSWER, RECURSION_AVAILABLE, RECURSION_DESIRED, TRUNCATED_RESPONSE, decode, encode } from 'dns-packet'
import type { Answer, Packet } from 'dns-packet'

/** Largest answer over UDP to a client that does not say more (RFC 1035 section 4.2.1), and that we send at all. */
const plainUdpBytes = 512
/** What crosses every path unfragmented (DNS flag day 2020). */
const maxUdpBytes = 1_232
const maxQueryBytes = 4_096

export type RecordType = 'A' | 'AAAA' | 'SRV' | 'PTR'

export interface Query {
  readonly id: number
  /** As asked, in the client's own capitals. */
  readonly name: string
  readonly type: string
  readonly isRecursionDesired: boolean
  /** Largest UDP answer the client takes, in bytes; undefined where it sent no OPT record. */
  readonly udpBytes: number | undefined
}

export type { Answer } from 'dns-packet'

/** A question that could be answered here: one question, class IN, opcode QUERY. Undefined for everything else. */
export function readQuery(message: Uint8Array): Query | undefined {
  if (message.length < 12 || message.length > maxQueryBytes) return undefined
  let packet: Packet & { opcode?: string }
  try {
    packet = decode(Buffer.from(message.buffer, message.byteOffset, message.byteLength))
  } catch {
    return undefined // not ours to judge: the server that was asked will
  }
  const [question, ...more] = packet.questions ?? []
  if (packet.type !== 'query' || packet.opcode !== 'QUERY' || !question || more.length > 0 || (question.class ?? 'IN') !== 'IN') return undefined
  if ((packet.answers?.length ?? 0) > 0 || (packet.authorities?.length ?? 0) > 0) return undefined
  const opt = packet.additionals?.find((record) => record.type === 'OPT')
  return {
    id: packet.id ?? 0,
    name: question.name,
    type: question.type,
    isRecursionDesired: ((packet.flags ?? 0) & RECURSION_DESIRED) !== 0,
    udpBytes: opt && 'udpPayloadSize' in opt ? opt.udpPayloadSize : undefined,
  }
}

/** The answer's bytes. Over UDP it is cut to what the client takes, with TC set, so that it asks again over TCP. */
export function writeAnswer(query: Query, answers: readonly Answer[], transport: 'udp' | 'tcp'): Buffer {
  const limit = transport === 'tcp' ? 65_535 : Math.max(plainUdpBytes, Math.min(query.udpBytes ?? plainUdpBytes, maxUdpBytes))
  const whole = encodeAnswer(query, answers, 0)
  return whole.length <= limit ? whole : encodeAnswer(query, [], TRUNCATED_RESPONSE)
}

function encodeAnswer(query: Query, answers: readonly Answer[], moreFlags: number): Buffer {
  return encode({
    type: 'response',
    id: query.id,
    flags: AUTHORITATIVE_ANSWER | RECURSION_AVAILABLE | (query.isRecursionDesired ? RECURSION_DESIRED : 0) | moreFlags,
    questions: [{ type: query.type as RecordType, name: query.name, class: 'IN' }],
    answers: [...answers],
    ...(query.udpBytes === undefined
      ? {}
      : { additionals: [{ type: 'OPT', name: '.', udpPayloadSize: maxUdpBytes, extendedRcode: 0, ednsVersion: 0, flags: 0, flag_do: false, options: [] }] }),
  })
}
