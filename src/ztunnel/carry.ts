// Carries bytes between two TCP sockets: half-close stays half-close, a reset stays a reset, and what one side cannot
// take the other stops sending. The one interface behind which native code will carry bytes later.
import type { Socket } from 'node:net'
import { abortSocket } from '../kernel/live-socket.ts'
import { forgetReset, watchForReset } from './reset-watch.ts'

export interface Carried {
  /** Bytes from `first` to `second`. */
  readonly sent: number
  /** Bytes from `second` to `first`. */
  readonly received: number
  /** Why it ended: both sides finished, or one of them was cut. */
  readonly because: 'finished' | 'resetByFirst' | 'resetBySecond'
}

/** Takes over both sockets (allowHalfOpen, paused or not yet read from) until both are closed. Never rejects. */
export function carry(first: Socket, second: Socket): Promise<Carried> {
  return new Promise((resolve) => {
    let because: Carried['because'] = 'finished'
    let open = 2
    const follow = (socket: Socket, by: 'resetByFirst' | 'resetBySecond', other: Socket): void => {
      const onReset = (): void => {
        if (because === 'finished') because = by
        abortSocket(other)
      }
      const onClose = (): void => {
        forgetReset(socket)
        if (--open === 0) resolve({ sent: first.bytesRead, received: second.bytesRead, because })
      }
      socket.on('error', onReset).on('close', onClose)
      watchForReset(socket, () => {
        onReset()
        socket.destroy()
      })
      // An error before we listened has closed the socket already.
      if (socket.destroyed) onReset()
      if (socket.closed) onClose()
    }
    // pipe() stops reading while the other side's buffer is full, and ends it when this side has finished sending.
    first.pipe(second)
    second.pipe(first)
    follow(first, 'resetByFirst', second)
    follow(second, 'resetBySecond', first)
  })
}
