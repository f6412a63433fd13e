// Carries bytes between a TCP socket and a tunnel's stream, with what carry.ts promises for two sockets: half-close stays
// half-close, a reset stays a reset, and what one side cannot take the other stops sending.
import type { Socket } from 'node:net'
import type { TunnelStream } from '../hbone/tunnel-stream.ts'
import { abortSocket } from '../kernel/live-socket.ts'
import type { Carried, Carrying } from './carry.ts'
import { forgetReset, watchForReset } from './reset-watch.ts'

/** Takes over both and leaves them closed; `sent` are the bytes from the socket to the tunnel. */
export function carryTunnel(socket: Socket, tunnel: TunnelStream): Carrying {
  const done = new Promise<Carried>((resolve) => {
    let because: Carried['because'] = 'finished'
    let open = 2
    const closed = (): void => {
      if (--open === 0) resolve({ sent: socket.bytesRead, received: tunnel.bytesRead, because })
    }
    const socketReset = (): void => {
      if (because === 'finished') because = 'resetByFirst'
      tunnel.resetAndDestroy()
    }
    const tunnelReset = (): void => {
      if (because === 'finished') because = 'resetBySecond'
      abortSocket(socket)
    }
    socket.on('data', (chunk: Buffer) => {
      if (!tunnel.write(chunk)) socket.pause()
    })
    socket.on('drain', () => tunnel.resume())
    socket.on('end', () => tunnel.end())
    socket.on('error', socketReset)
    socket.on('close', () => {
      forgetReset(socket)
      closed()
    })
    watchForReset(socket, () => {
      socketReset()
      socket.destroy()
    })
    tunnel.on('data', (chunk: Buffer) => {
      if (!socket.write(chunk)) tunnel.pause()
    })
    tunnel.on('drain', () => socket.resume())
    tunnel.on('end', () => socket.end())
    tunnel.on('error', tunnelReset)
    tunnel.on('close', closed)
    // An error or the end before we listened has closed it already.
    if (socket.destroyed) socketReset()
    if (socket.closed) closed()
    if (tunnel.destroyed) tunnelReset()
    if (tunnel.closed) closed()
    if (!socket.destroyed) socket.resume()
    if (!tunnel.destroyed) tunnel.resume()
  })
  return {
    done,
    counts: () => ({ sent: socket.bytesRead, received: tunnel.bytesRead }),
    cut: () => {
      tunnel.resetAndDestroy()
      abortSocket(socket)
    },
  }
}
