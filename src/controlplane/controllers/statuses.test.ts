// Statuses say what was found, once: what was written is what is wanted, whatever was there and whatever was found; and nothing of
// others is touched.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ListenerStatus, RouteCondition } from '../../model/control-plane-status.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import { CaptureBook, lateAfterMs } from './capture-book.ts'
import { statusChange, withConditions } from './conditions.ts'
import { classStatusChange, gatewayStatusChange, type GatewayState } from './gateway-status.ts'
import { namespaceStatusChange, policyStatusChange, serviceStatusChange } from './object-status.ts'
import { routeStatusChange } from './route-status.ts'

type Json = Readonly<Record<string, unknown>>
const [now, later] = ['2026-11-21T20:00:00Z', '2026-11-21T21:00:00Z']

/** What the API has after the change: empty lists are left out by some of its kinds. */
function after(status: Json, change: Json | undefined): Json {
  return JSON.parse(JSON.stringify({ ...status, ...change })) as Json
}

const word = fc.constantFrom('Accepted', 'Programmed', 'ResolvedRefs', 'sidestep.dev/InMesh', 'sidestep.dev/WaypointBound', 'other.dev/Ready', 'PartiallyInvalid')
const condition = fc.record({ status: fc.boolean(), reason: fc.constantFrom('A', 'B', 'InvalidCertificateRef', 'Accepted'), message: fc.string({ maxLength: 20 }) })
const listener: fc.Arbitrary<ListenerStatus> = fc.record({
  name: fc.constantFrom('http', 'tls', 'tcp'), supportedKinds: fc.subarray(['HTTPRoute', 'GRPCRoute']), attachedRoutes: fc.nat(5), accepted: condition, conflicted: condition, resolvedRefs: condition,
})
const listeners = fc.uniqueArray(listener, { selector: ({ name }) => name, maxLength: 3 })
const state: fc.Arbitrary<GatewayState> = fc.oneof(
  fc.constant({ t: 'pending' as const }),
  fc.record({ t: fc.constant('refused' as const), reason: fc.constantFrom('Invalid' as const, 'InvalidParameters' as const), message: fc.string() }),
  fc.record({ t: fc.constant('failed' as const), reason: fc.constantFrom('ObjectConflict' as const, 'NotMade' as const, 'NoImage' as const), message: fc.string() }),
  fc.record({
    t: fc.constant('made' as const), ready: fc.nat(2), wanted: fc.nat(2), hasAddress: fc.boolean(), message: fc.string(),
    addresses: fc.array(fc.record({ type: fc.constantFrom('IPAddress' as const, 'Hostname' as const), value: fc.constantFrom('1.1.1.1', 'a.example') }), { maxLength: 2 }),
  }),
)
const problems = fc.array(fc.oneof(fc.string({ maxLength: 20 }), fc.constant('there is no Service shop/web to attach to')), { maxLength: 3 })
const ref = fc.record({
  group: fc.constantFrom('', 'gateway.networking.k8s.io', 'networking.istio.io'), kind: fc.constantFrom('Service', 'Gateway', 'ServiceEntry'), name: fc.constantFrom('web', 'edge', 'other'),
  namespace: fc.constantFrom('shop', 'infra'), sectionName: fc.constant('http'), port: fc.constantFrom(80, 443),
}, { requiredKeys: ['name', 'kind', 'group'] })
const ourControllers = ['sidestep.dev/mesh', 'sidestep.dev/ingress', 'sidestep.dev/waypoint']
/** What may be there already, from us, from others, or from a stranger's kubectl. */
const conditions = fc.array(fc.oneof(
  fc.record({ type: word, status: fc.constantFrom('True', 'False', 'Unknown'), reason: fc.constantFrom('A', 'Pending'), message: fc.constant(''), lastTransitionTime: fc.constant('2026-01-01T00:00:00Z') }, { requiredKeys: ['type', 'status'] }),
), { maxLength: 4 })
const status: fc.Arbitrary<Json> = fc.record({
  conditions: fc.oneof(conditions, fc.constant(7)), listeners: fc.array(fc.record({ name: fc.constantFrom('http', 'old'), conditions }), { maxLength: 2 }),
  parents: fc.array(fc.record({ parentRef: ref, controllerName: fc.constantFrom(...ourControllers, 'other.dev/x'), conditions }), { maxLength: 3 }),
  ancestors: fc.array(fc.record({ ancestorRef: ref, controllerName: fc.constantFrom('sidestep.dev/mesh'), conditions }), { maxLength: 2 }),
}, { requiredKeys: [] }) as fc.Arbitrary<Json>
/** As what comes from the API: objects of fast-check have no prototype. */
function plain<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T
}

