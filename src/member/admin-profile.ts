// What the processor did and who allocated what, over a while: for people with a question. One at a time, and never longer
// than five minutes. The heap is sampled, by function: its contents, secrets among them, stay where they are.
import { Session } from 'node:inspector/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'

const maxSeconds = 300
let isRunning = false

/** From a query parameter: 1 to 300 whole seconds. BAD_CONFIG otherwise. */
export function profileSeconds(text: string | null, fallback: number): number {
  if (text === null) return fallback
  const seconds = Number(text)
  if (!/^\d{1,3}$/.test(text) || seconds < 1 || seconds > maxSeconds) throw new MeshError('BAD_CONFIG', `seconds must be 1 to ${maxSeconds}`)
  return seconds
}

/** JSON as Chrome's developer tools and speedscope read it (.cpuprofile). OVERLOADED while another runs. Ends early on `signal`. */
export function cpuProfile(seconds: number, signal: AbortSignal): Promise<string> {
  return profiled(async (session) => {
    await session.post('Profiler.enable')
    await session.post('Profiler.start')
    await wait(seconds, signal)
    return JSON.stringify((await session.post('Profiler.stop')).profile)
  })
}

/** Allocations that are still alive at the end (.heapprofile). */
export function heapProfile(seconds: number, signal: AbortSignal): Promise<string> {
  return profiled(async (session) => {
    await session.post('HeapProfiler.enable')
    await session.post('HeapProfiler.startSampling', { samplingInterval: 32_768 })
    await wait(seconds, signal)
    return JSON.stringify((await session.post('HeapProfiler.stopSampling')).profile)
  })
}

async function profiled(take: (session: Session) => Promise<string>): Promise<string> {
  if (isRunning) throw new MeshError('OVERLOADED', 'another profile is being taken')
  isRunning = true
  const session = new Session()
  try {
    session.connect()
    return await take(session)
  } finally {
    session.disconnect()
    isRunning = false
  }
}

async function wait(seconds: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(seconds * 1000, undefined, { signal })
  } catch {
    // Whoever asked has gone: what was taken so far is thrown away by the caller.
  }
}
