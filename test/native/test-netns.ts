// A network namespace of a test's own, held by a process that dies with the test. Everything in it goes with it.
import { Netns } from '../../src/kernel/netns.ts'
import { LineProcess } from '../helpers/line-process.ts'

/** Addresses that the namespace answers for. Deliveries of foreign clients come from `foreign`. */
export const addresses = {
  one4: '10.88.0.1', two4: '10.88.0.2', one6: 'fd88::1', two6: 'fd88::2', foreign4: '10.99.0.5', foreign6: 'fd99::5',
  /** On a link that leads out. */
  hole4: '10.77.0.1', hole6: 'fd77::1',
  /** Packets to it vanish: they are for a hardware address that nobody has. */
  blackHole4: '10.77.0.9', blackHole6: 'fd77::9',
  /** A route says so. */
  unreachable4: '10.67.0.1', unreachable6: 'fd67::1',
  /** No route at all. */
  nowhere4: '192.0.2.1', nowhere6: '2001:db8::1',
} as const

const setup = `
link set lo up
link add hole type veth peer name pit
link set hole up
link set pit up
addr add 10.88.0.1/32 dev lo
addr add 10.88.0.2/32 dev lo
addr add fd88::1/128 dev lo nodad
addr add fd88::2/128 dev lo nodad
addr add 10.77.0.1/24 dev hole
addr add fd77::1/64 dev hole nodad
neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev hole
neigh add fd77::9 lladdr 02:00:00:00:00:09 dev hole
route add unreachable 10.67.0.0/24
route add unreachable fd67::/64
`

export class TestNetns implements AsyncDisposable {
  readonly netns: Netns
  readonly #holder: LineProcess

  private constructor(netns: Netns, holder: LineProcess) {
    this.netns = netns
    this.#holder = holder
  }

  static async make(): Promise<TestNetns> {
    const holder = await hold(setup)
    return new TestNetns(await Netns.open(`/proc/${holder.pid}/ns/net`), holder)
  }

  get path(): string {
    return `/proc/${this.#holder.pid}/ns/net`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.netns.close()
    await this.#holder.stop()
  }
}

/** Starts a process that is alone in a new network namespace, after running the lines with `ip -batch` there. */
export async function hold(lines: string): Promise<LineProcess> {
  const holder = new LineProcess(['unshare', '--net', 'sh', '-ec', 'printf %s "$1" | ip -batch - && echo \'"ready"\' && exec cat', 'sh', lines])
  await holder.waitFor((line): line is string => line === 'ready')
  return holder
}