const maybe = fc.option(condition, { nil: undefined })

type Change = (status: Json, at: string) => Json | undefined
const gatewayChange: fc.Arbitrary<Change> = fc.record({ generation: fc.nat(5), problems, isUnreadable: fc.boolean(), listeners, state, isOpenToAnyClient: fc.boolean() })
  .map(({ generation, state: found, isOpenToAnyClient, ...facts }) => (before, at) => gatewayStatusChange({ generation, facts, state: plain(found), isOpenToAnyClient, status: before, now: at }))
const parent = fc.record({ parent: ref.map((each) => ({ namespace: 'shop', ...each })), accepted: condition, resolvedRefs: condition, partiallyInvalid: condition }, { requiredKeys: ['parent', 'accepted', 'resolvedRefs'] })
const routeChange: fc.Arbitrary<Change> = fc.record({ generation: fc.nat(5), parentRefs: fc.array(fc.oneof(ref, fc.constant(null)), { maxLength: 4 }), problems, isUnreadable: fc.boolean(), parents: fc.array(parent, { maxLength: 4 }) })
  .map(({ generation, parentRefs, ...facts }) => (before, at) => routeStatusChange({
    namespace: 'shop', generation, parentRefs: plain(parentRefs), facts, roleOf: (_namespace, name) => (name === 'edge' ? 'ingress' : undefined), status: before, now: at,
  }))
const policyChange: fc.Arbitrary<Change> = fc.record({ group: fc.constantFrom('sidestep.dev', 'security.istio.io'), generation: fc.nat(5), targetRefs: fc.array(ref, { maxLength: 3 }), problems, isUnreadable: fc.boolean(), waypoint: maybe })
  .map(({ group, generation, targetRefs, waypoint, ...facts }) => (before, at) => policyStatusChange({ group, namespace: 'shop', generation, targetRefs, facts: { ...facts, waypoint }, status: before, now: at }))
const serviceChange: fc.Arbitrary<Change> = maybe.map((waypoint: RouteCondition | undefined) => (before: Json, at: string) => serviceStatusChange({ waypoint, status: before, now: at }))
const namespaceChange: fc.Arbitrary<Change> = fc.option(fc.record({ captured: fc.nat(3), more: fc.nat(3) }), { nil: undefined }).map((counts) => (before: Json, at: string) => namespaceStatusChange({
  capture: counts && { wanted: counts.captured + counts.more, captured: counts.captured, missing: Array.from({ length: counts.more }, (_, i) => ({ name: `web-${i}`, why: 'because' })) }, status: before, now: at,
}))
const classChange: fc.Arbitrary<Change> = fc.nat(5).map((generation) => (before: Json, at: string) => classStatusChange({ generation, role: 'ingress', features: { ingress: ['B', 'A'], waypoint: [] }, status: before, now: at }))

const others = (list: unknown): unknown => (Array.isArray(list) ? list.filter((each: Json) => each['type'] === 'other.dev/Ready' || each['controllerName'] === 'other.dev/x') : [])

test('what was written is right, also later; and nothing of others is different', () => {
  let changed = 0
  fc.assert(fc.property(fc.oneof(gatewayChange, routeChange, policyChange, serviceChange, namespaceChange, classChange), status.map(plain), (change, before) => {
    const first = change(before, now)
    if (first) changed++
    const written = after(before, first)
    expect(change(written, later)).toBeUndefined()
    expect(others(written['parents'])).toEqual(others(before['parents']))
    if (Array.isArray(before['conditions'])) expect(others(written['conditions'])).toEqual(others(before['conditions']))
  }))
  expect(changed).toBeGreaterThan(20)
})

