// A client that behaves at random: sends, waits, finishes, resets or just leaves, in whatever order it was told to. It
// checks what every client may rely on, however the connection ends: the bytes that came are the right ones.
import type { Socket } from 'node:net'
import fc from 'fast-check'
import { abortSocket } from '../../src/kernel/live-socket.ts'
import type { Manner } from './transfer.ts'

type Step = { readonly act: 'send'; readonly size: number } | { readonly act: 'wait'; readonly ms: number } | { readonly act: 'finish' }

export interface Plan {
  readonly target: 'server' | 'outside'
  readonly manner: Manner
  readonly steps: readonly Step[]
  /** How it leaves at last: after both sides have finished, by a reset, or by closing whatever the state. */
  readonly leaves: 'inOrder' | 'byReset' | 'atOnce'
}

/** Servers that finish when their client does. The others leave only when they are reset. */
const courteous: readonly Manner[] = ['echo', 'banner', 'hash', 'halfclose', 'source', 'hold']
const rude: readonly Manner[] = ['reset', 'reset-accept', 'slow', 'stall']

const steps = fc.array(
  fc.oneof(
    fc.record({ act: fc.constant('send' as const), size: fc.oneof(fc.integer({ min: 1, max: 2_000 }), fc.integer({ min: 1, max: 200_000 })) }),
    fc.record({ act: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 60 }) }),
    fc.record({ act: fc.constant('finish' as const) }),
  ),
  { maxLength: 5 },
)

const target = fc.constantFrom('server' as const, 'outside' as const)

export const plans: fc.Arbitrary<Plan> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ target, steps, manner: fc.constantFrom(...courteous), leaves: fc.constantFrom('inOrder', 'byReset', 'atOnce') }) },
  { weight: 1, arbitrary: fc.record({ target, steps, manner: fc.constantFrom(...rude), leaves: fc.constant('byReset' as const) }) },
)

/** The bytes that a chaotic client sends: position tells value. */
function stream(from: number, size: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: size }, (_, i) => ((from + i) * 31) % 251))
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Follows the plan to its end. Resolves with what was wrong, or undefined. Never rejects; owns the socket. */
export async function follow(plan: Plan, socket: Socket, sourceBytes: number): Promise<string | undefined> {
  const received: Buffer[] = []
  let error: Error | undefined
  let hasEnded = false
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.on('error', (cause) => (error = cause)).on('data', (chunk: Buffer) => received.push(chunk)).on('end', () => (hasEnded = true))
  let sent = 0
  for (const step of plan.steps) {
    if (step.act === 'wait') await delay(step.ms)
    else if (step.act === 'finish') socket.end()
    else if (socket.writable) {
      socket.write(stream(sent, step.size))
      sent += step.size
    }
  }
  if (plan.leaves === 'inOrder') {
    socket.end()
    const isOver = await Promise.race([closed.then(() => true), delay(20_000).then(() => false)])
    if (!isOver) {
      socket.destroy()
      return 'it did not end'
    }
  } else if (plan.leaves === 'byReset') abortSocket(socket)
  else socket.destroy()
  await closed
  return judge(plan, Buffer.concat(received), sent, sourceBytes, plan.leaves === 'inOrder' ? { error, hasEnded } : undefined)
}

/** `ending` is given where the plan was to leave in order. */
function judge(plan: Plan, received: Buffer, sent: number, sourceBytes: number, ending: { error: Error | undefined; hasEnded: boolean } | undefined): string | undefined {
  const banner = plan.manner === 'banner' ? received.indexOf(10) + 1 : 0
  const reply = received.subarray(banner)
  if (plan.manner === 'echo' || (plan.manner === 'banner' && banner > 0)) {
    if (reply.length > sent || !reply.equals(stream(0, reply.length))) return 'it received what it had not sent'
  }
  if (!ending) return undefined
  // A source closes without reading: what its client sent is then answered with a reset, as TCP has it.
  if (plan.manner === 'source' && sent > 0) return undefined
  if (ending.error || !ending.hasEnded) return `it ended by ${ending.error?.message ?? 'no end of file'}`
  const expected: Partial<Record<Manner, number>> = { echo: sent, banner: sent, source: sourceBytes, hold: 0 }
  const wanted = expected[plan.manner]
  if (wanted !== undefined && reply.length !== wanted) return `it received ${reply.length} bytes instead of ${wanted}`
  if (plan.manner === 'halfclose' && reply.toString() !== `after eof: ${sent}\n`) return `it was answered ${reply.toString()}`
  if (plan.manner === 'hash' && !reply.toString().startsWith(`${sent} `)) return `it was answered ${reply.toString()}`
  return undefined
}
