// Carries bytes between two TCP sockets: half-close stays half-close, a reset stays a reset, and what one side cannot
// take the other stops sending. The one interface behind which native code will carry bytes later.
import type { Socket } from 'node:net'
import { abortSocket, readInto, sendAtOnce } from '../kernel/live-socket.ts'
import { tcpStatistics } from '../kernel/tcp-info.ts'
import type { TcpStatistics } from '../kernel/tcp-info.ts'
import { tellingFirst } from './first-bytes.ts'
import type { FirstBytes } from './first-bytes.ts'
import { forgetReset, watchForReset } from './reset-watch.ts'

export interface Carried {
  /** Bytes from `first` to `second`. */
  readonly sent: number
  /** Bytes from `second` to `first`. */
  readonly received: number
  /** Why it ended: both sides finished, or one of them was cut. */
  readonly because: 'finished' | 'resetByFirst' | 'resetBySecond'
  /** What the kernel measured on both sides when the first of them had sent all; absent where that was not seen. */
  readonly tcp?: { readonly first: TcpStatistics | undefined; readonly second: TcpStatistics | undefined } | undefined
}

/** A connection under way. */
export interface Carrying {
  /** When both sides are closed; never rejects. */
  readonly done: Promise<Carried>
  /** Bytes so far, as in Carried. */
  counts(): { readonly sent: number; readonly received: number }
  /** Ends both sides by a reset. */
  cut(): void
}

/** Shared by all connections: what was read has left it, or was copied, before anything else is read. */
const buffer = Buffer.allocUnsafeSlow(256 * 1024)

/** Takes over both sockets (allowHalfOpen, paused or not yet read from) and leaves them closed. */
export function carry(first: Socket, second: Socket, told: FirstBytes = {}): Carrying {
  const fromFirst = readInto(buffer, first, tellingFirst(told.fromFirst, (count) => pass(count, a, b)))
  const fromSecond = readInto(buffer, second, tellingFirst(told.fromSecond, (count) => pass(count, b, a)))
  if (fromFirst?.early) told.fromFirst?.()
  if (fromSecond?.early) told.fromSecond?.()
  const a = fromFirst?.socket ?? first
  const b = fromSecond?.socket ?? second
  const done = new Promise<Carried>((resolve) => {
    let because: Carried['because'] = 'finished'
    let tcp: Carried['tcp']
    let open = 2
    const follow = (socket: Socket, by: 'resetByFirst' | 'resetBySecond', other: Socket): void => {
      const onReset = (): void => {
        if (because === 'finished') because = by
        abortSocket(other)
      }
      const onClose = (): void => {
        forgetReset(socket)
        if (--open === 0) resolve({ sent: a.bytesRead, received: b.bytesRead, because, tcp })
      }
      socket.on('error', onReset).on('close', onClose).on('end', () => {
        tcp ??= { first: tcpStatistics(a), second: tcpStatistics(b) }
        other.end()
      })
      watchForReset(socket, () => {
        onReset()
        socket.destroy()
      })
      // An error before we listened has closed the socket already.
      if (socket.destroyed) onReset()
      if (socket.closed) onClose()
    }
    follow(a, 'resetByFirst', b)
    follow(b, 'resetBySecond', a)
    begin(fromFirst?.early, a, b)
    begin(fromSecond?.early, b, a)
  })
  return {
    done,
    counts: () => ({ sent: a.bytesRead, received: b.bytesRead }),
    cut: () => {
      abortSocket(a)
      abortSocket(b)
    },
  }
}

function begin(early: Uint8Array | undefined, from: Socket, to: Socket): void {
  if (early) to.write(early)
  from.resume()
}

/** Passes on what `from` just read. What `to` does not take at once is copied, and `from` is not read until it is gone. */
function pass(count: number, from: Socket, to: Socket): void {
  const sent = to.writableLength === 0 ? sendAtOnce(to, buffer, count) : 0
  if (sent === count) return
  from.pause()
  to.write(Buffer.from(buffer.subarray(sent, count)), (error) => {
    // An error closes `to`, and that resets `from`.
    if (!error && !from.destroyed) from.resume()
  })
}

/** Seen from the tunnel, where the source is. */
export function reversed(carrying: Carrying): Carrying {
  return {
    ...carrying,
    done: carrying.done.then(({ sent, received, because }) => ({ sent: received, received: sent, because: swapped[because] })),
    counts: () => {
      const { sent, received } = carrying.counts()
      return { sent: received, received: sent }
    },
  }
}

const swapped = { finished: 'finished', resetByFirst: 'resetBySecond', resetBySecond: 'resetByFirst' } as const
