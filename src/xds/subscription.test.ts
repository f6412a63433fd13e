// Whatever happens in whatever order, a node that answers ends with what is published (of what it asked for), and no push has
// more in it than what differs.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeFrame, encodeResponse, parseResponse } from './frames.ts'
import { ResourceLog } from './resource-log.ts'
import { Subscription } from './subscription.ts'
import type { Push } from './subscription.ts'

const names = ['a', 'b', 'c', 'd', 'e', 'svc']

type Step =
  | { readonly do: 'set'; readonly name: string; readonly content: number; readonly isMember: boolean }
  | { readonly do: 'remove'; readonly name: string }
  | { readonly do: 'push' }
  | { readonly do: 'reconnect' }
  | { readonly do: 'compact' }
  | { readonly do: 'ask'; readonly name: string }

const name = fc.constantFrom(...names)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant('set' as const), name, content: fc.nat(3), isMember: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('remove' as const), name }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('push' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reconnect' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('compact' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('ask' as const), name: fc.constantFrom(...names, 'alias-a', 'alias-svc', 'nobody') }) },
)

/** A node: what it holds by name. */
class Node {
  readonly held = new Map<string, string>()
  readonly log: ResourceLog
  readonly asked = new Set<string>()
  readonly isOnDemand: boolean
  readonly #maxBytes: number
  subscription: Subscription

  constructor(log: ResourceLog, isOnDemand: boolean, maxBytes: number) {
    this.log = log
    this.isOnDemand = isOnDemand
    this.#maxBytes = maxBytes
    this.subscription = this.connect()
  }

  connect(): Subscription {
    const interest = this.isOnDemand ? { subscribe: ['*', ...this.asked], unsubscribe: ['*'] } : { subscribe: [], unsubscribe: [] }
    this.subscription = new Subscription(this.log, { ...interest, initialVersions: Object.fromEntries(this.held) }, this.#maxBytes)
    return this.subscription
  }

  /** Takes one push; false if there was none. */
  take(): boolean {
    if (this.subscription.isLost) this.connect()
    const push: Push | undefined = this.subscription.next()
    if (!push) return false
    expect(new Set(push.names).size).toBe(push.names.length)
    const response = parseResponse(encodeResponse({ typeUrl: '', nonce: '', systemVersion: '', removed: push.removed }, push.frames))
    for (const each of response.removed) this.held.delete(each)
    for (const frame of response.frames) {
      const resource = decodeFrame(frame)
      this.held.set(resource.name, resource.version)
    }
    return true
  }
}

function run(steps: readonly Step[], isOnDemand: boolean, maxBytes: number): Node {
  const log = new ResourceLog('address')
  const node = new Node(log, isOnDemand, maxBytes)
  for (const each of steps) {
    switch (each.do) {
      case 'set':
        log.set({ name: each.name, aliases: [`alias-${each.name}`], memberOf: each.isMember && each.name !== 'svc' ? ['svc'] : [], value: Uint8Array.of(each.content, each.isMember ? 1 : 0) })
        break
      case 'remove':
        log.remove(each.name)
        break
      case 'push':
        node.take()
        break
      case 'reconnect':
        node.connect()
        break
      case 'compact':
        log.compact(node.subscription.position, 1)
        break
      case 'ask':
        if (!isOnDemand) break
        node.asked.add(each.name)
        node.subscription.change({ subscribe: [each.name], unsubscribe: [] })
        break
    }
  }
  for (let i = 0; node.take(); i++) expect(i).toBeLessThan(100)
  return node
}

describe('a node that answers', () => {
  test('with everything subscribed ends with everything', () => {
    fc.assert(fc.property(fc.array(step, { maxLength: 40 }), fc.constantFrom(1, 100, 1e9), (steps, maxBytes) => {
      const { held, log } = run(steps, false, maxBytes)
      expect(new Map([...held].sort())).toEqual(new Map([...log.names()].sort().map((each) => [each, log.get(each)?.version])))
    }), { numRuns: 5000 })
  })

  test('on demand ends with all that it asked for, current, and nothing that is gone', () => {
    fc.assert(fc.property(fc.array(step, { maxLength: 40 }), fc.constantFrom(1, 100, 1e9), (steps, maxBytes) => {
      const { held, log, asked } = run(steps, true, maxBytes)
      for (const [each, version] of held) expect([each, log.get(each)?.version]).toEqual([each, version])
      const wanted = [...asked].flatMap((each) => log.find(each)).flatMap((entry) => [entry, ...log.membersOf(entry.name)])
      for (const entry of wanted) expect([entry.name, held.get(entry.name)]).toEqual([entry.name, entry.version])
    }), { numRuns: 5000 })
  })

  test('is told of a removal between its first request and the first push, even if the log has forgotten it', () => {
    const log = new ResourceLog('address')
    for (const each of names) log.set({ name: each, aliases: [], memberOf: [], value: Uint8Array.of(1) })
    const node = new Node(log, false, 1e9)
    node.take()
    node.connect()
    for (const each of names) log.remove(each)
    log.compact(node.subscription.position, 1)
    while (node.take());
    expect([...node.held]).toEqual([])
  })

  test('gets nothing twice, and nothing after a reconnect when nothing changed', () => {
    const log = new ResourceLog('address')
    for (const each of names) log.set({ name: each, aliases: [], memberOf: [], value: Uint8Array.of(1) })
    const node = new Node(log, false, 1e9)
    expect(node.subscription.next()?.names).toHaveLength(names.length)
    expect(node.subscription.next()).toBeUndefined()
    for (const each of names) node.held.set(each, log.get(each)?.version ?? '')
    expect(node.connect().next()).toMatchObject({ names: [], removed: [] })
  })
})
