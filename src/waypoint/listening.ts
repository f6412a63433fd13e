// A TCP listener that hands on what it accepts, and is counted while it lives: nobody takes the last descriptor, and who ends the
// listener need not look for what came of it.
import { createServer } from 'node:net'
import type { AddressInfo, Server, Socket } from 'node:net'
import { MeshError } from '../core/errors.ts'
import type { ConnectionShare } from '../member/connection-limit.ts'

export interface ListenOptions {
  readonly host: string
  readonly port: number
  /** Of the doors. */
  readonly share: ConnectionShare
  readonly keepAliveSeconds: number
  /** Nothing is read of a connection before its taker does; without it TLS may begin. */
  readonly pauseOnConnect: boolean
  readonly onConnection: (socket: Socket) => void
  readonly onShed: () => void
}

export interface Listening {
  readonly port: number
  /** Takes nothing new; what was taken goes on. Resolves at once: what lives is not waited for. */
  close(): void
}

/** `[::]` takes both families; where there is no IPv6, all of IPv4. Rejects with BAD_CONFIG. */
export async function listenTcp(options: ListenOptions): Promise<Listening> {
  try {
    return await listenOn(options)
  } catch (error) {
    const isWithoutIpv6 = options.host === '::' && error instanceof Error && 'code' in error && (error.code === 'EAFNOSUPPORT' || error.code === 'EADDRNOTAVAIL')
    if (isWithoutIpv6) return await listenOn({ ...options, host: '0.0.0.0' })
    const text = error instanceof Error ? error.message : String(error)
    throw new MeshError('BAD_CONFIG', `cannot listen on ${options.host} port ${options.port}: ${text}`, { cause: error })
  }
}

function listenOn({ host, port, share, keepAliveSeconds, pauseOnConnect, onConnection, onShed }: ListenOptions): Promise<Listening> {
  const server: Server = createServer({
    allowHalfOpen: true, pauseOnConnect, noDelay: true, keepAlive: true, keepAliveInitialDelay: keepAliveSeconds * 1_000,
  }, (socket) => {
    if (!share.acquire()) {
      onShed()
      socket.on('error', () => {}) // it is being reset
      socket.resetAndDestroy()
      return
    }
    socket.once('close', () => share.release())
    onConnection(socket)
  })
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host, port }, () => {
      server.off('error', reject)
      // An accept that fails for want of descriptors is tried again by the next connection.
      server.on('error', () => {})
      resolve({ port: (server.address() as AddressInfo).port, close: () => void server.close() })
    })
  })
}

/** Of `HOST:PORT`, as the settings have it. */
export function hostAndPort(address: string): { readonly host: string; readonly port: number } {
  const colon = address.lastIndexOf(':')
  return { host: address.slice(0, colon).replace(/^\[(.*)\]$/, '$1'), port: Number(address.slice(colon + 1)) }
}
