// The headers a CONNECT carries, as Istio's ztunnel writes them and as nobody should.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { canonicalIp } from '../core/address.ts'
import { formatIdentity, parseIdentity } from '../core/identity.ts'
import { formatBaggage, parseBaggage } from './baggage.ts'
import type { Baggage } from './baggage.ts'
import { readConnectHeaders, writeConnectHeaders } from './connect-headers.ts'
import { formatForwarded, parseForwarded } from './forwarded.ts'
import { continueTraceParent, formatTraceParent, freshTraceParent, parseTraceParent } from './traceparent.ts'

const arbitraryText = fc.oneof(fc.string({ unit: 'binary', maxLength: 200 }), fc.string({ unit: fc.constantFrom(...'=;,"\\%for host.:[]k8s-0a \t') , maxLength: 60 }))

describe('baggage', () => {
  const wire = 'k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1,' +
    'cloud.region=eu,cloud.availability_zone=eu-a'
  const meaning: Baggage = {
    cluster: 'Kubernetes', namespace: 'shop', workload: { type: 'deployment', name: 'web' }, service: 'web', revision: 'v1', region: 'eu', zone: 'eu-a',
  }

  test('both ways', () => {
    expect(parseBaggage(wire)).toEqual(meaning)
    expect(formatBaggage(meaning)).toBe(wire)
    expect(formatBaggage({})).toBe('')
    // Again, from what was kept; and after more different headers than are kept.
    for (let i = 0; i < 600; i++) expect(parseBaggage(`service.name=s${i % 300}`)).toEqual({ service: `s${i % 300}` })
    expect(parseBaggage(wire)).toEqual(meaning)
    expect(formatBaggage(meaning)).toBe(wire)
  })

  test('white space, properties, escapes and unknown keys are understood; the first of a key counts', () => {
    expect(parseBaggage(' service.name = a%20b ; x=1;y , other=1,service.name=c,k8s.pod.name=p,,=,cloud.region')).toEqual({
      service: 'a b', workload: { type: 'pod', name: 'p' },
    })
  })

  test('unprintable, badly escaped, huge values and huge headers are left out', () => {
    expect(parseBaggage('service.name=a%0Ab,service.version=%ff,cloud.region=%E2%80%A8')).toEqual({})
    expect(parseBaggage(`service.name=${'x'.repeat(254)}`)).toEqual({})
    expect(parseBaggage(`${'a=b,'.repeat(64)}service.name=late`)).toEqual({})
    expect(parseBaggage(`service.name=a,x=${'x'.repeat(9_000)}`)).toEqual({})
    expect(parseBaggage('__proto__=1,constructor=2,toString=3')).toEqual({})
  })

  test('what was formatted is read back', () => {
    const value = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 40 }).filter((text) => !/[\p{Cc}\p{Cs}\u2028\u2029]/u.test(text))
    fc.assert(fc.property(fc.record({ cluster: value, service: value, revision: value, zone: value }, { requiredKeys: [] }), (baggage) => {
      const header = formatBaggage(baggage)
      expect(header).toMatch(/^[\x21-\x7e]*$/)
      expect(parseBaggage(header)).toEqual(baggage)
    }))
  })

  test('any text gives an answer', () => {
    fc.assert(fc.property(arbitraryText, (text) => {
      expect(parseBaggage(formatBaggage(parseBaggage(text)))).toEqual(parseBaggage(text))
      formatBaggage({ service: text })
    }), { numRuns: 1_000 })
  })
})

describe('forwarded', () => {
  test('both ways', () => {
    const meaning = { client: { ip: '10.0.0.1', port: 4_711 }, host: 'web.shop.svc.cluster.local' }
    expect(formatForwarded(meaning)).toBe('for="10.0.0.1:4711";host=web.shop.svc.cluster.local')
    expect(parseForwarded(formatForwarded(meaning))).toEqual(meaning)
    expect(formatForwarded({ client: { ip: 'fd00::1', port: 1 } })).toBe('for="[fd00::1]:1"')
    expect(formatForwarded({ host: 'a b' })).toBe('')
  })

  test.each([
    ['for="[2001:db8::1]:80"', { client: { ip: '2001:db8::1', port: 80 } }],
    ['For="10.0.0.1:80" ; Host="Web:8080";proto=http;by=_x', { client: { ip: '10.0.0.1', port: 80 }, host: 'web' }],
    ['for="10.0.0.1:80", for="10.0.0.2:80"', { client: { ip: '10.0.0.1', port: 80 } }],
    ['for="10.\\0.0.1:80"', { client: { ip: '10.0.0.1', port: 80 } }],
    ['for=unknown', {}], ['for=_hidden', {}], ['for="10.0.0.1:_obf"', {}], ['for=10.0.0.1', {}],
  ])('%s', (header, meaning) => {
    expect(parseForwarded(header)).toEqual(meaning)
  })

  test.each(['', 'for', 'for=', 'for="10.0.0.1:80', 'for=a;for=b', 'for=a,,', 'for=a b', '=a', 'for=a;', 'for="a\u0001"', `for="${'a'.repeat(1_024)}"`].map((h) => [h]))(
    '%j is no header', (header) => {
      // What follows the first element is not looked at.
      expect(parseForwarded(header)).toEqual(header === 'for=a,,' ? {} : undefined)
    })

  test('round trip and fuzz', () => {
    const ip = fc.oneof(fc.ipV4(), fc.ipV6()).map((text) => canonicalIp(text) ?? '::')
    fc.assert(fc.property(ip, fc.integer({ min: 1, max: 65_535 }), fc.domain(), (ip, port, domain) => {
      const meaning = { client: { ip, port }, host: domain.toLowerCase() }
      expect(parseForwarded(formatForwarded(meaning))).toEqual(meaning)
    }))
    fc.assert(fc.property(arbitraryText, (text) => {
      const parsed = parseForwarded(text)
      if (parsed) formatForwarded(parsed)
      formatForwarded({ host: text })
    }), { numRuns: 2_000 })
  })
})

