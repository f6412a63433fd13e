// What holds for one target: whose policies count, also for who knows a pod's address, and when a chain is made anew.
import { describe, expect, test } from 'vitest'
import type { AuthorizationL7 } from '../model/authorization-l7.ts'
import type { WaypointResource } from '../model/waypoint-config.ts'
import { CompiledChains } from './chains.ts'
import type { Target } from './context.ts'
import { GatewayResources } from './resources.ts'
import { service, workload } from './testing.ts'

const policy = (name: string): AuthorizationL7 => ({ name, namespace: 'shop', action: 'deny', rules: [], isDryRun: false })
const security = (key: string, ...names: readonly string[]): WaypointResource => ({ kind: 'security', key, security: { policies: names.map(policy), jwtRules: [] } })
const web = service('web', '10.96.0.1')
const pay = service('pay', '10.96.0.2')
const key = 'shop/web.shop.svc.cluster.local'
const payKey = 'shop/pay.shop.svc.cluster.local'
const mapping = (targetPort: number) => [{ servicePort: 80, targetPort, appProtocol: 'unknown' as const }]

function chains(...waypoint: readonly WaypointResource[]) {
  const resources = new GatewayResources()
  const tell = (...more: readonly WaypointResource[]): void => resources.apply({ waypoint: more, removedWaypoint: [], refusedWaypoint: [] })
  tell(...waypoint)
  const compiled = new CompiledChains(resources)
  return { compiled, resources, tell, policies: (target: Target) => compiled.chainOf(target).authorizer.policies.map(({ name }) => name) }
}
const at = (services: Parameters<typeof workload>[2], port: number): Target => ({ t: 'workload', workload: workload('p', '10.0.0.1', services), port })
const toService = (to: typeof web): Target => ({ t: 'service', service: to, port: 80 })

describe('policies of a target', () => {
  test('are those of the service, else those of all', () => {
    const { policies } = chains(security('', 'gateway'), security(key, 'gateway', 'web'))
    expect([policies(toService(web)), policies(toService(pay))]).toEqual([['gateway', 'web'], ['gateway']])
  })

  test('hold for a pod\'s address, on the ports that the service leads to', () => {
    const { policies } = chains(security('', 'gateway'), security(key, 'gateway', 'web'), security(payKey, 'gateway', 'pay'))
    const services = new Map([[key, mapping(8080)], [payKey, mapping(9090)]])
    expect(policies(at({ services }, 8080))).toEqual(['gateway', 'web'])
    expect(policies(at({ services }, 9090))).toEqual(['gateway', 'pay'])
    expect(policies(at({ services }, 22))).toEqual(['gateway'])
    expect(policies(at({ services: new Map([[key, mapping(80)], [payKey, mapping(80)]]) }, 80))).toEqual(['gateway', 'pay', 'web'])
    expect(policies(at({ services: new Map([[payKey, []]]) }, 7))).toEqual(['gateway', 'pay'])
    expect(policies(at({}, 80))).toEqual(['gateway'])
  })

  test('that cannot be understood refuse, also among others', () => {
    const { resources, compiled } = chains(security('', 'gateway'), security(key, 'web'))
    resources.apply({ waypoint: [], removedWaypoint: [], refusedWaypoint: [{ name: `shop/w/security/${payKey}`, because: 'too new' }] })
    const both = at({ services: new Map([[key, mapping(80)], [payKey, mapping(80)]]) }, 80)
    expect(compiled.chainOf(both).authorizer.policies).toMatchObject([{ unsupported: 'too new', action: 'deny' }])
  })

  test('are made anew when one of them is another, and else not', () => {
    const { compiled, tell } = chains(security('', 'gateway'), security(key, 'web'), security(payKey, 'pay'))
    const target = at({ services: new Map([[key, mapping(80)], [payKey, mapping(80)]]) }, 80)
    const first = compiled.chainOf(target)
    tell(security('shop/other', 'x'))
    expect(compiled.chainOf(target)).toBe(first)
    tell(security(payKey, 'other'))
    expect(compiled.chainOf(target).authorizer.policies.map(({ name }) => name)).toEqual(['other', 'web'])
  })
})
