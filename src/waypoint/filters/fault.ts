// Faults that a route injects to see how its callers bear them: a delay, an answer in place of the backend's, or both. Only the
// route decides; no header of a client asks for one.
import type { Clock } from '../../core/clock.ts'
import type { Fault } from '../../model/route.ts'
import { grpcFromHttp, httpFromGrpc } from '../../policy/l7/grpc.ts'
import { isChosen } from '../../policy/l7/mirror.ts'
import type { Request, Response } from '../http/message.ts'
import type { ExchangeRecord } from '../record.ts'
import { localAnswer } from './local-answer.ts'

export interface FaultParts {
  readonly record: Pick<ExchangeRecord, 'delayed'>
  readonly clock: Clock
  /** 0 <= x < 1. */
  readonly random: () => number
}

/** The answer, or undefined to go on. Resolves early where the client has gone. */
export async function injectFault(
  { delay, abort }: Fault, request: Request, { clock, random, record }: FaultParts,
): Promise<Response | undefined> {
  // Both are drawn before the delay, each for itself.
  const isDelayed = delay !== undefined && isChosen(delay.fraction, random())
  const isAborted = abort !== undefined && isChosen(abort.fraction, random())
  if (isDelayed) {
    await wait(delay.ms, request.signal, clock)
    record.delayed(delay.ms)
  }
  if (!isAborted) return undefined
  const status = abort.status ?? httpFromGrpc(abort.grpcStatus ?? 14)
  return localAnswer(
    request, { status, grpcStatus: abort.grpcStatus ?? grpcFromHttp(status), message: 'fault filter abort', isPlain: true },
  )
}

function wait(ms: number, signal: AbortSignal, clock: Clock): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      callOff()
      signal.removeEventListener('abort', done)
      resolve()
    }
    const callOff = clock.after(ms, done)
    signal.addEventListener('abort', done, { once: true })
    if (signal.aborted) done()
  })
}
