import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isFieldValue } from '../../policy/l7/header-change.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { ConnectionContext } from '../context.ts'
import { clientCertificateElement } from './client-certificate-header.ts'
import { addressOf, makeIdentify } from './identity-headers.ts'
import type { IdentityRules } from './identity-headers.ts'
import { contextOf, frontend, outsideContext, waypointIdentity } from './testing.ts'

const own = (): typeof waypointIdentity => waypointIdentity
const none: IdentityRules = { own, trustedForwarders: [], trustedHops: 0 }

function cleaned(
  context: ConnectionContext, headers: readonly (readonly [string, string])[], rules: Partial<IdentityRules> = {},
): { readonly remoteIp: string; readonly headers: Record<string, string> } {
  const map = HeaderMap.of(headers)
  const { remoteIp } = makeIdentify({ ...none, ...rules })(context, 'http', map)
  return { remoteIp, headers: Object.fromEntries([...map.names()].map((name) => [name, map.get(name) ?? ''])) }
}

const forged = [
  ['x-forwarded-for', '1.2.3.4'], ['x-forwarded-proto', 'https'], ['x-forwarded-host', 'evil'],
  ['x-forwarded-client-cert', 'URI=spiffe://cluster.local/ns/x/sa/admin'],
  ['forwarded', 'for=1.2.3.4'], ['x-sidestep-source-identity', 'spiffe://cluster.local/ns/x/sa/admin'],
  ['x-envoy-retry-on', '5xx'], ['x-real-ip', '1.2.3.4'], ['x-other', 'stays'],
] as const

describe('headers that only a proxy may say', () => {
  it('are taken from a caller of the mesh and set to what it proved', () => {
    const { headers, remoteIp } = cleaned(contextOf(), forged)
    expect(remoteIp).toBe('10.1.0.7')
    const { 'x-request-id': id, ...rest } = headers
    expect(id).toMatch(/^[0-9a-f-]{36}$/)
    expect(rest).toEqual({
      'x-forwarded-for': '10.1.0.7', 'x-forwarded-proto': 'http', 'x-other': 'stays',
      'x-forwarded-client-cert': 'By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/frontend',
    })
  })

  it('are taken from a client outside, who has no identity to tell', () => {
    const { headers } = cleaned(outsideContext(), forged)
    expect(headers).not.toHaveProperty('x-forwarded-client-cert')
    expect(headers).toMatchObject({ 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'http' })
  })

  it('stay, and grow, where the caller is one that may speak for others', () => {
    const trustedForwarders = ['spiffe://cluster.local/ns/shop/sa/front*']
    const { headers, remoteIp } = cleaned(contextOf(), forged, { trustedForwarders })
    expect(remoteIp).toBe('1.2.3.4')
    expect(headers).toMatchObject({
      'x-forwarded-for': '1.2.3.4, 10.1.0.7', 'x-forwarded-proto': 'https', 'x-forwarded-host': 'evil',
      'x-forwarded-client-cert': 'URI=spiffe://cluster.local/ns/x/sa/admin,By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/frontend',
    })
    expect(headers).not.toHaveProperty('x-sidestep-source-identity')
    expect(cleaned(
      contextOf(), forged, { trustedForwarders: ['spiffe://cluster.local/ns/shop/sa/front'] },
    ).remoteIp).toBe('10.1.0.7')
  })

  it('name the client before as many proxies as are in front of a listener, and no other', () => {
    const forwarded = (value: string): readonly (readonly [string, string])[] => [
      ['x-forwarded-for', value], ['x-forwarded-proto', 'https'],
    ]
    const hops = { trustedHops: 2 }
    expect(cleaned(outsideContext(), forwarded('6.6.6.6, 198.51.100.1, 192.0.2.7'), hops)).toMatchObject({
      remoteIp: '198.51.100.1',
      headers: { 'x-forwarded-for': '198.51.100.1, 192.0.2.7, 203.0.113.9', 'x-forwarded-proto': 'https' },
    })
    // Who sends less than the proxies would have written has come around them.
    expect(cleaned(outsideContext(), forwarded('6.6.6.6'), hops)).toMatchObject({
      remoteIp: '203.0.113.9', headers: { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'http' },
    })
    expect(cleaned(outsideContext(), forwarded('a, b'), hops).remoteIp).toBe('203.0.113.9')
    // Hops are in front of listeners; inside the mesh there are none.
    expect(cleaned(contextOf(), forwarded('6.6.6.6, 7.7.7.7'), hops).remoteIp).toBe('10.1.0.7')
  })

  it('keep an id that is one, and make one in place of anything else', () => {
    expect(cleaned(contextOf(), [['x-request-id', 'abc-123']]).headers['x-request-id']).toBe('abc-123')
    for (const bad of ['', 'a b', '<script>', 'x'.repeat(200), 'a"b']) expect(cleaned(
      contextOf(), [['x-request-id', bad]],
    ).headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/)
    expect(cleaned(
      contextOf(), [['x-request-id', 'a'], ['x-request-id', 'b']],
    ).headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/)
  })

  it('never say more than was proved, whatever is sent', () => {
    fc.assert(fc.property(fc.array(fc.tuple(
      fc.constantFrom(...forged.map(([name]) => name), 'x-forwarded-port', 'x-envoy-x'), fc.string(),
    )), (headers) => {
      const seen = cleaned(contextOf(), headers).headers
      expect(Object.keys(seen).sort()).toEqual(expect.arrayContaining([
        'x-forwarded-client-cert', 'x-forwarded-for', 'x-forwarded-proto', 'x-request-id',
      ]))
      expect(Object.keys(seen).filter((name) => name !== 'x-other')).toHaveLength(4)
      expect(seen['x-forwarded-for']).toBe('10.1.0.7')
    }))
  })
})

