import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { expect, test } from 'vitest'
import { tcpStatistics } from './tcp-info.ts'

test('round-trip time and retransmits are what ss shows', async () => {
  const server = createServer((socket) => socket.on('error', () => {}).pipe(socket)) // it is reset in the end
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const socket: Socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  let received = 0
  socket.on('data', (chunk: Buffer) => (received += chunk.length)).write('x'.repeat(100_000))
  await expect.poll(() => received).toBe(100_000)
  // Asked before and after, because a last acknowledgement may still change it.
  const before = tcpStatistics(socket)
  const shown = execFileSync('ss', ['-tinH', `sport = :${socket.localPort}`, 'and', `dport = :${port}`], { encoding: 'utf8' })
  const after = tcpStatistics(socket)
  const rttUs = Math.round(Number(/ rtt:([\d.]+)\//.exec(shown)?.[1]) * 1_000)
  expect([before?.rttUs, after?.rttUs]).toContain(rttUs)
  expect(before).toMatchObject({ retransmits: 0 })
  socket.destroy()
  await once(socket, 'close')
  expect(tcpStatistics(socket)).toBeUndefined()
  server.close()
})
