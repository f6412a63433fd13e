import { decode, encode } from 'dns-packet'
import type { Answer, DecodedPacket, Packet } from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressOfReverseName, candidates, canonicalName, wildcardsOf } from './name.ts'
import type { Host, NameSource } from './name-source.ts'
import { Resolver } from './resolver.ts'

const web: Host = {
  hostname: 'web.shop.svc.cluster.local', ips: ['10.96.0.7', 'fd00::7'], ports: [{ name: 'http', protocol: 'tcp', port: 80 }], endpoints: [],
}
const database: Host = {
  hostname: 'db.shop.svc.cluster.local', ips: ['10.244.1.5', '10.244.2.6'], ports: [{ name: 'sql', protocol: 'tcp', port: 5432 }],
  endpoints: [{ name: 'db-0', ips: ['10.244.1.5'] }, { name: 'db-1', ips: ['10.244.2.6'] }],
}
const outside: Host = { hostname: 'api.example.com', ips: ['240.0.0.1'], ports: [], endpoints: [] }
const wild: Host = { hostname: '*.example.org', ips: ['240.0.0.2'], ports: [], endpoints: [] }
const hosts = new Map([web, database, outside, wild].map((host) => [host.hostname, host]))
const names: NameSource = {
  host: (hostname) => hosts.get(hostname),
  hostnameOf: (ip) => [...hosts.values()].find((host) => host.ips.includes(ip))?.hostname,
}
const client = { namespace: 'shop', searchDomains: ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'] }
const resolver = new Resolver(names, { shuffle: (list) => list })

function ask(name: string, type: 'A' | 'AAAA' | 'SRV' | 'PTR' | 'TXT' | 'MX', more: Partial<Packet> = {}, transport: 'udp' | 'tcp' = 'udp'): DecodedPacket | undefined {
  const query = encode({ type: 'query', id: 77, flags: 256, questions: [{ type, name, class: 'IN' }], ...more })
  const resolution = resolver.resolve(query, client, transport)
  return resolution.kind === 'answer' ? decode(resolution.message) : undefined
}

const facts = (packet: DecodedPacket | undefined): unknown =>
  packet?.answers?.map((answer) => ('data' in answer ? [answer.name, answer.type, answer.data] : [answer.name, answer.type]))

describe('a mesh name', () => {
  test.each([
    ['web.shop.svc.cluster.local', 'A', ['10.96.0.7']],
    ['web.shop.svc.cluster.local.', 'AAAA', ['fd00::7']],
    ['WEB.Shop.svc.cluster.LOCAL', 'A', ['10.96.0.7']],
    ['web', 'A', ['10.96.0.7']],
    ['web.shop', 'A', ['10.96.0.7']],
    ['web.shop.svc', 'A', ['10.96.0.7']],
    ['db.shop', 'A', ['10.244.1.5', '10.244.2.6']],
    ['db-1.db.shop', 'A', ['10.244.2.6']],
    ['db-1.db', 'A', ['10.244.2.6']],
    ['api.example.com', 'A', ['240.0.0.1']],
    ['deep.down.example.org', 'A', ['240.0.0.2']],
  ] as const)('%s %s', (name, type, addresses) => {
    const packet = ask(name, type)
    expect(packet).toMatchObject({ id: 77, type: 'response', rcode: 'NOERROR', flag_aa: true, flag_rd: true })
    expect(facts(packet)).toEqual(addresses.map((address) => [name.replace(/\.$/, ''), type, address]))
  })

  test('without an address of the asked family is answered with nothing', () => {
    expect(ask('api.example.com', 'AAAA')).toMatchObject({ rcode: 'NOERROR', answers: [] })
  })

  test('asked with a search domain behind it is answered at once, through an alias', () => {
    expect(facts(ask('api.example.com.shop.svc.cluster.local', 'A'))).toEqual([
      ['api.example.com.shop.svc.cluster.local', 'CNAME', 'api.example.com'],
      ['api.example.com', 'A', '240.0.0.1'],
    ])
    expect(facts(ask('x.example.org.cluster.local', 'A'))).toEqual([['x.example.org.cluster.local', 'A', '240.0.0.2']])
  })

  test('SRV names the service, or each endpoint of a headless one', () => {
    expect(facts(ask('_http._tcp.web.shop.svc.cluster.local', 'SRV'))).toEqual([
      ['_http._tcp.web.shop.svc.cluster.local', 'SRV', { priority: 0, weight: 100, port: 80, target: 'web.shop.svc.cluster.local' }],
    ])
    expect(ask('_sql._tcp.db', 'SRV')?.answers).toHaveLength(2)
    expect(ask('_nothing._tcp.db', 'SRV')).toMatchObject({ rcode: 'NOERROR', answers: [] })
  })

  test('PTR gives the name back', () => {
    expect(facts(ask('7.0.96.10.in-addr.arpa', 'PTR'))).toEqual([['7.0.96.10.in-addr.arpa', 'PTR', 'web.shop.svc.cluster.local']])
    const six = '7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa'
    expect(ask(six, 'PTR')?.answers).toHaveLength(1)
  })
})

test.each([
  ['unknown.example.net', 'A'], ['web.other.svc.cluster.local', 'A'], ['web.shop.svc.cluster.local', 'TXT'], ['example.org', 'A'],
  ['1.0.0.127.in-addr.arpa', 'PTR'], ['_http._tcp.elsewhere', 'SRV'],
] as const)('%s %s goes to the server that was asked', (name, type) => {
  expect(ask(name, type)).toBeUndefined()
})

test('two questions, another class, another opcode and answers go on verbatim', () => {
  const question = { type: 'A', name: 'web', class: 'IN' } as const
  for (const packet of [
    { type: 'query', questions: [question, question] },
    { type: 'query', questions: [{ ...question, class: 'CH' }] },
    { type: 'query', flags: 2 << 11, questions: [question] },
    { type: 'response', questions: [question] },
  ] satisfies Packet[]) {
    expect(resolver.resolve(encode(packet), client, 'udp')).toEqual({ kind: 'forward' })
  }
})

test('what does not fit is truncated over UDP, by what the client takes, and whole over TCP', () => {
  const many: Host = { ...web, hostname: 'many.shop.svc.cluster.local', ips: Array.from({ length: 25 }, (_, i) => `10.0.0.${i + 1}`) }
  hosts.set(many.hostname, many)
  try {
    expect(ask('many', 'A')).toMatchObject({ flag_tc: true, answers: [] })
    const opt: Answer = { type: 'OPT', name: '.', udpPayloadSize: 4096, extendedRcode: 0, ednsVersion: 0, flags: 0, flag_do: false, options: [] }
    const edns = ask('many', 'A', { additionals: [opt] })
    expect(edns).toMatchObject({ flag_tc: false, additionals: [{ type: 'OPT', udpPayloadSize: 1232 }] })
    expect(edns?.answers).toHaveLength(25)
    expect(ask('many', 'A', {}, 'tcp')?.answers).toHaveLength(25)
  } finally {
    hosts.delete(many.hostname)
  }
})

test('no bytes make it throw, and whatever it answers is an answer to what was asked', () => {
  const valid = fc.record({ name: fc.domain(), type: fc.constantFrom('A', 'AAAA', 'SRV', 'PTR', 'TXT') }).map(({ name, type }) =>
    encode({ type: 'query', id: 5, questions: [{ type: type as 'A', name, class: 'IN' }] }))
  const mutated = fc.tuple(valid, fc.nat(), fc.nat(255)).map(([bytes, at, value]) => {
    const copy = Buffer.from(bytes)
    copy[at % copy.length] = value
    return copy
  })
  fc.assert(fc.property(fc.oneof(fc.uint8Array({ maxLength: 600 }), valid, mutated), (bytes) => {
    const resolution = resolver.resolve(bytes, client, 'udp')
    if (resolution.kind === 'answer') expect(resolution.message.readUInt16BE(0)).toBe(Buffer.from(bytes).readUInt16BE(0))
  }), { numRuns: 2_000 })
})

test('names', () => {
  expect(canonicalName('A.b.')).toBe('a.b')
  for (const bad of ['', '.', 'a..b', `${'x'.repeat(64)}.a`, `${'x.'.repeat(130)}y`, 'a b']) expect(canonicalName(bad)).toBeUndefined()
  expect(wildcardsOf('a.b.c')).toEqual(['*.b.c', '*.c'])
  expect(candidates('a.b', ['b', 'c'])).toEqual([
    { name: 'a.b', isStripped: false }, { name: 'a.b.b', isStripped: false }, { name: 'a.b.c', isStripped: false }, { name: 'a', isStripped: true },
  ])
  fc.assert(fc.property(fc.ipV4(), (ip) => {
    expect(addressOfReverseName(`${ip.split('.').reverse().join('.')}.in-addr.arpa`)).toBe(ip)
  }))
  expect(addressOfReverseName('256.0.0.1.in-addr.arpa')).toBeUndefined()
})
