import { decode, encode } from 'dns-packet'
import type { DecodedPacket } from 'dns-packet'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseManifest } from '../model/manifest-parse.ts'
import type { RunningPod, RuntimeFacts } from '../model/running-pod.ts'
import { podRanges, serviceRanges } from './addresses.ts'
import { LocalNames } from './dns-names.ts'
import { ClusterZone, reverseZone } from './dns-zone.ts'

const service = (name: string, spec: string): string => `apiVersion: v1\nkind: Service\nmetadata: { name: ${name}, namespace: shop }\nspec: ${spec}\n`
const manifests = [
  service('web', '{ selector: { app: web }, ports: [{ name: http, port: 80, targetPort: 8080 }, { name: talk, port: 53, protocol: UDP }] }'),
  service('db', '{ clusterIP: None, selector: { app: db }, ports: [{ name: sql, port: 5432, targetPort: data }] }'),
  service('all', '{ clusterIP: None, publishNotReadyAddresses: true, selector: { app: db }, ports: [{ port: 1 }] }'),
  service('empty', '{ clusterIP: None, selector: { app: nobody }, ports: [{ port: 1 }] }'),
  service('short', '{ type: ExternalName, externalName: web.shop.svc.cluster.local }'),
  service('far', '{ type: ExternalName, externalName: api.example.com }'),
  service('further', '{ type: ExternalName, externalName: far.shop.svc.cluster.local }'),
  service('lost', '{ type: ExternalName, externalName: nobody.shop.svc.cluster.local }'),
  service('tick', '{ type: ExternalName, externalName: tock.shop.svc.cluster.local }'),
  service('tock', '{ type: ExternalName, externalName: tick.shop.svc.cluster.local }'),
].join('---\n')
const services = new Map(parseManifest(manifests, 'f.yaml').objects.flatMap((object) =>
  (object.kind === 'Service' ? [[`${object.metadata.namespace}/${object.metadata.name}`, object] as const] : [])))
const pod = (name: string, host: number, parts: Partial<RunningPod> = {}): [string, RunningPod] => [`shop/${name}`, {
  uid: name, namespace: 'shop', name, node: 'node-a', ips: [`10.244.1.${host}`, `fd00:10:244:1::${host}`], ready: true, labels: { app: 'db' },
  serviceAccount: 'default', isCaptured: false, isHostNetwork: false, ports: [{ name: 'data', port: 5000 + host, protocol: 'TCP' }], ...parts,
}]
const facts: RuntimeFacts = {
  pods: new Map([
    pod('db-0', 2, { hostname: 'Db-0', subdomain: 'db' }), pod('db-1', 3), pod('late', 4, { ready: false }), pod('web-1', 5, { labels: { app: 'web' } }),
  ]),
  serviceIps: new Map([['shop/web', ['10.96.1.1', 'fd00:10:96::101']]]),
}
const names = new LocalNames()
names.update(services, facts)
const zone = new ClusterZone(names)

const ask = (name: string, type: string, of = zone): ReturnType<ClusterZone['judge']> =>
  of.judge(encode({ type: 'query', id: 7, flags: 256, questions: [{ type: type as 'A', name, class: 'IN' }] }), 'udp')
const packet = (name: string, type: string, of = zone): DecodedPacket => {
  const judgement = ask(name, type, of)
  if (judgement.t !== 'answer') throw new TypeError(`${name} ${type} is not answered here: ${judgement.t}`)
  return decode(judgement.message)
}
const texts = (name: string, type: string): string[] => {
  const { answers = [] } = packet(name, type)
  return answers.map((each) => ('data' in each ? `${each.type} ${typeof each.data === 'object' ? JSON.stringify(each.data) : String(each.data)}` : each.type)).toSorted()
}
const rcode = (name: string, type: string): string => {
  const { answers = [], authorities = [], flag_aa: isAuthoritative, ...rest } = packet(name, type)
  expect([answers, isAuthoritative]).toEqual([[], true])
  expect(authorities).toMatchObject([{ type: 'SOA', ttl: 5 }])
  return (rest as unknown as { rcode: string }).rcode
}
const reverse = (ip: string): string => `${ip.split('.').toReversed().join('.')}.in-addr.arpa`

