// What the transfer tests share: a client on one node, servers on another and outside, and the proof that the ztunnels
// between them hold nothing when all is over.
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ClosedEvent } from './app-results.ts'
import { isClosed, runProbe, startServer } from './apps.ts'
import type { RunningServer, ServerMode } from './apps.ts'
import { World, eventually } from './meshed-world.ts'

export const MiB = 1024 * 1024
export const nodes = ['node-a', 'node-b'] as const
export const sourceBytes = 300_000

const ports = {
  echo: 7001, banner: 7002, hash: 7003, halfclose: 7004, source: 7005, bulk: 7006, reset: 7007, 'reset-accept': 7008,
  slow: 7009, stall: 7010, hold: 7011,
} as const satisfies Partial<Record<ServerMode, number>>
export type Manner = keyof typeof ports
export const manners = Object.keys(ports) as readonly Manner[]

/** The server's port of that manner, wherever it runs. */
export const portOf = (manner: Manner): number => ports[manner]

/** Descriptors that come and go without traffic: an admin connection that is kept for a while, an epoll of a thread. */
const looseFiles = 6

const ztunnelProgram = fileURLToPath(new URL('../../src/bin/ztunnel.ts', import.meta.url))

export type Target = 'server' | 'outside'

export class TransferWorld implements AsyncDisposable {
  readonly world: World
  readonly #servers: Readonly<Record<Target, RunningServer>>

  private constructor(world: World, servers: Readonly<Record<Target, RunningServer>>) {
    this.world = world
    this.#servers = servers
  }

  /** `settings` are environment variables of both ztunnels. */
  static async start(settings: Readonly<Record<string, string>> = {}): Promise<TransferWorld> {
    const variables = Object.entries(settings).map(([name, value]) => `${name}=${value}`)
    const command = variables.length === 0 ? undefined : ['env', ...variables, process.execPath, ztunnelProgram]
    const world = await World.start(
      [{ name: 'client', node: 'node-a' }, { name: 'server', node: 'node-b' }, { name: 'stranger', node: 'node-b', isPlain: true }], '', command,
    )
    const options = Object.entries(ports).flatMap(([manner, port]) => [`--${manner}`, manner === 'source' ? `${sourceBytes}@${port}` : port])
    try {
      const server = await startServer([...options, '--log'], world.inside('server'))
      const outside = await startServer([...options, '--log'], world.inside('outside'))
      const found = new TransferWorld(world, { server, outside })
      // Whatever is opened by the first connection is open from here on.
      for (const target of ['server', 'outside'] as const) await found.connect(target, 'echo', ['--send', 'x'])
      return found
    } catch (error) {
      await world[Symbol.asyncDispose]()
      throw error
    }
  }

  /** `[host, port]` as programs in the client's namespace name it. */
  address(target: Target, manner: Manner): [string, number] {
    return [this.world.ip(target), ports[manner]]
  }

  /** One connection from the captured client. */
  connect(target: Target, manner: Manner, flags: readonly (string | number)[]): ReturnType<typeof runProbe<'connect'>> {
    return runProbe('connect', [...this.address(target, manner), ...flags], this.world.inside('client'))
  }

  /** How the next connections of that manner ended, as the server saw it: call it before, await the answer after. */
  async endsOf(target: Target, manner: Manner, count: number, act: () => Promise<unknown>): Promise<readonly ClosedEvent[]> {
    const { process: child } = this.#servers[target]
    const ofManner = (): ClosedEvent[] => child.lines.filter(isClosed).filter((event) => event.mode === manner)
    const before = ofManner().length
    await act()
    return eventually(`${count} ${manner} connections ended at the server`, async () => {
      const ended = ofManner().slice(before)
      return ended.length >= count && ended
    })
  }

  async open(): Promise<number[]> {
    return Promise.all(nodes.map(async (node) => (await this.world.ztunnel(node)).connections.open))
  }

  /** Resident bytes of each ztunnel. */
  async memory(): Promise<number[]> {
    return Promise.all(nodes.map(async (node) => (await this.world.ztunnel(node)).memory.rss))
  }

  /** Open files of each ztunnel, by process. */
  async openFiles(): Promise<number[]> {
    const pids = await Promise.all(nodes.map(async (node) => (await this.world.ztunnel(node)).pid))
    return pids.map((pid) => readdirSync(`/proc/${pid}/fd`).length)
  }

  /**
   * Waits until no ztunnel carries anything and their open files are back at what they were `before`, but for tunnel connections that
   * are kept for later: `kept` at most.
   */
  async released(before: readonly number[], timeoutMs = 15_000, kept = 0): Promise<void> {
    await eventually('every connection has ended', async () => (await this.open()).every((open) => open === 0), timeoutMs)
    await eventually('every descriptor is closed', async () => (await this.openFiles()).every((files, i) => files <= (before[i] ?? 0) + looseFiles + kept), timeoutMs)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of Object.values(this.#servers)) await server.stop()
    await this.world[Symbol.asyncDispose]()
  }
}
