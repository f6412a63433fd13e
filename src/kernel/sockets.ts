// Sockets made inside a pod's network namespace, given to Node as net and dgram objects. The caller owns the result.
import { createSocket } from 'node:dgram'
import type { Socket as DatagramSocket } from 'node:dgram'
import { Socket } from 'node:net'
import type { NativeSocketOptions, OwnedFd } from './native.ts'
import { native } from './native.ts'
import type { Netns } from './netns.ts'
import { nativeAddress } from './netns.ts'
import { connectSpare } from './spare-sockets.ts'
import type { SocketAddr } from '../core/address.ts'
import { isIpv6Address } from '../core/address.ts'

/** What marks a socket as the ztunnel's own: see Redirection.bypass and .delivery. */
export interface SocketMark {
  readonly storageMap: OwnedFd
  readonly storageValue: Uint8Array
}

export interface ConnectOptions {
  readonly host: string
  readonly port: number
  /** Milliseconds until CONNECT_TIMEOUT; 10,000 unless told. */
  readonly timeoutMs?: number
  /** Address to connect from; port 0 leaves the port to the kernel. May be foreign if `transparent`. */
  readonly source?: SocketAddr
  readonly transparent?: boolean
  /** SO_MARK. */
  readonly mark?: number
  readonly socketMark?: SocketMark
  /** Seconds of silence until the peer is asked whether it is still there; never unless told. */
  readonly keepAliveSeconds?: number
  /** First and last port to choose one from, at random; needs `source`. */
  readonly portRange?: readonly [number, number]
}

/** A connected socket with half-close kept and TCP_NODELAY set. Rejects with CONNECT_*, or SYSCALL_FAILED. */
export async function connectInNetns(netns: Netns, options: ConnectOptions): Promise<Socket> {
  const nativeOptions = {
    address: nativeAddress({ ip: options.host, port: options.port }),
    ...(options.source && { source: nativeAddress(options.source) }),
    ...(options.portRange && { portRange: options.portRange[1] * 65_536 + options.portRange[0] }),
    transparent: options.transparent ?? false,
    mark: options.mark ?? 0,
    timeoutMs: options.timeoutMs ?? 10_000,
    keepAliveSeconds: options.keepAliveSeconds ?? 0,
    ...options.socketMark,
  }
  const spare = netns.spareSockets.take(isIpv6Address(options.host) ? 'ip6' : 'ip4')
  const fd = (spare && await connectSpare(spare, nativeOptions)) ?? await native().connectTcp(netns.fd, nativeOptions)
  return new Socket({ fd: fd.release(), readable: true, writable: true, allowHalfOpen: true })
}

export interface ListenOptions {
  readonly port: number
  /** Address to bind; absent means every address of both families. */
  readonly host?: string
  readonly transparent?: boolean
  readonly backlog?: number
  /** As in ConnectOptions, for every socket that is accepted. */
  readonly keepAliveSeconds?: number
  readonly socketMark?: SocketMark
}

/** A listening socket's descriptor, for `net.Server.listen({ fd })`; SO_REUSEPORT, so a successor can take over. */
export function listenInNetns(netns: Netns, options: ListenOptions): Promise<OwnedFd> {
  return native().listenTcp(netns.fd, bindOptions(options))
}

/** A bound UDP socket's descriptor. */
export function bindUdpInNetns(netns: Netns, options: ListenOptions): Promise<OwnedFd> {
  return native().bindUdp(netns.fd, bindOptions(options))
}

function bindOptions(options: ListenOptions): NativeSocketOptions {
  return {
    address: nativeAddress({ ip: options.host ?? '::', port: options.port }),
    dualStack: options.host === undefined,
    transparent: options.transparent ?? false,
    reusePort: true,
    backlog: options.backlog ?? 4096,
    keepAliveSeconds: options.keepAliveSeconds ?? 0,
    ...options.socketMark,
  }
}

/** Gives a bound UDP descriptor to dgram; resolves when it receives. */
export async function datagramSocket(fd: OwnedFd, host: string | undefined): Promise<DatagramSocket> {
  const socket = createSocket({ type: host === undefined || isIpv6Address(host) ? 'udp6' : 'udp4', reuseAddr: false })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.bind({ fd: fd.release() }, () => {
      socket.off('error', reject)
      resolve()
    })
  })
  return socket
}
