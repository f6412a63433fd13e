// One container: a process in the pod's namespaces, started again with growing pauses, watched by its probes, ended
// politely. It reports each change to its pod and decides nothing beyond its own process.
import { spawn, type ChildProcess } from 'node:child_process'
import type { Logger } from '../core/log.ts'
import type { ContainerSpec, PodSpec } from '../model/manifest-pod.ts'
import { backoff } from './backoff.ts'
import { runCommand } from './command.ts'
import { containerCapabilities, containerCommand, containerEnv, type PodFacts } from './environment.ts'
import type { LogFile } from './log-file.ts'
import { attempt, startProbeLoop, type ProbeTarget } from './probe.ts'
import { isAlive } from './process-identity.ts'
import type { EnterOptions, Sandbox } from './sandbox.ts'

/** Kubernetes waits 10 s, doubling to 5 min; on one's own machine that is a long time to look at a screen. */
const restartFirstMs = 500
const restartMaxMs = 30_000
const healthyRunMs = 10_000

export type ContainerState =
  | { readonly t: 'waiting'; readonly reason: 'ContainerCreating' | 'CrashLoopBackOff' }
  | { readonly t: 'running'; readonly sinceMs: number }
  | { readonly t: 'terminated'; readonly code: number }

export interface ContainerOptions {
  readonly spec: ContainerSpec
  readonly pod: PodSpec
  readonly facts: PodFacts
  readonly sandbox: Sandbox
  readonly log: LogFile
  readonly dial: ProbeTarget['dial']
  readonly hostPath: string
  readonly onChange: () => void
  readonly logger: Logger
}

export class Container {
  readonly name: string
  readonly log: LogFile
  readonly #options: ContainerOptions
  readonly #backoff = backoff(restartFirstMs, restartMaxMs, healthyRunMs)
  #state: ContainerState = { t: 'waiting', reason: 'ContainerCreating' }
  #restarts = 0
  #isReady = false
  #isStopping = false
  #child: ChildProcess | undefined
  #ended: Promise<void> = Promise.resolve()
  #timer: NodeJS.Timeout | undefined
  #stopProbes: (() => void)[] = []
  #lastExit = ''

  constructor(options: ContainerOptions) {
    this.#options = options
    this.name = options.spec.name
    this.log = options.log
  }

  get state(): ContainerState {
    return this.#state
  }

  get restarts(): number {
    return this.#restarts
  }

  get isReady(): boolean {
    return this.#isReady && this.#state.t === 'running'
  }

  /** Why it is not running well, for people; empty if there is nothing to say. */
  get message(): string {
    return this.#lastExit
  }

