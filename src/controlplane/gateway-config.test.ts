// The control plane and gateways: YAML in a directory becomes what a waypoint or an ingress is told, and what is said of each object.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLogger, type Logger } from '../core/log.ts'
import { controlPlaneStatusSchema } from '../model/control-plane-status.ts'
import { make } from '../pki/testing.ts'
import type { NodeStatus, TypeStatus } from '../xds/node-records.ts'
import { XdsStore } from '../xds/store.ts'
import { ControlPlane, type ControlPlaneOptions } from './control-plane.ts'
import { DirectorySource } from './directory-source.ts'
import { InProcessPods } from './pod-source.ts'

const gatewayGroup = 'gateway.networking.k8s.io'
const shop = (name = 'w'): string => `apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { sidestep.dev/use-waypoint: ${name} } }\n---\n`
const service = (name = 'web'): string => `apiVersion: v1\nkind: Service\nmetadata: { name: ${name}, namespace: shop }\nspec: { clusterIP: 10.96.0.1, ports: [{ name: http, port: 80 }] }\n---\n`
const waypoint = `apiVersion: ${gatewayGroup}/v1\nkind: Gateway\nmetadata: { name: w, namespace: shop }\nspec: { gatewayClassName: sidestep-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }\n---\n`
const edge = `apiVersion: ${gatewayGroup}/v1\nkind: Gateway\nmetadata: { name: edge, namespace: shop }\nspec: { gatewayClassName: sidestep-ingress, listeners: [{ name: https, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: cert }] } }] }\n---\n`
const route = (path: string, backend = 'web'): string => `apiVersion: ${gatewayGroup}/v1\nkind: HTTPRoute\nmetadata: { name: r, namespace: shop }\nspec: { parentRefs: [{ group: "", kind: Service, name: web }], rules: [{ matches: [{ path: { value: ${path} } }], backendRefs: [{ name: ${backend}, port: 80 }] }] }\n---\n`
const policy = (methods: string): string => `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: shop }\nspec: { targetRefs: [{ kind: Service, name: web }], action: DENY, rules: [{ to: [{ operation: { methods: [${methods}] } }] }] }\n---\n`
const routes = 'shop/w/routes/shop/web.shop.svc.cluster.local:80'
const security = 'shop/w/security/shop/web.shop.svc.cluster.local'

let directory = ''
let store = new XdsStore()
let plane: ControlPlane | undefined
const put = (file: string, text: string): void => writeFileSync(join(directory, file), text)
async function start(more: Partial<ControlPlaneOptions> = {}): Promise<ControlPlane> {
  plane = new ControlPlane({ config: new DirectorySource(directory), pods: new InProcessPods(), store, logger: silentLogger, ...more })
  await plane.start()
  return plane
}
async function until(check: () => boolean): Promise<void> {
  for (let i = 0; i < 400 && !check(); i++) await sleep(10)
  expect(check()).toBe(true)
}
const version = (name: string): string | undefined => store.logs.waypoint.get(name)?.version
/** Everything in it, as text. */
const shown = (name: string): string => Buffer.from(store.logs.waypoint.get(name)?.frame ?? []).toString('latin1')

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-cp-'))
  store = new XdsStore()
})
afterEach(async () => {
  await plane?.close()
  rmSync(directory, { recursive: true, force: true })
})

