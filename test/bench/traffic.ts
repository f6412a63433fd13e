// Throughput, ping-pong and connection rate between two nodes: plain pod to plain pod against captured pod to captured
// pod, which passes both nodes' ztunnels. Refuses to report figures of traffic that did not take the way it should.
import { MeshError } from '../../src/core/errors.ts'
import { runLoad, startLoadPeer } from '../helpers/apps.ts'
import type { LoadResults } from '../helpers/app-results.ts'
import { eventually, World } from '../helpers/meshed-world.ts'
import type { RunOptions } from '../helpers/line-process.ts'
import { cpuSeconds } from './process-usage.ts'
import { compare, single } from './report.ts'
import type { Report, Row } from './report.ts'
import { inTurns } from './samples.ts'
import type { Pair } from './samples.ts'
import type { Bench } from './settings.ts'

const nodes = ['node-a', 'node-b'] as const

interface Side {
  readonly name: string
  readonly client: RunOptions
  readonly host: string
  readonly port: number
}

/** A load generator's result, and what both ztunnels did meanwhile. */
type Measured<C extends keyof LoadResults> = LoadResults[C] & { readonly ztunnelSeconds: number }

export class Traffic {
  readonly #bench: Bench
  readonly #world: World
  readonly #plain: Side
  readonly #meshed: Side
  readonly #pids: readonly number[]
  #bytes = { baseline: 0, measured: 0 }

  private constructor(bench: Bench, world: World, plain: Side, meshed: Side, pids: readonly number[]) {
    this.#bench = bench
    this.#world = world
    this.#plain = plain
    this.#meshed = meshed
    this.#pids = pids
  }

  static async start(bench: Bench): Promise<Traffic> {
    const world = await bench.undo.start(
      World.start([
        { name: 'client', node: 'node-a' }, { name: 'server', node: 'node-b' },
        { name: 'plain-client', node: 'node-a', isPlain: true }, { name: 'plain-server', node: 'node-b', isPlain: true },
      ]),
      (made) => made[Symbol.asyncDispose](),
    )
    const side = async (name: string, client: string, server: string): Promise<Side> => {
      const peer = await bench.undo.start(startLoadPeer(0, [], world.inside(server)), (made) => made[Symbol.asyncDispose]())
      return { name, client: world.inside(client), host: world.ip(server), port: peer.port }
    }
    const plain = await side('no mesh', 'plain-client', 'plain-server')
    const meshed = await side('passthrough', 'client', 'server')
    const pids = await Promise.all(nodes.map(async (node) => (await world.ztunnel(node)).pid))
    return new Traffic(bench, world, plain, meshed, pids)
  }

  #ztunnelSeconds(): number {
    return this.#pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0)
  }

  async #load<C extends keyof LoadResults>(side: Side, command: C, flags: readonly (string | number)[]): Promise<Measured<C>> {
    const before = this.#ztunnelSeconds()
    const result = await runLoad(command, [side.host, side.port, '--seconds', this.#bench.seconds, ...flags], side.client)
    if (!result.ok) {
      throw new MeshError('COMMAND_FAILED', `${command} ${flags.join(' ')} failed (${side.name}): ${JSON.stringify(result.failures)}`)
    }
    return { ...result, ztunnelSeconds: this.#ztunnelSeconds() - before }
  }

  #inTurns<C extends keyof LoadResults>(what: string, command: C, ...flags: readonly (string | number)[]): Promise<Pair<Measured<C>>[]> {
    let round = 0
    return inTurns(
      this.#bench.rounds,
      () => this.#load(this.#plain, command, flags),
      () => {
        this.#bench.progress(`${what}, round ${++round} of ${this.#bench.rounds}`)
        return this.#load(this.#meshed, command, flags)
      },
    )
  }

  async throughput(): Promise<Row[]> {
    const rows: Row[] = []
    const costs: Row[] = []
    for (const streams of [1, 4]) {
      const text = streams === 1 ? '1 stream' : `${streams} streams`
      const pairs = await this.#inTurns(`throughput, ${text}`, 'throughput', '--streams', streams)
      for (const { baseline, measured } of pairs) {
        this.#bytes.baseline += baseline.bytes
        this.#bytes.measured += measured.bytes
      }
      rows.push(compare('throughput', `throughput, ${text}`, 'Gbit/s', pairs, ({ gbitPerSecond }) => gbitPerSecond))
      const perGigabyte = pairs.map(({ measured }) => measured.ztunnelSeconds / (measured.bytes / 1e9))
      costs.push(single('throughput', `processor time of both ztunnels, ${text}`, 's/GB', ...perGigabyte))
    }
    return [...rows, ...costs]
  }

  async pingpong(): Promise<Row[]> {
    const pairs = await this.#inTurns('ping-pong', 'pingpong', '--size', 100)
    return [
      compare('pingpong', 'ping-pong, 100 bytes, p50', 'µs', pairs, ({ us }) => us.p50),
      compare('pingpong', 'ping-pong, 100 bytes, p99', 'µs', pairs, ({ us }) => us.p99),
    ]
  }

  async connections(): Promise<Row[]> {
    const pairs = await this.#inTurns('connections', 'rate', '--parallel', 8)
    const perConnection = pairs.map(({ measured }) => (measured.ztunnelSeconds * 1e6) / measured.count)
    return [
      compare('connections', 'connect, request, close; 8 at once', '1/s', pairs, ({ perSecond }) => perSecond),
      single('connections', 'processor time of both ztunnels per connection', 'µs', ...perConnection),
    ]
  }

  /** Proves by the ztunnels' own counts that exactly the captured side was carried by them. */
  carried(): Promise<Report['bytes']> {
    return eventually('the ztunnels count what was measured as carried by both', async () => {
      const states = await Promise.all(nodes.map((node) => this.#world.ztunnel(node)))
      const pods = states.flatMap((state) => state.pods)
      const [client, server] = ['client', 'server'].map((name) => pods.find((pod) => pod.name === name))
      const ztunnels = pods.reduce((sum, pod) => sum + pod.bytesSent + pod.bytesReceived, 0)
      // Each byte passes both ztunnels once, and they know of no plain pod.
      const isCarried = pods.length === 2 && client && server && client.outbound > 0 && server.inbound === client.outbound
      return isCarried && ztunnels >= 2 * this.#bytes.measured && { ...this.#bytes, ztunnels }
    })
  }
}