  /** Starts the process. Failures to start count as exits and are tried again by the restart policy. */
  start(): void {
    if (this.#isStopping) return
    const { sandbox, log } = this.#options
    const [file = '', ...args] = sandbox.enterArguments(this.#command(), { ...this.#enterOptions(), session: true })
    const startedAt = performance.now()
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/', env: this.#env() })
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => log.append(chunk))
    this.#ended = new Promise((resolve) => {
      let isOver = false
      const over = (code: number, why: string): void => {
        if (isOver) return
        isOver = true
        this.#child = undefined
        this.#onExit(code, why, performance.now() - startedAt)
        resolve()
      }
      child.on('error', (error) => over(126, error.message))
      // Something may have left the session with our pipes open: its output is welcome, but not waited for long.
      child.on('exit', (code) => {
        const drained = setTimeout(() => {
          child.stdout.destroy()
          child.stderr.destroy()
        }, 200)
        child.on('close', () => {
          clearTimeout(drained)
          over(code ?? 137, code !== null && code > 128 ? `ended by signal ${code - 128}` : `exited with ${code}`)
        })
      })
    })
    this.#state = { t: 'running', sinceMs: Date.now() }
    this.#startProbes()
    this.#options.onChange()
  }

  #env(): Record<string, string> {
    return containerEnv(this.#options.spec, this.#options.facts, this.#options.hostPath)
  }

  #command(): string[] {
    return containerCommand(this.#options.spec, this.#env())
  }

  #enterOptions(): EnterOptions {
    const { spec, pod } = this.#options
    const own = spec.securityContext
    const uid = own?.runAsUser ?? pod.securityContext?.runAsUser
    const gid = own?.runAsGroup ?? pod.securityContext?.runAsGroup ?? (uid === undefined ? undefined : 0)
    const capabilities = containerCapabilities(own)
    return {
      ...(spec.workingDir === undefined ? {} : { cwd: spec.workingDir }),
      ...(uid === undefined ? {} : { uid }),
      ...(gid === undefined ? {} : { gid }),
      ...(capabilities === undefined ? {} : { capabilities }),
      noNewPrivileges: own?.allowPrivilegeEscalation === false,
    }
  }

  /** Command line and environment that run a further command as this container would. */
  execArguments(command: readonly string[]): { argv: string[]; env: Record<string, string> } {
    return { argv: this.#options.sandbox.enterArguments(command, this.#enterOptions()), env: this.#env() }
  }

  #startProbes(): void {
    const { spec, dial, facts } = this.#options
    const target: ProbeTarget = {
      ip: facts.ips[0] ?? '',
      ports: spec.ports,
      dial,
      exec: async (command, timeoutMs) => {
        const { argv, env } = this.execArguments(command)
        return (await runCommand(argv, { env, timeoutMs, maxOutputBytes: 1024 })).code
      },
    }
    const setReady = (isReady: boolean, because: string): void => {
      this.#isReady = isReady
      if (!isReady) this.#lastExit = `not ready: ${because}`
      else if (this.#lastExit.startsWith('not ready')) this.#lastExit = ''
      this.#options.onChange()
    }
    const afterStartup = (): void => {
      const { readinessProbe, livenessProbe } = spec
      if (!readinessProbe) setReady(true, '')
      else {
        this.#stopProbes.push(startProbeLoop({
          probe: readinessProbe, attempt: () => attempt(readinessProbe, target), onVerdict: setReady, isEager: true,
        }))
      }
      if (livenessProbe) this.#watch(livenessProbe, 'liveness', target, () => {})
    }
    if (spec.startupProbe) this.#watch(spec.startupProbe, 'startup', target, afterStartup)
    else afterStartup()
  }

  /** A probe whose failure ends the container. */
  #watch(probe: NonNullable<ContainerSpec['livenessProbe']>, kind: string, target: ProbeTarget, onFirstSuccess: () => void): void {
    const stop = startProbeLoop({
      probe,
      attempt: () => attempt(probe, target),
      onVerdict: (ok, because) => {
        if (ok && kind === 'startup') stop()
        if (ok) return onFirstSuccess()
        this.#options.logger.warn({ 'container.name': this.name, probe: kind, because }, 'probe failed, container is restarted')
        this.#lastExit = `${kind} probe failed: ${because}`
        this.#endProbes()
        void this.#endProcess(this.#options.pod.terminationGracePeriodSeconds * 1000)
      },
    })
    this.#stopProbes.push(stop)
  }

  #endProbes(): void {
    for (const stop of this.#stopProbes.splice(0)) stop()
    this.#isReady = false
  }

  #onExit(code: number, why: string, ranMs: number): void {
    this.#endProbes()
    const { pod, logger, sandbox, onChange } = this.#options
    if (!this.#lastExit.includes('probe failed')) this.#lastExit = why
    const again = pod.restartPolicy === 'Always' || (pod.restartPolicy === 'OnFailure' && code !== 0)
    if (this.#isStopping || !again || !isAlive(sandbox.identity)) {
      this.#state = { t: 'terminated', code }
    } else {
      const waitMs = this.#backoff.next(ranMs)
      this.#state = { t: 'waiting', reason: 'CrashLoopBackOff' }
      logger.info({ 'container.name': this.name, because: this.#lastExit, waitMs }, 'container ended, starting it again')
      this.#timer = setTimeout(() => {
        this.#restarts++
        this.#lastExit = ''
        this.start()
      }, waitMs)
    }
    onChange()
  }

  /** SIGTERM, and SIGKILL after `graceMs`. */
  async #endProcess(graceMs: number): Promise<void> {
    const child = this.#child
    if (!child) return
    child.kill('SIGTERM')
    // Killing the launcher kills the command: it asked the kernel for that.
    const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
    await this.#ended
    clearTimeout(timer)
  }

  /** Ends it for good: preStop hook and SIGTERM share `graceMs`, then SIGKILL. Resolves when the process has ended. */
  async stop(graceMs: number): Promise<void> {
    this.#isStopping = true
    clearTimeout(this.#timer)
    this.#endProbes()
    if (this.#state.t === 'waiting') this.#state = { t: 'terminated', code: 0 }
    if (!this.#child) return
    const deadline = performance.now() + graceMs
    const hook = this.#options.spec.lifecycle?.preStop?.exec
    if (hook) {
      const { argv, env } = this.execArguments(hook.command)
      const { code } = await runCommand(argv, { env, timeoutMs: Math.max(1, graceMs), maxOutputBytes: 1024 })
      if (code !== 0) this.#options.logger.warn({ 'container.name': this.name, code }, 'preStop hook failed')
    }
    await this.#endProcess(Math.max(0, deadline - performance.now()))
  }
}
