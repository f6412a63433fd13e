// Throughput, ping-pong and connection rate between two nodes: with no mesh, through the mesh, and through the proxies that
// we compare with. Refuses to report figures of traffic that did not take the way it should.
import { MeshError } from '../../src/core/errors.ts'
import { runLoad } from '../helpers/apps.ts'
import type { LoadResults } from '../helpers/app-results.ts'
import { cpuSeconds } from './process-usage.ts'
import { compareSetups } from './report.ts'
import type { Row } from './report.ts'
import { rivalNames } from './rivals/pair.ts'
import type { Rivals } from './rivals/pair.ts'
import { inRounds } from './samples.ts'
import type { Bench } from './settings.ts'
import { startMeshed, startPlain } from './setups.ts'
import type { Setup, SetupName } from './setups.ts'

/** A load generator's result, and what the processes that carry used meanwhile. */
type Measured<C extends keyof LoadResults> = LoadResults[C] & { readonly proxySeconds: number }
type Round<C extends keyof LoadResults> = ReadonlyMap<SetupName, Measured<C>>

export class Traffic {
  readonly #bench: Bench
  readonly #setups: readonly Setup[]
  readonly #bytes = new Map<SetupName, number>()

  private constructor(bench: Bench, setups: readonly Setup[]) {
    this.#bench = bench
    this.#setups = setups
  }

  static async start(bench: Bench, rivals: Rivals): Promise<Traffic> {
    const plain = await startPlain(bench, rivals, rivalNames)
    return new Traffic(bench, [...plain, await startMeshed(bench, 'passthrough'), await startMeshed(bench, 'mesh')])
  }

  async #load<C extends keyof LoadResults>(setup: Setup, command: C, flags: readonly (string | number)[]): Promise<Measured<C>> {
    const used = (): number => setup.pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0)
    const before = used()
    const result = await runLoad(command, [setup.host, setup.port, '--seconds', this.#bench.seconds, ...flags], setup.client)
    if (!result.ok) throw new MeshError('COMMAND_FAILED', `${command} ${flags.join(' ')} failed (${setup.name}): ${JSON.stringify(result.failures)}`)
    return { ...result, proxySeconds: used() - before }
  }

  #inRounds<C extends keyof LoadResults>(what: string, command: C, ...flags: readonly (string | number)[]): Promise<Round<C>[]> {
    const { rounds, progress } = this.#bench
    return inRounds(rounds, this.#setups.map((setup) => [setup.name, () => this.#load(setup, command, flags)] as const), (round) =>
      progress(`${what}, round ${round} of ${rounds}`))
  }

  async throughput(): Promise<Row[]> {
    const rows: Row[] = []
    const costs: Row[] = []
    for (const streams of [1, 4]) {
      const text = streams === 1 ? '1 stream' : `${streams} streams`
      const rounds = await this.#inRounds(`throughput, ${text}`, 'throughput', '--streams', streams)
      for (const round of rounds) for (const [name, { bytes }] of round) this.#bytes.set(name, (this.#bytes.get(name) ?? 0) + bytes)
      rows.push(compareSetups('throughput', `throughput, ${text}`, 'Gbit/s', rounds, ({ gbitPerSecond }) => gbitPerSecond))
      costs.push(compareSetups('throughput', `processor time of both proxies, ${text}`, 's/GB', withProxies(rounds), ({ proxySeconds, bytes }) => proxySeconds / (bytes / 1e9)))
    }
    return [...rows, ...costs]
  }

  async pingpong(): Promise<Row[]> {
    const rounds = await this.#inRounds('ping-pong', 'pingpong', '--size', 100)
    return [
      compareSetups('pingpong', 'ping-pong, 100 bytes, p50', 'µs', rounds, ({ us }) => us.p50),
      compareSetups('pingpong', 'ping-pong, 100 bytes, p99', 'µs', rounds, ({ us }) => us.p99),
    ]
  }

  async connections(): Promise<Row[]> {
    for (let i = 0; i < this.#bench.warmUps; i++) {
      this.#bench.progress(`connections, warming up, ${i + 1} of ${this.#bench.warmUps}`)
      for (const setup of this.#setups) await this.#load(setup, 'rate', ['--parallel', 8])
    }
    const rounds = await this.#inRounds('connections', 'rate', '--parallel', 8)
    return [
      compareSetups('connections', 'connect, request, close; 8 at once', '1/s', rounds, ({ perSecond }) => perSecond),
      compareSetups('connections', 'processor time of both proxies per connection', 'µs', withProxies(rounds), ({ proxySeconds, count }) => (proxySeconds * 1e6) / count),
    ]
  }

  /** Bytes of payload by setup, each proved to have gone its way. */
  async carried(): Promise<Readonly<Record<string, number>>> {
    for (const setup of this.#setups) await setup.prove({ bytes: this.#bytes.get(setup.name) ?? 0 })
    return Object.fromEntries(this.#bytes)
  }
}

function withProxies<C extends keyof LoadResults>(rounds: readonly Round<C>[]): Round<C>[] {
  return rounds.map((round) => new Map([...round].filter(([name]) => name !== 'none')))
}
