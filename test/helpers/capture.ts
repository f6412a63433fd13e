// What really is on a wire: tcpdump on one link of a network namespace. src/local/packets.ts reads what it wrote.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeCapture } from '../../src/local/packets.ts'
import type { Packet } from '../../src/local/packets.ts'
import { LineProcess } from './line-process.ts'
import { eventually } from './meshed-world.ts'
import { inNetns } from './world.ts'

export { decodeCapture, helloOf, streamsOf, tlsRecords } from '../../src/local/packets.ts'
export type { Hello, Packet, Stream, TlsRecord } from '../../src/local/packets.ts'

/** A capture that runs until it is disposed. */
export class Capture implements AsyncDisposable {
  readonly #directory: string
  readonly #file: string
  readonly #process: LineProcess
  readonly #netns: string
  #sentinels = 0

  private constructor(netns: string, link: string) {
    this.#netns = netns
    this.#directory = mkdtempSync(join(tmpdir(), 'sidestep-capture-'))
    this.#file = join(this.#directory, 'packets')
    const command = ['tcpdump', '-i', link, '-w', this.#file, '-Z', 'root', '-U', '--immediate-mode', '-B', '32768', '-n']
    this.#process = new LineProcess(command, { wrap: ['nsenter', `--net=${netns}`, '--'] })
  }

  static async start(netns: string, link: string): Promise<Capture> {
    const capture = new Capture(netns, link)
    await eventually('tcpdump listens', async () => capture.#process.stderr.includes('listening on'))
    return capture
  }

  /** Every packet so far. `probe` is an address beyond the link that something may be sent to, to know that all came before it. */
  async packets(probe: string): Promise<readonly Packet[]> {
    const sentinel = `sentinel ${process.pid} ${++this.#sentinels}.`
    await inNetns(this.#netns, ['bash', '-c', `printf '%s' '${sentinel}' > /dev/udp/${probe}/9`])
    return eventually('the capture is complete', async () => {
      const packets = decodeCapture(readFileSync(this.#file))
      return packets.some(({ payload }) => payload.includes(sentinel)) && packets.filter(({ payload }) => !payload.includes('sentinel '))
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop()
    rmSync(this.#directory, { recursive: true, force: true })
  }
}
