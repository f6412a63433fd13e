// Carries bytes between two TCP sockets: half-close stays half-close, a reset stays a reset, and what one side cannot
// take the other stops sending. The one interface behind which native code will carry bytes later.
import type { Socket } from 'node:net'

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
    const closed = (): void => {
      if (--open === 0) resolve({ sent: first.bytesRead, received: second.bytesRead, because })
    }
    const cut = (by: 'resetByFirst' | 'resetBySecond', other: Socket): void => {
      if (because === 'finished') because = by
      if (!other.destroyed) other.resetAndDestroy()
    }
    first.on('error', () => cut('resetByFirst', second)).on('close', closed)
    second.on('error', () => cut('resetBySecond', first)).on('close', closed)
    // pipe() stops reading while the other side's buffer is full, and ends it when this side has finished sending.
    first.pipe(second)
    second.pipe(first)
    // An error before we listened has closed the socket already.
    if (first.destroyed) cut('resetByFirst', second)
    if (second.destroyed) cut('resetBySecond', first)
    if (first.closed) closed()
    if (second.closed) closed()
  })
}
