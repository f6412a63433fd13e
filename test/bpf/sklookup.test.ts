// The sk_lookup program, by BPF_PROG_TEST_RUN, against real listening sockets in its map: who gets a connection to the pod.
import { createServer } from 'node:net'
import type { AddressInfo, Server } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ipToBytes } from '../../src/core/address.ts'
import type { ListenerKind, Reason } from '../../src/kernel/generated/layout.ts'
import { podFlag, socketKind } from '../../src/kernel/generated/layout.ts'
import { native } from '../../src/kernel/native.ts'
import { Netns } from '../../src/kernel/netns.ts'
import type { Redirection } from '../../src/kernel/redirection.ts'
import { listenInNetns } from '../../src/kernel/sockets.ts'
import { loadedPrograms } from '../helpers/instances.ts'

const cookie = 77n
const ip4 = bytesOf('10.1.2.3')
const ip6 = bytesOf('fd00::123')
const pass = 1
const drop = 0

let redirection: Redirection
let remove: () => void
let netns: Netns
const listeners = new Map<ListenerKind, Server>()

function bytesOf(ip: string): Uint8Array {
  const bytes = ipToBytes(ip)
  if (!bytes) throw new TypeError(`not an address: ${ip}`)
  return bytes
}

beforeAll(async () => {
  ;({ redirection, remove } = await loadedPrograms())
  netns = await Netns.open('/proc/self/ns/net')
  redirection.maps.pods.set(cookie, { ip4, ip6, flags: 0 })
  redirection.maps.podAddresses.set(ip4, cookie)
  redirection.maps.podAddresses.set(ip6, cookie)
})
afterAll(() => {
  for (const server of listeners.values()) server.close()
  netns.close()
  remove()
})

async function listen(kind: ListenerKind): Promise<void> {
  const fd = await listenInNetns(netns, { port: 0 })
  redirection.registerListener(cookie, kind, fd.fd)
  const server = createServer()
  await new Promise<void>((resolve) => server.listen({ fd: fd.release() }, resolve))
  expect((server.address() as AddressInfo).port).toBeGreaterThan(0)
  listeners.set(kind, server)
}

interface Arrival {
  readonly from: string
  readonly fromPort?: number
  readonly to: string
  readonly port: number
  readonly protocol?: number
}

/** struct bpf_sk_lookup of include/uapi/linux/bpf.h; addresses and the remote port in network order. */
function lookup({ from, fromPort = 40_000, to, port, protocol = 6 }: Arrival): { verdict: number; hasSocket: boolean; because: Reason[] } {
  const context = Buffer.alloc(72)
  const isIp6 = to.includes(':')
  context.writeUInt32LE(isIp6 ? 10 : 2, 8)
  context.writeUInt32LE(protocol, 12)
  if (isIp6) context.set(bytesOf(from), 20)
  else context.set(bytesOf(from).subarray(12), 16)
  context.writeUInt16BE(fromPort, 36)
  if (isIp6) context.set(bytesOf(to), 44)
  else context.set(bytesOf(to).subarray(12), 40)
  context.writeUInt32LE(port, 60)
  const before = redirection.counters()
  const run = native().programTestRun(redirection.programForTest('steer_inbound'), undefined, context)
  const after = redirection.counters()
  const because = (Object.keys(after) as Reason[]).filter((reason) => after[reason] > before[reason])
  return { verdict: run.result, hasSocket: run.context.readBigUInt64LE(0) !== 0n, because }
}

test.each(['10.1.2.3', 'fd00::123'])('without a ztunnel, closed: refuses what arrives at %s', (to) => {
  const from = to.includes(':') ? 'fd00::9' : '10.9.9.9'
  expect(lookup({ from, to, port: 80 })).toEqual({ verdict: drop, hasSocket: false, because: ['ztunnelAway'] })
  expect(lookup({ from, to, port: 15_008 })).toEqual({ verdict: drop, hasSocket: false, because: ['noHboneListener'] })
})

test('without a ztunnel, open: lets the application have it, but never port 15008', () => {
  redirection.maps.pods.set(cookie, { ip4, ip6, flags: podFlag.open })
  try {
    expect(lookup({ from: '10.9.9.9', to: '10.1.2.3', port: 80 })).toEqual({ verdict: pass, hasSocket: false, because: ['passedOpen'] })
    expect(lookup({ from: '10.9.9.9', to: '10.1.2.3', port: 15_008 }).verdict).toBe(drop)
  } finally {
    redirection.maps.pods.set(cookie, { ip4, ip6, flags: 0 })
  }
})

test('the pod finds itself on its own address and on loopback', () => {
  for (const ip of ['10.1.2.3', 'fd00::123', '127.0.0.1', '::1']) {
    expect(lookup({ from: ip, to: ip, port: 80 })).toEqual({ verdict: pass, hasSocket: false, because: [] })
  }
})

test('an address that the pod gave itself is refused', () => {
  expect(lookup({ from: '10.9.9.9', to: '10.1.2.77', port: 80 })).toEqual({ verdict: drop, hasSocket: false, because: ['unknownLocalAddress'] })
  expect(lookup({ from: 'fe80::9', to: 'fe80::1', port: 80 }).because).toEqual(['unknownLocalAddress'])
})

test('UDP is not the mesh\'s', () => {
  expect(lookup({ from: '10.9.9.9', to: '10.1.2.3', port: 53, protocol: 17 })).toEqual({ verdict: pass, hasSocket: false, because: [] })
})

test('an announced flow finds the application; the same client from another port does not', () => {
  const key = { source: bytesOf('10.9.9.9'), destination: ip4, sourcePort: 5_555, destinationPort: 80 }
  redirection.maps.flows.set(key, { kind: socketKind.delivery })
  expect(lookup({ from: '10.9.9.9', fromPort: 5_555, to: '10.1.2.3', port: 80 })).toEqual({ verdict: pass, hasSocket: false, because: [] })
  expect(lookup({ from: '10.9.9.9', fromPort: 5_556, to: '10.1.2.3', port: 80 }).verdict).toBe(drop)
  redirection.maps.flows.delete(key)
})

test('with a ztunnel, every port is its, and a redirected connection finds the outbound listener only by its port', async () => {
  await listen('inbound')
  await listen('outbound')
  expect(lookup({ from: '10.9.9.9', to: '10.1.2.3', port: 80 })).toEqual({ verdict: pass, hasSocket: true, because: ['steered'] })
  expect(lookup({ from: 'fd00::9', to: 'fd00::123', port: 15_001 })).toEqual({ verdict: pass, hasSocket: true, because: ['steered'] })
  expect(lookup({ from: '10.1.2.3', to: '10.1.2.3', port: 15_001 })).toEqual({ verdict: pass, hasSocket: true, because: [] })
  for (const server of listeners.values()) await new Promise((resolve) => server.close(resolve))
  // The listeners' end is the heartbeat: nothing had to be told.
  expect(lookup({ from: '10.9.9.9', to: '10.1.2.3', port: 80 }).because).toEqual(['ztunnelAway'])
})
