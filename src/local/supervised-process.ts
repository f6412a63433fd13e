// Keeps one program of the mesh running in a network namespace: a process of its own, never code of ours. It is recorded before it
// may run, so that cleaning up after a crash finds it; it writes its log itself and outlives the daemon.
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync, rmSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '../core/log.ts'
import { backoff } from './backoff.ts'
import { endProcess, identify, type ProcessIdentity } from './process-identity.ts'
import { writeRecord, type ProcessRecord, type StatePaths } from './state.ts'

const maxLogBytes = 10 << 20
const logCheckMs = 5000
const stopGraceMs = 5000

export interface SupervisedOptions {
  readonly paths: StatePaths
  readonly role: ProcessRecord['role']
  /** Unique in the instance; names its record and its log. */
  readonly id: string
  /** Whose it is: the node, for a ztunnel. */
  readonly label: string
  /** Path that opens the network namespace to run in. */
  readonly netns: string
  readonly command: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly logger: Logger
  /** After each start and end. */
  readonly onChange?: () => void
}

export class SupervisedProcess {
  readonly #options: SupervisedOptions
  readonly #logPath: string
  readonly #recordPath: string
  readonly #backoff = backoff(250, 10_000, 10_000)
  readonly #logTimer: NodeJS.Timeout
  #identity: ProcessIdentity | undefined
  #timer: NodeJS.Timeout | undefined
  #isStopping = false

  /** Starts it at once. */
  constructor(options: SupervisedOptions) {
    this.#options = options
    this.#logPath = join(options.paths.logs, `${options.id}.log`)
    this.#recordPath = join(options.paths.processes, `${options.id}.json`)
    this.#logTimer = setInterval(() => this.#boundLog(), logCheckMs)
    this.#logTimer.unref()
    this.#start()
  }

  /** Undefined between two runs. */
  get pid(): number | undefined {
    return this.#identity?.pid
  }

  #start(): void {
    const { role, label, netns, command, env, logger, onChange = () => undefined } = this.#options
    const facts = { process: role, label }
    // The shell waits for a line before it becomes the program: until then there is no record of it, and if we die
    // now it reads end of file and ends. Its pid and start time stay the same through exec.
    const script = 'read -r go || exit 1; exec "$@" </dev/null'
    const log = openSync(this.#logPath, 'a', 0o600)
    let child: ChildProcess
    try {
      child = spawn('/bin/sh', ['-c', script, 'sh', 'nsenter', `--net=${netns}`, '--', ...command], {
        stdio: ['pipe', log, log], cwd: '/', detached: true, env: { ...env },
      })
    } finally {
      closeSync(log)
    }
    const startedAt = performance.now()
    child.stdin?.on('error', () => {
      // It ended before it read; 'exit' tells.
    })
    child.on('error', (error) => logger.error({ ...facts, because: error.message }, 'process of the mesh could not be started'))
    child.on('exit', (code, signalName) => {
      this.#identity = undefined
      rmSync(this.#recordPath, { force: true })
      if (this.#isStopping) return
      const waitMs = this.#backoff.next(performance.now() - startedAt)
      logger.warn({ ...facts, code, signal: signalName, waitMs, log: this.#logPath }, 'process of the mesh ended, starting it again')
      this.#timer = setTimeout(() => this.#start(), waitMs)
      onChange()
    })
    const identity = child.pid === undefined ? undefined : identify(child.pid)
    if (!identity) return
    this.#identity = identity
    writeRecord(this.#recordPath, { identity, role, label })
    child.stdin?.end('go\n')
    onChange()
  }

  /** The program appends, so cutting its file is safe at any moment. */
  #boundLog(): void {
    try {
      if (statSync(this.#logPath).size > maxLogBytes) truncateSync(this.#logPath)
    } catch {
      // No log yet, or the directory is being removed.
    }
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    clearTimeout(this.#timer)
    clearInterval(this.#logTimer)
    if (this.#identity) await endProcess(this.#identity, stopGraceMs)
    rmSync(this.#recordPath, { force: true })
  }
}