describe('what gateways are told', () => {
  test('is published with the first state, and then as files change, and only what changed', async () => {
    put('a.yaml', shop() + service() + waypoint + route('/a'))
    put('p.yaml', policy('POST'))
    await start()
    expect([...store.logs.waypoint.names()].sort()).toEqual([routes, 'shop/w/security/', security])
    const before = [version(routes), version(security)]
    put('p.yaml', policy('PUT'))
    await until(() => version(security) !== before[1])
    expect([version(routes), shown(security).includes('PUT')]).toEqual([before[0], true])
    put('a.yaml', shop() + service() + waypoint + route('/b'))
    await until(() => version(routes) !== before[0])
    put('a.yaml', shop() + service() + waypoint)
    await until(() => version(routes) === undefined)
    put('a.yaml', shop('none') + service() + waypoint)
    await until(() => version(security) === undefined)
    expect([...store.logs.waypoint.names()]).toEqual(['shop/w/security/'])
  })

  test('is there when clients are sent to the waypoint', async () => {
    put('a.yaml', service() + waypoint + route('/a') + shop('none'))
    await start()
    const told: string[] = []
    const { apply } = store
    store.apply = (delta) => {
      for (const { name, waypoint: to } of delta.services ?? []) told.push(`${name} ${to ? 'bound' : 'free'}, ${delta.waypoint?.has(routes) ? 'with routes' : 'alone'}`)
      apply.call(store, delta)
    }
    put('a.yaml', service() + waypoint + route('/a') + shop())
    await until(() => told.length > 0)
    expect(told).toEqual(['web bound, with routes'])
  })

  test('what is bad keeps its last good state', async () => {
    put('a.yaml', shop() + service() + waypoint)
    put('p.yaml', policy('POST'))
    const { objectStatus } = await start().then((it) => ({ objectStatus: it.objectStatus.bind(it) }))
    const before = version(security)
    put('p.yaml', policy('POST').replace('methods', 'method'))
    await until(() => objectStatus('AuthorizationPolicy shop/p')?.accepted === false)
    expect(version(security)).toBe(before)
  })
})

describe('the status of objects', () => {
  const type = (more: Partial<TypeStatus> = {}): TypeStatus => ({ subscribed: 'all', behind: 0, waitingSinceMs: undefined, pushes: 1, acked: 1, nacked: 0, ...more })
  const node = (name: string, more: Partial<NodeStatus> = {}): NodeStatus => ({
    node: name, identity: name, peer: '', connectedAtMs: 1, disconnectedAtMs: undefined, types: { address: type(), authorization: type(), waypoint: type({ subscribed: 'none' }) }, nacks: [], ...more,
  })
  const gateway = (name: string, more: Partial<NodeStatus> = {}): NodeStatus => node(name, {
    gateway: { namespace: 'shop', name: name.split('-')[0] ?? '' }, types: { address: type(), authorization: type({ subscribed: 'none' }), waypoint: type() }, ...more,
  })

  test('tells a route\'s parents, a service\'s waypoint, and which gateway took it', async () => {
    put('a.yaml', shop() + service() + service('v2').replace('namespace: shop', 'namespace: shop, labels: { sidestep.dev/use-waypoint: gone }') + waypoint + route('/a', 'lost') + policy('POST'))
    const nodes = [node('node-a'), gateway('w-0'), gateway('w-1', { nacks: [{ type: 'waypoint', resource: routes, because: 'too new', atMs: 1 }] }), gateway('other-0')]
    const { objectStatus } = await start({ nodes: () => nodes }).then((it) => ({ objectStatus: it.objectStatus.bind(it) }))
    expect(objectStatus('HTTPRoute shop/r')).toMatchObject({
      accepted: false, problems: [expect.stringContaining('BackendNotFound')], resources: [routes], acked: ['w-0'], pending: [], nacked: [{ node: 'w-1', because: 'too new' }],
      parents: [{ parent: { kind: 'Service', namespace: 'shop', name: 'web' }, accepted: { status: true }, resolvedRefs: { status: false, reason: 'BackendNotFound' } }],
    })
    expect(objectStatus('Service shop/web')).toMatchObject({ accepted: true, waypoint: { status: true, reason: 'WaypointAccepted', message: 'shop/w' } })
    expect(objectStatus('Service shop/v2')).toMatchObject({ accepted: false, waypoint: { status: false, reason: 'WaypointNotFound', message: 'there is no Gateway shop/gone' } })
    expect(objectStatus('AuthorizationPolicy shop/p')).toMatchObject({ accepted: true, problems: [], resources: [security], acked: ['w-0', 'w-1'] })
    expect(objectStatus('Gateway shop/w')?.resources).toEqual(expect.arrayContaining([routes, security]))
    expect(controlPlaneStatusSchema.parse(plane?.status()).objects.find(({ object }) => object === 'HTTPRoute shop/r')?.parents).toHaveLength(1)
  })

  test('pods of gateways are not waited for with what they do not want', async () => {
    put('p.yaml', policy('POST').replace('targetRefs: [{ kind: Service, name: web }], ', '').replace('methods: [POST]', 'ports: ["80"]'))
    const { objectStatus } = await start({ nodes: () => [node('node-a'), gateway('w-0')] }).then((it) => ({ objectStatus: it.objectStatus.bind(it) }))
    expect(objectStatus('AuthorizationPolicy shop/p')).toMatchObject({ acked: ['node-a'], pending: [] })
  })
})

