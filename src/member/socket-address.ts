// The addresses of a socket's two ends, folded: no policy or log sees two spellings of one. Asked for at every connection, so what
// was folded is kept, within bounds.
import type { Socket } from 'node:net'
import { canonicalIp } from '../core/address.ts'
import type { ClientAddr, SocketAddr } from '../core/address.ts'

/** The same few addresses come again and again. */
const foldedIps = new Map<string, string>()
const mostFoldedIps = 4_096

/** As canonicalIp(). */
export function foldedIp(ip: string): string | undefined {
  const known = foldedIps.get(ip)
  if (known !== undefined) return known
  const folded = canonicalIp(ip)
  if (folded === undefined) return undefined
  if (foldedIps.size >= mostFoldedIps) foldedIps.clear()
  foldedIps.set(ip, folded)
  return folded
}

/** Folded address; undefined where the socket is gone already. */
export function addressOf(ip: string | undefined, port: number | undefined): SocketAddr | undefined {
  const folded = ip === undefined ? undefined : foldedIp(ip)
  return folded === undefined || port === undefined ? undefined : { ip: folded, port }
}

export function peerOf(socket: Socket): ClientAddr | undefined {
  return addressOf(socket.remoteAddress, socket.remotePort)
}
