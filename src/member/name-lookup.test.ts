// Against a name server on loopback that counts what it is asked.
import { createSocket } from 'node:dgram'
import type { Socket } from 'node:dgram'
import { once } from 'node:events'
import dnsPacket from 'dns-packet'
import type { Packet } from 'dns-packet'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Clock } from '../core/clock.ts'
import { systemClock } from '../core/clock.ts'
import { NameLookup } from './name-lookup.ts'
import type { NameLookupOptions } from './name-lookup.ts'

type Answer = readonly [ttl: number, ...addresses: string[]] | 'silence' | 'failure' | Buffer

let server: Socket
let questions: string[]
let answers: Record<string, Answer>
let nowMs: number
const clock: Clock = { ...systemClock, monotonicMs: () => nowMs }

beforeEach(async () => {
  [questions, answers, nowMs] = [[], {}, 1_000_000]
  server = createSocket('udp4', (message, from) => {
    const query = dnsPacket.decode(message)
    const question = query.questions?.[0]
    if (!question) return
    questions.push(`${question.type} ${question.name}`)
    const answer = answers[`${question.type} ${question.name.toLowerCase()}`] ?? answers[question.name]
    if (answer === 'silence') return
    if (Buffer.isBuffer(answer)) return server.send(answer, from.port)
    const [ttl, ...addresses] = answer === undefined || answer === 'failure' ? [0] : answer
    const rcode = answer === 'failure' ? 2 : answer === undefined ? 3 : 0
    const reply: Packet = {
      type: 'response', id: query.id ?? 0, flags: 0x0180 | rcode, questions: query.questions ?? [],
      answers: addresses.map((data) => ({ type: question.type === 'AAAA' ? 'AAAA' : 'A', name: question.name, ttl, data })),
    }
    server.send(dnsPacket.encode(reply), from.port)
  })
  server.bind(0, '127.0.0.1')
  await once(server, 'listening')
})
afterEach(() => void server.close())

const names = (options: NameLookupOptions = {}): NameLookup =>
  new NameLookup({ clock, servers: [`127.0.0.1:${server.address().port}`], timeoutMs: 100, random: () => 0, ...options })

test('the family that is preferred, or the other where there is none', async () => {
  Object.assign(answers, { 'A both.example': [60, '192.0.2.1'], 'AAAA both.example': [60, '2001:db8::1'], 'A four.example': [60, '192.0.2.4'] })
  const lookup = names()
  expect(await lookup.lookup('both.example', false)).toBe('192.0.2.1')
  expect(await lookup.lookup('Both.Example', true)).toBe('2001:db8::1')
  expect(await lookup.lookup('four.example', true)).toBe('192.0.2.4')
  expect(await lookup.lookup('192.0.2.9', true)).toBe('192.0.2.9')
})

test('an answer is kept as long as it says, and one question serves all who ask meanwhile', async () => {
  answers['A web.example'] = [30, '192.0.2.1', '192.0.2.2']
  const lookup = names()
  await Promise.all(Array.from({ length: 50 }, () => lookup.lookup('web.example', false)))
  expect(questions.toSorted()).toEqual(['A web.example', 'AAAA web.example'])
  nowMs += 29_999
  answers['A web.example'] = [86_400, '192.0.2.3']
  expect(await lookup.lookup('web.example', false)).toBe('192.0.2.1')
  nowMs += 2
  expect(await lookup.lookup('web.example', false)).toBe('192.0.2.3')
  // Not for a day.
  nowMs += 300_001
  answers['A web.example'] = [0, '192.0.2.4']
  expect(await lookup.lookup('web.example', false)).toBe('192.0.2.4')
})

