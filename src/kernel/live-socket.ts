// What Node has no word for on its own connected sockets: seeing errors while nobody reads or writes, ending by a reset
// whatever the state, and passing bytes on through a buffer that many share. Never keeps an error to itself.
import type { Socket as DatagramSocket } from 'node:dgram'
import { Socket } from 'node:net'
import type { Server } from 'node:net'
import { native } from './native.ts'
import type { OwnedFd } from './native.ts'

/** Node's own part of a socket, which has no public name; null once it is closed. */
interface WithHandle {
  _handle?: { readonly fd?: number } | null
}

/** The socket's descriptor; undefined once it is closed. */
export function descriptorOf(socket: Socket): number | undefined {
  const { _handle: handle } = socket as WithHandle
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined
}

/**
 * A descriptor of one's own for what a server or a socket has open, to hand to another process; undefined once that is
 * closed. A listener is shared from then on: each connection goes to whoever accepts it first.
 */
export function duplicateDescriptor(of: Server | Socket | DatagramSocket): OwnedFd | undefined {
  // dgram keeps its handle in a state object behind a symbol; the property that shows it is deprecated and warns.
  const state = Object.getOwnPropertySymbols(of).find((symbol) => symbol.description === 'state symbol')
  const holder: unknown = state ? Reflect.get(of, state) : of
  const handle: unknown = holder instanceof Object ? Reflect.get(holder, state ? 'handle' : '_handle') : undefined
  const fd: unknown = handle instanceof Object ? Reflect.get(handle, 'fd') : undefined
  return typeof fd === 'number' && fd >= 0 ? native().duplicate(fd) : undefined
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

export interface BufferedSocket {
  /** Has the connection, paused; `resume()` begins. */
  readonly socket: Socket
  /** What Node had read already; comes before everything else. */
  readonly early: Uint8Array | undefined
}

/**
 * Moves a connection to a socket that reads into `buffer` and calls `onBytes(count)` for each read, where an ordinary one
 * makes a new buffer each time. Any number of sockets may share the buffer: its bytes are only good until `onBytes`
 * returns. The socket given is left closed. Undefined where that was closed already.
 */
export function readInto(buffer: Uint8Array, given: Socket, onBytes: (count: number) => void): BufferedSocket | undefined {
  const inner = given as WithHandle
  const handle = inner._handle
  if (!handle || given.destroyed) return undefined
  const early: unknown = given.read()
  inner._handle = null
  const callback = (count: number): boolean => {
    onBytes(count)
    return true
  }
  // net.Server makes the sockets that it accepts from a handle, paused; these two options have no public name either.
  const options: object = { handle, pauseOnCreate: true, allowHalfOpen: given.allowHalfOpen, onread: { buffer, callback } }
  const socket = new Socket(options)
  given.destroy()
  return { socket, early: early instanceof Uint8Array ? early : undefined }
}

/** Hands the first `length` bytes to the kernel, past Node's queue, which must be empty; returns how many it took. */
export function sendAtOnce(socket: Socket, bytes: Uint8Array, length: number): number {
  const fd = descriptorOf(socket)
  return fd === undefined ? 0 : native().trySend(fd, bytes, length)
}