describe('names of the cluster', () => {
  test.each([
    ['web.shop.svc.cluster.local', 'A', ['A 10.96.1.1']],
    ['WEB.shop.SVC.cluster.local', 'AAAA', ['AAAA fd00:10:96::101']],
    ['db.shop.svc.cluster.local', 'A', ['A 10.244.1.2', 'A 10.244.1.3']],
    ['all.shop.svc.cluster.local', 'A', ['A 10.244.1.2', 'A 10.244.1.3', 'A 10.244.1.4']],
    ['db-0.db.shop.svc.cluster.local', 'A', ['A 10.244.1.2']],
    ['10-244-1-3.db.shop.svc.cluster.local', 'A', ['A 10.244.1.3']],
    ['db-1.db.shop.svc.cluster.local', 'AAAA', ['AAAA fd00:10:244:1::3']],
    ['10-244-1-5.shop.pod.cluster.local', 'A', ['A 10.244.1.5']],
    ['fd00-10-244-1--5.shop.pod.cluster.local', 'AAAA', ['AAAA fd00:10:244:1::5']],
    ['short.shop.svc.cluster.local', 'A', ['A 10.96.1.1', 'CNAME web.shop.svc.cluster.local']],
    ['far.shop.svc.cluster.local', 'CNAME', ['CNAME api.example.com']],
    ['_http._tcp.web.shop.svc.cluster.local', 'SRV', ['SRV {"priority":0,"weight":100,"port":80,"target":"web.shop.svc.cluster.local"}']],
    ['_sql._tcp.db.shop.svc.cluster.local', 'SRV', [
      'SRV {"priority":0,"weight":50,"port":5002,"target":"db-0.db.shop.svc.cluster.local"}',
      'SRV {"priority":0,"weight":50,"port":5003,"target":"10-244-1-3.db.shop.svc.cluster.local"}',
    ]],
    [reverse('10.96.1.1'), 'PTR', ['PTR web.shop.svc.cluster.local']],
    [reverse('10.244.1.2'), 'PTR', ['PTR 10-244-1-2.all.shop.svc.cluster.local']],
    [reverse('10.244.1.5'), 'PTR', ['PTR 10-244-1-5.shop.pod.cluster.local']],
  ])('%s %s', (name, type, expected) => {
    expect(texts(name, type)).toEqual(expected)
    expect(packet(name, type)).toMatchObject({ id: 7, flag_aa: true, rcode: 'NOERROR' })
  })

  test.each([
    ['web.shop.svc.cluster.local', 'TXT'], ['_grpc_config.web.shop.svc.cluster.local', 'A', 'NXDOMAIN'], ['_grpc_config.web.shop.svc.cluster.local', 'TXT', 'NXDOMAIN'],
    ['empty.shop.svc.cluster.local', 'A'], ['db-0.db.shop.svc.cluster.local', 'TXT'], ['_http._tcp.web.shop.svc.cluster.local', 'A'], ['_tcp.web.shop.svc.cluster.local', 'A'],
    ['_no._tcp.web.shop.svc.cluster.local', 'SRV', 'NXDOMAIN'], ['shop.svc.cluster.local', 'A'], ['shop.pod.cluster.local', 'A'], ['cluster.local', 'NS'],
    ['244.10.in-addr.arpa', 'NS'], ['1.244.10.in-addr.arpa', 'A'], [reverse('10.244.1.5'), 'A'],
    ['nobody.shop.svc.cluster.local', 'A', 'NXDOMAIN'], ['web.other.svc.cluster.local', 'AAAA', 'NXDOMAIN'], ['late.db.shop.svc.cluster.local', 'A', 'NXDOMAIN'],
    ['web.shop.svc.cluster.local.shop.svc.cluster.local', 'A', 'NXDOMAIN'], ['10-244-1-9.shop.pod.cluster.local', 'A', 'NXDOMAIN'],
    ['10-244-1-5.other.pod.cluster.local', 'A', 'NXDOMAIN'], ['other.svc.cluster.local', 'A', 'NXDOMAIN'], ['any.cluster.local', 'HTTPS', 'NXDOMAIN'],
    [reverse('10.244.1.9'), 'PTR', 'NXDOMAIN'], [reverse('10.96.7.7'), 'PTR', 'NXDOMAIN'], ['a b.cluster.local', 'A', 'NXDOMAIN'],
  ])('%s %s is not there', (name, type, expected = 'NOERROR') => {
    expect(rcode(name, type)).toBe(expected)
  })

  test('an alias of nothing is that, and a circle of aliases ends', () => {
    expect(texts('lost.shop.svc.cluster.local', 'A')).toEqual(['CNAME nobody.shop.svc.cluster.local'])
    expect(packet('lost.shop.svc.cluster.local', 'A')).toMatchObject({ rcode: 'NXDOMAIN' })
    expect(packet('tick.shop.svc.cluster.local', 'A')).toMatchObject({ rcode: 'SERVFAIL' })
  })

  test('fail until they are known', () => {
    const unknown = new ClusterZone(new LocalNames())
    for (const type of ['A', 'TXT', 'PTR']) expect(packet('web.shop.svc.cluster.local', type, unknown)).toMatchObject({ rcode: 'SERVFAIL', answers: [] })
    expect(ask('example.com', 'A', unknown)).toEqual({ t: 'outside' })
  })

  test('SOA of each zone', () => {
    for (const name of ['cluster.local', '96.10.in-addr.arpa']) expect(packet(name, 'SOA')).toMatchObject({ answers: [{ name, type: 'SOA' }] })
  })
})

