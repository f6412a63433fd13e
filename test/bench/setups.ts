// What is compared: the same two applications on two nodes, with nothing, a mesh or a pair of proxies between them. Each
// says where a client dials, and which two processes carry.
import { runCommand } from '../../src/local/command.ts'
import { MeshError } from '../../src/core/errors.ts'
import { startLoadPeer } from '../helpers/apps.ts'
import { eventually, World } from '../helpers/meshed-world.ts'
import type { RunOptions } from '../helpers/line-process.ts'
import { PairMaker, rivalNames } from './rivals/pair.ts'
import type { RivalName, Rivals } from './rivals/pair.ts'
import type { Bench } from './settings.ts'

/** In the order of the report's columns. */
export const setupNames = ['none', 'passthrough', 'mesh', ...rivalNames] as const
export type SetupName = (typeof setupNames)[number]
export const setupTitles: Readonly<Record<SetupName, string>> = {
  none: 'no mesh', passthrough: 'passthrough', mesh: 'Sidestep', tunnel: 'its tunnel alone', nginx: 'nginx', envoy: 'Envoy',
}

export interface Setup {
  readonly name: SetupName
  /** How to run a client there. */
  readonly client: RunOptions
  readonly host: string
  readonly port: number
  /** Of the client's node, then of the server's; none without proxies. */
  readonly pids: readonly number[]
  /** Fails unless what was carried took the way that this setup is about: so many bytes of payload at least, or so many open connections. */
  prove(carried: Proof): Promise<void>
}

export type Proof = { readonly bytes: number } | { readonly open: number }

const nodes = ['node-a', 'node-b'] as const

async function startWorld(bench: Bench, parts: { readonly mesh: boolean; readonly controlPlane: boolean }): Promise<World> {
  const isPlain = !parts.mesh
  const pods = [{ name: 'client', node: 'node-a', isPlain }, { name: 'server', node: 'node-b', isPlain }] as const
  return bench.undo.start(World.start(pods, '', undefined, parts), (made) => made[Symbol.asyncDispose]())
}

async function startPeer(bench: Bench, world: World): Promise<number> {
  const peer = await bench.undo.start(startLoadPeer(0, [], world.inside('server')), (made) => made[Symbol.asyncDispose]())
  return peer.port
}

/** Captured pods under ztunnels, with a control plane (tunnels) or without (passthrough). */
export async function startMeshed(bench: Bench, name: 'mesh' | 'passthrough'): Promise<Setup> {
  const world = await startWorld(bench, { mesh: true, controlPlane: name === 'mesh' })
  const port = await startPeer(bench, world)
  const states = await Promise.all(nodes.map((node) => world.ztunnel(node)))
  return {
    name, client: world.inside('client'), host: world.ip('server'), port, pids: states.map(({ pid }) => pid),
    async prove(proof) {
      if ('bytes' in proof) await proveCarried(world, proof.bytes)
      else await proveOpen(world, proof.open)
      const tunnels = (await runCommand([...(world.inside('client').wrap ?? []), 'ss', '-Htn', 'state', 'established', 'dport = :15008'])).stdout
      if ((tunnels !== '') !== (name === 'mesh')) throw new MeshError('COMMAND_FAILED', `${name}: ${tunnels === '' ? 'no tunnel stands' : 'there is a tunnel'}`)
    },
  }
}

/** By the ztunnels' own counts: each byte passed both. */
async function proveCarried(world: World, bytes: number): Promise<void> {
  await eventually('the ztunnels count what was measured as carried by both', async () => {
    const states = await Promise.all(nodes.map((node) => world.ztunnel(node)))
    const pods = states.flatMap((state) => state.pods)
    const [client, server] = ['client', 'server'].map((name) => pods.find((pod) => pod.name === name))
    const carried = pods.reduce((sum, pod) => sum + pod.bytesSent + pod.bytesReceived, 0)
    return pods.length === 2 && client && server && client.outbound > 0 && server.inbound === client.outbound && carried >= 2 * bytes
  })
}

async function proveOpen(world: World, open: number): Promise<void> {
  for (const node of nodes) {
    const { connections } = await world.ztunnel(node)
    if (connections.open !== open) throw new MeshError('COMMAND_FAILED', `the ztunnel of ${node} has ${connections.open} connections, not ${open}`)
  }
}

/** Plain pods: dialled directly, and through each pair of proxies. Those share the pods, one at work at a time. */
export async function startPlain(bench: Bench, rivals: Rivals, wanted: readonly RivalName[]): Promise<Setup[]> {
  const world = await startWorld(bench, { mesh: false, controlPlane: false })
  const port = await startPeer(bench, world)
  const client = world.inside('client')
  // No ztunnel runs here, and nobody dials a pair's entry but us: there is no other way to the application.
  const prove = (): Promise<void> => Promise.resolve()
  const setups: Setup[] = [{ name: 'none', client, host: world.ip('server'), port, pids: [], prove }]
  const pairs = await PairMaker.make(world, bench.undo, { client: 'client', server: 'server' })
  for (const name of wanted) {
    const commandOf = rivals.get(name)
    if (!commandOf) continue
    const { entry, pids } = await pairs.start(name, commandOf, port)
    setups.push({ name, client, host: entry.ip, port: entry.port, pids, prove })
  }
  return setups
}
