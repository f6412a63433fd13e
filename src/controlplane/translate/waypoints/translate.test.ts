// What each gateway is told, and what is said of the objects: a shop behind a waypoint, and an ingress in front.
import { describe, expect, test } from 'vitest'
import { objectKey, type ManifestObject } from '../../../model/manifest.ts'
import type { WaypointResource } from '../../../model/waypoint-config.ts'
import { make as certificate } from '../../../pki/testing.ts'
import { object } from '../arbitraries.ts'
import { backend, host, make, service, shop, webService } from '../routes/testing.ts'
import { defaultSettings } from '../settings.ts'
import { translateWaypoints } from './translate.ts'

const leaf = await certificate({ subject: 'CN=leaf' })
const privateKey = leaf.key.export({ type: 'pkcs8', format: 'pem' }).toString()
const use = (name: string, more: object = {}): object => ({ labels: { 'sidestep.dev/use-waypoint': name, ...more } })
const inShop = object('Namespace', 'shop', {}, use('w'))
const waypoint = (name = 'shop/w', allowedRoutes: object = {}, metadata: object = {}): ManifestObject =>
  make('Gateway', name, { gatewayClassName: 'sidestep-waypoint', listeners: [{ name: 'mesh', port: 15008, protocol: 'HBONE', allowedRoutes }] }, metadata)
const route = make('HTTPRoute', 'shop/r', { parentRefs: [webService], rules: [{ backendRefs: [backend('web-v2')] }] })
const limit = make('RateLimitPolicy', 'shop/l', { targetRefs: [{ kind: 'Service', name: 'web' }], limits: [{ requests: 1, per: '1s' }] })
const rule = (name: string, more: object = {}): ManifestObject => make('DestinationRule', name, { host: name.split('/')[1], trafficPolicy: { loadBalancer: { simple: 'RANDOM' } }, ...more })
const secret = (name: string, stringData: object = { 'tls.crt': leaf.pem, 'tls.key': privateKey, 'ca.crt': leaf.pem }, type = 'kubernetes.io/tls'): ManifestObject => object('Secret', name, { type, stringData })
const policy = (name: string, targetRefs: object, spec: object = {}, metadata: object = {}): ManifestObject => make('AuthorizationPolicy', name, { targetRefs: [targetRefs], action: 'DENY', rules: [{}], ...spec }, metadata)
const jwt = (name: string, kind: string, target: string, issuer: string): ManifestObject => make('RequestAuthentication', name, { targetRefs: [{ kind, name: target }], jwtRules: [{ issuer, jwks: '{}' }] })
const ofWeb = { kind: 'Service', name: 'web' }

function world(...objects: readonly ManifestObject[]) {
  // A later object of a name counts, as in a directory.
  const all = new Map([...shop, ...objects].map((each) => [objectKey(each), each]))
  const { resources, findings } = translateWaypoints(all.values(), defaultSettings)
  const get = <K extends WaypointResource['kind']>(kind: K, key: string, gateway = 'shop/w') => {
    const found = resources.get(`${gateway}/${kind}/${key}`)
    return found?.kind === kind ? (found as Extract<WaypointResource, { kind: K }>) : undefined
  }
  return {
    get, names: [...resources.keys()],
    of: (gateway: string): readonly string[] => [...resources.keys()].flatMap((name) => (name.startsWith(`${gateway}/`) ? [name.slice(gateway.length + 1)] : [])),
    policies: (key: string, gateway?: string) => get('security', key, gateway)?.security.policies.map(({ name }) => name),
    issuers: (key: string, gateway?: string) => get('security', key, gateway)?.security.jwtRules.map(({ issuer }) => issuer),
    problems: (about: ManifestObject): readonly string[] => findings.get(objectKey(about))?.problems ?? [],
    notes: (about: ManifestObject): readonly string[] => findings.get(objectKey(about))?.notes ?? [],
  }
}
const web = `shop/${host('shop/web')}`
const web2 = `shop/${host('shop/web-v2')}`
const others = `other/${host('other/web')}`

