// Finds network namespaces of pods by looking at all processes: the last way, where neither the CNI plugin nor the runtime told. What
// it finds are candidates: any process may sit in a namespace that is not its pod's, so each is verified.
import { readFile, readdir, readlink, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { podOfCgroup } from './cgroup-path.ts'

export interface Candidate {
  readonly pid: number
  /** Clock ticks after boot. */
  readonly startTime: bigint
  readonly path: string
  /** Of the namespace. */
  readonly inode: bigint
}

/** Distinct namespaces of one pod that are looked at. */
const mostCandidates = 16
/** A node has some thousands of processes; beyond this something else is wrong. */
const mostProcesses = 200_000

/** By pod: one candidate for each namespace that its processes are in, that of the oldest process first. Never throws. */
export async function scanProcesses(uids: ReadonlySet<string>, proc = '/proc'): Promise<Map<string, Candidate[]>> {
  const found = new Map<string, Map<bigint, Candidate>>()
  const names = await readdir(proc).catch(() => [])
  for (const name of names.filter((each) => /^[1-9]\d{0,9}$/.test(each)).slice(0, mostProcesses)) {
    const uid = podOfCgroup(await readFile(join(proc, name, 'cgroup'), 'latin1').catch(() => ''))
    if (uid === undefined || !uids.has(uid)) continue
    const candidate = await look(join(proc, name), Number(name))
    if (!candidate) continue
    const known = found.get(uid) ?? new Map<bigint, Candidate>()
    const other = known.get(candidate.inode)
    if (!other || candidate.startTime < other.startTime) known.set(candidate.inode, candidate)
    found.set(uid, known)
  }
  return new Map([...found].map(([uid, known]) => [uid, [...known.values()].sort(byAge).slice(0, mostCandidates)]))
}

/** A path for each network namespace that a process is in. */
export async function everyNetns(proc = '/proc'): Promise<string[]> {
  const found = new Map<bigint, string>()
  for (const name of (await readdir(proc)).filter((each) => /^[1-9]\d{0,9}$/.test(each))) {
    const candidate = await look(join(proc, name), Number(name))
    if (candidate && !found.has(candidate.inode)) found.set(candidate.inode, candidate.path)
  }
  return [...found.values()]
}

function byAge(a: Candidate, b: Candidate): number {
  return a.startTime < b.startTime || (a.startTime === b.startTime && a.pid < b.pid) ? -1 : 1
}

/** Undefined for a process that is gone, or a zombie. */
async function look(directory: string, pid: number): Promise<Candidate | undefined> {
  try {
    const path = join(directory, 'ns/net')
    await readlink(path)
    const { ino } = await stat(path, { bigint: true })
    const text = await readFile(join(directory, 'stat'), 'latin1')
    // The command's name may hold spaces and brackets; fields count from behind its last bracket.
    const startTime = text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? ''
    return /^\d+$/.test(startTime) ? { pid, startTime: BigInt(startTime), path, inode: ino } : undefined
  } catch {
    // It ended while we looked.
    return undefined
  }
}
