// A pair of proxies between two plain pods, each in its pod's network namespace, where a ztunnel's sockets are too. So the
// way of a byte is the same for all: application, loopback, proxy, the nodes' network, proxy, loopback, application.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { SocketAddr } from '../../../src/core/address.ts'
import { runCommand } from '../../../src/local/command.ts'
import { carryingFlags } from '../../../src/local/ztunnel-process.ts'
import { eventually } from '../../helpers/meshed-world.ts'
import type { World } from '../../helpers/meshed-world.ts'
import { LineProcess } from '../../helpers/line-process.ts'
import type { Undo } from '../undo.ts'
import { makeCredentials } from './credentials.ts'
import type { AllCredentials, Role } from './credentials.ts'
import type { EndPlan } from './end.ts'
import { envoyCommand } from './envoy.ts'
import { fetchEnvoy, fetchNginx } from './fetch.ts'
import { nginxCommand } from './nginx.ts'

const tunnelEnd = fileURLToPath(new URL('tunnel-end.ts', import.meta.url))

export const rivalNames = ['tunnel', 'nginx', 'envoy'] as const
export type RivalName = (typeof rivalNames)[number]

type CommandOf = (directory: string, plan: EndPlan) => string[]
export type Rivals = ReadonlyMap<RivalName, CommandOf>

/** Those that can be had on this machine; what cannot is a sentence among the notes. */
export async function findRivals(mayFetch: boolean): Promise<{ readonly rivals: Rivals; readonly notes: readonly string[] }> {
  const [nginx, envoy] = [await fetchNginx(mayFetch), await fetchEnvoy(mayFetch)]
  const rivals = new Map<RivalName, CommandOf>([['tunnel', (_, plan) => [process.execPath, ...carryingFlags, tunnelEnd, JSON.stringify(plan)]]])
  const notes: string[] = []
  if (nginx.t === 'here') rivals.set('nginx', (directory, plan) => nginxCommand(nginx.files, directory, plan))
  if (envoy.t === 'here') rivals.set('envoy', (directory, plan) => envoyCommand(envoy.files.binary, directory, plan))
  for (const found of [nginx, envoy]) if (found.t === 'missing') notes.push(`${found.because}.`)
  const versions = [nginx, envoy].flatMap((found, i) => (found.t === 'here' ? [`${['nginx', 'Envoy'][i] ?? ''} ${found.version}`] : []))
  if (versions.length > 0) notes.push(`Compared with ${versions.join(' and ')}, one thread at each end.`)
  return { rivals, notes }
}

export interface Pods {
  readonly client: string
  readonly server: string
}

export interface RunningPair {
  /** Where the client's end listens, in the client's pod. */
  readonly entry: SocketAddr
  /** Of the client's end, then of the server's. */
  readonly pids: readonly [number, number]
}

const clientPort = 16_001
const tunnelPort = 16_008

/** Each pair has ports of its own in the pods that it shares with others. */
function portsOf(name: RivalName): { readonly client: number; readonly tunnel: number } {
  const step = 100 * rivalNames.indexOf(name)
  return { client: clientPort + step, tunnel: tunnelPort + step }
}

/** Started side by side in one pair of pods, towards one application there; all ended by `undo`. */
export class PairMaker {
  readonly #world: World
  readonly #undo: Undo
  readonly #pods: Pods
  readonly #directory: string
  readonly #credentials: AllCredentials

  private constructor(world: World, undo: Undo, pods: Pods, directory: string, credentials: AllCredentials) {
    this.#world = world
    this.#undo = undo
    this.#pods = pods
    this.#directory = directory
    this.#credentials = credentials
  }

  static async make(world: World, undo: Undo, pods: Pods): Promise<PairMaker> {
    const directory = mkdtempSync(join(tmpdir(), 'sidestep-bench-'))
    undo.add(() => rmSync(directory, { recursive: true, force: true }))
    return new PairMaker(world, undo, pods, directory, await makeCredentials(directory))
  }

  async start(name: RivalName, commandOf: CommandOf, applicationPort: number): Promise<RunningPair> {
    const target = { ip: this.#world.ip(this.#pods.server), port: applicationPort }
    const ports = portsOf(name)
    const tunnel = { ip: target.ip, port: ports.tunnel }
    const entry = { ip: this.#world.ip(this.#pods.client), port: ports.client }
    const { client, server, serving } = this.#credentials
    const serverFiles = name === 'nginx' ? serving : server.files
    const ofServer = await this.#run(name, commandOf, { role: 'server', files: serverFiles, listen: tunnel, to: target, target })
    const ofClient = await this.#run(name, commandOf, { role: 'client', files: client.files, listen: entry, to: tunnel, target })
    return { entry, pids: [ofClient, ofServer] }
  }

  async #run(name: RivalName, commandOf: CommandOf, plan: EndPlan): Promise<number> {
    const inside = this.#world.inside(this.#pods[plan.role satisfies Role])
    // Each connection takes two descriptors, and the usual limit is 1,024; Node raises it itself, others do not.
    const wrap = [...(inside.wrap ?? []), 'sh', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$@"', 'sh']
    const child = new LineProcess(commandOf(join(this.#directory, `${name}-${plan.role}`), plan), { ...inside, wrap })
    this.#undo.add(() => child.stop())
    const listening = ['ss', '-Hltn', `sport = :${plan.listen.port}`]
    let isOver = false
    void child.ended.finally(() => (isOver = true)).catch(() => {})
    await eventually(`${name} listens as ${plan.role}`, async () => {
      if (isOver) throw new Error(`${name} ended as ${plan.role}: ${child.stderr.trim()}`)
      return (await runCommand([...(inside.wrap ?? []), ...listening])).stdout !== ''
    })
    return child.pid
  }
}
