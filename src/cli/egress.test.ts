import fc from 'fast-check'
import { parseAllDocuments } from 'yaml'
import { describe, expect, test } from 'vitest'
import { parseManifest } from '../model/manifest-parse.ts'
import { serviceEntrySchema } from '../model/manifest-external.ts'
import type { LearnedView } from '../model/ztunnel-views.ts'
import { entriesText } from './egress-entries.ts'
import { merged } from './egress.ts'

const at = (second: number): string => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString()
const seen = (parts: Partial<LearnedView> = {}): LearnedView => ({
  namespace: 'shop', serviceAccount: 'web', address: '203.0.113.1', port: 443, protocol: 'tcp', count: 1, firstSeen: at(1), lastSeen: at(2), verdict: 'allowed', ...parts,
})
const specs = (text: string): unknown[] => parseAllDocuments(text).flatMap((document) => {
  const object: unknown = document.toJS()
  return object === null ? [] : [object]
})

test('what several saw is one, with the last word about it whoever is asked first', () => {
  const older = seen({ count: 2, firstSeen: at(1), lastSeen: at(5), verdict: 'allowed' })
  const newer = seen({ count: 3, firstSeen: at(3), lastSeen: at(9), verdict: 'denied', serviceAccount: 'job' })
  for (const both of [[older, newer], [newer, older]]) {
    expect(merged(both)).toEqual([{ ...newer, count: 5, firstSeen: at(1) }])
  }
  const others = [seen({ port: 80 }), seen({ namespace: 'bank' }), seen({ host: 'api.example.com' }), seen()]
  expect(merged(others).map(({ namespace, host, port }) => [namespace, host, port])).toEqual([
    ['bank', undefined, 443], ['shop', undefined, 80], ['shop', undefined, 443], ['shop', 'api.example.com', 443],
  ])
})

describe('entries', () => {
  test('a host has its ports and its address; an address is an endpoint', () => {
    const text = entriesText([
      seen({ host: 'api.example.com', address: '240.0.0.1', port: 443, protocol: 'tls' }), seen({ host: 'api.example.com', address: '240.0.0.1', port: 80, protocol: 'http' }), seen({ verdict: 'denied' }),
    ])
    expect(specs(text)).toEqual([
      {
        apiVersion: 'networking.istio.io/v1', kind: 'ServiceEntry', metadata: { name: 'egress-api-example-com', namespace: 'shop' },
        spec: {
          hosts: ['api.example.com'], addresses: ['240.0.0.1'], location: 'MESH_EXTERNAL', resolution: 'DNS', exportTo: ['.'],
          ports: [{ number: 80, name: 'http-80', protocol: 'HTTP' }, { number: 443, name: 'tls-443', protocol: 'TLS' }],
        },
      },
      {
        apiVersion: 'networking.istio.io/v1', kind: 'ServiceEntry', metadata: { name: 'egress-203-0-113-1', namespace: 'shop' },
        spec: {
          hosts: ['egress-203-0-113-1.invalid'], addresses: ['203.0.113.1'], location: 'MESH_EXTERNAL', resolution: 'STATIC', exportTo: ['.'],
          ports: [{ number: 443, name: 'tcp-443', protocol: 'TCP' }], endpoints: [{ address: '203.0.113.1' }],
        },
      },
    ])
    const { objects, problems } = parseManifest(text, 'entries.yaml')
    expect([objects.length, problems]).toEqual([2, []])
  })

  test('no two have one name in a namespace', () => {
    const hosts = ['a-b.example.com', 'a.b.example.com', `${'x'.repeat(63)}.example.com`, `${'x'.repeat(62)}.example.com`]
    const names = specs(entriesText([...hosts.map((host) => seen({ host })), seen({ host: 'a.b.example.com', namespace: 'bank' })])).map((each) => (each as { metadata: { name: string } }).metadata.name)
    expect(names).toEqual(['egress-a-b-example-com', 'egress-a-b-example-com-2', `egress-${'x'.repeat(48)}`, `egress-${'x'.repeat(48)}-2`, 'egress-a-b-example-com'])
  })

  test('a name of the cluster, which a pod may send as any other, is named and gets none', () => {
    const text = entriesText(['payments.bank.svc.cluster.local', 'payments.bank.svc', 'payments', 'svc.example.com'].map((host) => seen({ host })))
    expect(specs(text)).toMatchObject([{ spec: { hosts: ['svc.example.com'] } }])
    expect(text.match(/^# left out, a name of the cluster: shop payments/gm)).toHaveLength(3)
  })

  test('nothing seen is nothing to apply', () => {
    expect(specs(entriesText([]))).toEqual([])
  })

  test('whatever a proxy says: what comes out are entries of those very places, and comments', () => {
    const view = fc.record({
      namespace: fc.constantFrom('shop', 'bank'), host: fc.oneof(fc.domain(), fc.string(), fc.constantFrom('a\n---\nkind: Evil', '1.2.3', '*', '\u001b[31m')), address: fc.oneof(fc.ipV4(), fc.ipV6(), fc.string()),
      isHost: fc.boolean(), port: fc.integer({ min: 1, max: 65_535 }), protocol: fc.constantFrom('http', 'tls', 'tcp'),
    }).map(({ isHost, host, address, ...rest }): LearnedView => {
      const { address: _, ...base } = seen()
      return { ...base, ...rest, ...(isHost ? { host } : { address }) }
    })
    fc.assert(fc.property(fc.array(view, { maxLength: 8 }), (views) => {
      const text = entriesText(views)
      // oxlint-disable-next-line no-control-regex
      expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/)
      const places = new Set(views.map(({ host, address }) => host ?? address))
      for (const each of specs(text)) {
        const { kind, metadata, spec } = each as { kind: string; metadata: { name: string }; spec: { hosts: string[]; addresses?: string[] } }
        expect(kind).toBe('ServiceEntry')
        expect(metadata.name).toMatch(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/)
        expect(serviceEntrySchema.safeParse(each).success).toBe(true)
        const [host = ''] = spec.hosts
        expect(places.has(host.endsWith('.invalid') ? spec.addresses?.[0] : host) || places.has(host)).toBe(true)
      }
    }))
  })
})
