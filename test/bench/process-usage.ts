// What a process used so far, as /proc tells it.
import { readFileSync } from 'node:fs'

/** USER_HZ, which is 100 on every Linux that Node.js runs on. */
const ticksPerSecond = 100

/** Seconds of processor time, user and kernel, of all threads. Work in softirq that no process asked for is not in it. */
export function cpuSeconds(pid: number): number {
  // The name, in brackets, may hold anything; what follows its last bracket are fields 3 and on.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond
}

/** Bytes of memory in use. Kernel memory of its sockets is not in it. */
export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
}