describe('Secrets', () => {
  test('reach the gateway that may have them, and nobody else: no log, no status, not even when they cannot be published', async () => {
    const pair = async (): Promise<{ readonly pem: string; readonly privateKey: string; readonly hidden: string }> => {
      const { pem, key } = await make({ subject: 'CN=shop.test' })
      const privateKey = key.export({ type: 'pkcs8', format: 'pem' }).toString()
      return { pem, privateKey, hidden: privateKey.split('\n')[1] ?? '' }
    }
    const [first, next] = [await pair(), await pair()]
    const { hidden } = first
    const secret = ({ pem, privateKey }: Pick<typeof first, 'pem' | 'privateKey'>): string => JSON.stringify({
      apiVersion: 'v1', kind: 'Secret', metadata: { name: 'cert', namespace: 'shop' }, type: 'kubernetes.io/tls',
      data: { 'tls.crt': Buffer.from(pem).toString('base64'), 'tls.key': Buffer.from(privateKey).toString('base64') },
    })
    const lines: string[] = []
    const note = (...parts: readonly unknown[]): void => void lines.push(JSON.stringify(parts))
    const logger: Logger = { ...silentLogger, debug: note, info: note, warn: note, error: note, child: () => logger }
    put('a.yaml', service() + waypoint + edge)
    put('s.yaml', secret(first))
    const statusFile = join(directory, 'status')
    await start({ logger, statusFile })
    const name = 'shop/edge/secret/Secret shop/cert'
    expect(shown(name)).toContain(hidden)
    for (const each of store.logs.waypoint.names()) if (each !== name) expect(shown(each)).not.toContain(hidden)
    const { apply } = store
    store.apply = (delta) => {
      if (delta.waypoint?.has(name)) throw new Error('cannot be published')
      apply.call(store, delta)
    }
    put('s.yaml', secret(next))
    await until(() => lines.some((line) => line.includes('a resource cannot be published') && line.includes(name)))
    put('a.yaml', waypoint + edge.replace('port: 443', 'port: 8443'))
    await until(() => shown('shop/edge/listener/Gateway shop/edge/https').includes('8443'))
    put('s.yaml', secret({ ...first, privateKey: `-----BEGIN PRIVATE KEY-----\n${hidden}` }))
    await until(() => plane?.objectStatus('Secret shop/cert')?.accepted === false)
    expect(plane?.objectStatus('Gateway shop/edge')?.problems).toEqual([expect.stringContaining('InvalidCertificateRef')])
    await plane?.close()
    const said = `${lines.join()}${JSON.stringify(plane?.status())}${readFileSync(statusFile, 'utf8')}`
    expect(said).toContain('tls.key')
    for (const each of [hidden, next.hidden]) {
      expect(said).not.toContain(each)
      expect(said).not.toContain(Buffer.from(each).toString('base64').slice(0, 40))
    }
  })
})
