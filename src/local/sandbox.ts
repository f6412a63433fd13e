// A sandbox: namespaces held by a small C process (native/sandbox/pause.c), and commands run inside. A sandbox is
// recorded on disk before it is set up, so that there is no moment at which a killed daemon leaves one unaccounted for.
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { MeshError } from '../core/errors.ts'
import { mustRun } from './command.ts'
import { identify, signal, waitForEnd, type ProcessIdentity } from './process-identity.ts'
import { writeRecord, type ProcessRecord, type StatePaths } from './state.ts'

export const sandboxProgram = fileURLToPath(new URL('../../build/sandbox-pause', import.meta.url))

export interface SandboxOptions {
  readonly paths: StatePaths
  readonly role: ProcessRecord['role']
  /** Unique in the instance and fit for a file name. */
  readonly id: string
  readonly label: string
  readonly hostname: string
  /** Pods have mount and PID namespaces as well; nodes share those of the host. */
  readonly isPod: boolean
  /** `net/ipv4/ip_forward=1` */
  readonly sysctls?: readonly string[]
  readonly binds?: readonly { readonly source: string; readonly target: string }[]
  /** Directories of the host that processes inside must not see. */
  readonly hides?: readonly string[]
  /** Directories of the host that processes inside see directly below one that is hidden from them. */
  readonly shows?: readonly { readonly source: string; readonly target: string; readonly isWritable: boolean }[]
  /** Lines for `ip -batch` that join it to an outer namespace: first those inside, then those outside. */
  readonly link?: { readonly inside: readonly string[]; readonly outerNetns: string; readonly outside: readonly string[] }
}

/** How a command runs inside. */
export interface EnterOptions {
  readonly cwd?: string
  /** A session of its own: for containers, never for a command on somebody's terminal. */
  readonly session?: boolean
  readonly uid?: number
  readonly gid?: number
  /** Capabilities that may be held, as a bit set; all where absent. */
  readonly capabilities?: bigint
  readonly noNewPrivileges?: boolean
}

export class Sandbox {
  readonly identity: ProcessIdentity
  readonly #recordPath: string

  private constructor(identity: ProcessIdentity, recordPath: string) {
    this.identity = identity
    this.#recordPath = recordPath
  }

  /** Makes the namespaces. NATIVE_MISSING without the helper program; COMMAND_FAILED if the kernel refused something. */
  static async start(options: SandboxOptions): Promise<Sandbox> {
    const recordPath = join(options.paths.processes, `${options.id}.json`)
    const child = spawn(sandboxProgram, holdArguments(options), { stdio: 'pipe', cwd: '/', env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } })
    const said = conversation(child)
    const pid = Number((await said.next('pid')).slice(4))
    const identity = identify(pid)
    if (!identity) throw new MeshError('COMMAND_FAILED', `the sandbox of ${options.label} ended at once`)
    writeRecord(recordPath, { identity, role: options.role, label: options.label })
    child.stdin.write('\n')
    try {
      await said.next('ready')
    } catch (error) {
      rmSync(recordPath, { force: true })
      throw error
    }
    return new Sandbox(identity, recordPath)
  }

  get pid(): number {
    return this.identity.pid
  }

  /** Opens the network namespace for as long as the sandbox lives. */
  get netns(): string {
    return `/proc/${this.pid}/ns/net`
  }

  /** The command line that runs `command` inside; exits with its code. */
  enterArguments(command: readonly string[], options: EnterOptions = {}): string[] {
    const argv = [sandboxProgram, 'enter', '--target', String(this.pid)]
    if (options.session) argv.push('--session')
    if (options.cwd !== undefined) argv.push('--cwd', options.cwd)
    if (options.uid !== undefined) argv.push('--uid', String(options.uid))
    if (options.gid !== undefined) argv.push('--gid', String(options.gid))
    if (options.capabilities !== undefined) argv.push('--caps', options.capabilities.toString(16))
    if (options.noNewPrivileges) argv.push('--no-new-privs')
    return [...argv, '--', ...command]
  }

  /** Runs lines of `ip -batch` in the network namespace, with the host's programs and files. */
  async ip(lines: readonly string[]): Promise<void> {
    if (lines.length > 0) await mustRun([...this.netCommand(), 'ip', '-batch', '-'], { input: `${lines.join('\n')}\n` })
  }

  /** Replaces nftables state in one transaction. */
  async nft(script: string): Promise<void> {
    await mustRun([...this.netCommand(), 'nft', '-f', '-'], { input: script })
  }

  /** Prefix that runs a program in the network namespace only. */
  netCommand(): string[] {
    return ['nsenter', `--net=${this.netns}`, '--']
  }

  /** Ends everything inside at once and frees the namespaces. Safe to call again. */
  async stop(): Promise<void> {
    signal(this.identity, 'SIGKILL')
    await waitForEnd(this.identity, 5000)
    rmSync(this.#recordPath, { force: true })
  }
}

function holdArguments(options: SandboxOptions): string[] {
  return [
    'hold', '--hostname', options.hostname,
    ...(options.isPod ? ['--pod'] : []),
    ...(options.sysctls ?? []).flatMap((setting) => ['--sysctl', setting]),
    ...(options.binds ?? []).flatMap(({ source, target }) => ['--bind', `${source}:${target}`]),
    ...(options.hides ?? []).flatMap((path) => ['--hide', path]),
    ...(options.shows ?? []).flatMap(({ source, target, isWritable }) => [isWritable ? '--share' : '--show', `${source}:${target}`]),
    // By the helper rather than by us: a small process starts another much faster than a large one.
    ...(options.link
      ? ['--ip', `${options.link.inside.join('\n')}\n`, '--outer-netns', options.link.outerNetns, '--outer-ip', `${options.link.outside.join('\n')}\n`]
      : []),
  ]
}

/** Reads the helper's lines one by one; an early end becomes an error with what it said. */
function conversation(child: ChildProcessWithoutNullStreams): { next(word: string): Promise<string> } {
  const lines: string[] = []
  let wake = (): void => {}
  let failure: MeshError | undefined
  let stderr = ''
  child.stderr.on('data', (chunk: Buffer) => (stderr = (stderr + chunk.toString()).slice(0, 4096)))
  createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(line)
    wake()
  })
  // It may end before it reads; the exit below tells.
  child.stdin.on('error', () => {})
  child.on('error', (cause: NodeJS.ErrnoException) => {
    failure = cause.code === 'ENOENT'
      ? new MeshError('NATIVE_MISSING', `${sandboxProgram} is not built`, { cause })
      : new MeshError('COMMAND_FAILED', `cannot start a sandbox: ${cause.message}`, { cause })
    wake()
  })
  child.on('close', (code) => {
    failure ??= new MeshError('COMMAND_FAILED', `the sandbox could not be set up: ${stderr.trim()}`, { detail: { code } })
    wake()
  })
  return {
    async next(word) {
      for (;;) {
        const line = lines.shift()
        if (line?.startsWith(`${word} `)) return line
        if (line === undefined && failure) throw failure
        if (line === undefined) await new Promise<void>((resolve) => (wake = resolve))
      }
    },
  }
}