test('all addresses, IPv4 first, while one family is silent too', async () => {
  Object.assign(answers, { 'A both.example': [60, '192.0.2.1', '192.0.2.2'], 'AAAA both.example': [60, '2001:db8::1'], 'A half.example': [60, '192.0.2.4'], 'AAAA half.example': 'failure' })
  expect(await names().all('both.example')).toEqual(['192.0.2.1', '192.0.2.2', '2001:db8::1'])
  expect(await names({ random: () => 0.99 }).all('both.example')).toEqual(['192.0.2.2', '192.0.2.1', '2001:db8::1'])
  expect([await names().all('half.example'), await names().all('192.0.2.9')]).toEqual([['192.0.2.4'], ['192.0.2.9']])
  await expect(names().all('nobody.example')).rejects.toMatchObject({ code: 'CONNECT_UNREACHABLE', detail: { because: 'nameNotFound' } })
})

test('addresses take turns by chance', async () => {
  answers['A web.example'] = [30, '192.0.2.1', '192.0.2.2']
  expect(await names({ random: () => 0.99 }).lookup('web.example', false)).toBe('192.0.2.2')
})

test('a name that does not exist is asked for now and then', async () => {
  const lookup = names()
  const failure = { code: 'CONNECT_UNREACHABLE', detail: { because: 'nameNotFound' } }
  await expect(lookup.lookup('no.example', false)).rejects.toMatchObject(failure)
  await expect(lookup.lookup('no.example', true)).rejects.toMatchObject(failure)
  expect(questions).toHaveLength(2)
  nowMs += 5_001
  answers['A no.example'] = [30, '192.0.2.1']
  expect(await lookup.lookup('no.example', false)).toBe('192.0.2.1')
})

test.each(['silence', 'failure'] as const)('while servers answer with %s, what was known serves on, and nothing else hangs', async (what) => {
  answers['A web.example'] = [1, '192.0.2.1']
  const lookup = names()
  await lookup.lookup('web.example', false)
  Object.assign(answers, { 'A web.example': what, 'A new.example': what, 'AAAA new.example': what })
  nowMs += 2_000
  expect(await lookup.lookup('web.example', false)).toBe('192.0.2.1')
  await expect(lookup.lookup('new.example', false)).rejects.toMatchObject({ code: 'CONNECT_UNREACHABLE', retry: 'always', detail: { because: 'nameServersFailed' } })
})

test('garbage for an answer is no answer', async () => {
  answers['A web.example'] = answers['AAAA web.example'] = Buffer.from('not DNS at all')
  await expect(names().lookup('web.example', false)).rejects.toMatchObject({ detail: { because: 'nameServersFailed' } })
})

test('names that cannot be are absent', async () => {
  const lookup = names()
  for (const name of ['', '.', '..', `${'a'.repeat(64)}.example`, `${'a.'.repeat(200)}example`, 'a b', '\u0000', '*']) {
    await expect(lookup.lookup(name, false), name).rejects.toMatchObject({ code: 'CONNECT_UNREACHABLE' })
  }
})

test('no more names are remembered, and no more asked for at once, than fit', async () => {
  const lookup = names({ maxNames: 10 })
  for (let i = 0; i < 30; i++) {
    answers[`A n${i}.example`] = [300, '192.0.2.1']
    await lookup.lookup(`n${i}.example`, false)
  }
  await vi.waitFor(() => expect(questions).toHaveLength(60))
  expect(lookup.size).toBeLessThanOrEqual(20)
  const asked = questions.length
  expect(await lookup.lookup('n29.example', false)).toBe('192.0.2.1')
  expect(questions).toHaveLength(asked)

  const busy = names({ maxQuestions: 2 })
  Object.assign(answers, { 'a.example': 'silence', 'b.example': 'silence' })
  const waiting = [busy.lookup('a.example', false), busy.lookup('b.example', false)].map((lookup) => lookup.catch((error: unknown) => error))
  await expect(busy.lookup('n1.example', false)).rejects.toMatchObject({ code: 'OVERLOADED' })
  await Promise.all(waiting)
  expect(await busy.lookup('n1.example', false)).toBe('192.0.2.1')
})
