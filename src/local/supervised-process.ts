// Keeps one program of the mesh running in a network namespace: a process of its own, never code of ours. It is recorded before it
// may run, so that cleaning up after a crash finds it; it writes its log itself and outlives the daemon.
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync, rmSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { backoff } from './backoff.ts'
import { endProcess, identify, signal, type ProcessIdentity } from './process-identity.ts'
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

/** One start of the program. */
interface Run {
  readonly identity: ProcessIdentity
  readonly recordPath: string
  readonly ended: Promise<void>
  readonly startedAt: number
}

const replaceTimeoutMs = 30_000
const replaceLookMs = 50

export class SupervisedProcess {
  readonly #options: SupervisedOptions
  readonly #logPath: string
  readonly #backoff = backoff(250, 10_000, 10_000)
  readonly #logTimer: NodeJS.Timeout
  #run: Run | undefined
  /** Those that were replaced and finish what they carry. */
  readonly #leaving = new Set<Run>()
  #timer: NodeJS.Timeout | undefined
  #isStopping = false
  #runs = 0

  /** Starts it at once. */
  constructor(options: SupervisedOptions) {
    this.#options = options
    this.#logPath = join(options.paths.logs, `${options.id}.log`)
    this.#logTimer = setInterval(() => this.#boundLog(), logCheckMs)
    this.#logTimer.unref()
    this.#start()
  }

  /** Undefined between two runs. */
  get pid(): number | undefined {
    return this.#run?.identity.pid
  }

  /** Pids of those that were replaced and have not ended yet. */
  get leaving(): number[] {
    return [...this.#leaving].map(({ identity }) => identity.pid)
  }

  #start(): void {
    const run = this.#spawn()
    if (!run) return
    this.#run = run
    void run.ended.then(() => {
      if (this.#run === run) this.#onEnd(run)
    })
    this.#options.onChange?.()
  }

  #onEnd(run: Run): void {
    this.#run = undefined
    if (this.#isStopping) return
    const waitMs = this.#backoff.next(performance.now() - run.startedAt)
    this.#options.logger.warn({ ...this.#facts, waitMs, log: this.#logPath }, 'process of the mesh ended, starting it again')
    this.#timer = setTimeout(() => this.#start(), waitMs)
    this.#options.onChange?.()
  }

  get #facts(): object {
    return { process: this.#options.role, label: this.#options.label }
  }

  #spawn(): Run | undefined {
    const { paths, id, role, label, netns, command, env, logger } = this.#options
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
    // Two may run at once, one of them leaving.
    const recordPath = join(paths.processes, `${id}-${++this.#runs}.json`)
    child.stdin?.on('error', () => {
      // It ended before it read; 'exit' tells.
    })
    child.on('error', (error) => logger.error({ ...this.#facts, because: error.message }, 'process of the mesh could not be started'))
    const ended = new Promise<void>((resolve) => {
      child.on('exit', (code, signalName) => {
        logger.info({ ...this.#facts, pid: child.pid, code, signal: signalName }, 'process of the mesh ended')
        rmSync(recordPath, { force: true })
        resolve()
      })
    })
    const identity = child.pid === undefined ? undefined : identify(child.pid)
    if (!identity) return undefined
    writeRecord(recordPath, { identity, role, label })
    child.stdin?.end('go\n')
    return { identity, recordPath, ended, startedAt: performance.now() }
  }

  /**
   * Starts a successor, waits until `isReady` says so of its pid, and then asks the predecessor to finish and leave, for which it
   * has all the time it needs. COMMAND_FAILED if the successor does not become ready; the predecessor then stays.
   */
  async replace(isReady: (pid: number) => Promise<boolean>): Promise<void> {
    const before = this.#run
    if (!before || this.#isStopping) throw new MeshError('COMMAND_FAILED', 'there is no process to replace; it is being started anyway')
    const successor = this.#spawn()
    if (!successor) throw new MeshError('COMMAND_FAILED', `the successor could not be started; see ${this.#logPath}`)
    let hasEnded = false
    void successor.ended.then(() => (hasEnded = true))
    this.#leaving.add(successor) // until it is in force, stop() must find it
    const deadline = performance.now() + replaceTimeoutMs
    while (!await isReady(successor.identity.pid)) {
      if (hasEnded || performance.now() > deadline || this.#isStopping) {
        await endProcess(successor.identity, 0)
        this.#leaving.delete(successor)
        throw new MeshError('COMMAND_FAILED', `the successor did not become ready; see ${this.#logPath}`)
      }
      await new Promise((resolve) => setTimeout(resolve, replaceLookMs))
    }
    this.#leaving.delete(successor)
    this.#run = successor
    void successor.ended.then(() => {
      if (this.#run === successor) this.#onEnd(successor)
    })
    this.#leaving.add(before)
    void before.ended.then(() => this.#leaving.delete(before))
    signal(before.identity, 'SIGTERM')
    this.#options.onChange?.()
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
    const runs = [...this.#leaving, ...(this.#run ? [this.#run] : [])]
    await Promise.all(runs.map(async ({ identity, recordPath }) => {
      await endProcess(identity, stopGraceMs, 'SIGINT')
      rmSync(recordPath, { force: true })
    }))
  }
}
