// Memory of the processes that carry, with open, idle connections between two pods; each pair in a world of its own, because
// what a process once used it does not always give back.
import { setTimeout as sleep } from 'node:timers/promises'
import { isHolding, startHold } from '../helpers/apps.ts'
import { MeshError } from '../../src/core/errors.ts'
import { residentBytes } from './process-usage.ts'
import { compareSetups } from './report.ts'
import type { Row } from './report.ts'
import type { Rivals } from './rivals/pair.ts'
import type { Bench } from './settings.ts'
import { setupNames, setupTitles, startMeshed, startPlain } from './setups.ts'
import type { Setup, SetupName } from './setups.ts'
import { Undo } from './undo.ts'

const sides = ["the client's node", "the server's node"] as const

export async function measureMemory(bench: Bench, rivals: Rivals): Promise<Row[]> {
  /** By setup: for each number of connections, the bytes of the client's and of the server's process. */
  const taken = new Map<SetupName, number[][]>()
  for (const name of setupNames) {
    if (name === 'none' || (name !== 'mesh' && name !== 'passthrough' && !rivals.has(name))) continue
    const undo = new Undo()
    bench.undo.add(() => undo.run())
    try {
      const own = { ...bench, undo }
      const setup = name === 'mesh' || name === 'passthrough' ? await startMeshed(own, name) : (await startPlain(own, rivals, [name])).find((made) => made.name === name)
      if (setup) taken.set(name, await measureSetup(own, setup))
    } finally {
      await undo.run()
    }
  }
  return sides.flatMap((where, side) => rowsOf(bench.held, taken, where, side))
}

async function measureSetup(bench: Bench, setup: Setup): Promise<number[][]> {
  const taken: number[][] = []
  let held = 0
  for (const count of bench.held) {
    bench.progress(`memory at ${count.toLocaleString('en')} connections, ${setupTitles[setup.name]}`)
    if (count > held) {
      const hold = await bench.undo.start(startHold([setup.host, setup.port, count - held, '--seconds', 600], setup.client), (made) => made.stop())
      const { connected } = await hold.waitFor(isHolding, 180_000)
      if (connected !== count - held) throw new MeshError('COMMAND_FAILED', `only ${held + connected} of ${count} connections could be opened (${setup.name})`)
      held = count
    }
    await sleep(bench.settleMs)
    taken.push(setup.pids.map(residentBytes))
  }
  await setup.prove({ open: held })
  return taken
}

function rowsOf(held: readonly number[], taken: ReadonlyMap<SetupName, readonly (readonly number[])[]>, where: string, side: number): Row[] {
  const pick = (at: number): ReadonlyMap<SetupName, number> => new Map([...taken].map(([name, bytes]) => [name, bytes[at]?.[side] ?? Number.NaN]))
  const first = pick(0)
  const last = pick(held.length - 1)
  const connections = (held.at(-1) ?? 0) - (held[0] ?? 0)
  const perConnection = new Map([...last].map(([name, bytes]) => [name, (bytes - (first.get(name) ?? Number.NaN)) / connections]))
  return [
    ...held.map((count, i) => compareSetups('memory', `memory, ${where}, ${count.toLocaleString('en')} connections`, 'MiB', [pick(i)], (bytes) => bytes / 2 ** 20)),
    compareSetups('memory', `memory, ${where}, per connection`, 'KiB', [perConnection], (bytes) => bytes / 1024),
  ]
}
