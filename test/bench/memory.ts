// Memory of both ztunnels with open, idle connections between two captured pods; in a world of its own, because what a
// process once used it does not always give back.
import { setTimeout as sleep } from 'node:timers/promises'
import { isHolding, startHold, startLoadPeer } from '../helpers/apps.ts'
import { World } from '../helpers/meshed-world.ts'
import { MeshError } from '../../src/core/errors.ts'
import { residentBytes } from './process-usage.ts'
import { single } from './report.ts'
import type { Row } from './report.ts'
import type { Bench } from './settings.ts'

const nodes = ['node-a', 'node-b'] as const
const sides = { 'node-a': "the client's node", 'node-b': "the server's node" } as const

export async function measureMemory(bench: Bench): Promise<Row[]> {
  const world = await bench.undo.start(
    World.start([{ name: 'client', node: 'node-a' }, { name: 'server', node: 'node-b' }]),
    (made) => made[Symbol.asyncDispose](),
  )
  const peer = await bench.undo.start(startLoadPeer(0, [], world.inside('server')), (made) => made[Symbol.asyncDispose]())
  const pids = { 'node-a': (await world.ztunnel('node-a')).pid, 'node-b': (await world.ztunnel('node-b')).pid }
  const bytes: Record<(typeof nodes)[number], number[]> = { 'node-a': [], 'node-b': [] }
  let held = 0
  for (const count of bench.held) {
    bench.progress(`memory at ${count.toLocaleString('en')} connections`)
    if (count > held) {
      const hold = await bench.undo.start(
        startHold([world.ip('server'), peer.port, count - held, '--seconds', 600], world.inside('client')),
        (made) => made.stop(),
      )
      const { connected } = await hold.waitFor(isHolding, 120_000)
      if (connected !== count - held) throw new MeshError('COMMAND_FAILED', `only ${held + connected} of ${count} connections could be opened`)
      held = count
    }
    await sleep(bench.settleMs)
    for (const node of nodes) {
      const { connections } = await world.ztunnel(node)
      if (connections.open !== held) throw new MeshError('COMMAND_FAILED', `the ztunnel of ${node} has ${connections.open} connections, not ${held}`)
      bytes[node].push(residentBytes(pids[node]))
    }
  }
  return nodes.flatMap((node) => rowsOf(bench.held, bytes[node], sides[node]))
}

function rowsOf(held: readonly number[], bytes: readonly number[], where: string): Row[] {
  const first = bytes[0] ?? Number.NaN
  const last = bytes.at(-1) ?? Number.NaN
  const connections = (held.at(-1) ?? 0) - (held[0] ?? 0)
  return [
    ...held.map((count, i) => single('memory', `memory of the ztunnel of ${where}, ${count.toLocaleString('en')} connections`, 'MiB', (bytes[i] ?? Number.NaN) / 2 ** 20)),
    single('memory', `memory of the ztunnel of ${where}, per connection`, 'KiB', (last - first) / connections / 1024),
  ]
}
