// Keeps one node's ztunnel running: a separate program in the node's network namespace, never code of ours. It is
// recorded before it may run, writes its log itself and outlives the daemon, because what it captured must stay so.
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync, rmSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '../core/log.ts'
import { backoff } from './backoff.ts'
import { runCommand } from './command.ts'
import { endProcess, identify, type ProcessIdentity } from './process-identity.ts'
import { writeRecord, type StatePaths } from './state.ts'

const maxLogBytes = 10 << 20
const logCheckMs = 5000
const stopGraceMs = 5000

export interface ZtunnelOptions {
  readonly paths: StatePaths
  readonly node: string
  /** Network namespace of the node; its pid is the namespace's holder. */
  readonly netns: string
  readonly command: readonly string[]
  readonly hostPath: string
  readonly logger: Logger
}

/** Environment by which a ztunnel knows its node; the same for the process and for its `cleanup`. */
export function ztunnelEnv(paths: StatePaths, node: string, netns: string, hostPath: string): Record<string, string> {
  return {
    PATH: hostPath,
    HOME: '/root',
    SIDESTEP_NODE: node,
    SIDESTEP_INSTANCE: `${paths.name}-${node}`,
    SIDESTEP_AGENT_SOCKET: paths.agentSocket(node),
    SIDESTEP_HOST_NETNS: netns,
    SIDESTEP_ADMIN_SOCKET: paths.adminSocket(node),
  }
}

/** Removes what a node's ztunnel pinned, whether it ended well or not. */
export async function cleanUpZtunnel(paths: StatePaths, node: string, netns: string, command: readonly string[], hostPath: string): Promise<string> {
  const result = await runCommand([...command, 'cleanup'], { env: ztunnelEnv(paths, node, netns, hostPath), timeoutMs: 20_000 })
  return result.code === 0 ? '' : `exited with ${result.code}: ${result.stderr.trim().slice(-1000)}`
}

export class ZtunnelProcess {
  readonly #options: ZtunnelOptions
  readonly #logPath: string
  readonly #recordPath: string
  readonly #backoff = backoff(250, 10_000, 10_000)
  readonly #logTimer: NodeJS.Timeout
  #identity: ProcessIdentity | undefined
  #timer: NodeJS.Timeout | undefined
  #isStopping = false

  constructor(options: ZtunnelOptions) {
    this.#options = options
    this.#logPath = join(options.paths.logs, `ztunnel-${options.node}.log`)
    this.#recordPath = join(options.paths.processes, `ztunnel-${options.node}.json`)
    this.#logTimer = setInterval(() => this.#boundLog(), logCheckMs)
    this.#logTimer.unref()
    this.#start()
  }

  /** Undefined between two runs. */
  get pid(): number | undefined {
    return this.#identity?.pid
  }

  #start(): void {
    const { paths, node, netns, command, hostPath, logger } = this.#options
    // The shell waits for a line before it becomes the ztunnel: until then there is no record of it, and if we die
    // now it reads end of file and ends. Its pid and start time stay the same through exec.
    const script = 'read -r go || exit 1; exec "$@" </dev/null'
    const log = openSync(this.#logPath, 'a', 0o600)
    let child: ChildProcess
    try {
      child = spawn('/bin/sh', ['-c', script, 'sh', 'nsenter', `--net=${netns}`, '--', ...command], {
        stdio: ['pipe', log, log], cwd: '/', detached: true, env: ztunnelEnv(paths, node, netns, hostPath),
      })
    } finally {
      closeSync(log)
    }
    const startedAt = performance.now()
    child.stdin?.on('error', () => {
      // It ended before it read; 'exit' tells.
    })
    child.on('error', (error) => logger.error({ node, because: error.message }, 'ztunnel could not be started'))
    child.on('exit', (code, signalName) => {
      this.#identity = undefined
      rmSync(this.#recordPath, { force: true })
      if (this.#isStopping) return
      const waitMs = this.#backoff.next(performance.now() - startedAt)
      logger.warn({ node, code, signal: signalName, waitMs, log: this.#logPath }, 'ztunnel ended, starting it again')
      this.#timer = setTimeout(() => this.#start(), waitMs)
    })
    const identity = child.pid === undefined ? undefined : identify(child.pid)
    if (!identity) return
    this.#identity = identity
    writeRecord(this.#recordPath, { identity, role: 'ztunnel', label: node })
    child.stdin?.end('go\n')
  }

  /** The ztunnel appends, so cutting its file is safe at any moment. */
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
