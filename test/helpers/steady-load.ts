// Clients that ask without pause while a test changes something, and what became of every question.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { LineProcess } from './line-process.ts'
import type { RunOptions } from './line-process.ts'

export interface SteadyCounts {
  readonly asked: number
  readonly failed: number
  readonly heldAsked: number
  readonly heldFailed: number
  readonly slowestMs: number
  readonly errors: Readonly<Record<string, number>>
}

const program = fileURLToPath(new URL('../apps/steady.ts', import.meta.url))

export class SteadyLoad implements AsyncDisposable {
  readonly #process: LineProcess

  private constructor(child: LineProcess) {
    this.#process = child
  }

  /** Resolves when every client has been answered once, or most have failed. */
  static async start(host: string, port: number, { clients = 0, held = 0 }: { readonly clients?: number; readonly held?: number }, options: RunOptions): Promise<SteadyLoad> {
    const load = new SteadyLoad(new LineProcess([process.execPath, program, host, String(port), String(clients), String(held)], options))
    await load.until(({ asked, heldAsked }) => asked >= clients && heldAsked >= held)
    return load
  }

  get counts(): SteadyCounts {
    return (this.#process.lines.at(-1) ?? { asked: 0, failed: 0, heldAsked: 0, heldFailed: 0, slowestMs: 0, errors: {} }) as SteadyCounts
  }

  async until(holds: (counts: SteadyCounts) => boolean, timeoutMs = 20_000): Promise<void> {
    await this.#process.waitFor((line): line is SteadyCounts => holds(line as SteadyCounts), timeoutMs)
  }

  /** Resolves when that many further questions of each kind (that there is) were asked and answered, or not. */
  async more(count: number): Promise<void> {
    const { asked, failed, heldAsked, heldFailed } = this.counts
    const done = asked + failed + heldAsked + heldFailed
    await this.until((now) => now.asked + now.failed + now.heldAsked + now.heldFailed >= done + count)
  }

  /** Ends the clients, each after the question that it is at. */
  async stop(): Promise<SteadyCounts> {
    this.#process.closeInput()
    await this.#process.ended
    return this.counts
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop()
  }
}

/** What the ztunnels complained about, for whoever wonders why a question failed. */
export function ztunnelComplaints(logs: string): string {
  return readdirSync(logs).filter((name) => name.startsWith('ztunnel')).flatMap((name) => {
    const lines = readFileSync(join(logs, name), 'utf8').split('\n').filter((line) => /"level":(40|50)/.test(line))
    return lines.slice(-10).map((line) => `${name}: ${line}`)
  }).join('\n')
}
