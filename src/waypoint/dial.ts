// TCP connections from this pod's own namespace, within a time and with errors that hbone and upstream understand.
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import type { SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'

export interface DialOptions {
  readonly timeoutMs: number
  readonly keepAliveSeconds: number
  readonly signal: AbortSignal
}

/** `ip` may be a host name. Rejects with the system's error, CONNECT_TIMEOUT, or CLOSED where it was given up. */
export function dialTcp({ ip, port }: SocketAddr, { timeoutMs, keepAliveSeconds, signal }: DialOptions): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: ip, port, allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: keepAliveSeconds * 1_000, autoSelectFamily: true,
    })
    const settle = (error?: Error): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      socket.off('error', settle)
      if (!error) {
        resolve(socket)
        return
      }
      socket.on('error', () => {}) // it is being thrown away
      socket.destroy()
      reject(error)
    }
    const onAbort = (): void => settle(new MeshError('CLOSED', 'the dial was given up'))
    const timer = setTimeout(() => settle(new MeshError('CONNECT_TIMEOUT', `no connection to ${ip} port ${port} within ${timeoutMs} ms`, { source: 'upstream' })), timeoutMs)
    socket.once('connect', () => settle())
    socket.on('error', settle)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}
