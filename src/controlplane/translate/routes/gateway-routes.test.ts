// Routes whose parent is a Gateway: listeners, their hosts and who may attach, in the words of the Gateway API.
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from '../../../model/manifest.ts'
import { object } from '../arbitraries.ts'
import { answer, backend, conditions, make, translate } from './testing.ts'

const edge = (listeners: readonly object[], more: object = {}) => make('Gateway', 'shop/edge', { gatewayClassName: 'sidestep-ingress', listeners, ...more })
const listener = (name: string, more: object = {}): object => ({ name, port: 80, protocol: 'HTTP', ...more })
const rules = [{ backendRefs: [backend('web')] }]
const under = (name: string, more: object = {}) => make('HTTPRoute', name, { parentRefs: [{ name: 'edge', namespace: 'shop' }], rules, ...more })
const key = (name: string): string => `Gateway shop/edge/${name}`

describe('a Gateway of the class sidestep-ingress', () => {
  test('listens, and tells certificates by Secret', () => {
    const t = translate(edge([
      listener('http'), listener('https', { port: 443, protocol: 'https', hostname: '*.example.com', tls: { certificateRefs: [{ name: 'c' }, { name: 'd', namespace: 'other' }] } }),
      listener('tls', { port: 8443, protocol: 'TLS', tls: { mode: 'Passthrough' } }), listener('tcp', { port: 5432, protocol: 'TCP' }),
    ], { tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: '', kind: 'ConfigMap', name: 'ca' }] } } } } }))
    expect(t.listeners).toEqual([
      { key: key('http'), gateway: { namespace: 'shop', name: 'edge' }, name: 'http', port: 80, protocol: 'http' },
      {
        key: key('https'), gateway: { namespace: 'shop', name: 'edge' }, name: 'https', port: 443, protocol: 'https', hostname: '*.example.com',
        tls: { mode: 'terminate', certificates: ['shop/c'] }, clientCertificates: { authorities: ['ConfigMap shop/ca'], isOptional: false },
      },
      { key: key('tcp'), gateway: { namespace: 'shop', name: 'edge' }, name: 'tcp', port: 5432, protocol: 'tcp' },
      { key: key('tls'), gateway: { namespace: 'shop', name: 'edge' }, name: 'tls', port: 8443, protocol: 'tls', tls: { mode: 'passthrough', certificates: [] } },
    ])
    expect(t.findings.get('Gateway shop/edge')?.problems).toEqual(['listener https: no ReferenceGrant lets it use the Secret other/d (RefNotPermitted)'])
  })

  test('is one only by its class, or by the controller of its GatewayClass', () => {
    const gateway = (gatewayClassName: string) => make('Gateway', 'shop/edge', { gatewayClassName, listeners: [listener('http')] })
    const named = (name: string, controllerName: string) => object('GatewayClass', name, { spec: { controllerName } })
    expect(translate(gateway('nginx')).listeners).toEqual([])
    expect(translate(gateway('public'), named('public', 'sidestep.dev/ingress')).listeners).toHaveLength(1)
    expect(translate(gateway('sidestep-ingress'), named('sidestep-ingress', 'example.com/other')).listeners).toEqual([])
    // Another controller speaks for its own Gateways.
    expect(translate(gateway('nginx'), under('shop/r')).findings.get('HTTPRoute shop/r')?.parents).toEqual([])
    expect(conditions(translate(gateway('sidestep-waypoint'), under('shop/r')), 'HTTPRoute shop/r')).toEqual(['!NotAllowedByListeners ResolvedRefs'])
  })

  test('serves neither of two listeners that cannot be told apart', () => {
    const t = translate(edge([listener('a'), listener('b', { protocol: 'TCP' }), listener('c', { port: 81 })]), under('shop/r', { parentRefs: [{ name: 'edge', sectionName: 'a' }] }))
    expect(t.listeners.map(({ name }) => name)).toEqual(['c'])
    expect(t.findings.get('Gateway shop/edge')?.problems).toEqual([
      'listener a: cannot be told from the listener b (ProtocolConflict)', 'listener b: cannot be told from the listener a (ProtocolConflict)',
    ])
    expect(conditions(t, 'HTTPRoute shop/r')).toEqual(['!NoMatchingParent ResolvedRefs'])
    expect(translate(edge([listener('u', { protocol: 'UDP' })])).findings.get('Gateway shop/edge')?.problems).toEqual(['listener u: the protocol UDP is not supported (UnsupportedProtocol)'])
  })

  test('opens itself to whom allowedRoutes names: its own namespace unless said', () => {
    const from = (namespaces: object | undefined, ...more: readonly ManifestObject[]) =>
      conditions(translate(edge([listener('http', namespaces ? { allowedRoutes: { namespaces } } : {})]), under('guest/r', { rules: [{}] }), ...more), 'HTTPRoute guest/r')[0]
    expect(from(undefined)).toBe('!NotAllowedByListeners ResolvedRefs')
    expect(from({ from: 'Same' })).toBe('!NotAllowedByListeners ResolvedRefs')
    expect(from({ from: 'All' })).toBe('Accepted ResolvedRefs')
    const selector = (matchLabels: object): object => ({ from: 'Selector', selector: { matchLabels } })
    expect(from(selector({ edge: 'yes' }), object('Namespace', 'guest', {}, { labels: { edge: 'yes' } }))).toBe('Accepted ResolvedRefs')
    expect(from(selector({ edge: 'yes' }), object('Namespace', 'guest', {}, { labels: { edge: 'no' } }))).toBe('!NotAllowedByListeners ResolvedRefs')
    expect(from(selector({ 'kubernetes.io/metadata.name': 'guest' }))).toBe('Accepted ResolvedRefs')
    expect(from({ from: 'Selector', selector: { matchExpressions: [{ key: 'edge', operator: 'NotIn', values: ['no'] }] } })).toBe('Accepted ResolvedRefs')
    expect(from({ from: 'Selector', selector: { matchExpressions: [{ key: 'edge', operator: 'Exists' }] } })).toBe('!NotAllowedByListeners ResolvedRefs')
  })

  test('takes only kinds that it allows and that fit its protocol', () => {
    const grpcOnly = listener('http', { allowedRoutes: { kinds: [{ kind: 'GRPCRoute' }] } })
    expect(conditions(translate(edge([grpcOnly]), under('shop/r')), 'HTTPRoute shop/r')).toEqual(['!NotAllowedByListeners ResolvedRefs'])
    expect(translate(edge([listener('http', { allowedRoutes: { kinds: [{ kind: 'TCPRoute' }] } })])).findings.get('Gateway shop/edge')?.problems.join()).toMatch(/InvalidRouteKinds/)
    const tls = make('TLSRoute', 'shop/t', { parentRefs: [{ name: 'edge' }], hostnames: ['a.com'], rules })
    expect(conditions(translate(edge([listener('http')]), tls), 'TLSRoute shop/t')).toEqual(['!NotAllowedByListeners ResolvedRefs'])
  })

  test('chooses listeners by name and port', () => {
    const gateway = edge([listener('a'), listener('b', { port: 81 })])
    const at = (ref: object): readonly string[] => translate(gateway, under('shop/r', { parentRefs: [{ name: 'edge', ...ref }] })).tables.filter(({ http }) => http.length > 0).map(({ key }) => key)
    expect(at({})).toEqual([key('a'), key('b')])
    expect(at({ sectionName: 'b' })).toEqual([key('b')])
    expect(at({ port: 80 })).toEqual([key('a')])
    expect(at({ port: 80, sectionName: 'b' })).toEqual([])
    expect(conditions(translate(gateway, under('shop/r', { parentRefs: [{ name: 'edge', port: 82 }] })), 'HTTPRoute shop/r')).toEqual(['!NoMatchingParent ResolvedRefs'])
  })

  test('hosts: what both allow, the most specific first, and 404 for the rest', () => {
    const v2 = [{ backendRefs: [backend('web-v2')] }]
    const only = (path: string, name: string) => [{ matches: [{ path: { type: 'Exact', value: path } }], backendRefs: [backend(name)] }]
    const t = translate(
      edge([listener('wild', { hostname: '*.example.com' })]),
      under('shop/exact', { hostnames: ['a.example.com', 'a.example.net'], rules: only('/a', 'web') }), under('shop/wide', { hostnames: ['*.example.com', '*.com'], rules: v2 }),
      under('shop/foreign', { hostnames: ['example.com', 'b.example.net'] }),
    )
    const at = (authority: string, path = '/'): string => answer(t, key('wild'), path, { authority })
    expect(at('a.example.com', '/a')).toBe('web')
    // The exact host has no rule for it, the wider one has.
    expect(at('a.example.com')).toBe('web-v2')
    expect(at('x.y.example.com')).toBe('web-v2')
    for (const other of ['example.com', 'a.example.net', 'other.com']) expect(at(other, '/a')).toBe('404')
    expect(conditions(t, 'HTTPRoute shop/foreign')).toEqual(['!NoMatchingListenerHostname ResolvedRefs'])
    expect(t.tables.map(({ hostnames }) => hostnames)).toEqual([['a.example.com'], ['*.example.com']])
  })

  test('an HTTPRoute and a GRPCRoute do not share a host: the older has it', () => {
    const grpc = (hostnames: readonly string[], metadata: object = {}) => make('GRPCRoute', 'shop/g', { parentRefs: [{ name: 'edge' }], hostnames, rules }, metadata)
    const both = (g: ReturnType<typeof grpc>) => {
      const t = translate(edge([listener('http')]), under('shop/r', { hostnames: ['a.com'] }), g)
      return [conditions(t, 'HTTPRoute shop/r')[0], conditions(t, 'GRPCRoute shop/g')[0]]
    }
    expect(both(grpc(['*.com'], { creationTimestamp: '2020-01-01T00:00:00Z' }))).toEqual(['!Conflicted ResolvedRefs', 'Accepted ResolvedRefs'])
    expect(both(grpc(['b.com'], { creationTimestamp: '2020-01-01T00:00:00Z' }))).toEqual(['Accepted ResolvedRefs', 'Accepted ResolvedRefs'])
    // By name, g comes before r.
    expect(both(grpc([]))).toEqual(['!Conflicted ResolvedRefs', 'Accepted ResolvedRefs'])
  })

  test('backends of other namespaces only by grant, of its own route\'s namespace always', () => {
    const t = translate(edge([listener('http', { allowedRoutes: { namespaces: { from: 'All' } } })]), under('other/r', { rules: [{ backendRefs: [backend('web'), backend('web', { namespace: 'shop' })] }] }))
    expect(answer(t, key('http'), '/')).toBe('web|500')
    expect(conditions(t, 'HTTPRoute other/r')).toEqual(['Accepted !RefNotPermitted'])
  })

  test('connections by server name, the most specific first', () => {
    const route = (name: string, hostnames: readonly string[]) => make('TLSRoute', name, { parentRefs: [{ name: 'edge' }], hostnames, rules })
    const t = translate(edge([listener('tls', { port: 443, protocol: 'TLS', hostname: '*.a.com', tls: { mode: 'Passthrough' } })]), route('shop/wide', ['*.com']), route('shop/one', ['x.a.com', 'x.b.com']))
    expect(t.tables.map(({ tcp }) => tcp.map(({ origin, serverNames }) => [origin, serverNames]))).toEqual([[['TLSRoute shop/one', ['x.a.com']], ['TLSRoute shop/wide', ['*.a.com']]]])
  })
})
