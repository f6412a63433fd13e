import { decode, encode } from 'dns-packet'
import type { DecodedPacket, OptAnswer, Packet } from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressOfReverseName, candidates, canonicalName, wildcardsOf } from './name.ts'
import type { Host, NameSource, Target } from './name-source.ts'
import { Resolver } from './resolver.ts'

interface Wish {
  readonly ips?: readonly string[]
  readonly targets?: Readonly<Record<string, readonly Target[]>>
  readonly endpoints?: Readonly<Record<string, readonly string[]>>
  readonly alias?: string
}

function host(hostname: string, { ips = [], targets = {}, endpoints = {}, alias }: Wish): Host {
  return {
    hostname, ipv4: ips.filter((ip) => !ip.includes(':')), ipv6: ips.filter((ip) => ip.includes(':')), ...(alias !== undefined && { alias }),
    endpoint: (label) => (Object.hasOwn(endpoints, label) ? endpoints[label] : undefined),
    targets: (port, protocol) => (protocol === 'udp' ? undefined : (targets[port] ?? [])),
  }
}

const web = host('web.shop.svc.cluster.local', { ips: ['10.96.0.7', 'fd00::7'], targets: { http: [{ name: 'web.shop.svc.cluster.local', port: 80 }] } })
const database = host('db.shop.svc.cluster.local', {
  ips: ['10.244.1.5', '10.244.2.6'],
  endpoints: { 'db-0': ['10.244.1.5'], 'db-1': ['10.244.2.6'] },
  targets: { sql: [0, 1].map((n) => ({ name: `db-${n}.db.shop.svc.cluster.local`, port: 5432 })) },
})
const all = [
  web, database,
  host('api.example.com', { ips: ['240.0.0.1'] }),
  host('*.example.org', { ips: ['240.0.0.2'] }),
  host('alias.shop.svc.cluster.local', { alias: 'web.shop.svc.cluster.local' }),
  host('away.shop.svc.cluster.local', { alias: 'elsewhere.example.net' }),
  host('ring.shop.svc.cluster.local', { alias: 'ring.shop.svc.cluster.local' }),
]
const hosts = new Map(all.map((each) => [each.hostname, each]))
const names: NameSource = {
  isKnown: true,
  clusterDomain: 'cluster.local',
  host: (hostname) => hosts.get(hostname),
  hostnameOf: (ip) => all.find(({ ipv4, ipv6 }) => [...ipv4, ...ipv6].includes(ip))?.hostname,
}
const client = { namespace: 'shop', searchDomains: ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'] }
const resolver = new Resolver(names, { random: () => 0 })

function question(name: string, type: string, more: Partial<Packet> = {}): Buffer {
  return encode({ type: 'query', id: 77, flags: 256, questions: [{ type: type as 'A', name, class: 'IN' }], ...more })
}

function edns(udpPayloadSize: number, isDnssecOk = false): OptAnswer {
  return { type: 'OPT', name: '.', udpPayloadSize, extendedRcode: 0, ednsVersion: 0, flags: isDnssecOk ? 0x8000 : 0, flag_do: isDnssecOk, options: [] }
}

function ask(name: string, type: string, more: Partial<Packet> = {}, transport: 'udp' | 'tcp' = 'udp', from = client): DecodedPacket | undefined {
  const resolution = resolver.resolve(question(name, type, more), from, transport)
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
    // From another namespace, `web.shop` is asked for below that namespace first.
    const other = { namespace: 'other', searchDomains: ['other.svc.cluster.local', 'svc.cluster.local', 'cluster.local'] }
    expect(facts(ask('web.shop.other.svc.cluster.local', 'A', {}, 'udp', other))).toEqual([
      ['web.shop.other.svc.cluster.local', 'CNAME', 'web.shop.svc.cluster.local'],
      ['web.shop.svc.cluster.local', 'A', '10.96.0.7'],
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

  test('a service that stands for another name brings its addresses along, or goes on if they are not ours', () => {
    expect(facts(ask('alias.shop', 'A'))).toEqual([
      ['alias.shop', 'CNAME', 'web.shop.svc.cluster.local'], ['web.shop.svc.cluster.local', 'A', '10.96.0.7'],
    ])
    expect(ask('away.shop', 'A')).toBeUndefined()
    expect(ask('ring.shop', 'A')).toBeUndefined()
  })

  test('is searched for only as the pod\'s resolv.conf has it', () => {
    expect(ask('web.shop', 'A', {}, 'udp', { ...client, searchDomains: [] })).toBeUndefined()
    expect(ask('web.shop', 'A', {}, 'udp', { ...client, ndots: 1 } as typeof client)).toBeUndefined()
    expect(ask('web', 'A', {}, 'udp', { ...client, ndots: 1 } as typeof client)?.answers).toHaveLength(1)
    expect(ask('web.shop.svc.cluster.local', 'A', {}, 'udp', { ...client, ndots: 1 } as typeof client)?.answers).toHaveLength(1)
  })

  test('is kept for 30 seconds', () => {
    expect(ask('web', 'A')?.answers).toMatchObject([{ ttl: 30 }])
  })
})

test.each([
  ['unknown.example.net', 'A'], ['web.other.svc.cluster.local', 'A'], ['web.shop.svc.cluster.local', 'TXT'], ['example.org', 'A'],
  ['1.0.0.127.in-addr.arpa', 'PTR'], ['_http._tcp.elsewhere', 'SRV'], ['_dns._udp.web', 'SRV'],
] as const)('%s %s goes to the server that was asked', (name, type) => {
  expect(resolver.resolve(question(name, type), client, 'udp')).toEqual({ kind: 'forward', type })
})

test('while the mesh is not known, what is not found and looks like it is a failure, and the rest goes on', () => {
  const early = new Resolver({ ...names, isKnown: false })
  const outcome = (name: string, type: string): string => {
    const resolution = early.resolve(question(name, type), client, 'udp')
    return resolution.kind === 'answer' ? resolution.rcode : 'forward'
  }
  expect(outcome('web.shop.svc.cluster.local', 'A')).toBe('NOERROR')
  expect(outcome('new.shop.svc.cluster.local', 'AAAA')).toBe('SERVFAIL')
  expect(outcome('_http._tcp.new.shop.svc.cluster.local', 'SRV')).toBe('SERVFAIL')
  expect(outcome('new', 'A')).toBe('SERVFAIL')
  expect(outcome('example.net', 'A')).toBe('forward')
  expect(outcome('notcluster.local', 'A')).toBe('forward')
  expect(outcome('new.shop.svc.cluster.local', 'TXT')).toBe('forward')
})

test('two questions, another class, another opcode, answers, a signature and another EDNS go on verbatim', () => {
  const one = { type: 'A', name: 'web', class: 'IN' } as const
  const opt = edns(1232)
  const packets: Packet[] = [
    { type: 'query', questions: [one, one] },
    { type: 'query', questions: [{ ...one, class: 'CH' }] },
    { type: 'query', flags: 2 << 11, questions: [one] },
    { type: 'response', questions: [one] },
    { type: 'query', questions: [one], additionals: [{ ...opt, ednsVersion: 1 }] },
    { type: 'query', questions: [one], additionals: [opt, opt] },
    { type: 'query', questions: [one], additionals: [{ type: 'TXT', name: 'x', data: 'y' }] },
  ]
  for (const packet of packets) expect(resolver.resolve(encode(packet), client, 'udp')).toEqual({ kind: 'forward', type: 'A' })
  expect(resolver.resolve(Buffer.concat([question('web', 'A'), Buffer.from('more')]), client, 'udp').kind).toBe('forward')
})

test('a dot inside a label is no separator', () => {
  const query = question('web-shop.svc.cluster.local', 'A')
  query[query.indexOf('-')] = 0x2e
  expect(resolver.resolve(query, client, 'udp')).toMatchObject({ kind: 'forward' })
})

test('what does not fit is cut over UDP, by what the client takes, and whole over TCP', () => {
  const opt = (udpBytes: number, isDnssecOk = false): Partial<Packet> => ({ additionals: [edns(udpBytes, isDnssecOk)] })
  const ips = Array.from({ length: 5_000 }, (_, i) => `10.0.${i >> 8}.${i & 255}`)
  hosts.set('many.shop.svc.cluster.local', host('many.shop.svc.cluster.local', { ips: ips.slice(0, 100) }))
  hosts.set('most.shop.svc.cluster.local', host('most.shop.svc.cluster.local', { ips }))
  try {
    const plain = ask('many', 'A')
    expect(plain).toMatchObject({ flag_tc: true })
    expect(plain?.answers?.length).toBe(Math.floor((512 - 12 - 10) / 16))
    expect(ask('many', 'A', opt(100))?.answers?.length).toBe(Math.floor((512 - 12 - 10 - 11) / 16))
    const wide = ask('many', 'A', opt(65_535, true))
    expect(wide).toMatchObject({ flag_tc: false, additionals: [{ type: 'OPT', udpPayloadSize: 4096, flag_do: true }] })
    expect(wide?.answers).toHaveLength(100)
    expect(ask('many', 'A', {}, 'tcp')?.answers).toHaveLength(100)
    const huge = ask('most', 'A', {}, 'tcp')
    expect(huge).toMatchObject({ flag_tc: false })
    expect(huge?.answers?.length).toBeGreaterThan(4_000)
  } finally {
    hosts.delete('many.shop.svc.cluster.local')
    hosts.delete('most.shop.svc.cluster.local')
  }
})

test('addresses come in every order, each once, and any of many may be among the few that fit', () => {
  const ips = Array.from({ length: 300 }, (_, i) => `10.0.${i >> 8}.${i & 255}`)
  hosts.set('many.shop.svc.cluster.local', host('many.shop.svc.cluster.local', { ips }))
  try {
    const random = new Resolver(names)
    const seen = new Set<unknown>()
    for (let i = 0; i < 300; i++) {
      const resolution = random.resolve(question('many.shop.svc.cluster.local', 'A'), client, i === 0 ? 'tcp' : 'udp')
      const list = resolution.kind === 'answer' ? (decode(resolution.message).answers ?? []).map((each) => ('data' in each ? each.data : undefined)) : []
      expect(new Set(list).size).toBe(i === 0 ? 300 : Math.floor((512 - 12 - 32 - 1) / 16))
      if (i > 0) for (const ip of list) seen.add(ip)
    }
    expect(seen.size).toBe(300)
  } finally {
    hosts.delete('many.shop.svc.cluster.local')
  }
})

const anyName = fc.oneof(fc.domain(), fc.constantFrom('web', 'db-0.db.shop', 'alias.shop', 'x.example.org', 'api.example.com.cluster.local', '_sql._tcp.db'))
const anyQuery = fc.record({
  name: anyName, type: fc.constantFrom('A', 'AAAA', 'SRV', 'PTR', 'TXT', 'CNAME'), id: fc.nat(65_535), size: fc.option(fc.nat(65_535)),
}).map(({ name, type, id, size }) => encode({
  type: 'query', id, flags: 256, questions: [{ type: type as 'A', name, class: 'IN' }],
  ...(size !== null && { additionals: [edns(size)] }),
}))

test('every answer parses back, is about what was asked, and is no larger than the client takes', () => {
  let answered = 0
  fc.assert(fc.property(anyQuery, fc.constantFrom('udp' as const, 'tcp' as const), (query, transport) => {
    const resolution = resolver.resolve(query, client, transport)
    if (resolution.kind === 'forward') return
    answered++
    const asked = decode(query)
    const [packet, size] = [decode(resolution.message), asked.additionals?.[0]?.type === 'OPT' ? asked.additionals[0].udpPayloadSize : 512]
    expect(packet).toMatchObject({ type: 'response', id: asked.id, rcode: 'NOERROR', questions: asked.questions })
    expect(packet.additionals?.length).toBe(asked.additionals?.length)
    if (transport === 'udp') expect(resolution.message.length).toBeLessThanOrEqual(Math.max(512, size))
  }), { numRuns: 1_000 })
  expect(answered).toBeGreaterThan(100)
})

test('no bytes make it throw, and whatever it answers is an answer to what was asked', () => {
  const mutated = fc.tuple(anyQuery, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 })).map(([bytes, changes]) => {
    const copy = Buffer.from(bytes)
    for (const [at, value] of changes) copy[at % copy.length] = value
    return copy
  })
  const cut = fc.tuple(anyQuery, fc.nat()).map(([bytes, at]) => bytes.subarray(0, at % (bytes.length + 1)))
  fc.assert(fc.property(fc.oneof(fc.uint8Array({ maxLength: 600 }), cut, mutated), fc.constantFrom('udp' as const, 'tcp' as const), (bytes, transport) => {
    const resolution = resolver.resolve(bytes, client, transport)
    if (resolution.kind === 'forward') return
    expect(resolution.message.subarray(0, 2)).toEqual(Buffer.from(bytes.subarray(0, 2)))
    expect(decode(resolution.message).type).toBe('response')
  }), { numRuns: 3_000 })
})

test('names', () => {
  expect(canonicalName('A.b.')).toBe('a.b')
  for (const bad of ['', '.', 'a..b', `${'x'.repeat(64)}.a`, `${'x.'.repeat(130)}y`, 'a b']) expect(canonicalName(bad)).toBeUndefined()
  expect(wildcardsOf('a.b.c')).toEqual(['*.b.c', '*.c'])
  expect(candidates('a.b', ['b', 'c'], 2)).toEqual([
    { name: 'a.b', isStripped: false }, { name: 'a.b.b', isStripped: false }, { name: 'a.b.c', isStripped: false },
    { name: 'a.c', isStripped: true }, { name: 'a', isStripped: true },
  ])
  fc.assert(fc.property(fc.ipV4(), (ip) => {
    expect(addressOfReverseName(`${ip.split('.').reverse().join('.')}.in-addr.arpa`)).toBe(ip)
  }))
  expect(addressOfReverseName('256.0.0.1.in-addr.arpa')).toBeUndefined()
})
