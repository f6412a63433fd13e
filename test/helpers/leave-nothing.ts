// Runs around all tests that make namespaces: after the last one the machine must be as it was before the first. Only where
// nothing else runs (CI, or SIDESTEP_TEST_LEFTOVERS=1), because it looks at the whole machine.
import { removeSharedCluster } from '../kube/global-setup.ts'
import { leftoversSince, snapshotMachine } from './bpf-leftovers.ts'
import type { MachineState } from './bpf-leftovers.ts'

let before: MachineState | undefined

export async function setup(): Promise<void> {
  if (process.env['CI'] !== undefined || process.env['SIDESTEP_TEST_LEFTOVERS'] !== undefined) before = await snapshotMachine()
}

export async function teardown(): Promise<void> {
  if (!before) return
  // Whose own end may come after this one.
  await removeSharedCluster()
  const left = await leftoversSince(before)
  if (left.length === 0) return
  process.exitCode = 1
  throw new Error(`the tests left something on this machine:\n${left.join('\n')}`)
}
