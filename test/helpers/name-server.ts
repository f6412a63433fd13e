// A name server on loopback of the test's own namespace, over UDP and TCP at one port: it stands for this machine's.
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { decode, encode } from 'dns-packet'
import type { Answer } from 'dns-packet'
import type { SocketAddr } from '../../src/core/address.ts'
import { FrameReader, frameOf } from '../../src/dns/frames.ts'

/** What it says to one question: records, nothing of that type, that there is no such name, no more over UDP, or no word. */
export type Reply = readonly Answer[] | 'NXDOMAIN' | 'truncated' | 'silence'

export interface NameServer extends AsyncDisposable {
  readonly address: SocketAddr
  /** Every question so far, as `udp outside.test A`. */
  readonly asked: string[]
}

export async function nameServer(reply: (name: string, type: string, transport: 'udp' | 'tcp') => Reply): Promise<NameServer> {
  const asked: string[] = []
  const answer = (query: Buffer, transport: 'udp' | 'tcp'): Buffer | undefined => {
    const { id = 0, questions = [] } = decode(query)
    const [{ name = '', type = '' } = {}] = questions
    asked.push(`${transport} ${name} ${type}`)
    const said = reply(name, type, transport)
    if (said === 'silence') return undefined
    const flags = 0x180 | (said === 'truncated' ? 0x200 : 0) | (said === 'NXDOMAIN' ? 3 : 0)
    return encode({ type: 'response', id, flags, questions, answers: typeof said === 'string' ? [] : [...said] })
  }
  const tcp = createServer((socket) => {
    const reader = new FrameReader()
    socket.on('error', () => {}) // who asked may hang up when it knows
    socket.on('data', (chunk: Buffer) => {
      for (const query of reader.push(chunk)) {
        const message = answer(query, 'tcp')
        if (message) socket.write(frameOf(message))
      }
    })
  })
  await new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve))
  const bound = tcp.address()
  const port = typeof bound === 'object' && bound ? bound.port : 0
  const udp = createSocket('udp4')
  udp.on('message', (query, from) => {
    const message = answer(query, 'udp')
    if (message) udp.send(message, from.port, from.address)
  })
  await new Promise<void>((resolve) => udp.bind(port, '127.0.0.1', resolve))
  return {
    address: { ip: '127.0.0.1', port },
    asked,
    async [Symbol.asyncDispose]() {
      udp.close()
      await new Promise<void>((resolve) => tcp.close(() => resolve()))
    },
  }
}
