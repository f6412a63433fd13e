// What really goes between nodes: tcpdump on a node's `eth0`, judged by what is in the packets.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { decodeCapture } from '../../src/local/packets.ts'
import type { Packet } from '../../src/local/packets.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { eventually } from './machine.ts'
import type { ClusterNode } from './node.ts'

const startTimeoutMs = 20_000
const settleMs = 500

/** A capture that runs until it is disposed. */
export class Wire implements AsyncDisposable {
  readonly #directory: string
  readonly #process: LineProcess

  private constructor(node: ClusterNode, filter: readonly string[]) {
    this.#directory = mkdtempSync(join(tmpdir(), 'sidestep-wire-'))
    const tcpdump = ['tcpdump', '-i', 'eth0', '-w', this.#file, '-Z', 'root', '-U', '--immediate-mode', '-B', '32768', '-n', ...filter]
    this.#process = new LineProcess(node.machine.entering(tcpdump, ['-n']), {})
  }

  /** `filter`: as tcpdump takes it; what goes to and from pods unless told. */
  static async start(node: ClusterNode, filter: readonly string[] = ['tcp']): Promise<Wire> {
    const wire = new Wire(node, filter)
    await eventually('tcpdump listens', startTimeoutMs, async () => (wire.#process.stderr.includes('listening on') ? true : undefined))
    return wire
  }

  get #file(): string {
    return join(this.#directory, 'packets')
  }

  /** Every packet so far; what was sent a moment ago included. */
  async packets(): Promise<readonly Packet[]> {
    await new Promise((resolve) => setTimeout(resolve, settleMs))
    return decodeCapture(readFileSync(this.#file))
  }

  /** How many packets there are, and how many of them hold the text as it is; how many begin TLS with port 15008. */
  async holding(text: string): Promise<{ readonly packets: number; readonly inPlain: number; readonly handshakes: number }> {
    const packets = await this.packets()
    return {
      packets: packets.length,
      inPlain: packets.filter((packet) => packet.payload.includes(text)).length,
      handshakes: packets.filter((packet) => isTlsHandshake(packet)).length,
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop()
    rmSync(this.#directory, { recursive: true, force: true })
  }
}

const tunnelPort = 15008
const tlsHandshake = 0x16

function isTlsHandshake({ destination, payload }: Packet): boolean {
  return destination.port === tunnelPort && payload[0] === tlsHandshake
}
