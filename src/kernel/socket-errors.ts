// Sees errors of sockets that nobody reads from or writes to: a peer's reset while back-pressure has paused us, or after
// its end of file. Node takes such sockets off its poll set, so the kernel is asked. Never reads the error away.
import type { Socket } from 'node:net'
import { native } from './native.ts'

/** The socket's descriptor; undefined once it is closed. Node has no public word for it. */
function descriptorOf(socket: Socket): number | undefined {
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly fd?: number } | null }
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined
}

/** Those of `sockets` in which an error waits. One system call; never throws for a socket that is closed. */
export function socketsWithError(sockets: readonly Socket[]): Socket[] {
  if (sockets.length === 0) return []
  // poll() skips negative descriptors.
  const fds = Int32Array.from(sockets, (socket) => descriptorOf(socket) ?? -1)
  return Array.from(native().pollErrors(fds)).flatMap((position) => sockets[position] ?? [])
}
