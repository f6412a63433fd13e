// Notices resets on carried sockets that are not being read at the time, because the other side is slow or because the
// peer has finished sending. Sockets that are read tell by themselves and cost nothing here.
import type { Socket } from 'node:net'
import { socketsWithError } from '../kernel/live-socket.ts'

/** How late such a reset may be seen. */
const intervalMs = 500

const watched = new Map<Socket, () => void>()
let timer: NodeJS.Timeout | undefined

function sweep(): void {
  const silent = [...watched.keys()].filter((socket) => !socket.destroyed && (socket.readableFlowing !== true || socket.readableEnded))
  for (const socket of socketsWithError(silent)) watched.get(socket)?.()
}

/** Calls `onReset` when the peer has reset the socket while nobody reads it; at most once per sweep until forgotten. */
export function watchForReset(socket: Socket, onReset: () => void): void {
  watched.set(socket, onReset)
  timer ??= setInterval(sweep, intervalMs).unref()
}

/** Ends the watch. Must follow every watchForReset(). */
export function forgetReset(socket: Socket): void {
  watched.delete(socket)
  if (watched.size > 0) return
  clearInterval(timer)
  timer = undefined
}
