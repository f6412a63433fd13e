// Takes what another process hands over on a unix socket, and serves it: a listening TCP socket and a UDP socket. Prints
// `serving`; answers every connection and datagram with its pid.
import { createServer } from 'node:net'
import { FdSocket } from '../../../src/kernel/fd-socket.ts'
import { datagramSocket } from '../../../src/kernel/sockets.ts'

const [, , path = ''] = process.argv
const hand = FdSocket.connect(path, 'seqpacket')
hand.start({
  onMessage: (bytes, fds) => {
    const [listener, udp] = fds
    if (new TextDecoder().decode(bytes) !== 'tcp udp' || !listener || !udp) throw new TypeError('not what was expected')
    const server = createServer((socket) => socket.end(String(process.pid)))
    server.listen({ fd: listener.release() }, () => void (async () => {
      const datagrams = await datagramSocket(udp, '127.0.0.1')
      datagrams.on('message', (_message, from) => datagrams.send(String(process.pid), from.port, from.address))
      hand.send(new TextEncoder().encode('taken'))
      console.log('"serving"')
    })())
  },
  onClose: () => {},
})
