// Removes what an instance left behind, from its records alone: it works after any crash, and touches nothing that the
// records do not name (pid, start time and boot must all match).
import { endProcess, isAlive, signal, waitForEnd } from './process-identity.ts'
import { lockInstance, readDaemonRecord, readProcessRecords, removeState, statePaths, type InstanceLock, type StatePaths } from './state.ts'
import { cleanUpZtunnel } from './ztunnel-process.ts'
import { MeshError } from '../core/errors.ts'
import { setTimeout as sleep } from 'node:timers/promises'

export interface CleanupResult {
  /** False if there was nothing by that name. */
  readonly found: boolean
  readonly problems: readonly string[]
}

const daemonGraceMs = 30_000

/**
 * Ends a mesh, alive or crashed, and removes all it made. A daemon that lives is asked first (SIGTERM), then killed.
 * BAD_CONFIG for an impossible name; ALREADY_RUNNING if somebody is starting it just now.
 */
export async function cleanupInstance(name: string, hostPath: string): Promise<CleanupResult> {
  const paths = statePaths(name)
  const daemon = readDaemonRecord(paths)
  const wasAlive = daemon !== undefined && isAlive(daemon.process)
  if (daemon && wasAlive) await endProcess(daemon.process, daemonGraceMs)
  const lock = await lockPatiently(name)
  try {
    const problems = await removeLeftovers(paths, hostPath)
    return { found: daemon !== undefined || wasAlive, problems }
  } finally {
    await lock.release()
  }
}

/** The kernel frees a dead daemon's lock a moment after its death. */
async function lockPatiently(name: string): Promise<InstanceLock> {
  for (let tries = 0; ; tries++) {
    try {
      return await lockInstance(name)
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'ALREADY_RUNNING' || tries === 50) throw error
      await sleep(20)
    }
  }
}

/**
 * For whoever holds the lock: ends recorded processes, removes what ztunnels pinned and the state directory.
 * Returns what could not be removed, as sentences.
 */
export async function removeLeftovers(paths: StatePaths, hostPath: string): Promise<string[]> {
  const problems: string[] = []
  const daemon = readDaemonRecord(paths)
  const records = readProcessRecords(paths)
  const ours = records.filter(({ role }) => role === 'ztunnel' || role === 'controlplane')
  await Promise.all(ours.map((record) => endProcess(record.identity, 2000)))
  const pods = records.filter((record) => record.role === 'pod')
  for (const { identity } of pods) signal(identity, 'SIGKILL')
  // While a node's namespace still exists: that is where its ztunnel looks.
  for (const node of daemon && daemon.ztunnel.length > 0 ? daemon.nodes : []) {
    const holder = records.find((record) => record.role === 'node' && record.label === node)
    const problem = await cleanUpZtunnel(paths, node, `/proc/${holder?.identity.pid ?? 0}/ns/net`, daemon?.ztunnel ?? [], hostPath)
    if (problem !== '') problems.push(`ztunnel cleanup of ${node} ${problem}`)
  }
  for (const { identity } of records) signal(identity, 'SIGKILL')
  for (const { identity, role, label } of records) {
    if (!(await waitForEnd(identity, 5000))) problems.push(`${role} ${label} (pid ${identity.pid}) does not end`)
  }
  if (problems.length === 0 || records.every(({ identity }) => !isAlive(identity))) removeState(paths)
  return problems
}
