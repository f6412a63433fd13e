// The fence program on packets that no socket sent, by BPF_PROG_TEST_RUN: the kernel runs it on the test's frame with an
// skb->sk that is not a TCP socket, which is what raw sockets and forwarded traffic look like to it.
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ipToBytes } from '../../src/core/address.ts'
import type { Reason } from '../../src/kernel/generated/layout.ts'
import { native } from '../../src/kernel/native.ts'
import type { Redirection } from '../../src/kernel/redirection.ts'
import { loadedPrograms } from '../helpers/instances.ts'
import { arpFrame, otherFrame, tcpFrame } from './packets.ts'

const next = 0xffff_ffff
const drop = 2
const cookie = 4242n
const pod = { ip4: '10.1.2.3', ip6: 'fd00::123' }
const away = { ip4: '10.9.9.9', ip6: 'fd00::999' }

let redirection: Redirection
let remove: () => void

beforeAll(async () => {
  ;({ redirection, remove } = await loadedPrograms())
  const ip4 = ipToBytes(pod.ip4) ?? new Uint8Array(16)
  const ip6 = ipToBytes(pod.ip6) ?? new Uint8Array(16)
  redirection.maps.pods.set(cookie, { ip4, ip6, flags: 0 })
  redirection.maps.fences.set(1, cookie) // a test run's packet arrives on lo
})
afterAll(() => remove())

/** The verdict, and which counters moved. */
function judge(frame: Uint8Array): { verdict: number; because: Reason[] } {
  const before = redirection.counters()
  const { result } = native().programTestRun(redirection.programForTest('fence_pod'), frame)
  const after = redirection.counters()
  return { verdict: result, because: (Object.keys(after) as Reason[]).filter((reason) => after[reason] > before[reason]) }
}

test.each([
  ['a SYN of no socket', tcpFrame({ source: pod.ip4, destination: away.ip4 }), 'noSocket'],
  ['a SYN of no socket over IPv6', tcpFrame({ source: pod.ip6, destination: away.ip6 }), 'noSocket'],
  ['the same behind an extension header', tcpFrame({ source: pod.ip6, destination: away.ip6, hasOptions: true }), 'noSocket'],
  ['payload of no socket', tcpFrame({ source: pod.ip4, destination: away.ip4, flags: ['ack'], payloadBytes: 1 }), 'noSocket'],
  ['payload with a reset', tcpFrame({ source: pod.ip4, destination: away.ip4, flags: ['rst'], payloadBytes: 9 }), 'noSocket'],
  ['a foreign source', tcpFrame({ source: '10.1.2.4', destination: away.ip4, flags: ['rst'] }), 'spoofedSource'],
  ['a foreign source over IPv6', tcpFrame({ source: 'fd00::124', destination: away.ip6 }), 'spoofedSource'],
  ['a foreign source of UDP', tcpFrame({ source: '10.1.2.4', destination: away.ip4, protocol: 17 }), 'spoofedSource'],
  ['a fragment', tcpFrame({ source: pod.ip4, destination: away.ip4, isFragment: true }), 'fragment'],
  ['a fragment over IPv6', tcpFrame({ source: pod.ip6, destination: away.ip6, isFragment: true }), 'fragment'],
  ['a frame that is neither IP nor ARP', otherFrame(0x88cc), 'ethertype'],
] as const)('refuses %s', (_what, frame, reason) => {
  expect(judge(frame)).toEqual({ verdict: drop, because: [reason] })
})

test.each([
  ['ARP', arpFrame()],
  ['a reset without payload', tcpFrame({ source: pod.ip4, destination: away.ip4, flags: ['rst'] })],
  ['an acknowledgement without payload', tcpFrame({ source: pod.ip6, destination: away.ip6, flags: ['ack'] })],
  ['a SYN-ACK', tcpFrame({ source: pod.ip4, destination: away.ip4, flags: ['syn', 'ack'] })],
  ['UDP', tcpFrame({ source: pod.ip4, destination: away.ip4, protocol: 17 })],
  ['neighbour discovery', tcpFrame({ source: 'fe80::1', destination: away.ip6, protocol: 58 })],
])('lets %s pass', (_what, frame) => {
  expect(judge(frame)).toEqual({ verdict: next, because: [] })
})

test('judges nothing on an interface that is not fenced', () => {
  redirection.maps.fences.delete(1)
  try {
    expect(judge(tcpFrame({ source: '1.2.3.4', destination: '5.6.7.8' }))).toEqual({ verdict: next, because: [] })
  } finally {
    redirection.maps.fences.set(1, cookie)
  }
})

test('has a verdict for any bytes, and none lets a SYN or payload of no socket pass', () => {
  const frames = fc.oneof(
    fc.uint8Array({ minLength: 14, maxLength: 200 }),
    fc.uint8Array({ minLength: 40, maxLength: 200 }).map((tail) => Buffer.concat([tcpFrame({ source: pod.ip4, destination: away.ip4 }).subarray(0, 14), tail])),
    fc.uint8Array({ minLength: 60, maxLength: 200 }).map((tail) => Buffer.concat([tcpFrame({ source: pod.ip6, destination: away.ip6 }).subarray(0, 54), tail])),
  )
  fc.assert(
    fc.property(frames, (frame) => {
      expect([next, drop]).toContain(judge(frame).verdict)
    }),
    { numRuns: 500 },
  )
  const flagSets = fc.subarray(['syn', 'ack', 'rst', 'fin'] as const)
  fc.assert(
    fc.property(flagSets, fc.nat(300), fc.boolean(), (flags, payloadBytes, isIp6) => {
      const addresses = isIp6 ? { source: pod.ip6, destination: away.ip6 } : { source: pod.ip4, destination: away.ip4 }
      const opensOrCarries = payloadBytes > 0 || (flags.includes('syn') && !flags.includes('ack'))
      expect(judge(tcpFrame({ ...addresses, flags, payloadBytes })).verdict).toBe(opensOrCarries ? drop : next)
    }),
    { numRuns: 200 },
  )
})