describe('other names', () => {
  test.each(['example.com', 'web', 'local', 'notcluster.local', reverse('10.97.0.1'), reverse('172.30.0.1')])('%s goes on', (name) => {
    for (const type of ['A', 'TXT', 'PTR', 'ANY']) expect(ask(name, type)).toEqual({ t: 'outside' })
  })

  test('what stands for one goes on with its aliases', () => {
    expect(ask('far.shop.svc.cluster.local', 'A')).toMatchObject({ t: 'alias', target: 'api.example.com', aliases: [{ target: 'api.example.com' }] })
    expect(ask('further.shop.svc.cluster.local', 'AAAA')).toMatchObject({
      t: 'alias', target: 'api.example.com', aliases: [{ target: 'far.shop.svc.cluster.local' }, { owner: 'far.shop.svc.cluster.local', target: 'api.example.com' }],
    })
  })

  test('transfers, changes, other classes and several questions never leave', () => {
    const to = (message: Buffer): unknown => {
      const judgement = zone.judge(message, 'tcp')
      return judgement.t === 'answer' ? (decode(judgement.message) as unknown as { rcode: string }).rcode : judgement.t
    }
    const question = { type: 'A', name: 'example.com', class: 'IN' } as const
    expect(to(encode({ type: 'query', questions: [{ ...question, type: 'AXFR' }] }))).toBe('REFUSED')
    expect(to(encode({ type: 'query', questions: [{ ...question, type: 'IXFR' }] }))).toBe('REFUSED')
    expect(to(encode({ type: 'query', flags: 5 << 11, questions: [question] }))).toBe('NOTIMP')
    expect(to(encode({ type: 'query', questions: [{ ...question, class: 'CH' }] }))).toBe('FORMERR')
    expect(to(encode({ type: 'query', questions: [question, question] }))).toBe('FORMERR')
    expect(to(encode({ type: 'response', questions: [question] }))).toBe('drop')
    expect(to(Buffer.alloc(11))).toBe('drop')
  })
})

test('zones of the ranges', () => {
  expect([serviceRanges.v4, podRanges.v4, serviceRanges.v6, podRanges.v6].map(reverseZone)).toEqual([
    '96.10.in-addr.arpa', '244.10.in-addr.arpa',
    '0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa', '4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa',
  ])
})

test('whatever the bytes, there is an answer with their id, nothing, or a plain question for outside', () => {
  const header = fc.tuple(fc.uint8Array({ minLength: 2, maxLength: 2 }), fc.constantFrom([1, 0], [0, 0], [0x85, 0], [0x28, 0]), fc.constantFrom([0, 1], [0, 0], [0, 2]))
    .map(([id, flags, count]) => Buffer.from([...id, ...flags, ...count, 0, 0, 0, 0, 0, 0]))
  const question = fc.tuple(fc.constantFrom('web.shop.svc.cluster.local', 'far.shop.svc.cluster.local', 'x.cluster.local', 'a.b'), fc.uint8Array({ minLength: 4, maxLength: 4 }))
    .map(([name, end]) => Buffer.concat([...name.split('.').map((label) => Buffer.from([label.length, ...Buffer.from(label)])), Buffer.from([0]), end]))
  const message = fc.oneof(fc.uint8Array({ maxLength: 80 }).map((bytes) => Buffer.from(bytes)), fc.tuple(header, fc.uint8Array({ maxLength: 40 })).map((parts) => Buffer.concat(parts)),
    fc.tuple(header, question).map((parts) => Buffer.concat(parts)))
  fc.assert(fc.property(message, fc.constantFrom('udp' as const, 'tcp' as const), (bytes, transport) => {
    const judgement = zone.judge(bytes, transport)
    if (judgement.t === 'drop') expect(bytes.length < 12 || (bytes[2] ?? 0) >= 0x80).toBe(true)
    if (judgement.t === 'answer') expect(judgement.message.subarray(0, 2)).toEqual(bytes.subarray(0, 2))
    if (judgement.t === 'outside') expect((bytes[2] ?? 0) & 0xf8).toBe(0)
  }), { numRuns: 2000 })
})