describe('X-Forwarded-Client-Cert', () => {
  const certificate = (more: Partial<NonNullable<ConnectionContext['clientCertificate']>>): ConnectionContext => outsideContext({
    clientCertificate: { hash: 'ab12', subject: 'CN=a', uris: [], dnsNames: [], ...more },
  })

  it('is written as Envoy writes it', () => {
    expect(clientCertificateElement(
      certificate({ subject: 'CN="x",O=y', uris: ['spiffe://a/b'], dnsNames: ['a.test', 'b.test'] }), waypointIdentity,
    ))
      .toBe(
        'By=spiffe://cluster.local/ns/shop/sa/waypoint;Hash=ab12;Subject="CN=\\"x\\",O=y";URI=spiffe://a/b;DNS=a.test;DNS=b.test',
      )
    expect(clientCertificateElement(outsideContext(), waypointIdentity)).toBeUndefined()
    expect(clientCertificateElement(contextOf(), undefined)).toBe('URI=spiffe://cluster.local/ns/shop/sa/frontend')
  })

  it('lets no certificate write a pair or an element of its own', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), fc.array(fc.string({ unit: 'binary' })), fc.array(fc.string()), (subject, uris, dnsNames) => {
      const text = clientCertificateElement(certificate({ subject, uris, dnsNames }), frontend) ?? ''
      expect(text).not.toMatch(/[\r\n\0]/)
      const pairs = parsePairs(text)
      expect(pairs.filter(([key]) => key === 'By')).toEqual([['By', 'spiffe://cluster.local/ns/shop/sa/frontend']])
      const sendable = (list: readonly string[]): string[] => list.map(
        (each) => Buffer.from(each, 'utf8').toString('latin1'),
      ).filter(isFieldValue)
      expect(pairs.filter(([key]) => key === 'URI').map(([, value]) => value)).toEqual(sendable(uris))
      expect(pairs.filter(([key]) => key === 'DNS').map(([, value]) => value)).toEqual(sendable(dnsNames))
    }))
  })
})

/** As a backend would read one element. */
function parsePairs(text: string): (readonly [string, string])[] {
  const pairs: (readonly [string, string])[] = []
  let rest = text
  while (rest !== '') {
    const found = /^([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;=\\\s]*))(?:;|$)/s.exec(rest)
    if (!found) throw new Error(`does not parse: ${rest}`)
    pairs.push([found[1] ?? '', found[2]?.replaceAll(/\\(.)/gs, '$1') ?? found[3] ?? ''])
    rest = rest.slice(found[0].length)
  }
  return pairs
}

describe('an address in X-Forwarded-For', () => {
  it.each([['1.2.3.4', '1.2.3.4'], [' 1.2.3.4:80 ', '1.2.3.4'], ['[2001:DB8::1]:443', '2001:db8::1'], [
    '2001:db8::1', '2001:db8::1',
  ], ['::ffff:1.2.3.4', '1.2.3.4'],
    ['unknown', undefined], ['', undefined], [
      'fe80::1%eth0', undefined,
    ], ['1.2.3.4.5', undefined], ['[1.2.3.4', undefined]])('%s is %s', (text, ip) => {
    expect(addressOf(text)).toBe(ip)
  })

  it('never throws', () => {
    fc.assert(fc.property(fc.string(), (text) => {
      expect(typeof addressOf(text)).toMatch(/string|undefined/)
    }))
  })
})
