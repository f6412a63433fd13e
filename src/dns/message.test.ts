import { decode, encode } from 'dns-packet'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { FrameReader, frameOf } from './frames.ts'
import { readQuery, serverFailure, typeAsked, writeAnswer } from './message.ts'
import type { Answer } from './message.ts'

const query = (name: string): Buffer => encode({ type: 'query', id: 9, flags: 256, questions: [{ type: 'A', name, class: 'IN' }] })

test('a question is read as another reader of DNS reads it', () => {
  fc.assert(fc.property(fc.domain(), fc.constantFrom('A', 'AAAA', 'SRV', 'PTR', 'TXT', 'NAPTR'), fc.nat(65_535), (name, type, id) => {
    const message = encode({ type: 'query', id, questions: [{ type: type as 'A', name, class: 'IN' }] })
    expect(readQuery(message)).toMatchObject({ id, name, type, udpBytes: undefined, isRecursionDesired: false })
    expect(typeAsked(message)).toBe(type)
  }))
})

test('every record that is written is read back by another reader of DNS', () => {
  const name = fc.domain()
  const owner = fc.option(name).map((each) => (each === null ? {} : { owner: each }))
  const record: fc.Arbitrary<Answer> = fc.oneof(
    fc.tuple(owner, fc.ipV4()).map(([o, ip]): Answer => ({ ...o, type: 'A', ttl: 30, ip })),
    fc.tuple(owner, fc.ipV6()).map(([o, ip]): Answer => ({ ...o, type: 'AAAA', ttl: 30, ip })),
    fc.tuple(owner, name, fc.constantFrom('CNAME' as const, 'PTR' as const)).map(([o, target, type]): Answer => ({ ...o, type, ttl: 30, target })),
    fc.tuple(owner, name, fc.nat(65_535)).map(([o, target, port]): Answer => ({ ...o, type: 'SRV', ttl: 30, priority: 1, weight: 2, port, target })),
  )
  fc.assert(fc.property(fc.array(record, { maxLength: 12 }), (records) => {
    const asked = readQuery(query('asked.example'))
    const packet = asked && decode(writeAnswer(asked, records, 'tcp'))
    expect(packet?.answers).toHaveLength(records.length)
    records.forEach((each, index) => {
      expect(packet?.answers?.[index]).toMatchObject({ name: each.owner ?? 'asked.example', type: each.type, ttl: 30 })
      const data = packet?.answers?.[index]
      if (each.type === 'A') expect(data).toMatchObject({ data: each.ip })
      if (each.type === 'CNAME' || each.type === 'PTR') expect(data).toMatchObject({ data: each.target })
      if (each.type === 'SRV') expect(data).toMatchObject({ data: { port: each.port, target: each.target, priority: 1, weight: 2 } })
    })
  }))
})

test('what is not there says so with authority, and how long that may be kept', () => {
  const soa: Answer = { type: 'SOA', owner: 'example', ttl: 5, primary: 'ns.example', contact: 'admin.example', serial: 7, minimumTtl: 5 }
  const asked = readQuery(query('a.example'))
  const packet = asked && decode(writeAnswer(asked, [], 'udp', 'NXDOMAIN', soa))
  expect(packet).toMatchObject({ rcode: 'NXDOMAIN', flag_aa: true, answers: [], authorities: [{ name: 'example', type: 'SOA', ttl: 5, data: { mname: 'ns.example', rname: 'admin.example', serial: 7, minimum: 5 } }] })
  expect(decode(serverFailure(query('a.example'), 'REFUSED'))).toMatchObject({ rcode: 'REFUSED', questions: [{ name: 'a.example' }] })
})

test('a failure answers anything that has a header', () => {
  expect(decode(serverFailure(query('a.example')))).toMatchObject({ id: 9, type: 'response', rcode: 'SERVFAIL', questions: [{ name: 'a.example' }] })
  fc.assert(fc.property(fc.uint8Array({ minLength: 12, maxLength: 100 }), (bytes) => {
    const answer = serverFailure(bytes)
    expect(answer.subarray(0, 2)).toEqual(Buffer.from(bytes.subarray(0, 2)))
    expect([answer.readUInt16BE(2) & 0x800f, answer.readUInt16BE(6)]).toEqual([0x8002, 0])
  }))
})

test('frames come out whole, however the bytes were cut', () => {
  const messages = fc.array(fc.uint8Array({ minLength: 12, maxLength: 300 }), { maxLength: 20 })
  fc.assert(fc.property(messages, fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1 }), (list, cuts) => {
    const stream = Buffer.concat(list.map((message) => frameOf(message)))
    const reader = new FrameReader()
    const read: Buffer[] = []
    for (let at = 0, i = 0; at < stream.length; i++) {
      const size = cuts[i % cuts.length] ?? 1
      read.push(...reader.push(stream.subarray(at, at + size)))
      at += size
    }
    expect(read.map((each) => each.toString('hex'))).toEqual(list.map((each) => Buffer.from(each).toString('hex')))
    expect(reader.isPartial).toBe(false)
  }))
})

test('a frame too short for a message is refused, and nothing else can escape', () => {
  expect(() => new FrameReader().push(Buffer.from([0, 11, 1]))).toThrow(expect.objectContaining({ code: 'BAD_MESSAGE' }))
  fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 100 })), (chunks) => {
    const reader = new FrameReader()
    try {
      for (const chunk of chunks) reader.push(Buffer.from(chunk))
    } catch (error) {
      expect(error).toBeInstanceOf(MeshError)
    }
  }))
})
