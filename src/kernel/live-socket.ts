// What Node has no word for on its own connected sockets: seeing errors while nobody reads or writes, and ending by a reset
// whatever the state. Never reads an error away.
import type { Socket } from 'node:net'
import { native } from './native.ts'

/** The socket's descriptor; undefined once it is closed. Node has no public word for it. */
function descriptorOf(socket: Socket): number | undefined {
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly fd?: number } | null }
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined
}

/**
 * Those of `sockets` in which an error waits, such as a peer's reset. Node takes sockets off its poll set while
 * back-pressure pauses them and after their end of file, so the kernel is asked: one system call for all.
 */
export function socketsWithError(sockets: readonly Socket[]): Socket[] {
  if (sockets.length === 0) return []
  // poll() skips negative descriptors.
  const fds = Int32Array.from(sockets, (socket) => descriptorOf(socket) ?? -1)
  return Array.from(native().pollErrors(fds)).flatMap((position) => sockets[position] ?? [])
}

/**
 * Ends the connection by a reset. `socket.resetAndDestroy()` fails while libuv has a shutdown under way (EINVAL in
 * uv_tcp_close_reset): the peer then sees an end of file, and the socket is never closed.
 */
export function abortSocket(socket: Socket): void {
  const fd = socket.destroyed ? undefined : descriptorOf(socket)
  if (fd !== undefined) native().abortOnClose(fd)
  socket.destroy()
}
