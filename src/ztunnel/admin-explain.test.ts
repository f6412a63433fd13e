// What is explained where a waypoint is on the way; the rest is admin.test.ts's.
import { beforeEach, expect, test } from 'vitest'
import type { WorkloadStore } from '../model/workload-store.ts'
import type { GatewayAddress, Service, Workload } from '../model/workload.ts'
import { Rbac } from '../policy/rbac.ts'
import { explainConnection } from './admin-explain.ts'
import { policy, service, shop, testSource, workload } from './testing-admin.ts'
import { serviceView, workloadView } from './admin-views.ts'

const waypoint: GatewayAddress = { destination: { kind: 'hostname', name: { namespace: 'shop', hostname: 'wp.shop.svc.cluster.local' } }, hbonePort: 15_008 }
const serves = (name: string): Workload['services'] => new Map([[`shop/${name}.shop.svc.cluster.local`, []]])

let store: WorkloadStore

beforeEach(() => {
  store = shop()
  store.apply({
    services: [service('wp', '10.96.0.9', { ports: [{ servicePort: 15_008, targetPort: 15_008, appProtocol: 'unknown' }] })],
    workloads: [workload('wp-1', { serviceAccount: 'wp', ips: ['10.0.9.1'], nativeTunnel: true, services: serves('wp') })],
  })
})

function bind(parts: Pick<Workload, 'waypointFailure'> = {}, of: { readonly service?: boolean; readonly workload?: boolean } = { service: true, workload: true }): void {
  const { waypointFailure: _service, ...catalogue } = store.service('shop/catalogue.shop.svc.cluster.local') as Service
  const { waypointFailure: _workload, ...pod } = store.workload('Kubernetes//Pod/shop/catalogue') as Workload
  store.apply({
    services: [{ ...catalogue, ...(of.service && { waypoint, ...parts }) }], workloads: [{ ...pod, ...(of.workload && { waypoint, ...parts }) }],
  })
}

const explain = (from: string, to: string, mesh = false, port?: number) => explainConnection({ store, rbac: new Rbac(store.policies) }, { from, to, mesh, ...(port !== undefined && { port }) })

test('a waypoint decides, by service and by pod, and it is named', () => {
  bind()
  for (const to of ['catalogue.shop', 'shop/catalogue', '10.0.1.1']) {
    expect(explain('shop/web', to, false, to.startsWith('cat') ? undefined : 8080)).toMatchObject({
      answer: 'unknown', because: 'waypoint', lines: [expect.stringMatching(/the waypoint wp\.shop\.svc\.cluster\.local decides/), 'the waypoint wp.shop.svc.cluster.local is ready'],
    })
  }
  expect(explain('spiffe://cluster.local/ns/x/sa/y', 'catalogue.shop')).toMatchObject({ because: 'noAllowMatched' })
  expect(explain('spiffe://cluster.local/ns/shop/sa/web', 'catalogue.shop')).toMatchObject({ answer: 'unknown', because: 'waypoint' })
})

test('but what the pod itself refuses, no waypoint allows', () => {
  bind()
  const { answer, because, lines } = explain('shop/payments', 'catalogue.shop')
  expect([answer, because, lines.at(-1)]).toEqual(['denied', 'noAllowMatched', expect.stringMatching(/whatever the waypoint says/)])
  store.apply({ policies: [policy('none', { principals: [{ kind: 'presence' }] }, { action: 'deny' })] })
  expect(explain('shop/web', 'shop/catalogue', false, 8080)).toMatchObject({ answer: 'denied', because: 'denyPolicy', policy: 'shop/none' })
})

test('who is not in the mesh gets past no waypoint, and the waypoint itself is judged as anybody', () => {
  bind({}, { workload: true })
  expect(explain('old/legacy', 'shop/catalogue', false, 8080)).toMatchObject({ answer: 'denied', because: 'bypassedWaypoint', lines: [expect.stringMatching(/only through the waypoint wp\.shop/), 'the waypoint wp.shop.svc.cluster.local is ready'] })
  expect(explain('old/legacy', 'shop/catalogue', true, 8080)).toMatchObject({ answer: 'unknown', because: 'waypoint' })
  expect(explain('shop/wp-1', 'shop/catalogue', false, 8080)).toMatchObject({ answer: 'denied', because: 'noAllowMatched' })
  bind({ waypointFailure: 'open' }, { workload: true })
  expect(explain('old/legacy', 'shop/catalogue', false, 8080)).toMatchObject({ because: 'noAllowMatched' })
})

test('one that is away refuses at the source, or is passed by; and the views say so', () => {
  bind()
  const source = testSource(store)
  const views = () => {
    const [pod, web] = [store.workload('Kubernetes//Pod/shop/catalogue') ?? expect.fail(), store.service('shop/catalogue.shop.svc.cluster.local') ?? expect.fail()]
    return [workloadView(pod, source.waypointState), serviceView(web, [], source.waypointState)].map(({ waypoint: name, waypointState }) => `${name} ${waypointState}`)
  }
  expect(views()).toEqual(Array(2).fill('wp.shop.svc.cluster.local:15008 ready'))
  store.apply({ workloads: [{ ...store.workload('Kubernetes//Pod/shop/wp-1') ?? expect.fail(), isHealthy: false }] })
  expect(explain('shop/web', 'catalogue.shop')).toMatchObject({ answer: 'denied', because: 'noHealthyWaypoint', lines: [expect.anything(), expect.stringMatching(/no replica that is ready/), expect.anything()] })
  expect(views()[0]).toMatch(/ notReady$/)
  bind({ waypointFailure: 'open' })
  expect(explain('shop/web', 'catalogue.shop')).toMatchObject({ answer: 'allowed', because: 'allowPolicy' })
  expect(views()[1]).toMatch(/ skipped$/)
  bind()
  store.apply({ removedAddresses: ['shop/wp.shop.svc.cluster.local'] })
  expect(explain('shop/web', 'catalogue.shop')).toMatchObject({ answer: 'denied', because: 'unknownWaypoint' })
})