describe('traceparent', () => {
  test('fresh ones differ, are not sampled and are read back; continuing keeps the trace', () => {
    const first = freshTraceParent()
    expect(formatTraceParent(first)).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/)
    expect(parseTraceParent(formatTraceParent(first))).toEqual(first)
    expect(freshTraceParent().traceId).not.toBe(first.traceId)
    const next = continueTraceParent({ ...first, isSampled: true })
    expect(next).toMatchObject({ traceId: first.traceId, isSampled: true })
    expect(next.spanId).not.toBe(first.spanId)
    expect(parseTraceParent(formatTraceParent(freshTraceParent((size) => Buffer.alloc(size))))).toBeDefined()
  })

  const id = 'a'.repeat(32)
  const span = 'b'.repeat(16)
  test.each([`ff-${id}-${span}-00`, `00-${id}-${span}-00-x`, `00-${'0'.repeat(32)}-${span}-00`, `00-${id}-${'0'.repeat(16)}-00`, `00-${id.toUpperCase()}-${span}-00`, ''])(
    '%s is none', (header) => {
      expect(parseTraceParent(header)).toBeUndefined()
    })

  test('later versions may say more', () => {
    expect(parseTraceParent(`01-${id}-${span}-03-more`)).toEqual({ traceId: id, spanId: span, isSampled: true })
  })

  test('any text gives an answer', () => {
    fc.assert(fc.property(arbitraryText, (text) => {
      parseTraceParent(text)
    }))
  })
})

describe('the source identity', () => {
  const name = 'x-sidestep-source-identity'
  const authority = { t: 'address', address: { ip: '10.0.0.1', port: 80 } } as const
  const segment = fc.stringMatching(/^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}$/)

  test('both ways, and absent where there is none', () => {
    fc.assert(fc.property(fc.record({ trustDomain: fc.domain(), namespace: segment, serviceAccount: segment }), (sourceIdentity) => {
      const { [name]: text } = writeConnectHeaders(authority, { sourceIdentity })
      expect(readConnectHeaders({ [name]: String(text) })).toEqual({ sourceIdentity })
    }))
    expect(writeConnectHeaders(authority, {})).not.toHaveProperty(name)
    expect(readConnectHeaders({})).toEqual({})
  })

  test.each([
    [''], ['web'], ['spiffe://cluster.local/ns/shop'], ['spiffe://cluster.local/ns/shop/sa/web/'], [' spiffe://cluster.local/ns/shop/sa/web'],
    ['spiffe://cluster.local/ns/../sa/web'], ['spiffe://cluster.local/ns/shop/sa/web, spiffe://cluster.local/ns/shop/sa/web'],
    [['spiffe://cluster.local/ns/shop/sa/web']], [`spiffe://cluster.local/ns/shop/sa/${'a'.repeat(254)}`],
  ])('%j is none, and that is said', (value) => {
    expect(readConnectHeaders({ [name]: value })).toEqual({ isSourceUnreadable: true })
  })

  test('any text is precisely one, or none', () => {
    fc.assert(fc.property(fc.oneof(arbitraryText, arbitraryText.map((text) => `spiffe://cluster.local/ns/shop/sa/${text}`)), (text) => {
      const { sourceIdentity, isSourceUnreadable } = readConnectHeaders({ [name]: text })
      expect(sourceIdentity).toEqual(parseIdentity(text))
      expect(isSourceUnreadable).toBe(sourceIdentity ? undefined : true)
      if (sourceIdentity) expect(formatIdentity(sourceIdentity)).toBe(text)
    }), { numRuns: 2_000 })
  })
})
