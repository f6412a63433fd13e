// Names a process so that no other can be taken for it: pid, start time and boot. A pid alone is used again by the
// kernel; signals are sent only after the start time was compared, so nothing that we did not start is ever touched.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'

export const processIdentitySchema = z.object({ pid: z.int().min(2), startTime: z.string().regex(/^\d+$/), bootId: z.string().min(1) })
/** `startTime` is field 22 of /proc/PID/stat: clock ticks after boot. */
export type ProcessIdentity = Readonly<z.infer<typeof processIdentitySchema>>

let knownBootId: string | undefined

function bootId(): string {
  knownBootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  return knownBootId
}

/** State letter and start time, or undefined if there is no such process. */
function readStat(pid: number): { state: string; startTime: string } | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    // No such process: the answer, not a failure.
    return undefined
  }
  // The command name may hold spaces and brackets; fields count from behind its last bracket.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return { state: fields[0] ?? '', startTime: fields[19] ?? '' }
}

/** Identity of a running process, or undefined if it is gone. */
export function identify(pid: number): ProcessIdentity | undefined {
  const stat = readStat(pid)
  return stat && { pid, startTime: stat.startTime, bootId: bootId() }
}

/** True while that very process runs; a zombie does not. */
export function isAlive(identity: ProcessIdentity): boolean {
  if (identity.bootId !== bootId()) return false
  const stat = readStat(identity.pid)
  return stat !== undefined && stat.startTime === identity.startTime && stat.state !== 'Z' && stat.state !== 'X'
}

/** Sends a signal to that very process; false if it is gone. */
export function signal(identity: ProcessIdentity, name: NodeJS.Signals): boolean {
  if (!isAlive(identity)) return false
  try {
    process.kill(identity.pid, name)
    return true
  } catch {
    // It ended between the two lines.
    return false
  }
}

/** Waits until it has ended; false after `timeoutMs`. */
export async function waitForEnd(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs
  for (let pauseMs = 1; isAlive(identity); pauseMs = Math.min(50, pauseMs * 2)) {
    if (performance.now() >= deadline) return false
    await sleep(pauseMs)
  }
  return true
}

/** SIGTERM, or another signal that asks, and SIGKILL to what is left after `graceMs`. */
export async function endProcess(identity: ProcessIdentity, graceMs: number, asking: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (!signal(identity, graceMs > 0 ? asking : 'SIGKILL')) return
  if (await waitForEnd(identity, graceMs)) return
  signal(identity, 'SIGKILL')
  await waitForEnd(identity, 5000)
}
