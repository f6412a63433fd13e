// The TCP connection below a tunnel: within its time, and with its errors in our words.
import type { Socket } from 'node:net'
import { formatAddr } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'
import type { ErrorCode } from '../core/errors.ts'

export interface DialPlan<T> {
  readonly dial: (target: T, signal: AbortSignal) => Promise<Socket>
  readonly clock: Clock
  readonly timeoutMs: number
  readonly signal: AbortSignal
}

/** Rejects with CONNECT_*, OVERLOADED (no descriptors left), CLOSED or the MeshError that the dialler threw. */
export function dialTarget<T extends { readonly address: SocketAddr }>(target: T, { dial, clock, timeoutMs, signal }: DialPlan<T>): Promise<Socket> {
  const abort = new AbortController()
  return new Promise((resolve, reject) => {
    let isOver = false
    const finish = (): void => {
      isOver = true
      cancelTimer()
      signal.removeEventListener('abort', onAbort)
    }
    const giveUp = (error: MeshError): void => {
      if (isOver) return
      finish()
      abort.abort()
      reject(error)
    }
    const onAbort = (): void => giveUp(new MeshError('CLOSED', 'the dial was given up'))
    const cancelTimer = clock.after(timeoutMs, () => giveUp(new MeshError(
      'CONNECT_TIMEOUT', `no connection to ${formatAddr(target.address)} within ${timeoutMs} ms; is a NetworkPolicy blocking HBONE?`,
      { source: 'upstream' },
    )))
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
    if (isOver) return
    dial(target, abort.signal).then(
      (socket) => {
        if (isOver) {
          socket.destroy()
          return
        }
        finish()
        socket.setNoDelay(true)
        resolve(socket)
      },
      (error: unknown) => {
        if (isOver) return
        finish()
        reject(meaning(error))
      },
    )
  })
}

const codes: Readonly<Record<string, ErrorCode>> = {
  ECONNREFUSED: 'CONNECT_REFUSED',
  ETIMEDOUT: 'CONNECT_TIMEOUT',
  EHOSTUNREACH: 'CONNECT_UNREACHABLE',
  ENETUNREACH: 'CONNECT_UNREACHABLE',
  EMFILE: 'OVERLOADED',
  ENFILE: 'OVERLOADED',
  ENOBUFS: 'OVERLOADED',
  ENOMEM: 'OVERLOADED',
}

function meaning(error: unknown): MeshError {
  if (error instanceof MeshError) return error
  const errno = errnoOf(error)
  const code = codes[errno] ?? 'CONNECT_FAILED'
  return new MeshError(code, code === 'OVERLOADED' ? 'no descriptor or memory left for another connection' : `cannot connect: ${String(error)}`, {
    source: code === 'OVERLOADED' ? 'internal' : 'upstream', detail: { errno, ...(code === 'OVERLOADED' && { because: 'descriptors' }) }, cause: error,
  })
}

function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : ''
}

/** Also where a dialler of ours has said it as a MeshError with `detail.errno`. */
export function isOutOfDescriptors(error: unknown): boolean {
  return error instanceof MeshError && ['EMFILE', 'ENFILE'].includes(String(error.detail['errno']))
}