describe('a condition', () => {
  const is = (said: boolean, message = ''): Parameters<typeof withConditions>[1] => [{ type: 'Accepted', status: said, reason: 'R', message }]

  test('has a new time only with a new answer', () => {
    const [first] = withConditions([], is(true), { now, generation: 1 })
    const [second] = withConditions([first], is(true, 'other words'), { now: later, generation: 2 })
    expect(second).toEqual({ type: 'Accepted', status: 'True', reason: 'R', message: 'other words', lastTransitionTime: now, observedGeneration: 2 })
    expect(withConditions([second], is(false), { now: later })).toEqual([{ type: 'Accepted', status: 'False', reason: 'R', message: '', lastTransitionTime: later }])
  })

  test('that nobody wants any more is taken away; one that is there twice is once', () => {
    const old = { type: 'Accepted', status: 'True', reason: 'R', message: '', lastTransitionTime: now }
    expect(withConditions([old, { type: 'x', status: 'True' }], [], { now, gone: ['Accepted'] })).toEqual([{ type: 'x', status: 'True' }])
    expect(withConditions([old, old], is(true), { now: later })).toEqual([old])
    expect(String((withConditions([], is(false, 'x'.repeat(40_000)), { now })[0] as Json)['message'])).toHaveLength(2_001)
  })

  test('that is right leaves nothing to write', () => {
    expect(statusChange({}, { conditions: [] })).toBeUndefined()
    expect(statusChange({ conditions: [1] }, { conditions: [] })).toEqual({ conditions: [] })
  })
})

describe('a Gateway', () => {
  const made: GatewayState = { t: 'made', ready: 1, wanted: 1, hasAddress: true, addresses: [{ type: 'IPAddress', value: '10.0.0.1' }], message: '' }
  const good: ListenerStatus = { name: 'http', supportedKinds: ['HTTPRoute'], attachedRoutes: 2, accepted: { status: true, reason: 'Accepted', message: '' }, conflicted: { status: false, reason: 'NoConflicts', message: '' }, resolvedRefs: { status: true, reason: 'ResolvedRefs', message: '' } }
  const bad: ListenerStatus = { ...good, name: 'udp', accepted: { status: false, reason: 'UnsupportedProtocol', message: 'no' } }

  function said(found: GatewayState, own: readonly ListenerStatus[], isUnreadable = false): { readonly own: Record<string, string>; readonly listeners: Record<string, Record<string, string>> } {
    const change = gatewayStatusChange({ generation: 3, facts: { problems: isUnreadable ? ['bad'] : [], isUnreadable, listeners: own }, state: found, status: {}, now }) ?? {}
    const plain = (list: unknown): Record<string, string> => Object.fromEntries((list as { type: string; status: string; reason: string }[]).map(({ type, status: each, reason }) => [type, `${each} ${reason}`]))
    return { own: plain(change['conditions']), listeners: Object.fromEntries(((change['listeners'] ?? []) as { name: string; conditions: unknown }[]).map((each) => [each.name, plain(each.conditions)])) }
  }

  test('serves where its pods, its address and a listener are there', () => {
    expect(said(made, [good])).toEqual({ own: { Accepted: 'True Accepted', Programmed: 'True Programmed' }, listeners: { http: { Accepted: 'True Accepted', Conflicted: 'False NoConflicts', ResolvedRefs: 'True ResolvedRefs', Programmed: 'True Programmed' } } })
    expect(said({ ...made, ready: 0 }, [good]).own['Programmed']).toBe('False Pending')
    expect(said({ ...made, ready: 0, wanted: 0 }, [good]).own['Programmed']).toBe('False NoResources')
    expect(said({ ...made, hasAddress: false }, [good]).own['Programmed']).toBe('False AddressNotAssigned')
    expect(said({ t: 'failed', reason: 'ObjectConflict', message: 'x' }, [good]).listeners['http']?.['Programmed']).toBe('False Pending')
  })

  test('says which listeners are not in force; none is enough not to be accepted', () => {
    expect(said(made, [good, bad])).toMatchObject({ own: { Accepted: 'True ListenersNotValid', Programmed: 'True Programmed' }, listeners: { http: { Programmed: 'True Programmed' }, udp: { Accepted: 'False UnsupportedProtocol', Programmed: 'False Invalid' } } })
    expect(said(made, [bad]).own).toEqual({ Accepted: 'False ListenersNotValid', Programmed: 'False Invalid' })
    const unresolved = { ...good, resolvedRefs: { status: false, reason: 'InvalidCertificateRef', message: 'no' } }
    expect(said(made, [unresolved])).toMatchObject({ own: { Accepted: 'True Accepted' }, listeners: { http: { Accepted: 'True Accepted', Programmed: 'False Invalid' } } })
    const kinds = { ...good, resolvedRefs: { status: false, reason: 'InvalidRouteKinds', message: 'no' } }
    expect(said(made, [kinds]).listeners['http']?.['Programmed']).toBe('True Programmed')
  })

  test('says of itself that it lets anybody in, for as long as it does', () => {
    const facts = { problems: [], isUnreadable: false, listeners: [good] }
    const types = (change: Json = {}): unknown[] => (change['conditions'] as Json[]).map(({ type }) => type)
    const open = gatewayStatusChange({ generation: 3, facts, state: made, isOpenToAnyClient: true, status: {}, now })
    expect(types(open)).toEqual(['Accepted', 'Programmed', 'InsecureFrontendValidationMode'])
    expect(types(gatewayStatusChange({ generation: 3, facts, state: made, status: open ?? {}, now }))).toEqual(['Accepted', 'Programmed'])
  })

  test('that cannot be read says so', () => expect(said(made, [], true)).toEqual({ own: { Accepted: 'False Invalid', Programmed: 'False Invalid' }, listeners: {} }))
})

