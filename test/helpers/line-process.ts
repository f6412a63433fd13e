// Child processes that speak in JSON lines: run to the end, or kept running beside a test. A child dies with the test
// that started it, even when that test is killed. Never use it for product code.
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { MeshError } from '../../src/core/errors.ts'

export interface RunOptions {
  /** A command that enters another place and execs the rest: `['nsenter', '--net=/proc/7/ns/net']`. */
  readonly wrap?: readonly string[]
  /** After this long the child is killed and the run fails. Default 30,000. */
  readonly timeoutMs?: number
  readonly env?: Readonly<Record<string, string>>
}

export interface Ended {
  /** Exit status, or null if a signal ended it. */
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stderr: string
}

type Child = ChildProcessByStdio<Writable, Readable, Readable>

/** A running child. `lines` grows as lines arrive; lines that are not JSON are kept as text in `noise`. */
export class LineProcess {
  readonly lines: unknown[] = []
  readonly noise: string[] = []
  readonly ended: Promise<Ended>
  readonly #child: Child
  readonly #waiting = new Set<() => void>()
  #stderr = ''
  #isOver = false

  constructor(command: readonly string[], options: RunOptions = {}) {
    // setpriv asks the kernel to kill the child when we die, however we die.
    const whole = ['--pdeathsig', 'SIGKILL', '--', ...(options.wrap ?? []), ...command]
    this.#child = spawn('setpriv', whole, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...options.env } })
    this.#child.stdin.on('error', () => {
      // The child need not read what we write; its end is reported by `ended`.
    })
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-65_536)
    })
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#take(line))
    this.ended = this.#watch(command)
    // Whoever cares awaits `ended`; a child that nobody awaits must not take the test process down.
    this.ended.catch(() => undefined)
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  get stderr(): string {
    return this.#stderr
  }

  /** A line to the child's standard input. */
  say(line: string): void {
    this.#child.stdin.write(`${line}\n`)
  }

  /** Ends the child's standard input. */
  closeInput(): void {
    this.#child.stdin.end()
  }

  /**
   * The first line, past or future, that `matches`. COMMAND_FAILED when the child ends or `timeoutMs` passes first.
   */
  async waitFor<T>(matches: (line: unknown) => line is T, timeoutMs = 10_000): Promise<T> {
    const deadline = Date.now() + timeoutMs
    for (;;) {
      const found = this.lines.find(matches)
      if (found !== undefined) return found
      const leftMs = deadline - Date.now()
      if (this.#isOver || leftMs <= 0) {
        const why = this.#isOver ? 'ended' : `stayed silent for ${timeoutMs} ms`
        throw new MeshError('COMMAND_FAILED', `the child ${why} before the line that was expected`, {
          detail: { lines: this.lines, noise: this.noise, stderr: this.#stderr },
        })
      }
      await this.#nextNews(leftMs)
    }
  }

  /** Kills the child and waits until it is gone. May be called again. */
  async stop(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #take(line: string): void {
    try {
      this.lines.push(JSON.parse(line))
    } catch {
      // Not JSON: an ordinary program's chatter, shown when something fails.
      this.noise.push(line)
    }
    this.#wake()
  }

  #wake(): void {
    for (const wake of this.#waiting) wake()
  }

  #nextNews(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(done)
        resolve()
      }
      const timer = setTimeout(done, timeoutMs)
      this.#waiting.add(done)
    })
  }

  async #watch(command: readonly string[]): Promise<Ended> {
    try {
      const [status, signal] = (await once(this.#child, 'close')) as [number | null, NodeJS.Signals | null]
      return { status, signal, stderr: this.#stderr }
    } catch (cause) {
      throw new MeshError('COMMAND_FAILED', `cannot run ${command[0] ?? 'nothing'}`, { cause })
    } finally {
      this.#isOver = true
      this.#wake()
    }
  }
}

/**
 * Runs a command to its end and returns its last JSON line with all lines before it. Exit status 1 with a line is an
 * answer; anything else that is not 0 is COMMAND_FAILED with the output in `detail`.
 */
export async function runLines(
  command: readonly string[],
  options: RunOptions = {},
): Promise<{ last: unknown; lines: readonly unknown[] }> {
  const child = new LineProcess(command, options)
  const timeoutMs = options.timeoutMs ?? 30_000
  let timedOut = false
  const timer = setTimeout(() => {
    timedOut = true
    void child.stop()
  }, timeoutMs)
  const end = await child.ended
  clearTimeout(timer)
  const last = child.lines.at(-1)
  if (timedOut || last === undefined || (end.status !== 0 && end.status !== 1)) {
    const how = timedOut ? `did not finish in ${timeoutMs} ms` : `ended with ${end.signal ?? `status ${end.status}`}`
    throw new MeshError('COMMAND_FAILED', `${command.join(' ')} ${how}: ${end.stderr.trim() || 'no message'}`, {
      detail: { command, lines: child.lines, noise: child.noise, stderr: end.stderr, status: end.status },
    })
  }
  return { last, lines: child.lines }
}
