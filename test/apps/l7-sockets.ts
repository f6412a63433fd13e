// Opens so many WebSockets and does nothing with them: prints a line when all are open, answers each line of its input with how many
// still are and whether one of them echoes, ends with its input. Usage: l7-sockets.ts HOST PORT COUNT
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { createInterface } from 'node:readline'

const [host = '', port = '0', count = '0'] = process.argv.slice(2)
const open = new Set<Socket>()
const atOnce = 200

function one(): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port) })
    let head = ''
    const onData = (chunk: Buffer): void => {
      head += chunk.toString('latin1')
      if (!head.includes('\r\n\r\n')) return
      socket.off('data', onData)
      if (!head.startsWith('HTTP/1.1 101')) return reject(new Error(head.slice(0, 200)))
      open.add(socket)
      socket.once('close', () => open.delete(socket))
      resolve()
    }
    socket.on('data', onData)
    socket.on('error', reject)
    socket.write(`GET /echo HTTP/1.1\r\nhost: ${host}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ${randomBytes(16).toString('base64')}\r\n\r\n`)
  })
}

/** A masked text frame of two characters comes back unmasked. */
function echoes(socket: Socket): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), 10_000)
    socket.once('data', (chunk: Buffer) => {
      clearTimeout(timer)
      resolve(chunk.equals(Buffer.from([0x81, 2, 0x68, 0x69])))
    })
    // The mask is zero: what is masked is what is meant.
    socket.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69]))
  })
}

let left = Number(count)
await Promise.all(Array.from({ length: atOnce }, async () => {
  while (left-- > 0) await one()
}))
process.stdout.write(`${JSON.stringify({ event: 'open', open: open.size })}\n`)
for await (const line of createInterface({ input: process.stdin })) {
  const [some] = open
  process.stdout.write(`${JSON.stringify({ event: 'still', line, open: open.size, echoes: some !== undefined && await echoes(some) })}\n`)
}
process.exit(0)