describe('a waypoint', () => {
  test('is told of the services behind it and of what their routes lead to, and of nothing else', () => {
    const otherRoute = make('HTTPRoute', 'other/r', { parentRefs: [webService], rules: [{ backendRefs: [backend('web')] }] })
    const { names, get } = world(waypoint(), inShop, route, otherRoute, limit, rule('shop/web-v2'), rule('other/web'), secret('shop/unused'))
    expect(names).toEqual(['shop/w/security/', `shop/w/routes/${web}:80`, 'shop/w/filter/RateLimitPolicy shop/l', `shop/w/destination/${web2}`])
    expect(get('routes', `${web}:80`)?.tables[0]?.http[0]?.origin).toBe('HTTPRoute shop/r')
    expect(get('filter', 'RateLimitPolicy shop/l')?.filter.t).toBe('rateLimit')
  })

  test('that nothing uses is told of nothing but its own policies; without a Gateway there is nothing', () => {
    expect(world(waypoint(), route).names).toEqual(['shop/w/security/'])
    expect(world(inShop, route).names).toEqual([])
    expect(world(make('Gateway', 'shop/w', { gatewayClassName: 'nginx', listeners: [{ name: 'h', port: 80, protocol: 'HTTP' }] }), inShop, route).names).toEqual([])
  })

  test('of another namespace serves those whom it opens itself to', () => {
    const there = object('Namespace', 'shop', {}, use('w', { 'sidestep.dev/use-waypoint-namespace': 'infra' }))
    expect(world(waypoint('infra/w', { namespaces: { from: 'All' } }), there, route).of('infra/w')).toContain(`routes/${web}:80`)
    const closed = world(waypoint('infra/w'), there, route)
    expect(closed.of('infra/w')).toEqual(['security/'])
    expect(closed.problems(there)).toEqual([expect.stringContaining('takes nothing from the namespace shop')])
  })

  test('gets Secrets of services whose owners chose it, and of others by a ReferenceGrant', () => {
    const mutual = (name: string): ManifestObject => rule(name, { trafficPolicy: { tls: { mode: 'MUTUAL', credentialName: 'c' } } })
    const grant = make('ReferenceGrant', 'other/g', { from: [{ group: 'gateway.networking.k8s.io', kind: 'HTTPRoute', namespace: 'shop' }], to: [{ group: '', kind: 'Service' }] })
    const toOther = make('HTTPRoute', 'shop/r', { parentRefs: [webService], rules: [{ backendRefs: [backend('web', { namespace: 'other' })] }] })
    const base = [inShop, waypoint(), toOther, grant, mutual('shop/web'), mutual('other/web'), secret('shop/c'), secret('other/c')]
    const { get, of, problems } = world(...base)
    expect(get('secret', 'Secret shop/c')).toMatchObject({ certificate: { privateKey: expect.stringContaining('PRIVATE KEY') }, authorities: expect.stringContaining('BEGIN') })
    expect(of('shop/w')).toContain(`destination/${others}`)
    expect(of('shop/w')).not.toContain('secret/Secret other/c')
    expect(problems(waypoint())).toEqual([expect.stringContaining('no ReferenceGrant lets it use the Secret other/c')])
    const granted = world(...base, make('ReferenceGrant', 'other/s', { from: [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', namespace: 'shop' }], to: [{ group: '', kind: 'Secret', name: 'c' }] }))
    expect(granted.of('shop/w')).toContain('secret/Secret other/c')
    const infra = world(waypoint('infra/w', { namespaces: { from: 'All' } }), object('Namespace', 'shop', {}, use('w', { 'sidestep.dev/use-waypoint-namespace': 'infra' })), mutual('shop/web'), secret('shop/c'))
    expect(infra.of('infra/w')).toContain('secret/Secret shop/c')
  })

  test('that only verifies gets no private key', () => {
    const simple = rule('shop/web', { trafficPolicy: { tls: { mode: 'SIMPLE', credentialName: 'c' } } })
    expect(Object.keys(world(inShop, waypoint(), simple, secret('shop/c')).get('secret', 'Secret shop/c') ?? {})).toEqual(['kind', 'key', 'authorities'])
    expect(world(inShop, waypoint(), simple).problems(waypoint())).toEqual([expect.stringContaining('there is no Secret shop/c')])
  })

  test('has a failure mode that is one of two', () => {
    const said = (mode: string): ManifestObject => waypoint('shop/w', {}, { annotations: { 'sidestep.dev/waypoint-failure-mode': mode } })
    expect([world(said('open')).problems(said('open')), world(said('closed')).problems(said('closed'))]).toEqual([[], []])
    expect(world(said('opne')).problems(said('opne'))).toEqual([expect.stringContaining('it counts as closed')])
  })
})

describe('security', () => {
  test('of a service: its own policies with those of its waypoint and of the class; of the rest only the latter', () => {
    const all = [
      policy('shop/own', ofWeb), policy('shop/gateway', { kind: 'Gateway', name: 'w' }), policy('sidestep-system/class', { kind: 'GatewayClass', name: 'sidestep-waypoint' }),
      jwt('shop/j', 'Service', 'web', 'own'), jwt('sidestep-system/j', 'GatewayClass', 'sidestep-waypoint', 'mesh'),
    ]
    const { policies, issuers, get, problems } = world(inShop, waypoint(), ...all)
    expect([policies(web), policies(''), get('security', web2)]).toEqual([['gateway', 'own', 'class'], ['gateway', 'class'], undefined])
    expect([issuers(web), issuers('')]).toEqual([['mesh', 'own'], ['mesh']])
    for (const each of all) expect(problems(each)).toEqual([])
    expect(world(waypoint('else/w'), ...all).policies('', 'else/w')).toEqual(['class'])
  })

  test('the older way to name one target is read, too', () => {
    const one = { targetRef: { kind: 'Service', name: 'web' } }
    const { policies, issuers } = world(inShop, waypoint(), make('AuthorizationPolicy', 'shop/p', { ...one, rules: [{}] }), make('RequestAuthentication', 'shop/j', { ...one, jwtRules: [{ issuer: 'i' }] }))
    expect([policies(web), issuers(web)]).toEqual([['p'], ['i']])
  })

  test('a policy that names a service and its waypoint counts once there', () => {
    const both = make('AuthorizationPolicy', 'shop/p', { targetRefs: [ofWeb, { kind: 'Gateway', name: 'w' }], rules: [{}] })
    expect(world(inShop, waypoint(), both).policies(web)).toEqual(['p'])
  })

  test('of a ServiceEntry holds for each of its hosts', () => {
    const entry = object('ServiceEntry', 'shop/e', { spec: { hosts: ['a.com', 'b.com'], ports: [{ number: 443, name: 'tls', protocol: 'TLS' }] } })
    const { policies } = world(inShop, waypoint(), entry, policy('shop/p', { group: 'networking.istio.io', kind: 'ServiceEntry', name: 'e' }))
    expect([policies('shop/a.com'), policies('shop/b.com')]).toEqual([['p'], ['p']])
  })

  test.each<[string, ManifestObject, string]>([
    ['a Service that is not there', policy('shop/p', { kind: 'Service', name: 'gone' }), 'TargetNotFound'],
    ['a Service without a waypoint', policy('other/p', ofWeb), 'AncestorNotBound'],
    ['a Gateway that is not there', policy('shop/p', { kind: 'Gateway', name: 'gone' }), 'TargetNotFound'],
    ['a class, from a namespace that is no root', policy('shop/p', { kind: 'GatewayClass', name: 'sidestep-waypoint' }), 'only a policy in sidestep-system'],
    ['another namespace\'s Service', policy('other/p', { ...ofWeb, namespace: 'shop' }), 'of another namespace'],
    ['something else', policy('shop/p', { kind: 'Pod', name: 'x' }), 'a Pod is nothing'],
    ['a Service of a strange group', policy('shop/p', { ...ofWeb, group: 'x.io' }), 'of the group x.io'],
    ['nothing, for tokens', make('RequestAuthentication', 'shop/p', { jwtRules: [{ issuer: 'x' }] }), 'names no targetRefs'],
    ['CUSTOM without a name', policy('shop/p', ofWeb, { action: 'CUSTOM' }), 'needs provider.name'],
    ['CUSTOM of nobody', policy('shop/p', ofWeb, { action: 'CUSTOM', provider: { name: 'gone' } }), 'there is no AuthorizationProvider shop/gone'],
    ['CUSTOM of a stranger', policy('shop/p', ofWeb, { action: 'CUSTOM', provider: { name: 'other/opa' } }), 'neither of its own namespace nor of a root'],
    ['what gateways do not know', policy('shop/p', ofWeb, { rules: [{ when: [{ key: 'experimental.x', values: ['a'] }] }] }), 'everything that it is for is refused'],
  ])('a policy for %s says so', (_what, about, why) => {
    const opa = make('AuthorizationProvider', 'other/opa', { protocol: 'GRPC', service: 'web', port: 80 })
    expect(world(inShop, waypoint(), opa, about).problems(about).join()).toContain(why)
  })

  test('a policy that nothing stands for keeps its target closed', () => {
    expect(world(inShop, waypoint(), policy('shop/p', ofWeb, { action: 'CUSTOM', provider: { name: 'gone' } })).get('security', web)?.security.policies[0]?.unsupported).toContain('there is no AuthorizationProvider')
  })

  test('providers come with the policies that name them, and their services\' policies with those', () => {
    const opa = make('AuthorizationProvider', 'sidestep-system/opa', { protocol: 'HTTP', service: host('other/web'), port: 80, failOpen: true, headersToUpstream: ['X-User'] })
    const lost = make('AuthorizationProvider', 'shop/lost', { protocol: 'GRPC', service: 'gone', port: 1 })
    const { get, of, problems } = world(inShop, waypoint(), opa, lost, rule('other/web'), policy('shop/p', ofWeb, { action: 'CUSTOM', provider: { name: 'sidestep-system/opa' } }))
    expect(get('security', web)?.security.policies[0]?.provider).toBe('sidestep-system/opa')
    expect(get('provider', 'sidestep-system/opa')?.provider).toEqual({
      name: 'sidestep-system/opa', protocol: 'http', service: others, port: 80, timeoutMs: 1000, isFailOpen: true, pathPrefix: '', includeRequestHeaders: [],
      headersToUpstream: ['x-user'], headersToDownstream: [], bodyBytes: 0, statusOnError: 403,
    })
    expect(of('shop/w')).toContain(`destination/${others}`)
    expect(of('shop/w')).not.toContain('provider/shop/lost')
    expect([problems(opa), problems(lost)]).toEqual([[], [expect.stringContaining('there is no service with the host gone.shop')]])
  })
})

describe('an ingress', () => {
  const https = { name: 'https', port: 443, protocol: 'HTTPS', tls: { certificateRefs: [{ name: 'c' }] } }
  const edge = (listeners: readonly object[] = [{ name: 'http', port: 80, protocol: 'HTTP' }, https], more: object = {}): ManifestObject => make('Gateway', 'shop/edge', { gatewayClassName: 'sidestep-ingress', listeners, ...more })
  const attached = make('HTTPRoute', 'shop/r', { parentRefs: [{ name: 'edge' }], rules: [{ backendRefs: [backend('web')] }] })

  test('is told of its listeners, their routes, policies and certificates', () => {
    const { of, get, policies } = world(edge(), attached, rule('shop/web'), rule('shop/web-v2'), secret('shop/c'), policy('shop/p', { kind: 'Gateway', name: 'edge' }))
    expect([...of('shop/edge')].sort()).toEqual([
      `destination/${web}`, 'listener/Gateway shop/edge/http', 'listener/Gateway shop/edge/https', 'routes/Gateway shop/edge/http', 'routes/Gateway shop/edge/https',
      'secret/Secret shop/c', 'security/', 'security/Gateway shop/edge/http', 'security/Gateway shop/edge/https',
    ])
    expect(policies('Gateway shop/edge/http', 'shop/edge')).toEqual(['p'])
    expect(Object.keys(get('secret', 'Secret shop/c', 'shop/edge') ?? {})).toEqual(['kind', 'key', 'certificate'])
  })

  test('says which certificates and authorities it cannot use', () => {
    const frontend = { tls: { frontend: { default: { validation: { caCertificateRefs: [{ group: '', kind: 'ConfigMap', name: 'ca' }] } } } } }
    const about = edge([https], frontend)
    expect(world(about).problems(about)).toEqual(['listener https: there is no Secret shop/c (InvalidCertificateRef)', 'listener https: there is no ConfigMap shop/ca (InvalidCACertificateRef)',
      'listener https: of no authority that it names a certificate could be accepted (NoValidCACertificate)'])
    const broken = secret('shop/c', { 'tls.crt': leaf.pem, 'tls.key': 'x' })
    const { problems, get } = world(about, broken, object('ConfigMap', 'shop/ca', { data: { 'ca.crt': leaf.pem } }))
    expect(problems(about)).toEqual([expect.stringContaining('the Secret shop/c cannot be used: tls.key has no private key')])
    expect(problems(broken)).toHaveLength(1)
    expect(get('secret', 'Secret shop/c', 'shop/edge')).toEqual({ kind: 'secret', key: 'Secret shop/c' })
    expect(get('secret', 'ConfigMap shop/ca', 'shop/edge')?.authorities).toContain('BEGIN CERTIFICATE')
  })

  test('of another namespace\'s Secrets gets those that a ReferenceGrant names', () => {
    const about = edge([{ ...https, tls: { certificateRefs: [{ name: 'c', namespace: 'other' }] } }])
    const grant = make('ReferenceGrant', 'other/g', { from: [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', namespace: 'shop' }], to: [{ group: '', kind: 'Secret' }] })
    expect(world(about, secret('other/c')).of('shop/edge').filter((name) => name.startsWith('secret/'))).toEqual([])
    expect(world(about, secret('other/c'), grant).of('shop/edge')).toContain('secret/Secret other/c')
  })
})

test('routes of a service without a waypoint are in force nowhere, and say so', () => {
  const virtual = make('VirtualService', 'other/v', { hosts: ['web'], http: [{ route: [{ destination: { host: 'web' } }] }] })
  const shared = make('RateLimitPolicy', 'shop/s', { targetRefs: [{ kind: 'Service', name: 'web' }, { kind: 'Service', name: 'web-v2' }], limits: [{ requests: 1, per: '1s' }] })
  const bare = world(route, virtual, limit, shared)
  for (const each of [route, limit, shared]) expect(bare.problems(each)).toContain('Service shop/web is behind no waypoint, so nothing of it is in force there')
  expect(bare.problems(virtual)).toEqual([expect.stringContaining('Service other/web')])
  const bound = world(route, virtual, limit, shared, waypoint(), inShop)
  for (const each of [route, limit, shared]) expect(bound.problems(each)).toEqual([])
  const half = world(route, shared, waypoint(), object('Service', 'shop/web-v2', { spec: { clusterIP: '10.96.0.1', ports: [{ name: 'http', port: 80 }] } }, use('w')))
  expect([half.problems(route).length, half.problems(shared).length]).toEqual([1, 0])
})

test('wishes that cannot be had are said where they are written', () => {
  const own = object('Service', 'shop/web', { spec: { ports: [{ port: 80 }] } }, use('gone'))
  const entry = object('WorkloadEntry', 'shop/vm', { spec: { address: '192.0.2.1', labels: { 'sidestep.dev/use-waypoint': 'gone' } } })
  const deployment = object('Deployment', 'shop/d', { spec: { template: { metadata: { labels: { 'sidestep.dev/use-waypoint': 'gone' } }, spec: { containers: [{ name: 'c', command: ['x'] }] } } } })
  const lost = object('Namespace', 'other', {}, use('lost'))
  const { problems } = world(own, entry, deployment, lost, waypoint(), inShop)
  for (const each of [own, entry, deployment]) expect(problems(each)).toEqual([expect.stringContaining('there is no Gateway shop/gone')])
  expect(problems(lost)).toEqual([expect.stringContaining('there is no Gateway other/lost')])
  // Once for the namespace, not again for each thing in it.
  expect(problems(service('other/web'))).toEqual([])
  expect(problems(inShop)).toEqual([])
})