test('a route that cannot be read says so at parents of ours only', () => {
  const parentRefs = [{ group: '', kind: 'Service', name: 'web' }, { name: 'edge' }, { name: 'other' }]
  const change = routeStatusChange({ namespace: 'shop', generation: 1, parentRefs, facts: { problems: ['bad'], isUnreadable: true, parents: [] }, roleOf: (_namespace, name) => (name === 'edge' ? 'ingress' : undefined), status: {}, now })
  const parents = change?.['parents'] as { parentRef: object; controllerName: string; conditions: { reason: string }[] }[]
  expect(parents.map(({ parentRef, controllerName, conditions: [first] }) => [parentRef, controllerName, first?.reason])).toEqual([
    [parentRefs[0], 'sidestep.dev/mesh', 'UnsupportedValue'], [parentRefs[1], 'sidestep.dev/ingress', 'UnsupportedValue'],
  ])
})

describe('captured pods', () => {
  const pod = (name: string, more: Partial<RunningPod> = {}): RunningPod => ({
    uid: name, namespace: 'shop', name, node: 'a', ips: [], ready: true, labels: {}, serviceAccount: 'default', isCaptured: true, isHostNetwork: false, ports: [], ...more,
  })
  const book = (): CaptureBook => new CaptureBook({ isEnrolled: (ofNamespace, ofPod) => (ofPod['mesh'] ?? ofNamespace['mesh']) === 'yes', systemNamespace: 'system' })
  const labels = new Map([['shop', { mesh: 'yes' }], ['empty', { mesh: 'yes' }], ['free', {}], ['system', { mesh: 'yes' }]])

  test('are counted where somebody wants them', () => {
    const pods = [
      pod('a'), pod('b', { isCaptured: false, notCaptured: 'NoNetns: x' }), pod('c', { labels: { mesh: 'no' } }), pod('d', { isHostNetwork: true }), pod('e', { namespace: 'system' }), pod('f', { namespace: 'free', labels: { mesh: 'yes' } }),
    ]
    const { namespaces } = book().look(pods, labels, 0)
    expect([...namespaces]).toEqual([
      ['shop', { wanted: 2, captured: 1, missing: [{ name: 'b', why: 'NoNetns: x' }] }], ['empty', { wanted: 0, captured: 0, missing: [] }], ['free', { wanted: 1, captured: 1, missing: [] }],
    ])
  })

  test('are late after a minute, which is said once, and again if it comes to it again', () => {
    const own = book()
    const late = (isCaptured: boolean, ms: number): number => own.look([pod('a', { isCaptured })], labels, ms).late.length
    expect([late(false, 0), late(false, lateAfterMs - 1), late(false, lateAfterMs), late(false, lateAfterMs * 2)]).toEqual([0, 0, 1, 0])
    expect([late(true, lateAfterMs * 3), late(false, lateAfterMs * 3), late(false, lateAfterMs * 4)]).toEqual([0, 0, 1])
  })
})
