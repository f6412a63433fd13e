// What people are told of nodes: one line a node, by the name in its token, and never more than its streams said.
import { describe, expect, test } from 'vitest'
import { noType, type NodeStatus, type TypeStatus } from '../xds/node-records.ts'
import { byNodeName, connectedNodes } from './report.ts'

const type = (more: Partial<TypeStatus> = {}): TypeStatus => ({ subscribed: 'all', behind: 0, waitingSinceMs: undefined, pushes: 1, acked: 1, nacked: 0, ...more })
const stream = (more: Partial<NodeStatus> = {}): NodeStatus => ({
  node: 'ztunnel~10.0.0.1~a.b~b.svc', identity: 'node-a', peer: '::ffff:172.30.0.1:4000', connectedAtMs: 1, disconnectedAtMs: undefined,
  types: { address: type(), authorization: type(), waypoint: noType }, nacks: [], ...more,
})

describe('the report of nodes', () => {
  test('names them by their token, with a plain address', () => {
    expect(connectedNodes([stream()])).toEqual([
      { node: 'node-a', peer: '172.30.0.1:4000', connected: true, current: true, behind: 0, acked: 2, nacked: 0, nacks: [] },
    ])
    expect(byNodeName([stream()])[0]?.node).toBe('node-a')
    expect(connectedNodes([stream({ peer: 'fd00::1:4000' })])[0]?.peer).toBe('fd00::1:4000')
  })

  test.each<[string, Partial<NodeStatus>]>([
    ['gone', { disconnectedAtMs: 5 }],
    ['behind', { types: { address: type({ behind: 3 }), authorization: type(), waypoint: noType } }],
    ['asked and silent', { types: { address: type({ waitingSinceMs: 1 }), authorization: type(), waypoint: noType } }],
    ['interested in half of it', { types: { address: type(), authorization: type({ subscribed: 'none' }), waypoint: noType } }],
    ['refusing something', { nacks: [{ type: 'address', resource: 'x', because: 'bad', atMs: 1 }] }],
  ])('a node that is %s is not up to date', (_what, more) => {
    expect(connectedNodes([stream(more)])[0]?.current).toBe(false)
  })

  test.each([[0, 1], [1, 0]])('of two ztunnels of a node the one that is there counts, and of those the newer', (first, second) => {
    const gone = stream({ connectedAtMs: 9, disconnectedAtMs: 10, peer: 'gone' })
    const here = stream({ connectedAtMs: 1, peer: 'here' })
    const pair = [gone, here]
    expect(connectedNodes([pair[first] ?? gone, pair[second] ?? here]).map(({ peer }) => peer)).toEqual(['here'])
    const newer = [here, stream({ connectedAtMs: 2, peer: 'newer' })]
    expect(connectedNodes([newer[first] ?? here, newer[second] ?? here]).map(({ peer }) => peer)).toEqual(['newer'])
  })
})
