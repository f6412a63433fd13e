import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { expect, test, vi } from 'vitest'
import { client as source, readAll, startBench } from '../hbone/testing.ts'
import { carryTunnel } from './carry-tunnel.ts'
import { carry } from './carry.ts'
import { tellingFirst } from './first-bytes.ts'

test('tells before the first use, and of no other', () => {
  const seen: string[] = []
  const use = tellingFirst(() => void seen.push('first'), (value: number) => void seen.push(String(value)))
  for (const value of [1, 2, 3]) use(value)
  expect(seen).toEqual(['first', '1', '2', '3'])
})

async function pair(): Promise<[near: Socket, far: Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const far = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [near] = await once(server, 'connection') as [Socket]
  server.close()
  return [near, far]
}

/** Speaks through what carries from `first` to `second`: both sides say something twice, and only the second's first counts. */
async function talk(first: Socket, second: Socket, fromFirst: () => void, fromSecond: () => void): Promise<void> {
  first.write('question')
  await once(second, 'data')
  expect(fromFirst).toHaveBeenCalledTimes(1)
  expect(fromSecond).not.toHaveBeenCalled()
  second.write('answer')
  await once(first, 'data')
  first.end('more')
  second.end('more')
  await Promise.all([readAll(first), readAll(second)])
  expect([fromFirst, fromSecond].map((told) => vi.mocked(told).mock.calls.length)).toEqual([1, 1])
}

test('of two sockets', async () => {
  const [[nearFirst, first], [nearSecond, second]] = await Promise.all([pair(), pair()])
  const [fromFirst, fromSecond] = [vi.fn(), vi.fn()]
  const { done } = carry(nearFirst, nearSecond, { fromFirst, fromSecond })
  await talk(first, second, fromFirst, fromSecond)
  await done
})

test('of a socket and a tunnel, at both of its ends', async () => {
  const [[nearFirst, first], [nearSecond, second]] = await Promise.all([pair(), pair()])
  const [fromFirst, fromSecond, fromTunnel, fromServer] = [vi.fn(), vi.fn(), vi.fn(), vi.fn()]
  const bench = await startBench({ handler: async ({ peerIdentity }) => {
    expect(peerIdentity).toEqual(source)
    return { t: 'accept', carry: (stream) => void carryTunnel(nearSecond, stream, { fromFirst: fromServer, fromSecond: fromTunnel }) }
  } })
  const { stream } = await bench.pool.openTunnel(bench.request())
  const { done } = carryTunnel(nearFirst, stream, { fromFirst, fromSecond })
  await talk(first, second, fromFirst, fromSecond)
  await done
  expect([fromServer, fromTunnel].map((told) => told.mock.calls.length)).toEqual([1, 1])
  await bench.close()
})
