// The test applications, built once per content of their sources, and typed ways to run them. They are ordinary programs
// that know of no mesh: what fails here against them on plain loopback is their fault, what fails later is the mesh's.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { MeshError } from '../../src/core/errors.ts'
import type { ClosedEvent, GoclientResults, LoadResults, ProbeResults, QuestionEvent } from './app-results.ts'
import { goCommand } from './go.ts'
import { LineProcess, type RunOptions, runLines } from './line-process.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const sources = [join(root, 'test/apps'), join(root, 'test/bench/load')]

/** Paths of the programs. */
export interface Apps {
  readonly probe: string
  readonly server: string
  readonly goclient: string
  readonly load: string
  /** Asks musl's resolver: FAMILY NAME. */
  readonly muslResolve: string
  /** Shell script: connects from a network namespace that it makes inside the current one. */
  readonly childNetns: string
}

/** The modes of the server that take a port. */
export type ServerMode =
  | 'echo' | 'banner' | 'hash' | 'halfclose' | 'source' | 'bulk' | 'reset' | 'reset-accept' | 'slow' | 'stall' | 'hold'
  | 'udp' | 'dns'

let building: Promise<Apps> | undefined

/**
 * Compiles the applications unless these very sources have been compiled before. Any number of processes may call it at
 * once. COMMAND_FAILED with the compilers' output when it does not compile.
 */
export function buildApps(): Promise<Apps> {
  building ??= build()
  return building
}

async function build(): Promise<Apps> {
  const directory = join(root, 'build/test-apps', await contentHash())
  try {
    await promisify(execFile)('sh', [join(root, 'test/apps/build.sh'), directory, await goCommand()], { maxBuffer: 1 << 24 })
  } catch (cause) {
    const output = outputOf(cause)
    throw new MeshError('COMMAND_FAILED', `the test applications do not compile:\n${output}`, { cause, detail: { output } })
  }
  return {
    probe: join(directory, 'probe'),
    server: join(directory, 'server'),
    goclient: join(directory, 'goclient'),
    load: join(directory, 'load'),
    muslResolve: join(directory, 'musl-resolve'),
    childNetns: join(root, 'test/apps/child-netns.sh'),
  }
}

function outputOf(cause: unknown): string {
  const { stdout, stderr } = cause as { stdout?: string; stderr?: string }
  return `${stdout ?? ''}${stderr ?? ''}`.trim() || String(cause)
}

async function contentHash(): Promise<string> {
  const hash = createHash('sha256').update(process.arch)
  for (const directory of sources) {
    const entries = await readdir(directory, { recursive: true, withFileTypes: true })
    const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
    for (const file of files.toSorted()) hash.update(`${relative(root, file)}\0`).update(await readFile(file))
  }
  return hash.digest('hex').slice(0, 16)
}

type Argument = string | number

/** One run of the probe; its last line. A failed connection is an answer (`ok: false`), a crash or misuse is thrown. */
export async function runProbe<C extends keyof ProbeResults>(
  command: C,
  args: readonly Argument[],
  options?: RunOptions,
): Promise<ProbeResults[C]> {
  const { probe } = await buildApps()
  const { last } = await runLines([probe, command, ...args.map(String)], options)
  return last as ProbeResults[C]
}

/** One run of the Go client; options come after the positional arguments. */
export async function runGoclient<C extends keyof GoclientResults>(
  command: C,
  args: readonly Argument[],
  options?: RunOptions,
): Promise<GoclientResults[C]> {
  const { goclient } = await buildApps()
  const { last } = await runLines([goclient, command, ...args.map(String)], options)
  return last as GoclientResults[C]
}

/** One measurement by the load generator. */
export async function runLoad<C extends keyof LoadResults>(
  command: C,
  args: readonly Argument[],
  options?: RunOptions,
): Promise<LoadResults[C]> {
  const { load } = await buildApps()
  const { last } = await runLines([load, command, ...args.map(String)], options)
  return last as LoadResults[C]
}

/** A probe that keeps running (`many --hold`): read its lines, stop it. */
export async function startProbe(
  command: keyof ProbeResults,
  args: readonly Argument[],
  options?: RunOptions,
): Promise<LineProcess> {
  const { probe } = await buildApps()
  return new LineProcess([probe, command, ...args.map(String)], options)
}

/** `load hold`: `waitFor(isHolding)`, measure, `closeInput()`, then await `ended` and read the last line. */
export async function startHold(args: readonly Argument[], options?: RunOptions): Promise<LineProcess> {
  const { load } = await buildApps()
  return new LineProcess([load, 'hold', ...args.map(String)], options)
}

export interface HoldingEvent {
  readonly event: 'holding'
  readonly connected: number
}

export function isHolding(line: unknown): line is HoldingEvent {
  return isRecord(line) && line.event === 'holding'
}

export function isClosed(line: unknown): line is ClosedEvent {
  return isRecord(line) && line.event === 'closed'
}

export function isQuestion(line: unknown): line is QuestionEvent {
  return isRecord(line) && line.event === 'question'
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}

interface ServerReady {
  readonly ready: true
  readonly ports: Readonly<Partial<Record<ServerMode, readonly number[]>>>
}

function isServerReady(line: unknown): line is ServerReady {
  return isRecord(line) && line.ready === true && isRecord(line.ports)
}

export interface RunningServer {
  readonly process: LineProcess
  /** The first port of that mode. NOT_FOUND if the server was not asked for it. */
  port(mode: ServerMode): number
  stop(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Starts the many-mannered server and waits until it listens. Arguments as in test/apps/server: `['--echo', '0']`. */
export async function startServer(args: readonly Argument[], options?: RunOptions): Promise<RunningServer> {
  const { server } = await buildApps()
  const child = new LineProcess([server, ...args.map(String)], options)
  const { ports } = await readyOrStopped(child, isServerReady)
  return {
    process: child,
    port(mode) {
      const port = ports[mode]?.[0]
      if (port === undefined) throw new MeshError('NOT_FOUND', `the server was not started with --${mode}`)
      return port
    },
    stop: () => child.stop(),
    [Symbol.asyncDispose]: () => child.stop(),
  }
}

interface LoadReady {
  readonly ready: true
  readonly port: number
}

function isLoadReady(line: unknown): line is LoadReady {
  return isRecord(line) && line.ready === true && typeof line.port === 'number'
}

/** Starts the load generator's peer. Port 0 picks one. */
export async function startLoadPeer(
  port: number,
  args: readonly Argument[] = [],
  options?: RunOptions,
): Promise<{ readonly process: LineProcess; readonly port: number } & AsyncDisposable> {
  const { load } = await buildApps()
  const child = new LineProcess([load, 'serve', String(port), ...args.map(String)], options)
  const ready = await readyOrStopped(child, isLoadReady)
  return { process: child, port: ready.port, [Symbol.asyncDispose]: () => child.stop() }
}

async function readyOrStopped<T>(child: LineProcess, matches: (line: unknown) => line is T): Promise<T> {
  try {
    return await child.waitFor(matches)
  } catch (error) {
    await child.stop()
    throw error
  }
}
